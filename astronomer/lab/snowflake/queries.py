"""The queries of an account: one record each, found by id, newest last."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from astronomer.lab.snowflake.errors import SnowflakeError

if TYPE_CHECKING:
    from astronomer.lab.snowflake.database import Bindings
    from astronomer.lab.snowflake.results import Result
    from astronomer.lab.snowflake.sessions import Session

__all__ = ["FINAL", "Queries", "Query"]

FINAL = frozenset({"SUCCESS", "FAILED_WITH_ERROR", "FAILED_WITH_INCIDENT", "ABORTED", "DISCONNECTED"})
"""The status words after which nothing changes any more."""

_counter = itertools.count(secrets.randbits(20))


def new_query_id() -> str:
    """Return an id of the form Snowflake's have: a UUID that starts with 01 and grows with time."""
    minutes = int(time.time() / 60) & 0xFFFFFF
    serial = next(_counter) & 0xFFFFFFFF
    return f"01{minutes:06x}-{serial >> 16:04x}-{serial & 0xFFFF:04x}-{secrets.token_hex(2)}-{secrets.token_hex(6)}"


@dataclass(eq=False)
class Query:
    """One query, or one statement of several.

    :param states: the status words it has passed through; ``state`` is the last, which ``/monitoring/queries`` reports.
    :param error_code: six digits, once it failed.
    :param started_at: epoch seconds; ``ended_at`` is None while it runs.
    :param children: the ids of its statements, when it has several, in order of their start.
    :param transaction: the id of the transaction it ran in, if any.
    :param spent: lab seconds used so far, against its statement timeout.
    """

    sql: str
    user: str
    session: Session = field(repr=False)
    bindings: Bindings = field(repr=False)
    parameters: dict[str, Any] = field(repr=False)
    request_id: str | None = None
    parent: Query | None = field(default=None, repr=False)
    asynchronous: bool = False
    describe_only: bool = False
    upload: tuple[str, str] = ("https", "localhost")
    id: str = field(default_factory=new_query_id)
    role: str = ""
    warehouse: str | None = None
    database: str | None = None
    schema: str | None = None
    type: str = "UNKNOWN"
    states: list[str] = field(default_factory=lambda: ["RUNNING"])
    sqlstate: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    children: list[str] = field(default_factory=list)
    transaction: int | None = None
    spent: float = 0.0
    statements: int = 1
    result: Result | None = field(default=None, repr=False)
    result_lost: bool = False
    stopped_by: SnowflakeError | None = field(default=None, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    done: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def state(self) -> str:
        """The status word that ``/monitoring/queries`` reports now."""
        return self.states[-1]

    @state.setter
    def state(self, word: str) -> None:
        if word != self.states[-1]:
            self.states.append(word)

    @property
    def session_id(self) -> int:
        """The id of the session it runs in."""
        return self.session.id

    @property
    def parent_id(self) -> str | None:
        """The id of the query it is a statement of."""
        return None if self.parent is None else self.parent.id

    @property
    def tag(self) -> str:
        """Its QUERY_TAG."""
        return str(self.parameters["QUERY_TAG"])

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state in FINAL

    @property
    def timeout(self) -> float:
        """Its STATEMENT_TIMEOUT_IN_SECONDS; 0 in the parameter means the longest, seven days."""
        return float(self.parameters["STATEMENT_TIMEOUT_IN_SECONDS"] or 604800)

    def succeed(self, result: Result) -> None:
        """Record the end."""
        self.result = result
        self._end("SUCCESS")

    def fail(self, error: SnowflakeError, state: str = "FAILED_WITH_ERROR") -> None:
        """Record the end."""
        self.error_code, self.sqlstate, self.error_message = error.code, error.sqlstate, error.message
        self._end(state)

    def _end(self, state: str) -> None:
        self.state = state
        self.ended_at = time.time()
        self.done.set()

    @property
    def outcome(self) -> Result:
        """Its result.

        :raises SnowflakeError: it failed.
        """
        if self.result is None:
            raise self.error
        return self.result

    @property
    def error(self) -> SnowflakeError:
        """The error it failed with."""
        return SnowflakeError(self.error_code or "000603", self.sqlstate or "XX000", self.error_message or "")

    def as_json(self) -> dict[str, Any]:
        """Return the record as plain JSON, for the control endpoint."""
        names = (
            "id", "sql", "user", "session_id", "tag", "state", "states", "sqlstate", "error_code", "error_message", "started_at",
            "ended_at", "children", "parent_id", "warehouse", "database", "schema", "role", "transaction", "type",
            "request_id",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


class Queries:
    """Every query of the account since it started."""

    def __init__(self) -> None:
        self._by_id: dict[str, Query] = {}

    def add(self, query: Query) -> None:
        """Remember a query."""
        self._by_id[query.id] = query

    def get(self, query_id: str, user: str | None = None) -> Query | None:
        """Return a query, if it exists and ``user`` may see it."""
        query = self._by_id.get(query_id)
        return query if query is not None and user in (None, query.user) else None

    def snapshot(self) -> dict[str, Query]:
        """Return a copy of id -> query, oldest first."""
        return dict(self._by_id)

    def newest_first(self) -> Iterator[Query]:
        """Iterate over the queries, newest first."""
        return iter(reversed(list(self._by_id.values())))
