"""A Snowflake query as a remote job, and the poller for all of them on one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from astronomer.deferral import (
    ClientThreads,
    CredentialsRejected,
    JobFailed,
    JobStatus,
    Phase,
    Poller,
    RemoteJob,
    Transient,
    clock,
)
from astronomer.deferral._compat import AirflowNotFoundException, PlainConnection, read_connection, setting
from astronomer.providers.snowflake.arguments import statement_options
from astronomer.providers.snowflake.hooks import THREAD_NAME
from astronomer.providers.snowflake.hooks.refusal import StandingRefusal
from astronomer.providers.snowflake.links import snowsight_url
from astronomer.providers.snowflake.states import status_of

if TYPE_CHECKING:
    from astronomer.providers.snowflake.hooks.session import SnowflakeSession

__all__ = ["SnowflakePoller", "SnowflakeQuery"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_HANDFUL = 5  # with more waits than this, a list request comes before the single ones
_SINGLE_SECONDS = 5.0  # so long are they asked for in one poll; the first answers wait for the last
_LIST_LENGTH = 10_000
_APPEARS_WITHIN = 120.0  # a query just submitted may be unknown for a while; the connectors allow 24 polls
_CLOCK_SKEW = 300.0
_REFUSAL_LASTS = 10.0


@dataclass(frozen=True)
class SnowflakeQuery(RemoteJob):
    """A query, or a block of statements under one query id.

    :param query_id: Snowflake's id.
    :param conn_id: the Airflow connection to ask over.
    :param hook_params: what the user passed to the stock hook (warehouse, role, …); holds no secret.
    :param account: the account it was submitted to, so that an edited connection is noticed.
    :param host: its host.
    :param user: the user it belongs to.
    :param session_id: the session it runs in.
    :param submitted_at: epoch seconds.
    :param statements: how many statements of the user's it holds.
    :param block: whether it was sent as a block: then the statements have ids of their own, and a failure may
        leave a transaction open in the session.
    """

    query_id: str
    conn_id: str
    hook_params: dict[str, Any] = field(default_factory=dict, hash=False)
    account: str = ""
    host: str = ""
    user: str | None = None
    session_id: int | None = None
    submitted_at: float = 0.0
    statements: int = 1
    block: bool = False

    connection_fields: ClassVar[tuple[str, ...]] = ("conn_id", "hook_params", "account", "host", "user")

    @property
    def name(self) -> str:
        """How log lines call it."""
        return f"Snowflake query {self.query_id}"

    @property
    def url(self) -> str:
        """Its page in Snowsight."""
        return snowsight_url(self.account, self.query_id)

    def poller(self) -> SnowflakePoller:
        """A poller over a login of its own."""
        return SnowflakePoller(self)

    def check(self, place: Mapping[str, Any]) -> None:
        """Notice a connection that was edited to point elsewhere while its queries run.

        :raises CredentialsRejected: it was.
        """
        if (place["account"], place["host"]) != (self.account, self.host):
            raise CredentialsRejected(
                f"the Airflow connection {self.conn_id!r} now points to {place['account']} at {place['host']}, "
                f"but the query was submitted to {self.account} at {self.host}"
            )


def read_last(session: SnowflakeSession, job: SnowflakeQuery) -> Any:
    """A cursor on the result of the job's last statement."""
    last = session.statement_ids(job.query_id)[: job.statements][-1] if job.block else job.query_id
    return session.cursor_on(last)


def _new_session(connection: PlainConnection, hook_params: Mapping[str, Any]) -> SnowflakeSession:
    """For a client thread: importing the connector takes seconds, and the event loop has none to spare."""
    from astronomer.providers.snowflake.hooks.session import SnowflakeSession
    from astronomer.providers.snowflake.hooks.stock import ReadHook

    return SnowflakeSession(ReadHook(connection, **hook_params))


class SnowflakePoller(Poller[SnowflakeQuery]):
    """Asks about many queries over one login: a list says which still run, single requests say the rest.

    The list counts only as proof that a query still runs; that it has ended is believed of the request for its
    id alone. The list is undocumented, and a busy user may have more queries than it shows.

    :param job: any job of the connection.
    :param session: one that is open already; it is used, and left open.
    """

    def __init__(self, job: SnowflakeQuery, session: SnowflakeSession | None = None) -> None:
        self._job = job
        self._borrowed = session
        self._session: SnowflakeSession | None = None
        self._threads = ClientThreads(THREAD_NAME, size=int(setting("poll_threads", 4)))
        self._opening = asyncio.Lock()
        self._refused = StandingRefusal(_REFUSAL_LASTS)

    async def poll(self, jobs: Sequence[SnowflakeQuery]) -> Mapping[SnowflakeQuery, JobStatus]:
        """One to three list requests when many wait, and one request for each that the lists leave open."""
        answers: dict[SnowflakeQuery, JobStatus] = {}
        left = list(jobs)
        for subset in ("RUNNING", "QUEUED", "BLOCKED"):
            if len(left) > _HANDFUL:
                try:
                    answers |= await self._listed(left, subset)
                except CredentialsRejected:
                    raise
                except Transient as trouble:
                    if trouble.retry_after is not None:
                        raise
                    break  # the list is undocumented: without it, one by one
                left = [job for job in left if job not in answers]
        at_once = int(setting("poll_threads", 4))
        return await self.ask_each(
            left, self._single, at_once=at_once, known=answers, seconds=_SINGLE_SECONDS
        )

    async def cancel(self, job: SnowflakeQuery) -> None:
        """Abort by id; any session of the same user may."""
        await self._call(lambda session: session.abort(job.query_id))

    async def result(self, job: SnowflakeQuery) -> Any:
        """The rows of the last statement, as lists."""
        return await self._call(lambda session: [list(row) for row in read_last(session, job).fetchall()])

    async def first_row(self, job: SnowflakeQuery) -> Sequence[Any] | None:
        """The first row of the last statement, or ``None``."""
        return await self._call(lambda session: read_last(session, job).fetchone())

    async def start(
        self,
        anchor: SnowflakeQuery,
        statement: str,
        parameters: Any,
        *,
        request_id: str,
        tag: Mapping[str, Any],
        deadline: float | None,
    ) -> SnowflakeQuery:
        """Start a query on the shared session.

        :param anchor: the query but for its id; whether it is a block of several statements is its own.
        :param request_id: makes a repetition harmless, while the session lasts.
        :param tag: for the query tag, unless the session has one.
        :param deadline: epoch seconds, after which the server ends the query.

        :raises JobFailed: Snowflake refused it.
        """
        submitted_at = clock.now()
        count = anchor.statements if anchor.block else None

        def submit(session: SnowflakeSession) -> str:
            from snowflake.connector.errors import Error

            session.open()
            options = statement_options(session.parameters, tag, deadline)
            try:
                return session.submit(
                    statement, parameters, request_id=request_id, options=options, count=count
                )
            except Error as error:
                raise JobFailed(str(error.msg)) from error

        return replace(anchor, query_id=await self._call(submit), submitted_at=submitted_at)

    async def close(self) -> None:
        """Log out, unless the session belongs to somebody else."""
        session, self._session = self._session, None
        if session is not None and session is not self._borrowed:
            await self._threads.run(lambda: session.close(log_out=True))
        self._threads.close()

    async def _listed(self, jobs: Sequence[SnowflakeQuery], subset: str) -> dict[SnowflakeQuery, JobStatus]:
        """The jobs that the list shows as not ended."""
        start = int(1000 * (min(job.submitted_at for job in jobs) - _CLOCK_SKEW))
        entries = await self._call(
            lambda session: session.entries(user=self._job.user, start=start, subset=subset, max=_LIST_LENGTH)
        )
        by_id = {str(entry.get("id")): entry for entry in entries}
        statuses = {job: status_of(by_id[job.query_id], job.url) for job in jobs if job.query_id in by_id}
        return {job: status for job, status in statuses.items() if not status.done}

    async def _single(self, job: SnowflakeQuery) -> JobStatus:
        asked_at = clock.now()  # a process may be stopped until the answer is read
        entry = await self._call(lambda session: session.entry(job.query_id))
        if entry is None:
            return self._unknown(job, asked_at)
        status = status_of(entry, job.url)
        if status.done and status.phase is not Phase.SUCCEEDED and job.block:
            await self._roll_back(job)
        return status

    async def _roll_back(self, job: SnowflakeQuery) -> None:
        """Before anybody hears of the failure, so that no lock outlives it."""
        from snowflake.connector.errors import ProgrammingError

        try:
            await self._call(lambda session: session.end_transactions(job.session_id))
        except ProgrammingError as error:
            log.warning(
                "%s has failed, and whether its session %s left a transaction open could not be found out: %s",
                job.name,
                job.session_id,
                error.msg,
            )

    @staticmethod
    def _unknown(job: SnowflakeQuery, asked_at: float) -> JobStatus:
        if asked_at - job.submitted_at < _APPEARS_WITHIN:
            return JobStatus(Phase.ACTIVE, raw="NO_DATA", url=job.url)
        message = (
            f"Snowflake knows no query {job.query_id} that user {job.user} may see (account {job.account}). It may "
            "belong to another user or role, or be too old to be listed."
        )
        return JobStatus(Phase.LOST, raw="NO_DATA", message=message, url=job.url)

    async def _call(self, call: Callable[[SnowflakeSession], T]) -> T:
        session = await self._open()
        try:
            return await self._threads.run(lambda: call(session))
        except CredentialsRejected as refusal:
            if self._session is session:  # the next call reads the Airflow connection anew
                self._session = None
                self._refused.begin(refusal)
            raise

    async def _open(self) -> SnowflakeSession:
        """The session, logged in by whoever comes first."""
        async with self._opening:
            if self._session is None:
                with self._refused.logging_in():
                    session = self._borrowed or await self._new_session()
                    self._job.check(await self._threads.run(session.place))
                    await self._threads.run(session.open)
                self._session = session
            return self._session

    async def _new_session(self) -> SnowflakeSession:
        try:
            connection = await read_connection(self._job.conn_id)
        except AirflowNotFoundException as error:
            raise CredentialsRejected(f"the Airflow connection {self._job.conn_id!r} is gone") from error
        return await self._threads.run(partial(_new_session, connection, self._job.hook_params))
