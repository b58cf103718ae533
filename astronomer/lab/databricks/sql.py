"""Runs SQL statements: their states, their waits, their end, and how long their results are kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.columns import Result
from astronomer.lab.databricks.duck import Database
from astronomer.lab.databricks.spark import Plan, Surroundings, plan
from astronomer.lab.databricks.sql_commands import command
from astronomer.lab.databricks.sql_errors import SqlError, translate
from astronomer.lab.databricks.sql_parameters import Parameter
from astronomer.lab.databricks.sql_sessions import SqlSession
from astronomer.lab.databricks.sql_statement import Statement, interrupt, limited, too_large, waited
from astronomer.lab.databricks.warehouses import Warehouses
from astronomer.lab.issued import Issued
from astronomer.lab.threads import DaemonThreads

__all__ = ["SqlEngine"]

log = logging.getLogger(__name__)

HOUR = 3600.0


class SqlEngine:
    """The SQL side of a workspace. Every method may be called from any thread.

    :param origin: returns the workspace's URL.
    :param issued: keeps the signatures of links.
    :param threads: how many statements compute at once; those that only wait need none.

    Attributes that tests may set: ``rows_per_chunk``; ``inline_bytes``, the largest INLINE result; ``result_seconds``,
    how long results are kept after success; ``link_seconds``, how long an external link lives; ``known_seconds``, how
    long an ended statement is known; ``neglect_seconds``, after how long without a poll a statement dies (None: never);
    ``consume_inline``, whether fetching the last chunk of an INLINE result closes the statement; ``history_latency``,
    after how long a statement appears in the query history.
    """

    def __init__(
        self,
        clock: Clock,
        origin: Callable[[], str] = lambda: "https://localhost",
        issued: Issued | None = None,
        *,
        threads: int = 8,
    ) -> None:
        logging.getLogger("sqlglot").setLevel(logging.ERROR)
        self.clock = clock
        self.origin = origin
        self.issued = issued or Issued()
        self.warehouses = Warehouses(clock)
        self.database = Database()
        self.statements: dict[str, Statement] = {}
        self.history: list[Statement] = []
        self.sessions: dict[str, SqlSession] = {}
        self.rows_per_chunk = 10_000
        self.inline_bytes = 25 * 1024 * 1024
        self.result_seconds = HOUR
        self.link_seconds = 900.0
        self.known_seconds = 12 * HOUR
        self.neglect_seconds: float | None = None
        self.consume_inline = False
        self.history_latency = 0.0
        self._lock = threading.RLock()
        self._pool = DaemonThreads(threads, "astronomer.lab.sql")
        self._closed = False

    # -- running -------------------------------------------------------------------------------------------------------

    def submit(
        self,
        text: str,
        *,
        warehouse_id: str | None = None,
        principal: str = "",
        catalog: str | None = None,
        schema: str | None = None,
        parameters: Sequence[Parameter] = (),
        tags: Mapping[str, str | None] | None = None,
        session: SqlSession | None = None,
        on_end: Callable[[], None] | None = None,
        **more: Any,
    ) -> Statement:
        """Accept a statement.

        :param warehouse_id: default the first warehouse; a session knows its own compute, which may be a cluster.
        :param on_end: called once it has ended, in any thread.
        :raises ApiError: there is no such warehouse.
        """
        if session is None:
            session = SqlSession(principal, warehouse_id or self.warehouses.default.id)
            session.catalog = (catalog or session.catalog).lower()
            session.schema = (schema or session.schema).lower()
        now = self.clock.now()
        all_tags = {**session.tags, **(tags or {})}
        statement = Statement(
            text, session, session.compute, all_tags, now, parameters, polled_at=now, **more
        )
        if on_end:
            statement.callbacks.append(on_end)
        self._admit(statement)
        return statement

    def _admit(self, statement: Statement) -> None:
        def begin() -> None:
            self._begin(statement)

        if statement.on_warehouse:
            self.warehouses.get(statement.compute)
        self.statements[statement.id] = statement
        self.history.append(statement)
        if statement.on_warehouse:
            statement.place = begin
            self.warehouses.enter(statement.compute, begin)
        else:
            begin()

    def _begin(self, statement: Statement) -> None:
        with self._lock:
            statement.place = None
            if statement.ended:
                if statement.on_warehouse:
                    self.warehouses.leave(statement.compute)
                return
            statement.state, statement.started_at = "RUNNING", self.clock.now()
        try:
            doing = command(statement.text) or self._plan(statement)
        except Exception as error:  # noqa: BLE001 - a text that cannot be read is the statement's failure
            self._end(statement, "FAILED", error=translate(error))
            return
        wait = doing.wait if isinstance(doing, Plan) else 0.0
        with self._lock:
            going_on = statement.cancelled_by is None
            if going_on and wait > 0:
                statement.timer = self.clock.call_later(wait, lambda: self._waited(statement, doing))
        if not going_on:
            self._end(statement, "CANCELED")
        elif wait <= 0:
            self._compute(statement, doing)

    def _plan(self, statement: Statement) -> Plan:
        session = statement.session
        where = Surroundings(session.catalog, session.schema, session.principal)
        return plan(statement.text, tuple(statement.parameters), where)

    def _waited(self, statement: Statement, doing: Any) -> None:
        with self._lock:
            statement.timer = None
        if doing.idle:
            self._end(statement, "SUCCEEDED", result=waited(doing.wait))
        else:
            self._compute(statement, doing)

    def _compute(self, statement: Statement, doing: Any) -> None:
        if not self._closed:
            self._pool.submit(self._run, statement, doing)

    def _run(self, statement: Statement, doing: Any) -> None:
        """Do the work of a statement, in a thread of the pool."""
        session = statement.session
        with session.lock:
            try:
                result = self._result(statement, doing)
            except Exception as error:  # noqa: BLE001 - whatever a statement runs into is its failure
                if statement.cancelled_by is not None:
                    self._end(statement, "CANCELED")
                else:
                    self._end(statement, "FAILED", error=translate(error))
                return
            finally:
                statement.cursor = None
        if statement.inline and result.table.nbytes > self.inline_bytes:
            self._end(statement, "FAILED", error=too_large(self.inline_bytes))
        else:
            self._end(statement, "SUCCEEDED", result=result)

    def _result(self, statement: Statement, doing: Any) -> Result:
        session = statement.session
        if not isinstance(doing, Plan):
            found: Result = doing(self.database, session)
            return limited(statement, found)
        cursor = session.cursor or self.database.cursor()
        if session.kept:
            session.cursor = cursor
        with self._lock:
            if statement.cancelled_by is not None:
                raise SqlError("", "cancelled")
            statement.cursor = cursor
        try:
            return limited(statement, self.database.run(cursor, doing, session))
        finally:
            with self._lock:
                statement.cursor = None
            if not session.kept:
                cursor.close()

    def _end(
        self, statement: Statement, state: str, *, error: SqlError | None = None, result: Result | None = None
    ) -> None:
        with self._lock:
            if statement.ended:
                return
            started = statement.started_at is not None
            statement.error, statement.result = error, result
            statement.rows = result.table.num_rows if result else 0
            statement.ended_at = self.clock.now()
            statement.state = state
            if statement.again is not None:
                statement.again.cancel()
            callbacks, statement.callbacks = statement.callbacks, []
        if started and statement.on_warehouse:
            self.warehouses.leave(statement.compute)
        for callback in callbacks:
            callback()

    def on_end(self, statement: Statement, callback: Callable[[], None]) -> None:
        """Call something once a statement has ended, in any thread; at once if it has."""
        with self._lock:
            if not statement.ended:
                statement.callbacks.append(callback)
                return
        callback()

    def run(self, text: str, **submitted: Any) -> list[list[str | None]]:
        """Run a statement to its end, not in the loop's thread, and return its rows as strings.

        :raises SqlError: it failed.
        """
        ended = threading.Event()
        statement = self.submit(text, on_end=ended.set, **submitted)
        ended.wait()
        if statement.error is not None:
            raise statement.error
        return statement.result.strings(0, statement.rows) if statement.result else []

    # -- ending --------------------------------------------------------------------------------------------------------

    def cancel(self, statement: Statement, by: str) -> bool:
        """Ask a statement to end, and return whether it had not ended; one that computes may still succeed."""
        with self._lock:
            if statement.ended:
                return False
            statement.cancelled_by = statement.cancelled_by or by
            timer, place = statement.timer, statement.place
        if place is not None and self.warehouses.withdraw(statement.compute, place):
            self._end(statement, "CANCELED")
        elif timer is not None:
            timer.cancel()
            self._end(statement, "CANCELED")
        else:
            interrupt(statement, self._lock)
        return True

    def close_statement(self, statement: Statement) -> None:
        """Forget a statement's result, and cancel it if it runs."""
        self.cancel(statement, statement.principal)
        with self._lock:
            statement.result = None
            if statement.state == "SUCCEEDED":
                statement.state = "CLOSED"

    def close_session(self, session: SqlSession) -> None:
        """End a session and what runs in it."""
        self.sessions.pop(session.id, None)
        for statement in list(self.statements.values()):
            if statement.session is session:
                self.cancel(statement, session.principal)
        cursor, session.cursor = session.cursor, None
        if cursor is not None:
            with session.lock:
                cursor.close()

    def expire_results(self) -> int:
        """End the time for which results are kept, of every ended statement; return how many had one."""
        kept = [one for one in self.statements.values() if one.state == "SUCCEEDED"]
        for one in kept:
            self.close_statement(one)
        return len(kept)

    def look(self, statement_id: str) -> Statement | None:
        """Return a statement as it is now, its time limits considered, or None if it is not known any more."""
        statement = self.statements.get(statement_id)
        if statement is None:
            return None
        now = self.clock.now()
        if statement.ended_at is not None:
            age = now - statement.ended_at
            if age >= self.known_seconds:
                del self.statements[statement_id]
                return None
            if statement.state == "SUCCEEDED" and age >= self.result_seconds and statement.client == "rest":
                self.close_statement(statement)
        elif self.neglect_seconds is not None and now - statement.polled_at >= self.neglect_seconds:
            self.cancel(statement, "neglect")
        return statement

    @property
    def active(self) -> int:
        """The number of statements that have not ended."""
        return sum(not one.ended for one in list(self.statements.values()))

    def shut_down(self) -> None:
        """Cancel everything and forget the data."""
        self._closed = True
        for statement in list(self.statements.values()):
            self.cancel(statement, "shutdown")
        self._pool.shutdown(wait=True, cancel_futures=True)
        for session in list(self.sessions.values()):
            self.close_session(session)
        self.database.close()
