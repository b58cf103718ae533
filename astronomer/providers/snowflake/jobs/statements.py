"""Statements of the SQL API as one remote job, and the poller for all of them on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from astronomer.deferral import JobStatus, Phase, Poller, RemoteJob, clock
from astronomer.deferral._compat import AirflowNotFoundException, read_connection
from astronomer.deferral.errors import CredentialsRejected
from astronomer.providers.snowflake.links import snowsight_url
from astronomer.providers.snowflake.states import CANCELLED, STATEMENT_TIMEOUT

if TYPE_CHECKING:
    from astronomer.providers.snowflake.hooks.sql_api import SqlApiClient

__all__ = ["SnowflakeStatements", "SqlApiPoller"]

_ROOM = "astronomer.providers.snowflake"
_AT_ONCE = 8
_APPEARS_WITHIN = 120.0


@dataclass(frozen=True)
class SnowflakeStatements(RemoteJob):
    """One or more statements that were submitted together.

    :param query_ids: their handles, in order.
    :param conn_id: the Airflow connection to ask over.
    :param hook_params: what the user passed to the stock hook; holds no secret.
    :param account: the account, for the link.
    :param submitted_at: epoch seconds.
    """

    query_ids: tuple[str, ...]
    conn_id: str
    hook_params: dict[str, Any] = field(default_factory=dict, hash=False)
    account: str = ""
    submitted_at: float = 0.0

    connection_fields: ClassVar[tuple[str, ...]] = ("conn_id", "hook_params", "account")

    def __post_init__(self) -> None:
        object.__setattr__(self, "query_ids", tuple(self.query_ids))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the handles as a list."""
        return super().to_dict() | {"query_ids": list(self.query_ids)}

    @property
    def name(self) -> str:
        """How log lines call it."""
        return f"Snowflake statement {', '.join(self.query_ids)}"

    @property
    def url(self) -> str:
        """The page of the first statement in Snowsight."""
        return snowsight_url(self.account, self.query_ids[0])

    def poller(self) -> SqlApiPoller:
        """A poller over an HTTP session of its own."""
        return SqlApiPoller(self)


class SqlApiPoller(Poller[SnowflakeStatements]):
    """Asks for each statement by its handle, a few at once, over one HTTP session and one signed token.

    The SQL API has no list, so what grows with the number of waits is kept small per poll.

    :param job: any job of the connection.
    :param client: one that is open already; it is used, and left open.
    """

    max_jobs = 64

    def __init__(self, job: SnowflakeStatements, client: SqlApiClient | None = None) -> None:
        self._job = job
        self._borrowed = client
        self._client = client
        self._opening = asyncio.Lock()

    async def poll(self, jobs: Sequence[SnowflakeStatements]) -> Mapping[SnowflakeStatements, JobStatus]:
        """One request per job and statement that may still run."""
        return await self.ask_each(jobs, self._look, at_once=_AT_ONCE)

    async def cancel(self, job: SnowflakeStatements) -> None:
        """Ask for the end of every statement of the job."""
        client = await self._open()
        await asyncio.gather(*(client.cancel(handle) for handle in job.query_ids))

    async def result(self, job: SnowflakeStatements) -> Any:
        """The rows of each statement."""
        client = await self._open()
        handles = [one for handle in job.query_ids for one in await client.children(handle)]
        return [await client.rows(handle) for handle in handles]

    async def close(self) -> None:
        """Close the HTTP session, unless it belongs to somebody else."""
        client, self._client = self._client, None
        if client is not None and client is not self._borrowed:
            await client.close()

    async def _look(self, job: SnowflakeStatements) -> JobStatus:
        """The first statement that has not succeeded decides; they run in order."""
        client = await self._open()
        status = JobStatus(Phase.SUCCEEDED, raw="success", url=job.url)
        for handle in job.query_ids:
            asked_at = clock.now()  # a process may be stopped until the answer is read
            code, answer = await client.look(handle)
            status = self._status(job, handle, code, answer, asked_at)
            if status.phase is not Phase.SUCCEEDED:
                break
        return status

    @staticmethod
    def _status(
        job: SnowflakeStatements, handle: str, code: int, answer: Mapping[str, Any], asked_at: float
    ) -> JobStatus:
        url = snowsight_url(job.account, handle)
        if code == 200:
            return JobStatus(Phase.SUCCEEDED, raw="success", url=url)
        if code == 202:
            return JobStatus(Phase.ACTIVE, raw="running", url=url)
        if code == 404 and asked_at - job.submitted_at < _APPEARS_WITHIN:
            return JobStatus(Phase.ACTIVE, raw="not listed yet", url=url)
        error = str(answer.get("code") or "").zfill(6) if answer.get("code") else None
        message = f"{answer.get('message') or f'HTTP {code}'} (SQLSTATE {answer.get('sqlState') or 'n/a'})"
        if code == 404:
            message = f"Snowflake knows no statement {handle} that this user may see."
            return JobStatus(Phase.LOST, raw="unknown", message=message, url=url)
        phase = Phase.CANCELLED if error == CANCELLED else Phase.FAILED
        if code == 408 and error not in STATEMENT_TIMEOUT:
            error = "000630"
        return JobStatus(phase, raw="error", message=message, url=url, code=error)

    async def _open(self) -> SqlApiClient:
        async with self._opening:
            if self._client is None:
                try:
                    connection = await read_connection(self._job.conn_id)
                except AirflowNotFoundException as error:
                    raise CredentialsRejected(
                        f"the Airflow connection {self._job.conn_id!r} is gone"
                    ) from error
                # In a thread, because the import takes seconds.
                sql_api = await asyncio.to_thread(import_module, f"{_ROOM}.hooks.sql_api")
                hook = sql_api.ReadSqlApiHook(connection, **self._job.hook_params)
                self._client = sql_api.SqlApiClient(hook)
            return self._client
