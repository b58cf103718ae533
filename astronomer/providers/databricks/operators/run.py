"""Start a run of a Databricks job, or of tasks without a job, and wait for it without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from airflow.providers.databricks.operators.databricks import (
    DatabricksRunNowOperator as StockRunNowOperator,
)
from airflow.providers.databricks.operators.databricks import (
    DatabricksSubmitRunOperator as StockSubmitRunOperator,
)

from astronomer.deferral import JobStatus, Outcome, Phase, clock
from astronomer.deferral._compat import setting
from astronomer.providers.databricks.actions import action_for
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks.client import DatabricksClient
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.operators.running import RunOperator, server_timeout
from astronomer.providers.databricks.repair import Repair, repairs_of, settings_for

__all__ = [
    "DatabricksRunNowOperator",
    "DatabricksRunNowOperatorAsync",
    "DatabricksSubmitRunOperator",
    "DatabricksSubmitRunOperatorAsync",
]

_WORK = (
    "tasks",
    "json",
    "spark_jar_task",
    "notebook_task",
    "spark_python_task",
    "spark_submit_task",
    "pipeline_task",
    "dbt_task",
)


class DatabricksRunNowOperator(RunOperator, StockRunNowOperator):  # type: ignore[misc,unused-ignore]
    """Run an existing job once, and wait for it in the triggerer.

    Takes what the stock operator takes, and pushes what it pushes: ``job_id``, ``run_id``, ``run_page_url``.

    :param idempotency_token: a token of the user's own. Without one each attempt has its own, so that a crash or a
        lost answer starts no second run, a retry finds a run that still goes on, and one that failed is followed by
        a new one. With one, runs that others start under it count, too.
    :param repair_run: when the run fails, rerun its failed tasks, once, and wait on.
    :param cancel_previous_runs: end all runs of the job, and see them end, before this one is started.
    :param result_actions: see :class:`~astronomer.providers.databricks.operators.running.RunOperator`.
    :param durable: accepted for the stock operator's sake: a retry always finds its run again.

    :raises JobFailed: with the error of each failed task, and the tail of its trace.
    """

    path = "2.2/jobs/run-now"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._validate_merged_json(
            {name: True for name in ("job_id", "job_name") if getattr(self, name) is not None}
        )
        if self.json is None and self.job_id is None and self.job_name is None:
            raise ValueError("Name the job to run: pass `job_id`, `job_name`, or `json` with one of them")

    def request(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The body of the request; a job's name has become its id."""
        body: dict[str, Any] = self._build_run_now_payload(cast("Any", context))
        if body.get("job_id") is None:
            raise ValueError("The request names no job: pass `job_id` or `job_name`")
        return body

    def before_first_submit(self, body: Mapping[str, Any]) -> None:
        """End the job's other runs, if the user wants it."""
        if self.cancel_previous_runs:
            self.in_workspace(lambda client: self._cancel_all(client, body["job_id"]))

    def settle(self, context: Mapping[str, Any], job: DatabricksRun, outcome: Outcome) -> Any:
        """Repair a run that failed, if the user wants it; else the one end of every path."""
        status = outcome.status
        failed = status.phase is Phase.FAILED and not outcome.timed_out
        if self.repair_run and failed and job.repair_id is None:
            wanted, settings = settings_for(self.databricks_repair_reason_new_settings, status.message or "")
            if wanted and action_for(self.result_actions, status) in ("retry", "fail"):
                return self._repair(context, job, status, settings)
        return super().settle(context, job, outcome)

    def _repair(
        self, context: Mapping[str, Any], job: DatabricksRun, status: JobStatus, settings: Any
    ) -> Any:
        self.log.warning("%s, but it is to be repaired", self.error_message(job, Outcome(status)))
        memory = self._memory(context)
        attempt = memory.last() or replace(memory.first(self._deadline()), job=job.to_dict())
        try:
            if "repairs" not in attempt.notes:
                attempt = memory.save(attempt, notes={**attempt.notes, "repairs": self._count_repairs(job)})
            if settings is not None:
                change = {"job_id": job.job_id, "new_settings": settings}
                self.ask_workspace(lambda client: client.post("2.2/jobs/update", change))
            parameters = self._build_run_now_payload(cast("Any", context)).get("job_parameters")
            before = int(attempt.notes["repairs"])
            repair_id = self.in_workspace(
                lambda client: Repair(
                    client, job.run_id, before, parameters, self.outage_tolerance, self.telling_once()
                ).run()
            )
        except RequestRejected as refused:
            self.log.warning("Databricks does not repair %s: %s", job.name, refused)
            return super().settle(context, job, Outcome(status))
        repaired = replace(job, repair_id=repair_id)
        self.log.info("%s is being repaired (repair %d): %s", job.name, repair_id, job.url)
        attempt = memory.save(attempt, job=repaired.to_dict())
        return self._go_on(context, attempt, self._glance(attempt))

    def _count_repairs(self, job: DatabricksRun) -> int:
        async def read(client: DatabricksClient) -> int:
            run = await client.get("2.2/jobs/runs/get", run_id=job.run_id, include_history=True)
            return len(repairs_of(run))

        return self.ask_workspace(read)

    async def _cancel_all(self, client: DatabricksClient, job_id: Any) -> None:
        """Cancel the job's runs, and wait for their end, so that they take no place in its queue."""
        await self.insist(lambda: client.post("2.2/jobs/runs/cancel-all", {"job_id": job_id}))
        give_up = clock.now() + setting("cancel_confirm_timeout", 60.0)
        while clock.now() < give_up:
            answer = await self.insist(
                lambda: client.get("2.2/jobs/runs/list", job_id=job_id, active_only=True, limit=1)
            )
            if not answer.get("runs"):
                return
            await asyncio.sleep(1.0)
        self.log.warning("Some runs of job %s have not ended yet, though they were cancelled", job_id)


class DatabricksSubmitRunOperator(RunOperator, StockSubmitRunOperator):  # type: ignore[misc,unused-ignore]
    """Run tasks that belong to no job once, and wait for them in the triggerer.

    Takes what the stock operator takes, and pushes what it pushes: ``job_id``, ``run_id``, ``run_page_url``.

    :param idempotency_token: as for :class:`DatabricksRunNowOperator`.
    :param timeout_seconds: Databricks' own limit. Without one, and with an ``execution_timeout``, the run is given
        that time and half a minute more, so that it ends even when no triggerer is there to end it.
    :param result_actions: see :class:`~astronomer.providers.databricks.operators.running.RunOperator`.
    :param durable: accepted for the stock operator's sake: a retry always finds its run again.

    :raises JobFailed: with the error of each failed task, and the tail of its trace.
    """

    path = "2.2/jobs/runs/submit"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if all(getattr(self, name) is None for name in _WORK):
            raise ValueError(
                f"There is nothing to run: pass one of {', '.join(f'`{name}`' for name in _WORK)}"
            )

    def request(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The body of the request; a pipeline's name has become its id."""
        body: dict[str, Any] = self._prepare_submit_json(cast("Any", context))
        return body

    def server_limit(self, deadline: float | None) -> dict[str, Any]:
        """The run's own time limit, unless the user has set one."""
        return {} if "timeout_seconds" in self._body else server_timeout(deadline)


class DatabricksRunNowOperatorAsync(DatabricksRunNowOperator):
    """The name that 1.x had for :class:`DatabricksRunNowOperator`."""


class DatabricksSubmitRunOperatorAsync(DatabricksSubmitRunOperator):
    """The name that 1.x had for :class:`DatabricksSubmitRunOperator`."""
