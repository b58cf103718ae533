"""Running a statement on a session's DuckDB connection, in its transaction, behind its table locks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlglot import exp

from astronomer.lab.snowflake.database import Bindings, DuckSession
from astronomer.lab.snowflake.errors import translate
from astronomer.lab.snowflake.queries import Query
from astronomer.lab.snowflake.results import Result
from astronomer.lab.snowflake.rewriting import Rewritten, lock_target
from astronomer.lab.snowflake.sessions import Session
from astronomer.lab.snowflake.transactions import Transaction

if TYPE_CHECKING:
    from sqlglot import Expr

    from astronomer.lab.snowflake.account import Account

__all__ = ["Executor"]

T = TypeVar("T")
INTERRUPT_EVERY = 0.05
CONFLICT = "000625"
_DML = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Copy, exp.TruncateTable)
_DDL = (exp.Create, exp.Drop, exp.Alter, exp.Comment)


class Executor:
    """The one way to a session's connection."""

    def __init__(self, account: Account) -> None:
        self._account = account

    async def run(
        self, query: Query, tree: Expr | None, what: Rewritten, stop: Callable[..., object]
    ) -> Result:
        """Run a statement and return its result.

        A DML statement joins the open transaction, opens one when AUTOCOMMIT is off, or commits at once. A DDL
        statement commits the open transaction first. A statement that fails is undone; the transaction stays open.
        """
        session, pace = query.session, self._account.pace
        if isinstance(tree, _DDL):
            await self.end_transaction(session, commit=True)
        if isinstance(tree, _DML) and session.transaction is None and not session.autocommit:
            await self.begin(session, None)
        query.transaction = session.transaction.id if session.transaction else None
        holder = session.transaction or query
        try:
            if table := lock_target(tree, session.database, session.schema) if tree is not None else None:
                with pace.metered(query, stop, scripted=True):
                    await self._lock(query, table, holder)
            with pace.metered(query, stop, scripted=False):
                return await self._execute(query, what, remember=isinstance(tree, _DML))
        finally:
            if holder is query:
                self._account.locks.release(query)

    async def evaluate(self, query: Query, sql: str) -> Any:
        """Return the one value of a SELECT."""
        result = await self._execute(query, Rewritten(sql), remember=False, bindings=Bindings(None))
        return result.table.column(0)[0].as_py()

    async def describe(self, query: Query, sql: str) -> Result | None:
        """Return the columns a statement would return, or None where only running it can tell."""
        try:
            async with query.session.lock:
                duck = await self.connection(query.session)
                return await self._thread(duck, partial(duck.describe, sql))
        except Exception as error:
            raise translate(error) from error

    async def begin(self, session: Session, name: str | None) -> None:
        """Open a transaction."""
        async with session.lock:
            duck = await self.connection(session)
            await self._thread(duck, duck.begin)
            session.transaction = Transaction(session, name)

    async def end_transaction(self, session: Session, *, commit: bool) -> None:
        """Commit or roll back the open transaction, if there is one, and release its locks."""
        async with session.lock:
            transaction, session.transaction = session.transaction, None
            if transaction is None:
                return
            session.last_transaction = transaction.id
            try:
                duck = await self.connection(session)
                await self._thread(duck, duck.commit if commit else duck.rollback)
            except Exception as error:
                raise translate(error) from error
            finally:
                self._account.locks.release(transaction)

    async def connection(self, session: Session) -> DuckSession:
        """Return the session's connection, opened on first use. The caller holds the session's lock."""
        if session.duck is None:
            loop, database = asyncio.get_running_loop(), self._account.database
            opening = partial(database.open, session.database, session.schema)
            session.duck = await asyncio.shield(loop.run_in_executor(database.pool, opening))
            session.database, session.schema = session.duck.database, session.duck.schema
        return session.duck

    async def close(self, session: Session) -> None:
        """Roll back what is open and close the connection."""
        await self.end_transaction(session, commit=False)
        if session.duck is not None:
            loop, pool = asyncio.get_running_loop(), self._account.database.pool
            await loop.run_in_executor(pool, session.duck.close)
            session.duck = None

    async def _lock(self, query: Query, table: str, holder: object) -> None:
        before = query.state

        def blocked() -> None:
            query.state = "BLOCKED"

        timeout = float(query.parameters["LOCK_TIMEOUT"]) / self._account.pace.speed
        await self._account.locks.acquire(table, holder, blocked, timeout)
        query.state = before

    async def _execute(
        self, query: Query, what: Rewritten, *, remember: bool, bindings: Bindings | None = None
    ) -> Result:
        session = query.session
        bindings = query.bindings if bindings is None else bindings
        async with session.lock:
            duck = await self.connection(session)
            run = partial(duck.execute, what.sql, bindings, what.tables, query.upload)
            result = await self._attempt(session, duck, run)
            session.database, session.schema = duck.database, duck.schema
            if remember and session.transaction is not None:
                session.transaction.statements.append((what.sql, bindings))
            return result

    async def _attempt(self, session: Session, duck: DuckSession, run: Callable[[], Result]) -> Result:
        """Run; on failure bring the transaction back to before, and after a conflict try once more.

        DuckDB throws a transaction away when a statement in it fails, and sees the data as of its start. Running the
        transaction's statements again gives Snowflake's behaviour: the failed statement alone is undone, and each
        statement sees what is committed when it starts.
        """
        try:
            return await self._thread(duck, run)
        except asyncio.CancelledError:
            await self._restore(session, duck)
            raise
        except Exception as error:
            translated = translate(error)
            await self._restore(session, duck)
            if translated.code != CONFLICT or session.transaction is None:
                raise translated from error
        try:
            return await self._thread(duck, run)
        except Exception as error:
            await self._restore(session, duck)
            raise translate(error) from error

    async def _restore(self, session: Session, duck: DuckSession) -> None:
        if session.transaction is not None:
            await self._thread(duck, partial(_replay, duck, list(session.transaction.statements)))

    async def _thread(self, duck: DuckSession, work: Callable[[], T]) -> T:
        """Run blocking work; a cancelled query interrupts it, but never leaves it running behind its back."""
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._account.database.pool, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                duck.interrupt()
                await asyncio.wait([running], timeout=INTERRUPT_EVERY)
            if running.exception() is None:
                return running.result()
            raise


def _replay(duck: DuckSession, statements: list[tuple[str, Bindings]]) -> None:
    try:
        duck.rollback()
    except Exception as error:  # there may be nothing to roll back any more
        if "no transaction" not in str(error):
            raise
    duck.begin()
    for sql, bindings in statements:
        duck.execute(sql, bindings, {}, ("https", "localhost"))
