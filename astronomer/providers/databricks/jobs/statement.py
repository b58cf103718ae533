"""A statement of the SQL Statement Execution API as a remote job, and the poller for all on one connection.

Source: docs.databricks.com/api/workspace/statementexecution.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from astronomer.deferral import CredentialsRejected, JobStatus, Phase, Poller, RemoteJob, Transient, clock
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.refusals import APPEARS_WITHIN, not_listed, see_to_refused_cancel

if TYPE_CHECKING:
    from astronomer.deferral.in_triggerer import InTriggerer
    from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["STATEMENTS", "DatabricksStatement", "StatementPoller", "open_client", "statement_status"]

log = logging.getLogger(__name__)
T = TypeVar("T")

STATEMENTS = "2.0/sql/statements"

_AT_ONCE = 8
_PHASES = {
    "PENDING": Phase.ACTIVE,
    "RUNNING": Phase.ACTIVE,
    "SUCCEEDED": Phase.SUCCEEDED,
    "CLOSED": Phase.SUCCEEDED,  # it succeeded, and its result has been given up
    "FAILED": Phase.FAILED,
    "CANCELED": Phase.CANCELLED,
}
_unknown_seen: set[str] = set()


@dataclass(frozen=True)
class DatabricksStatement(RemoteJob):
    """One statement, the ``index``-th of those that a task runs one after another.

    :param statement_id: Databricks' id; also the query's id in the query history.
    :param conn_id: the Airflow connection to ask over.
    :param warehouse_id: the warehouse it runs on.
    :param address: the workspace it was submitted to, so that an edited connection is noticed.
    :param submitted_at: epoch seconds.
    :param submit_key: what its query tag says, and those of the statements after it.
    :param deadline: of the whole task, in epoch seconds.
    :param index: its place among the statements, counted from 0.
    :param count: how many statements there are.
    :param earlier: the ids of the statements before it, which have succeeded.
    """

    statement_id: str
    conn_id: str
    warehouse_id: str = ""
    address: str = ""
    submitted_at: float = 0.0
    submit_key: str = ""
    deadline: float | None = None
    index: int = 0
    count: int = 1
    earlier: tuple[str, ...] = ()

    connection_fields: ClassVar[tuple[str, ...]] = ("conn_id", "address")

    def __post_init__(self) -> None:
        object.__setattr__(self, "earlier", tuple(self.earlier))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the earlier ids as a list."""
        return super().to_dict() | {"earlier": list(self.earlier)}

    @property
    def statement_ids(self) -> list[str]:
        """All ids so far, in order."""
        return [*self.earlier, self.statement_id]

    @property
    def name(self) -> str:
        """How log lines call it."""
        place = f" ({self.index + 1} of {self.count})" if self.count > 1 else ""
        return f"Databricks statement {self.statement_id}{place}"

    @property
    def url(self) -> str:
        """Its page in the workspace's query history."""
        return f"{self.address}/sql/history?queryId={self.statement_id}"

    def poller(self) -> StatementPoller:
        """A poller over the client that all waits on the connection share."""
        return StatementPoller(self)

    def check(self, address: str) -> None:
        """Notice a connection that was edited to point elsewhere while its statements run.

        :raises CredentialsRejected: it was.
        """
        if self.address and address != self.address:
            raise CredentialsRejected(
                f"the Airflow connection {self.conn_id!r} now points to {address}, but {self.name} was submitted "
                f"to {self.address}"
            )


def statement_status(answer: Mapping[str, Any], url: str | None) -> JobStatus:
    """What an answer about a statement says of it. A state that nobody knows yet counts as running."""
    status = answer.get("status") or {}
    raw, error = str(status.get("state") or ""), status.get("error") or {}
    if raw not in _PHASES and raw not in _unknown_seen:
        _unknown_seen.add(raw)
        log.warning("Databricks reports the unknown statement state %r; it counts as running", raw)
    return JobStatus(
        _PHASES.get(raw, Phase.ACTIVE),
        raw=raw,
        message=error.get("message") or None,
        url=url,
        code=error.get("error_code") or None,
    )


async def open_client(conn_id: str, in_triggerer: InTriggerer | None = None) -> DatabricksClient:
    """The client that this loop shares for a connection; the caller closes it.

    :param in_triggerer: where there is no worker: has read the connection for all tasks.
    """
    # In a thread, because the import takes its time.
    module = await asyncio.to_thread(import_module, "astronomer.providers.databricks.hooks.client")
    read = None if in_triggerer is None else in_triggerer.read_connection
    client: DatabricksClient = await module.DatabricksClient.shared(conn_id, read)
    return client


class StatementPoller(Poller[DatabricksStatement]):
    """Asks for each statement by its id; the API has no question about many.

    Being asked at least every 15 minutes is also what keeps a statement alive. An answer holds a link to the first
    part of a result at most, or its first rows where they were asked to come inline; no further part is touched.

    :param job: any job of the connection.
    :param client: one that is open already; it is used, and left open.
    """

    max_jobs = 100  # about ten seconds of the client's requests

    def __init__(self, job: DatabricksStatement, client: DatabricksClient | None = None) -> None:
        self._job = job
        self._borrowed = client
        self._client = client
        self._opening = asyncio.Lock()

    async def poll(self, jobs: Sequence[DatabricksStatement]) -> Mapping[DatabricksStatement, JobStatus]:
        """One request per statement."""
        return await self.ask_each(jobs, self._look, at_once=_AT_ONCE)

    async def cancel(self, job: DatabricksStatement) -> None:
        """Ask for the end of a statement; harmless to repeat. Databricks may take no notice, so it is looked at afterwards.

        :raises RequestRejected: refused, and it goes on, or cannot be seen.
        """
        client = await self._open()
        try:
            await client.post(f"{STATEMENTS}/{job.statement_id}/cancel", {})
        except RequestRejected as refused:
            see_to_refused_cancel(job, refused, await self._look(job))

    async def close(self) -> None:
        """Give the client back, unless it belongs to somebody else."""
        client, self._client = self._client, None
        if client is not None and client is not self._borrowed:
            await client.close()

    async def row_count(self, job: DatabricksStatement) -> int:
        """How many rows a statement that succeeded has returned; none of them is fetched."""
        answer = await self.ask(lambda client: client.get(f"{STATEMENTS}/{job.statement_id}"))
        return int((answer.get("manifest") or {}).get("total_row_count") or 0)

    async def ask(self, call: Callable[[DatabricksClient], Awaitable[T]]) -> T:
        """A request of another kind, on the connection's client.

        After a refused login, the next one reads the Airflow connection anew.
        """
        client = await self._open()
        try:
            return await call(client)
        except CredentialsRejected:
            if self._client is client and client is not self._borrowed:
                self._client = None
                await client.close()
            raise

    async def _look(self, job: DatabricksStatement) -> JobStatus:
        client = await self._open()
        asked_at = clock.now()  # a process may be stopped until the answer is read
        try:
            return statement_status(await client.get(f"{STATEMENTS}/{job.statement_id}"), job.url)
        except RequestRejected as refused:
            return self._unseen(job, refused, asked_at)

    @staticmethod
    def _unseen(job: DatabricksStatement, refused: RequestRejected, asked_at: float) -> JobStatus:
        """What a refusal to show a statement says of it; only the principal that ran it may see it."""
        if refused.status == 404 and asked_at - job.submitted_at < APPEARS_WITHIN:
            return not_listed(job.url)
        if refused.status not in (403, 404):
            raise Transient(str(refused)) from refused
        message = (
            f"Databricks does not show {job.name} to this connection ({refused.error_code}: {refused.message}). It "
            "ended more than twelve hours ago, or another principal has submitted it."
        )
        return JobStatus(Phase.LOST, raw="unknown", message=message, url=job.url)

    async def _open(self) -> DatabricksClient:
        async with self._opening:
            if self._client is None:
                self._client = await open_client(self._job.conn_id)
            self._job.check(self._client.address)
            return self._client
