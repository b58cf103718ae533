"""One Snowflake session, spoken to through the official connector; the only border to its errors."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
from snowflake.connector import connect
from snowflake.connector.errors import (
    DatabaseError,
    Error,
    ForbiddenError,
    OperationalError,
    ProgrammingError,
)

from astronomer.deferral import CredentialsRejected, JobError, Transient
from astronomer.deferral.in_triggerer import THREAD_NAME as WORKER_FREE
from astronomer.providers.snowflake.hooks import THREAD_NAME
from astronomer.providers.snowflake.hooks.refusal import StandingRefusal
from astronomer.providers.snowflake.hooks.stock import connection_parameters, place_of

__all__ = ["RESULT_GONE", "SnowflakeSession"]

log = logging.getLogger(__name__)
T = TypeVar("T")

RESULT_GONE = 612
_UNTRUSTED = (
    " If it has the certificate of a private authority, let REQUESTS_CA_BUNDLE name a file that also holds that "
    "authority's; verification cannot be switched off."
)
_LOGIN_TIMEOUT = 60
_SOCKET_TIMEOUT = 30
_REFUSAL_STANDS = 5.0  # seconds, in which all who wait for the same login hear of it
# The session or its master token has gone: only a new login helps.
# Source: the connector's network.py (390112 is renewed by the connector itself).
_SESSION_GONE = frozenset({390103, 390104, 390111, 390113, 390114, 390115, 290401})

_HTTP_STATUS = 290  # thousands, of the connector's numbers for an HTTP status


class _Noise(logging.Filter):
    """Keeps out of the logs what would only alarm; the engine tells of outages, and its link shows the query.

    That is the connector's tracebacks of failed polls in the triggerer, and in every task its warning that queries
    of a session left open go on and cost credits, which is the point of leaving it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Parameter server_session_keep_alive was set to True"):
            return False
        return not (record.threadName or "").startswith((THREAD_NAME, WORKER_FREE))


for _noisy in (
    "snowflake.connector.network",
    "snowflake.connector.connection",
    "snowflake.connector.session_manager",
    "snowflake.connector.vendored.urllib3.connectionpool",
):
    logging.getLogger(_noisy).addFilter(_Noise())


class SnowflakeSession:
    """Submits, asks, cancels and reads over one login. Synchronous; safe to use from a few threads.

    :param hook: gives the connector's parameters.
    :param autocommit: for the session; ``None`` leaves it to the connection.
    :param patience: seconds that a request other than a poll is retried by the connector.
    :ivar parameters: the session parameters of the login, by their names in capitals.
    """

    def __init__(self, hook: SnowflakeHook, *, autocommit: bool | None = None, patience: int = 60) -> None:
        self.hook = hook
        self.parameters: dict[str, Any] = {}
        self.autocommit = autocommit
        self._patience = patience
        self._connection: Any = None
        self._lock = threading.Lock()
        self._heard = threading.local()
        self._refused = StandingRefusal(_REFUSAL_STANDS)

    @property
    def is_open(self) -> bool:
        """Whether it is logged in."""
        return self._connection is not None

    # The login.

    def open(self) -> Any:
        """The connector's connection, logged in once.

        :raises CredentialsRejected: Snowflake refused the login, or a token endpoint the token for it.
        :raises Transient: one of them could not be reached.
        """
        with self._lock:
            if self._connection is None:
                with self._refused.logging_in():
                    self._connection = self._log_in()
            return self._connection

    def _log_in(self) -> Any:
        parameters = connection_parameters(self.hook)
        # Without the first, closing the session ends its queries; without the second, an account may abort a
        # query 300 s after its client has gone.
        parameters |= {"server_session_keep_alive": True, "client_session_keep_alive": False}
        parameters["session_parameters"] = {
            **(parameters.get("session_parameters") or {}),
            "ABORT_DETACHED_QUERY": False,
        }
        self.parameters = {
            str(name).upper(): value for name, value in parameters["session_parameters"].items()
        }
        if self.autocommit is not None:
            parameters["autocommit"] = self.autocommit
        timeouts = {
            "login_timeout": _LOGIN_TIMEOUT,
            # The connector also aborts a query whose submit takes longer than this.
            "network_timeout": max(self._patience, _SOCKET_TIMEOUT),
            "socket_timeout": _SOCKET_TIMEOUT,
        }
        try:
            connection = connect(**timeouts | parameters)
        except OperationalError as error:
            hint = _UNTRUSTED if "certificate verify failed" in str(error.raw_msg) else ""
            raise Transient(f"cannot reach Snowflake to log in: {error.raw_msg}{hint}") from error
        except Error as error:
            if _is_an_http_status(error):
                raise Transient(f"cannot reach Snowflake to log in: {error.msg}") from error
            if not isinstance(error, DatabaseError):
                raise
            raise CredentialsRejected(
                f"Snowflake refused the login of connection {self.conn_id!r} "
                f"(account {parameters.get('account')!r}, user {parameters.get('user')!r}): {error.raw_msg}"
            ) from error
        # When the connector renews the session on the way, it repeats the request without this argument of it, and
        # then waits in `execute_async` for the end of the query.
        rest: Any = connection.rest
        rest._post_request = functools.partial(rest._post_request, _no_results=True)
        return connection

    def close(self, *, log_out: bool = False) -> None:
        """Give the sockets back. The server's session lives on with its queries, unless it is logged out."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(Exception):  # nothing depends on it: the session expires by itself
            if log_out:
                connection.rest.delete_session(retry=False)
            connection.close(retry=False)

    @property
    def conn_id(self) -> str:
        """The id of the Airflow connection."""
        return str(self.hook.get_conn_id())

    def place(self) -> dict[str, Any]:
        """Which account, host and user the connection names; needs no login.

        :raises Transient: as in :meth:`open`.
        """
        return place_of(self.hook)

    @property
    def session_id(self) -> int | None:
        """Snowflake's number for the session."""
        found = self.open().session_id
        return None if found is None else int(found)

    # Queries.

    def submit(
        self,
        statement: str,
        parameters: Any,
        *,
        request_id: str,
        options: Mapping[str, Any],
        count: int | None = None,
    ) -> str:
        """Start a query without waiting for it; the query id.

        The server answers a repeated ``request_id`` of one session with the query it started before.

        :param options: statement parameters, such as ``QUERY_TAG``.
        :param count: of a block of statements, to be run in order up to the first failure: how many it must have,
            or 0 for any number; ``None`` for a single statement.
        """

        def start(connection: Any) -> str:
            with connection.cursor() as cursor:
                answer = cursor.execute_async(
                    statement,
                    parameters or None,
                    num_statements=count,
                    _statement_params={**options, "requestId": request_id},
                )
                return str(answer["queryId"])

        return self._over(start)

    def entry(self, query_id: str) -> dict[str, Any] | None:
        """What ``/monitoring/queries`` says of a query; ``None`` when it knows none of that id."""
        found = self._ask(f"/monitoring/queries/{query_id}").get("queries") or []
        return dict(found[0]) if found else None

    def entries(self, **filters: Any) -> list[dict[str, Any]]:
        """The list form of the same, as Snowflake's command line uses it (``!queries``); undocumented."""
        query = "&".join(f"{name}={value}" for name, value in filters.items() if value is not None)
        return list(self._ask(f"/monitoring/queries?{query}").get("queries") or [])

    def abort(self, query_id: str) -> None:
        """Ask for the end of a query; harmless when it has ended."""
        self._ask(f"/queries/{query_id}/abort-request", method="post", tolerant=True)

    def statement_ids(self, query_id: str) -> list[str]:
        """The ids of the statements in a block, in order; the id itself for a single statement.

        :raises snowflake.connector.errors.ProgrammingError: Snowflake no longer has the result.
        """
        answer = self._ask(f"/queries/{query_id}/result", accept="sfsql")
        ids = str(answer.get("resultIds") or "")
        return [one for one in ids.split(",") if one] or [query_id]

    def cursor_on(self, query_id: str) -> Any:
        """A cursor on a finished query, as if it had just run it.

        A new one each time: the connector's cursor keeps state of the result before, and the one that
        ``get_results_from_sfqid`` prepares has no ``description`` yet.

        :raises snowflake.connector.errors.ProgrammingError: the query failed; with number and SQLSTATE.
        """
        return self._over(lambda connection: connection.cursor().query_result(query_id))

    def end_transactions(self, session_id: int | None) -> list[int]:
        """Roll back what another session of this user has left open; the ids of the transactions."""

        def end(connection: Any) -> list[int]:
            with connection.cursor() as cursor:
                cursor.execute("SHOW TRANSACTIONS")
                names = [str(column[0]).lower() for column in cursor.description]
                rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
                mine = [int(row["id"]) for row in rows if str(row.get("session")) == str(session_id)]
                for transaction in mine:
                    cursor.execute(f"SELECT SYSTEM$ABORT_TRANSACTION({transaction})")
                return mine

        return [] if session_id is None else self._over(end)

    def insist(self, call: Callable[[], T], at_most: float = math.inf) -> T:
        """Repeat a harmless call through bad weather, as long as there is patience.

        :param at_most: seconds, where less patience than the session's is in place.
        :raises JobError: it lasted longer, or Snowflake refused the login: repeating that would lock the user out.
        """
        give_up, pause = time.monotonic() + min(self._patience, at_most), 1.0
        while True:
            try:
                return call()
            except Transient as trouble:
                refused = isinstance(trouble, CredentialsRejected)
                if refused or time.monotonic() + pause > give_up:
                    raise JobError(f"Snowflake cannot be asked: {trouble}") from trouble
                if pause == 1.0:
                    self.hook.log.warning("Snowflake cannot be asked, trying on: %s", trouble)
                time.sleep(max(pause, trouble.retry_after or 0.0))
                pause = min(2 * pause, 60.0)

    # One request.

    def _over(self, call: Callable[[Any], T]) -> T:
        """Use the connection; when the session turns out to be lost, once more over a new login."""
        for again in (False, True):
            connection = self.open()
            try:
                with self._translated():
                    return call(connection)
            except Error as error:
                if again or error.errno not in _SESSION_GONE:
                    raise
                self._drop(connection)
        raise AssertionError("unreachable")

    def _ask(
        self, path: str, *, method: str = "get", accept: str = "rest", tolerant: bool = False
    ) -> dict[str, Any]:
        """One request, not repeated by the connector; after a lost session, once more over a new login."""
        for again in (False, True):
            connection = self.open()
            try:
                answer = self._request(connection, path, method, accept)
            except Error as error:
                if error.errno not in _SESSION_GONE:
                    raise
                code, message = int(error.errno), str(error.msg)
            else:
                code, message = int(answer.get("code") or 0), str(answer.get("message"))
                if answer.get("success") or (tolerant and code not in _SESSION_GONE):
                    return answer.get("data") or {}
            if code == RESULT_GONE:
                raise ProgrammingError(msg=message, errno=code)
            if again or code not in _SESSION_GONE:
                raise Transient(f"{method.upper()} {path.partition('?')[0]}: {code:06d} {message}")
            self._drop(connection)
        raise AssertionError("unreachable")

    def _request(self, connection: Any, path: str, method: str, accept: str) -> dict[str, Any]:
        self._heard.retry_after = None
        with self._translated():
            self._listen(connection.rest)
            answer = connection.rest.request(path, method=method, client=accept, timeout=0)
        return answer if isinstance(answer, dict) else {}

    def _listen(self, rest: Any) -> None:
        """Note ``Retry-After``, which the connector drops, on the session its next request takes."""
        use_session = getattr(rest, "use_session", None)
        if use_session is None:
            return
        with use_session(rest.server_url) as session:
            if self._note not in session.hooks["response"]:
                session.hooks["response"].append(self._note)
                # urllib3 would wait it out in this thread, unseen, and the engine ask again from another one.
                session.get_adapter(rest.server_url).max_retries.respect_retry_after_header = False

    def _note(self, response: Any, *_: Any, **__: Any) -> None:
        with suppress(TypeError, ValueError):
            self._heard.retry_after = float(response.headers.get("Retry-After"))

    def _drop(self, connection: Any) -> None:
        """Forget a login that the server has forgotten, unless another thread has done so already."""
        with self._lock:
            if self._connection is connection:
                self._connection = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Weather as :class:`Transient`; what Snowflake says about a query stays the connector's own error."""
        try:
            yield
        except ProgrammingError:
            raise
        except Error as error:
            if error.errno in _SESSION_GONE:
                raise
            retry_after = getattr(self._heard, "retry_after", None)
            raise Transient(f"{type(error).__name__}: {error.raw_msg}", retry_after=retry_after) from error


def _is_an_http_status(error: Error) -> bool:
    """Whether a gateway has spoken: Snowflake itself refuses in words, with status 200."""
    return isinstance(error, ForbiddenError) or (error.errno or 0) // 1000 == _HTTP_STATUS
