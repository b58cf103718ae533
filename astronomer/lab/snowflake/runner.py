"""The life of a query: submitted, waiting, running, ended; and of the statements in it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING

from sqlglot import exp

from astronomer.lab.snowflake import commands
from astronomer.lab.snowflake.errors import SnowflakeError, canceled, compilation, translate, unsupported
from astronomer.lab.snowflake.executor import Executor
from astronomer.lab.snowflake.queries import Query
from astronomer.lab.snowflake.results import MULTI_STATEMENT, Result
from astronomer.lab.snowflake.rewriting import Rewriter, Rewritten, parse
from astronomer.lab.snowflake.sessions import Session
from astronomer.lab.snowflake.sqltext import Hints, bare, hints, kind, split

if TYPE_CHECKING:
    from sqlglot import Expr

    from astronomer.lab.snowflake.account import Account

__all__ = ["Runner"]

log = logging.getLogger(__name__)

_FILES = ("PUT_FILES", "GET_FILES")
_NEED_WAREHOUSE = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Copy)
_HANDLED = re.compile(r"\bEXCEPTION\s+WHEN\s+OTHER\s+THEN\b", re.IGNORECASE)
_BODY = re.compile(r"^BEGIN\b(?!\s+(?:TRANSACTION|WORK)\b)(.*)\bEND$", re.IGNORECASE | re.DOTALL)


class _Scripted(Exception):
    """A hint asked for this final state."""


class Runner:
    """Runs the queries of an account, each in a task of its own."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._executor = Executor(account)
        self._rewriter = Rewriter(account)
        self._closing: set[asyncio.Task[None]] = set()
        self.begin = self._executor.begin
        self.end_transaction = self._executor.end_transaction
        self.connection = self._executor.connection

    def submit(self, query: Query) -> None:
        """Start a query and return at once."""
        session = query.session
        query.role, query.warehouse = session.role, session.warehouse
        query.database, query.schema = session.database, session.schema
        self._account.queries.add(query)
        session.running.add(query)
        query.task = asyncio.get_running_loop().create_task(self._live(query))
        query.task.add_done_callback(lambda _: self._settle(query))

    def stop(self, query: Query, error: SnowflakeError | None = None) -> bool:
        """End a query that still runs and return whether it did; the error defaults to 000604."""
        if query.finished or query.task is None:
            return False
        query.stopped_by = query.stopped_by or error or canceled()
        query.task.cancel()
        return True

    def end_session(self, session: Session, *, cancel: bool) -> None:
        """End a session: nothing new starts, its queries are cancelled or waited for, then it is rolled back."""
        if session.ended:
            return
        session.ended = True
        if cancel:
            self._stop_all(session)
        task = asyncio.get_running_loop().create_task(self._tear_down(session))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def shut_down(self) -> None:
        """Stop everything and wait for it."""
        for session in self._account.sessions:
            self._stop_all(session)
            self.end_session(session, cancel=True)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _stop_all(self, session: Session) -> None:
        for query in list(session.running):
            self.stop(query)

    async def _tear_down(self, session: Session) -> None:
        while session.running:
            await asyncio.gather(*(query.done.wait() for query in list(session.running)))
            await asyncio.sleep(0)
        await self._executor.close(session)
        self._account.sessions.forget(session)

    async def _live(self, query: Query) -> None:
        try:
            query.succeed(await self._perform(query))
        except asyncio.CancelledError:
            query.fail(query.stopped_by or canceled())
        except _Scripted as scripted:
            incident = SnowflakeError(
                "000603", "XX000", "SQL execution internal error:\nProcessing aborted by error"
            )
            query.fail(incident, str(scripted))
        except SnowflakeError as error:
            query.fail(error)
        except Exception as error:  # whatever DuckDB raises is the query's failure, not the server's
            log.debug("query %s failed", query.id, exc_info=True)
            query.fail(translate(error))

    def _settle(self, query: Query) -> None:
        # A task cancelled before its first step never ran, so its query is ended here.
        if not query.finished:
            query.fail(query.stopped_by or canceled())
        query.session.running.discard(query)
        query.session.last_query_id = query.id

    async def _perform(self, query: Query) -> Result:
        statements = split(query.sql)
        wanted = int(query.parameters["MULTI_STATEMENT_COUNT"]) if query.parent is None else 1
        if not statements:
            raise compilation("000900", "42601", "Empty SQL statement.")
        if wanted and wanted != len(statements):
            text = f"Actual statement count {len(statements)} did not match the desired statement count {wanted}."
            raise SnowflakeError("000008", "0A000", text)
        if len(statements) == 1:
            query.type = kind(query.sql)
            return await self._one(query)
        query.type = "MULTI_STATEMENT"
        return await self._many(query, statements)

    async def _many(self, query: Query, statements: list[str]) -> Result:
        if query.bindings:
            raise unsupported("bind variables in a request with several statements")
        for text in statements:
            if kind(text) in _FILES:
                raise unsupported("PUT and GET in a request with several statements")
            if commands.find(text) is None:
                parse(text)
        result = Result.status(
            "Multiple statements executed successfully.", MULTI_STATEMENT, "multiple statement execution"
        )
        for text in statements:
            child = await self._child(query, text)
            result.children.append((child.id, child.outcome.type_id))
        return result

    async def _child(self, query: Query, text: str) -> Query:
        """Run one statement of a query to its end and return it.

        :raises SnowflakeError: the statement failed.
        """
        child = Query(
            sql=text,
            user=query.user,
            session=query.session,
            bindings=query.bindings,
            parameters=query.parameters,
            parent=query,
            upload=query.upload,
        )
        query.children.append(child.id)
        self.submit(child)
        try:
            await child.done.wait()
        except asyncio.CancelledError:
            self.stop(child, query.stopped_by)
            await child.done.wait()
            raise
        if child.state == "FAILED_WITH_ERROR":
            raise child.error
        if child.state != "SUCCESS":
            raise _Scripted(child.state)
        return child

    async def block(self, query: Query, text: str) -> Result:
        """Run EXECUTE IMMEDIATE: one statement, or a block of plain statements with one EXCEPTION WHEN OTHER."""
        body = _BODY.match(bare(text))
        if body is None:
            return (await self._child(query, text)).outcome
        normal, _, handler = _partition(_HANDLED, body[1])
        try:
            await self._block_statements(query, normal)
        except SnowflakeError as error:
            if not handler:
                raise
            await self._block_statements(query, handler, raising=error)
        return Result.status(column="anonymous block", text="")

    async def _block_statements(self, query: Query, text: str, raising: SnowflakeError | None = None) -> None:
        for statement in split(text):
            word = bare(statement).upper()
            if word == "RAISE" and raising is not None:
                raise raising
            if word == "RETURN" or word.startswith("RETURN "):
                return
            await self._child(query, statement)

    async def _one(self, query: Query) -> Result:
        wishes, pace = hints(query.sql), self._account.pace
        command = commands.find(query.sql)
        if query.type in _FILES and query.asynchronous:
            raise unsupported("asynchronous PUT and GET")
        tree = None if command or query.type in _FILES else parse(query.sql)
        if query.describe_only:
            return await self._describe(query, tree)
        for state, seconds in _phases(wishes):
            query.state = state
            await pace.spend(query, seconds)
        async with contextlib.AsyncExitStack() as held:
            if tree is not None and _needs_warehouse(tree):
                await self._enter_warehouse(query, held)
            return await self._run(query, tree, command, wishes)

    async def _enter_warehouse(self, query: Query, held: contextlib.AsyncExitStack) -> None:
        def waiting(state: str) -> None:
            query.state = state

        with self._account.pace.metered(query, self.stop, scripted=True):
            place = self._account.warehouses.use(query.session.warehouse, waiting, self._unmetered)
            await held.enter_async_context(place)

    async def _unmetered(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._account.pace.speed)

    async def _run(
        self,
        query: Query,
        tree: Expr | None,
        command: tuple[commands.Command, re.Match[str]] | None,
        wishes: Hints,
    ) -> Result:
        query.state = wishes.status
        await self._account.pace.spend(query, wishes.running)
        if wishes.end != "SUCCESS":
            raise _Scripted(wishes.end)
        if command is not None:
            answer, found = command
            return await answer(self._account, query, found)
        what = Rewritten(query.sql)
        if tree is not None:
            what = await self._rewriter.rewrite(query, tree, lambda sql: self._executor.evaluate(query, sql))
        if what.waits:
            await self._account.pace.spend(query, what.waits)
        return what.result or await self._executor.run(query, tree, what, self.stop)

    async def _describe(self, query: Query, tree: Expr | None) -> Result:
        if tree is None:
            return Result.status()
        what = await self._rewriter.rewrite(query, tree, lambda sql: self._executor.evaluate(query, sql))
        if what.result is not None:
            what.result.table = what.result.table.slice(0, 0)
            what.result.total = 0
            return what.result
        described = None if what.tables else await self._executor.describe(query, what.sql)
        return described or await self._executor.run(query, tree, what, self.stop)


def _partition(pattern: re.Pattern[str], text: str) -> tuple[str, str, str]:
    found = pattern.search(text)
    return (text, "", "") if found is None else (text[: found.start()], found[0], text[found.end() :])


def _phases(wishes: Hints) -> list[tuple[str, float]]:
    phases = [
        ("QUEUED", wishes.queued),
        ("RESUMING_WAREHOUSE", wishes.resuming),
        ("BLOCKED", wishes.blocked),
        ("RESTARTED", wishes.restarted),
    ]
    return [(state, seconds) for state, seconds in phases if seconds > 0]


def _needs_warehouse(tree: Expr) -> bool:
    """Whether Snowflake would need compute: anything that reads or writes a table, and SYSTEM$WAIT."""
    if isinstance(tree, _NEED_WAREHOUSE):
        return True
    if isinstance(tree, exp.Create):
        return tree.args.get("expression") is not None and str(tree.args.get("kind")).upper() == "TABLE"
    if not isinstance(tree, exp.Query):
        return False
    waits = (node for node in tree.find_all(exp.Anonymous) if str(node.this).upper() == "SYSTEM$WAIT")
    return tree.find(exp.From) is not None or next(waits, None) is not None
