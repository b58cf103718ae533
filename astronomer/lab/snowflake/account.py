"""One Snowflake account: everything its endpoints share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from astronomer.lab.issued import Issued
from astronomer.lab.snowflake.credentials import Credentials
from astronomer.lab.snowflake.database import DATABASE, SCHEMA, Bindings, Database
from astronomer.lab.snowflake.errors import SnowflakeError, canceled, compilation
from astronomer.lab.snowflake.pace import Pace
from astronomer.lab.snowflake.parameters import Parameters
from astronomer.lab.snowflake.queries import Queries, Query
from astronomer.lab.snowflake.results import Result
from astronomer.lab.snowflake.runner import Runner
from astronomer.lab.snowflake.sessions import Session, Sessions
from astronomer.lab.snowflake.transactions import Locks, Transaction
from astronomer.lab.snowflake.warehouses import DEFAULT, Warehouses

__all__ = ["Account", "Settings"]

ROLE = "LAB_ROLE"
NOT_EXECUTING = "Identified SQL statement is not currently executing."


@dataclass(frozen=True)
class Settings:
    """How the account behaves.

    :param speed: lab seconds per second in scripted waits: SYSTEM$WAIT, hints, warehouse and lock waits.
    :param detach_after: seconds a request waits for its query before it is answered "still running".
    :param session_seconds: validity of a session token; ``master_seconds``: of a master token.
    :param list_limit: the largest number of entries the query list returns, whatever ``max`` says.
    :param partition_rows: rows per partition of the SQL API.
    """

    speed: float = 1.0
    detach_after: float = 45.0
    session_seconds: float = 3600.0
    master_seconds: float = 14400.0
    list_limit: int = 10_000
    partition_rows: int = 10_000


class Account:
    """The state of one account. Everything here belongs to the server's event loop."""

    def __init__(self, name: str, settings: Settings, issued: Issued | None = None) -> None:
        self.name = name
        self.settings = settings
        self.credentials = Credentials(name, issued)
        self.roles = {ROLE, "PUBLIC", "SYSADMIN", "ACCOUNTADMIN"}
        self.sessions = Sessions(settings.session_seconds, settings.master_seconds, issued)
        self.queries = Queries()
        self.warehouses = Warehouses()
        self.locks = Locks()
        self.pace = Pace(settings.speed)
        self.database = Database()
        self.runner = Runner(self)

    def new_session(self, user: str, given: dict[str, Any]) -> Session:
        """Return a new session with the context a client asked for, or the user's defaults.

        As in Snowflake, a warehouse that does not exist leaves the session without one, a role is refused.

        :raises SnowflakeError: 390189, the role is not granted.
        """
        role = str(given.get("role") or ROLE).upper()
        if role not in self.roles:
            text = (
                f"Role '{role}' specified in the connect string is not granted to this user. Contact your local "
                "system administrator, or attempt to login with another role, e.g. PUBLIC."
            )
            raise SnowflakeError("390189", "08001", text)
        warehouse = self.warehouses.get(_name(given.get("warehouse")) or DEFAULT)
        database = _name(given.get("database"))
        return self.sessions.open(
            user=user,
            role=role,
            warehouse=warehouse.name if warehouse else None,
            database=database,
            schema=_name(given.get("schema")) or (SCHEMA if database else None),
            parameters=Parameters(given.get("parameters")),
        )

    def new_query(
        self,
        session: Session,
        sql: str,
        parameters: dict[str, Any] | None,
        bindings: dict[str, Any] | None,
        **more: Any,
    ) -> Query:
        """Return a query of a session, not yet submitted."""
        return Query(
            sql=sql,
            user=session.user,
            session=session,
            bindings=Bindings(bindings),
            parameters=session.parameters.for_statement(parameters),
            **more,
        )

    def open_transactions(self) -> list[Transaction]:
        """Return the open transactions, oldest first."""
        found = [session.transaction for session in self.sessions if session.transaction is not None]
        return sorted(found, key=lambda transaction: transaction.id)

    def visible(self, query_id: str, user: str) -> Query:
        """Return a query of a user.

        :raises SnowflakeError: 000709, there is none.
        """
        query = self.queries.get(query_id, user)
        if query is None:
            raise SnowflakeError("000709", "02000", f"Statement {query_id} not found")
        return query

    def scanned(self, query_id: str, user: str) -> Result:
        """Return the result of a finished query.

        :raises SnowflakeError: there is none, or no more, or the query failed.
        """
        query = self.visible(query_id, user)
        if query.result_lost:
            raise result_expired(query_id)
        if query.result is None:
            if query.finished:
                raise query.error
            raise SnowflakeError("000710", "02000", f"Statement {query_id} has not finished")
        return query.result

    def abort(self, query: Query | None) -> bool:
        """Cancel a query as its user or an administrator would, and return whether it still ran."""
        return query is not None and self.runner.stop(query, canceled())

    async def system_function(self, name: str, arguments: list[Any], query: Query) -> str:
        """Return the answer of a SYSTEM$ function.

        :raises SnowflakeError: it is unknown, or its argument is.
        """
        first = arguments[0] if arguments else ""
        if name == "SYSTEM$CANCEL_QUERY":
            done = self.abort(self.queries.get(str(first), query.user))
            return f"query [{first}] terminated." if done else NOT_EXECUTING
        if name == "SYSTEM$ABORT_TRANSACTION":
            return await self._abort_transaction(int(first or 0), query)
        if name in ("SYSTEM$CANCEL_ALL_QUERIES", "SYSTEM$ABORT_SESSION"):
            return self._abort_session(int(first or 0), query, end=name == "SYSTEM$ABORT_SESSION")
        raise compilation("002140", "42601", f"Unknown function {name}")

    async def _abort_transaction(self, transaction_id: int, query: Query) -> str:
        for session in self.sessions:
            transaction = session.transaction
            if transaction is not None and transaction.id == transaction_id and session.user == query.user:
                others = [one for one in session.running if one is not query and one is not query.parent]
                for one in others:
                    self.runner.stop(one)
                for one in others:
                    await one.done.wait()
                await self.runner.end_transaction(session, commit=False)
                return f"Aborted transaction id: {transaction_id}"
        raise SnowflakeError("090222", "22023", f"Transaction {transaction_id} is not open or not yours.")

    def _abort_session(self, session_id: int, query: Query, *, end: bool) -> str:
        session = self.sessions.get(session_id)
        if session is None or session.user != query.user:
            raise SnowflakeError("390111", "22023", f"Session {session_id} does not exist or not authorized.")
        stopped = [self.runner.stop(one) for one in list(session.running) if one is not query]
        if end:
            self.runner.end_session(session, cancel=True)
            return "Request to terminate session has been accepted."
        return f"{sum(stopped)} statements cancelled."

    def expire_results(self) -> None:
        """Drop the results of every query that has ended."""
        for query in self.queries.snapshot().values():
            if query.finished:
                query.result_lost, query.result = True, None

    def end_expired(self) -> None:
        """End the sessions whose master token has run out."""
        for session in self.sessions:
            if not session.master.valid:
                self.runner.end_session(session, cancel=False)

    def expire_masters(self, *, direct: bool) -> None:
        """End every session as idleness would: clients must log in again, running queries go on."""
        self.sessions.expire_masters(direct=direct)
        self.end_expired()


def _name(given: Any) -> str | None:
    text = str(given or "")
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return text[1:-1]
    return text.upper() or None


def result_expired(query_id: str) -> SnowflakeError:
    """Return the error for a result that is no longer kept."""
    return SnowflakeError("000612", "02000", f"Result for query {query_id} has expired")


DEFAULT_CONTEXT = {"database": DATABASE, "schema": SCHEMA, "warehouse": DEFAULT, "role": ROLE}
"""What the lab's connections name unless told otherwise."""
