"""Asks one workspace about many runs, in as few requests as its API allows.

``runs/list?active_only=true`` answers for 25 runs at once, but also lists everybody else's, and a page may be stale.
So it only says which runs are certainly still active; what it does not name is asked for by ``runs/get``, which
alone decides. Where others have so many runs that the list costs more than asking, it is left.

Source: docs.databricks.com/api/workspace/jobs/listruns and .../getrun.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from astronomer.deferral import CredentialsRejected, JobStatus, Phase, Poller, Transient, clock
from astronomer.deferral._compat import setting
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.refusals import APPEARS_WITHIN, not_listed, see_to_refused_cancel
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.states import TIMED_OUT, attempts_by_task, never_ran, start_of, status_of

if TYPE_CHECKING:
    from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["RunPoller"]

T = TypeVar("T")

_PAGE = 25  # the most that runs/list gives
_AT_ONCE = 8
_ROUND_SECONDS = 75.0  # the hub gives a poll 120
_SWEEP_SECONDS = 45.0  # of these; what the list has not named by then is asked for, as far as the time goes
_STARTS_DIFFER = 60.0  # by how much the order of the list may be off


class RunPoller(Poller[DatabricksRun]):
    """The poller of one connection.

    :param job: any job of the connection.
    :param client: one that is open already; it is used, and left open.
    """

    def __init__(self, job: DatabricksRun, client: DatabricksClient | None = None) -> None:
        self._job = job
        self._borrowed = client
        self._client = client
        self._opening = asyncio.Lock()
        self._pages_expected = 0.0
        self._requests = 0
        # Half of what the client may send: the rest is for whoever else asks, and for this workspace's other triggerers.
        self._per_second = setting("databricks_requests_per_second", 10.0) / 2

    async def poll(self, jobs: Sequence[DatabricksRun]) -> Mapping[DatabricksRun, JobStatus]:
        """The state of each run: by the list where that is cheaper, by itself where it decides."""
        self._requests = 0
        loop = asyncio.get_running_loop()
        over = loop.time() + _ROUND_SECONDS
        whole = [job for job in jobs if job.parent_run_id is None and job.repair_id is None]
        answers: dict[DatabricksRun, JobStatus] = {}
        self._pages_expected = max(0.0, self._pages_expected - 1.0)
        if len(whole) > max(1.0, self._pages_expected):
            answers = await self._sweep(whole)
        groups: dict[int | DatabricksRun, list[DatabricksRun]] = defaultdict(list)
        for job in jobs:
            if job not in answers:
                groups[job if job.parent_run_id is None else job.parent_run_id].append(job)
        answers = await self._ask_groups(list(groups.values()), answers, over - loop.time())
        self.least_interval = self._requests / self._per_second
        return answers

    async def cancel(self, job: DatabricksRun) -> None:
        """Ask for the end of the run, or of the one task of it; what has ended takes no notice.

        Harmless to repeat while it ends. A task that the run does not have yet is not asked to.

        :raises RequestRejected: refused, and it goes on.
        """
        try:
            parent = job.parent_run_id
            run_id = job.run_id if parent is None else await self._id_of_task(parent, job.task_key)
            if run_id is not None:
                await self._ask(lambda client: client.post("2.2/jobs/runs/cancel", {"run_id": run_id}))
        except RequestRejected as refused:
            see_to_refused_cancel(job, refused, (await self._look([job.whole]))[job.whole])

    async def _id_of_task(self, parent: int, task_key: str) -> int | None:
        """The run of the task's newest attempt: a retry or a repair has given it another."""
        attempts = attempts_by_task(await self.read(parent, tasks=True)).get(task_key)
        return int(attempts[-1]["run_id"]) if attempts else None

    async def close(self) -> None:
        """Give the client back, unless it belongs to somebody else."""
        client, self._client = self._client, None
        if client is not None and client is not self._borrowed:
            await client.close()

    # The list.

    async def _sweep(self, jobs: Sequence[DatabricksRun]) -> dict[DatabricksRun, JobStatus]:
        """Those of ``jobs`` that are active, unless it takes more pages than there are jobs."""
        wanted = {job.run_id: job for job in jobs}
        found: dict[DatabricksRun, JobStatus] = {}
        oldest = min(job.started_at for job in jobs)
        job_ids = {job.job_id for job in jobs}
        only = {"job_id": job_ids.pop()} if len(job_ids) == 1 else {}
        pages, token = 0, None
        loop = asyncio.get_running_loop()
        over = loop.time() + _SWEEP_SECONDS
        try:
            while wanted and loop.time() < over:
                page, token = await self._page(only, token)
                pages += 1
                active: dict[DatabricksRun, JobStatus] = {}
                for run in page:
                    job = wanted.get(int(run["run_id"]))
                    if job is not None and not (status := _part(run, job)).done:
                        active[wanted.pop(job.run_id)] = status
                self.tell(active)
                found |= active
                if token is None or not wanted or _older(page, oldest):
                    break
                if pages >= len(jobs):
                    pages *= 2  # it is not tried again until that many polls have passed
                    break
        except Transient as trouble:
            if trouble.final or not found:
                raise
        self._pages_expected = float(pages)
        return found

    async def _page(
        self, only: Mapping[str, Any], token: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Active runs, newest first; of one job where all that is waited for belongs to it."""
        answer = await self._get(
            "2.2/jobs/runs/list", active_only=True, limit=_PAGE, page_token=token, **only
        )
        return answer.get("runs") or [], answer.get("next_page_token") or None

    # One by one.

    async def _ask_groups(
        self, groups: list[list[DatabricksRun]], answers: dict[DatabricksRun, JobStatus], seconds: float
    ) -> dict[DatabricksRun, JobStatus]:
        """One request for each run, and for each parent of tasks."""
        by_first = {group[0]: group for group in groups}
        others: dict[DatabricksRun, JobStatus] = {}

        async def ask(first: DatabricksRun) -> JobStatus:
            found = await self._look(by_first[first])
            self.tell(found)
            others.update(found)
            return found[first]

        asked = await self.ask_each(list(by_first), ask, at_once=_AT_ONCE, known=answers, seconds=seconds)
        left_out = [(job, group[0]) for group in groups if group[0] in self.unanswered for job in group]
        self.unanswered = {job: self.unanswered[first] for job, first in left_out}
        return others | asked

    async def _look(self, group: list[DatabricksRun]) -> dict[DatabricksRun, JobStatus]:
        """Ask for the run that a group shares, and read each one's part of it."""
        first = group[0]
        run_id = first.run_id if first.parent_run_id is None else first.parent_run_id
        try:
            tasks = first.until_started or first.parent_run_id is not None
            run = await self.read(run_id, tasks=tasks, history=first.repair_id)
        except RequestRejected as error:
            status = _unseen(first, run_id, error, self._server_now())
            if status is None:
                raise
            return dict.fromkeys(group, status)
        attempts = {} if first.parent_run_id is None else attempts_by_task(run)
        return {job: _part(run, job, attempts.get(job.task_key, ())) for job in group}

    async def read(self, run_id: int, *, tasks: bool = False, history: object = None) -> dict[str, Any]:
        """A run; with all of its tasks, or with its repairs, where they are wanted."""
        more = {} if history is None else {"include_history": True}
        run = await self._get("2.2/jobs/runs/get", run_id=run_id, **more)
        token = run.get("next_page_token") if tasks else None
        while token:
            page = await self._get("2.2/jobs/runs/get", run_id=run_id, page_token=token, **more)
            run["tasks"] = [*(run.get("tasks") or []), *(page.get("tasks") or [])]
            token = page.get("next_page_token")
        return run

    async def _get(self, path: str, **params: Any) -> dict[str, Any]:
        self._requests += 1
        return await self._ask(lambda client: client.get(path, **params))

    async def _ask(self, call: Callable[[DatabricksClient], Awaitable[T]]) -> T:
        client = await self._open()
        try:
            return await call(client)
        except CredentialsRejected as refused:
            message = f"the Airflow connection {self._job.conn_id!r} was refused: {refused}"
            raise CredentialsRejected(message) from None

    def _server_now(self) -> float:
        """The workspace's clock, by which runs say when they started."""
        told = None if self._client is None else self._client.server_time
        return told or clock.now()

    async def _open(self) -> DatabricksClient:
        async with self._opening:
            if self._client is None:
                # In a thread, because the import takes its time.
                module = await asyncio.to_thread(
                    import_module, "astronomer.providers.databricks.hooks.client"
                )
                self._client = await module.DatabricksClient.shared(self._job.conn_id)
            self._job.check(self._client.address)
            return self._client


def _older(page: Sequence[Mapping[str, Any]], oldest: float) -> bool:
    """Whether everything that follows the page is older than the oldest that is looked for."""
    starts = [float(run["start_time"]) / 1000 for run in page if run.get("start_time")]
    return bool(starts and oldest) and min(starts) < oldest - _STARTS_DIFFER


def _part(
    run: Mapping[str, Any], job: DatabricksRun, attempts: Sequence[Mapping[str, Any]] = ()
) -> JobStatus:
    """What a run says of one job: of itself, of its start, of its repair, or of one of its tasks.

    :param attempts: those of the task, oldest first.
    """
    if job.repair_id is not None:
        repairs = [one for one in run.get("repair_history") or [] if one.get("id") == job.repair_id]
        return status_of({**run, **repairs[-1]} if repairs else run, job.url)
    if job.until_started:
        return start_of(run, job.url)
    if job.parent_run_id is None:
        return status_of(run, job.url)
    whole = status_of(run, job.url)
    if not attempts:
        message = f"The run has no task {job.task_key!r}."
        return JobStatus(Phase.FAILED, raw=whole.raw, message=message, url=whole.url) if whole.done else whole
    newest = status_of(attempts[-1], job.url)
    if not whole.done and _is_retried(newest, job, len(attempts)):
        return JobStatus(Phase.ACTIVE, raw="WAITING_FOR_RETRY", url=newest.url)
    return newest


def _is_retried(status: JobStatus, job: DatabricksRun, attempts: int) -> bool:
    """Whether Databricks begins another attempt by itself. It does not after a cancel, or where nothing ran."""
    if status.phase is not Phase.FAILED or never_ran(status):
        return False
    if status.code == TIMED_OUT and not job.retry_on_timeout:
        return False
    return job.task_retries < 0 or attempts <= job.task_retries


def _is_not_there(run_id: int, refused: RequestRejected) -> bool:
    """Whether it is the run that does not exist, and not the workspace, a user or the path.

    Source: databricks-sdk's ``errors.overrides``, for the 400; what else does not exist is answered with a 404.
    """
    said = rf"Run:? \S*\b{run_id}\b\S*( in job: .*)? (does not|doesn't) exist"
    return refused.status in (400, 404) and re.match(said, refused.message, re.IGNORECASE) is not None


def _unseen(job: DatabricksRun, run_id: int, refused: RequestRejected, now: float) -> JobStatus | None:
    """What a refusal to show a run says of it; ``None`` when it says nothing.

    :param run_id: of the run that was asked for: its own, or that of the run it is a task of.
    :raises Transient: something else was not found, such as the path: a gateway or another version has answered.
    """
    url = job.url or None
    if _is_not_there(run_id, refused):
        if job.started_at and now - job.started_at < APPEARS_WITHIN:
            return not_listed(url)
        # Databricks deletes no run that is active.
        message = "Databricks knows no such run (any more); somebody has deleted it."
        return JobStatus(Phase.FAILED, raw="deleted", message=message, url=url)
    if refused.status == 403:
        message = f"The connection's principal may not see {job.name} (it needs CAN_VIEW): {refused}."
        return JobStatus(Phase.LOST, raw="hidden", message=message, url=url)
    if refused.status == 404:
        raise Transient(f"Databricks did not find what {job.name} is asked for by: {refused}") from refused
    return None
