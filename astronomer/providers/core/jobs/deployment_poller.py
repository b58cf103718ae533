"""All waits on one deployment, over one session: one question per look for its runs, and one for their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from astronomer.deferral import JobStatus, Phase, Poller, Transient
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable
from astronomer.providers.core.jobs.deployment import DELETED, DeploymentWait, run_url
from astronomer.providers.core.jobs.deployment_runs import DeploymentRuns, Found
from astronomer.providers.core.jobs.deployment_tasks import DeploymentTasks
from astronomer.providers.core.jobs.external import Sight, judge

if TYPE_CHECKING:
    from astronomer.providers.core.hooks.deployment import DeploymentClient

__all__ = ["DeploymentPoller"]

_RESTS = 4.0  # times as long as a look took: a deployment that is slow is asked less often
_LONGEST_REST = 30.0


class DeploymentPoller(Poller[DeploymentWait]):
    """Asks one deployment about all waits over one connection, whatever their Dags.

    :param job: any of the waits.
    :param client: one that is open already; it is used, and left open.
    """

    def __init__(self, job: DeploymentWait, client: DeploymentClient | None = None) -> None:
        self._job = job
        self._borrowed = self._client = client
        self._opening = asyncio.Lock()
        self._runs = DeploymentRuns()
        self._tasks = DeploymentTasks()

    async def poll(self, jobs: Sequence[DeploymentWait]) -> Mapping[DeploymentWait, JobStatus]:
        """One look at all of them."""
        loop = asyncio.get_running_loop()
        client = await self._open()
        begun = loop.time()
        unanswered = await self._runs.look(client, {key for job in jobs for key in job.keys.values()})
        answers: dict[DeploymentWait, JobStatus] = {}
        tasks: dict[DeploymentWait, dict[str, str]] = {}
        for job in jobs:
            if unanswered.isdisjoint(job.keys.values()):
                found = {target: self._runs[key] for target, key in job.keys.items()}
                status = _by_runs(job, found)
                if status is not None:
                    answers[job] = status
                else:
                    tasks[job] = {target: one.run_id for target, one in found.items() if one.run_id}
        try:
            answers |= await self._tasks.statuses(client, tasks)
        except Transient as trouble:
            if trouble.final or not answers:
                raise
        self.least_interval = min(_RESTS * (loop.time() - begun), _LONGEST_REST)
        return answers

    async def check(self, job: DeploymentWait) -> None:
        """Fail if what is waited for does not exist."""
        check = await asyncio.to_thread(import_module, "astronomer.providers.core.sensors.deployment_check")
        await check.check_existence(await self._open(), job)

    def run_of(self, job: DeploymentWait) -> str | None:
        """The latest run, where the wait is about it, and the last look has found it."""
        return self._runs[next(iter(job.keys.values()))].run_id if job.latest else None

    async def close(self) -> None:
        """Give the client back, unless it belongs to somebody else."""
        client, self._client = self._client, None
        if client is not None and client is not self._borrowed:
            await client.close()

    async def _open(self) -> DeploymentClient:
        async with self._opening:
            if self._client is None:
                # In a thread, because the import takes its time.
                module: Any = await asyncio.to_thread(
                    import_module, "astronomer.providers.core.hooks.deployment"
                )
                self._client = await module.DeploymentClient.read(self._job.conn_id)
            self._check(self._client)
            return self._client

    def _check(self, client: DeploymentClient) -> None:
        """Another deployment knows nothing of these runs, or worse: has runs of the same names."""
        if self._job.address not in ("", client.address):
            raise ConnectionUnusable(
                f"the Airflow connection {self._job.conn_id!r} leads to {client.address} now, and no longer to "
                f"{self._job.address}"
            )


def _by_runs(job: DeploymentWait, found: Mapping[str, Found]) -> JobStatus | None:
    """What becomes of a wait by what is known of its runs; ``None`` where its tasks have to be asked for."""
    for target, run in found.items():
        if run.hidden:
            message = f"{job.name} cannot be looked at: {run.hidden}"
            return JobStatus(Phase.LOST, "hidden", message)
        if job.latest and (run.gone or (job.run_ids and run.state is None)):
            which = job.run_ids[0] if job.run_ids else target
            message = f"{which}, which was the latest run when the wait began, has been deleted"
            return JobStatus(Phase.FAILED, DELETED, message, code=DELETED)
    if job.about_tasks and any(run.state is not None for run in found.values()):
        return None
    sights = {
        target: Sight(run.run_id, {"": run.state}) for target, run in found.items() if run.state is not None
    }
    return judge(job, {} if job.about_tasks else sights, partial(run_url, job.address, job.dag_id))
