"""The headers that log in: made once for many requests, and made anew before they expire or when refused."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from astronomer.deferral import ClientThreads, CredentialsRejected, clock
from astronomer.deferral._compat import PlainConnection
from astronomer.deferral.login_errors import understood
from astronomer.deferral.transport import basic
from astronomer.providers.databricks.errors import ConnectionUnusable, RequestRejected
from astronomer.providers.databricks.hooks.answers import Answer

__all__ = ["Credentials", "Fresh", "bearer", "by_stock", "by_unified", "oauth", "token"]

Made = tuple[dict[str, str], float | None]
"""Headers, and for how many seconds they are good; ``None`` for ever."""

_LEAD = 60.0  # seconds before its end at which a token is no longer used
_UNTOLD_LIFE = 900.0
_GRACE = 1.0

Login = tuple[str, str]
"""An address, and the principal who logs in there."""

# Of this process, for all its event loops: an operator opens one for each of its steps in the worker.
_kept: dict[Login, Fresh] = {}


@dataclass(frozen=True)
class Fresh:
    """Headers, and the epoch second until which they are good."""

    headers: Mapping[str, str] = field(repr=False)
    until: float = math.inf

    @classmethod
    def for_seconds(cls, headers: Mapping[str, str], seconds: float) -> Fresh:
        """Headers of a token that expires; a short-lived one is used for most of its life."""
        return cls(headers, clock.now() + seconds - min(_LEAD, seconds / 4))


class Credentials:
    """Headers that are fetched once, however many wait for them.

    :param fetch: makes them; told whether those it made last were refused.
    :param login: whose they are, where other event loops of this process may use them, too.
    """

    def __init__(self, fetch: Callable[[bool], Awaitable[Fresh]], login: Login | None = None) -> None:
        self._fetch = fetch
        self._login = login
        self._fresh: Fresh | None = None
        self._refused = False
        self._fetching: asyncio.Task[Fresh] | None = None

    async def headers(self) -> Mapping[str, str]:
        """The headers of the moment.

        :raises CredentialsRejected: they were refused to us.
        :raises Transient: they cannot be had just now.
        """
        if self._fresh is not None and clock.now() < self._fresh.until:
            return self._fresh.headers
        if self._fetching is None:
            # A context of its own: it serves all waiters, so it must not log as the first one of them.
            self._fetching = contextvars.Context().run(asyncio.ensure_future, self._fetch_once())
            self._fetching.add_done_callback(_look_at)
        # Shielded: one waiter that is cancelled leaves the others theirs.
        return (await asyncio.shield(self._fetching)).headers

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Forget headers that were refused; whether others can be had."""
        if self._fresh is None or self._fresh.headers is not refused:
            return True  # somebody else has noticed before
        if self._fresh.until == math.inf:
            return False
        if self._login is not None and _kept.get(self._login) is self._fresh:
            del _kept[self._login]
        self._fresh, self._refused = None, True
        return True

    async def close(self) -> None:
        """Let a fetch that is under way come to its end."""
        if self._fetching is not None:
            await asyncio.wait([self._fetching], timeout=_GRACE)

    async def _fetch_once(self) -> Fresh:
        try:
            kept = None if self._login is None or self._refused else _kept.get(self._login)
            if kept is None or clock.now() >= kept.until:
                kept = await self._fetch(self._refused)
                self._keep(kept)
            self._fresh, self._refused = kept, False
            return kept
        finally:
            self._fetching = None

    def _keep(self, fresh: Fresh) -> None:
        if self._login is not None:
            for login, old in _kept.copy().items():  # a rotated secret's would stay for ever
                if clock.now() >= old.until:
                    _kept.pop(login, None)
            _kept[self._login] = fresh


def _look_at(task: asyncio.Task[Fresh]) -> None:
    """Nobody may be left to see why it failed."""
    if not task.cancelled():
        task.exception()


def token(value: str) -> Credentials:
    """A token that never changes."""
    headers = bearer(value.strip())
    if not headers["Authorization"].isprintable():
        raise CredentialsRejected("the token holds a line break or another character that no header may hold")

    async def fetch(_: bool) -> Fresh:
        return Fresh(headers)

    return Credentials(fetch)


def oauth(
    connection: PlainConnection,
    ask: Callable[[Mapping[str, str]], Awaitable[Answer]],
    login: Login | None = None,
) -> Credentials:
    """A service principal's tokens, for its id and secret.

    Source: docs.databricks.com/dev-tools/auth/oauth-m2m.

    :param ask: sends the headers given, and the form, to the workspace's token endpoint.
    :param login: keeps a token in this process's memory, until a minute before its end or until it is refused.
    """
    if not (connection.login and connection.password):
        raise ConnectionUnusable(
            f"the Airflow connection {connection.conn_id!r} has `service_principal_oauth`, but not both a login "
            "(the client id) and a password (the secret)"
        )
    identity = basic(connection.login, connection.password)

    async def fetch(_: bool) -> Fresh:
        answer = await ask(identity)
        if not answer.well:
            error = answer.error()
            # Whatever it refuses, it refuses to log us in.
            raise (
                error
                if not isinstance(error, RequestRejected)
                else CredentialsRejected(f"{answer.asked}: {error}")
            )
        document = answer.document()
        value = document.get("access_token")
        if not value:
            raise CredentialsRejected(f"{answer.asked}: the answer holds no access_token")
        return Fresh.for_seconds(bearer(str(value)), float(document.get("expires_in") or _UNTOLD_LIFE))

    return Credentials(fetch, login)


def by_stock(connection: PlainConnection, address: str, agent: str, threads: ClientThreads) -> Credentials:
    """What the stock hook makes of the connection, made in a thread."""

    def make() -> Callable[[bool], Made]:
        from astronomer.providers.databricks.hooks.stock import StockLogin

        login = StockLogin(connection, address=address, agent=agent)
        return lambda anew: login.headers(time.time(), anew=anew)

    return _in_threads(make, threads, "the stock hook could not log in")


def by_unified(connection: PlainConnection, address: str, threads: ClientThreads) -> Credentials:
    """What databricks-sdk makes of the connection, made in a thread."""

    def make() -> Callable[[bool], Made]:
        from astronomer.providers.databricks.hooks.unified import UnifiedLogin

        login = UnifiedLogin(connection, address)
        return lambda anew: login.headers(anew=anew)

    return _in_threads(make, threads, "databricks-sdk could not log in")


def _in_threads(
    make: Callable[[], Callable[[bool], Made]], threads: ClientThreads, failed: str
) -> Credentials:
    made: list[Callable[[bool], Made]] = []

    def run(anew: bool) -> Made:
        try:
            if not made:
                made.append(make())
            return made[0](anew)
        except Exception as error:  # noqa: BLE001  # foreign code raises what it likes
            # Without its cause: a traceback of foreign code may show what it was called with.
            raise understood(error, failed) from None

    async def fetch(anew: bool) -> Fresh:
        headers, seconds = await threads.run(lambda: run(anew))
        return Fresh(headers) if seconds is None else Fresh.for_seconds(headers, seconds)

    return Credentials(fetch)


def bearer(value: str) -> dict[str, str]:
    """The header for a token."""
    return {"Authorization": f"Bearer {value}"}
