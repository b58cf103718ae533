"""Sessions of an account: tokens, their validity and renewal, and what a session remembers."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from astronomer.lab.issued import Issued
from astronomer.lab.snowflake.errors import SnowflakeError
from astronomer.lab.snowflake.parameters import Parameters

if TYPE_CHECKING:
    from astronomer.lab.snowflake.database import DuckSession
    from astronomer.lab.snowflake.queries import Query
    from astronomer.lab.snowflake.transactions import Transaction

__all__ = ["Session", "Sessions", "Token"]

_UNIX_EXPIRED = 0.0


@dataclass
class Token:
    """A session or master token, valid until ``ends`` (epoch seconds)."""

    text: str
    ends: float

    @classmethod
    def new(cls, prefix: str, seconds: float) -> Token:
        """Return a fresh token valid for so long."""
        return cls(f"ver:3-{prefix}-{secrets.token_urlsafe(48)}", time.time() + seconds)

    @property
    def valid(self) -> bool:
        """Whether the token is still accepted."""
        return time.time() < self.ends


@dataclass(eq=False)
class Session:
    """One session.

    :param lock: held while the session's one DuckDB connection is in use.
    :param requests: the query each requestId of this session started.
    :param ended: set once the session is over: nothing new starts, and it is torn down when its last query ends.
    """

    id: int
    user: str
    role: str
    warehouse: str | None
    database: str | None
    schema: str | None
    parameters: Parameters
    token: Token
    master: Token
    requests: dict[str, Query] = field(default_factory=dict)
    running: set[Query] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    duck: DuckSession | None = None
    transaction: Transaction | None = None
    last_transaction: int | None = None
    last_query_id: str | None = None
    ended: bool = False

    @property
    def autocommit(self) -> bool:
        """Whether a DML statement outside BEGIN commits at once."""
        return bool(self.parameters["AUTOCOMMIT"])


class Sessions:
    """All sessions, found by id and by token.

    :param session_seconds: validity of a session token; ``master_seconds``: of a master token.
    """

    def __init__(self, session_seconds: float, master_seconds: float, issued: Issued | None = None) -> None:
        self._issued = issued or Issued()
        self.session_seconds = session_seconds
        self.master_seconds = master_seconds
        self._ids = itertools.count(int(time.time() * 1000) * 1000 + 1)
        self._by_id: dict[int, Session] = {}
        self._by_token: dict[str, tuple[Session, Token]] = {}
        self._by_master: dict[str, tuple[Session, Token]] = {}
        self._direct: set[int] = set()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def get(self, session_id: int) -> Session | None:
        """Return a living session."""
        return self._by_id.get(session_id)

    def open(self, **what: Any) -> Session:
        """Return a new session with fresh tokens."""
        session = Session(
            id=next(self._ids),
            token=Token.new("session", self.session_seconds),
            master=Token.new("master", self.master_seconds),
            **what,
        )
        self._by_id[session.id] = session
        self._remember(session)
        return session

    def forget(self, session: Session) -> None:
        """Remove a session that was torn down; its tokens stay known, to be answered with 390111."""
        self._by_id.pop(session.id, None)

    def authenticate(self, header: str | None) -> Session:
        """Return the session of an ``Authorization: Snowflake Token="..."`` header.

        :raises SnowflakeError: 390101, 390104, 390111, 390112 or 390114.
        """
        text = _token_of(header)
        session, token = self._by_token.get(text) or _unknown()
        if session.id in self._direct:
            raise master_expired()
        if not token.valid:
            raise session_expired()
        if session.ended:
            raise session_gone()
        return session

    def renew(self, header: str | None) -> Session:
        """Give the session of a master token a new session token and return it.

        :raises SnowflakeError: 390111, 390113 or 390114.
        """
        text = _token_of(header)
        if text not in self._by_master:
            raise SnowflakeError("390113", "08001", "Authentication token not found. Please login again.")
        session, master = self._by_master[text]
        if not master.valid:
            raise master_expired()
        if session.ended:
            raise session_gone()
        session.token.ends = _UNIX_EXPIRED
        session.token = Token.new("session", self.session_seconds)
        session.master = Token.new("master", self.master_seconds)
        self._remember(session)
        return session

    def keep_alive(self, session: Session) -> None:
        """Extend the tokens of a session that sent a heartbeat."""
        session.token.ends = time.time() + self.session_seconds
        session.master.ends = time.time() + self.master_seconds

    def expire_tokens(self) -> None:
        """End the validity of every session token."""
        for _, token in self._by_token.values():
            token.ends = _UNIX_EXPIRED

    def expire_masters(self, *, direct: bool) -> None:
        """End the validity of every token; ``direct``: 390114 answers every request, not only the renewal."""
        self.expire_tokens()
        for session, token in self._by_master.values():
            token.ends = _UNIX_EXPIRED
            if direct:
                self._direct.add(session.id)

    def _remember(self, session: Session) -> None:
        self._issued.note("session token", session.token.text)
        self._issued.note("master token", session.master.text)
        self._by_token[session.token.text] = (session, session.token)
        self._by_master[session.master.text] = (session, session.master)


def _token_of(header: str | None) -> str:
    if not header:
        raise SnowflakeError("390101", "08001", "Authorization header not found in the request data.")
    return header.partition('Token="')[2].rstrip('"')


def _unknown() -> tuple[Session, Token]:
    raise SnowflakeError(
        "390104", "08001", "Session token is invalid. New login required to access the service."
    )


def session_gone() -> SnowflakeError:
    """Return the error for a session that was logged out."""
    return SnowflakeError(
        "390111", "08001", "Session no longer exists. New login required to access the service."
    )


def session_expired() -> SnowflakeError:
    """Return the error that makes clients renew their session token."""
    return SnowflakeError("390112", "08001", "Your session has expired. Please login again.")


def master_expired() -> SnowflakeError:
    """Return the error after which only a new login helps."""
    text = "Authentication token has expired.  The user must authenticate again."
    return SnowflakeError("390114", "08001", text)
