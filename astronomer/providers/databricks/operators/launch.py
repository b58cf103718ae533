"""The first task of a workflow: makes its job, starts one run of it, and owns that run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from airflow.providers.databricks.operators.databricks_workflow import (
    DatabricksWorkflowTaskGroup as StockWorkflowTaskGroup,
)
from airflow.providers.databricks.operators.databricks_workflow import (
    WorkflowRunMetadata,
    _CreateDatabricksWorkflowOperator,
)

from astronomer.deferral import Attempt, JobFailed, JobStatus, Outcome
from astronomer.deferral._compat import AirflowException
from astronomer.deferral.memory import Memory
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.operators.member import push_link
from astronomer.providers.databricks.operators.running import RunOperator
from astronomer.providers.databricks.workflow import put_job

__all__ = ["DatabricksWorkflowLaunchOperator"]

_PARAMETERS = ("jar_params", "notebook_params", "python_params", "spark_submit_params")


class _CreateJob(_CreateDatabricksWorkflowOperator):  # type: ignore[misc,unused-ignore]
    """The stock operator, with the argument that all others of the family have."""

    def __init__(self, *, databricks_retry_args: dict[Any, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.databricks_retry_args = databricks_retry_args


class DatabricksWorkflowLaunchOperator(RunOperator, _CreateJob):  # type: ignore[misc,unused-ignore]
    """Create or reset the workflow's job, start one run of it, and wait in the triggerer until it has begun.

    A run that waits in the queue of its job is waited for. Who ends this task, or clears it, ends the run.

    :returns: ``{"conn_id": …, "job_id": …, "run_id": …}``, from which the members know their run.
    """

    path = "2.2/jobs/run-now"
    idempotency_token = None
    wait_for_termination = True

    @classmethod
    def needs_worker(cls, arguments: Mapping[str, Any], task: Any) -> str | None:
        """The job is made of the Dag file's tasks."""
        del arguments, task
        return "a workflow's job is made of the tasks in the Dag file"

    def request(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The body of the request, once the job is as the Dag says."""
        if not isinstance(self.task_group, StockWorkflowTaskGroup):
            raise AirflowException("Task group must be a DatabricksWorkflowTaskGroup")
        parameters = {name: getattr(self, name) for name in _PARAMETERS}
        return {"job_id": self._create_or_reset_job(context)} | {
            name: value for name, value in parameters.items() if value
        }

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> DatabricksRun:
        """Start the run once; only its beginning is waited for."""
        return replace(super().submit(context, attempt), until_started=True)

    def announce(self, context: Mapping[str, Any], job: DatabricksRun) -> None:
        """Push the link to the run."""
        self.run_id = job.run_id
        push_link(context, job.url)

    def finish(self, context: Mapping[str, Any], job: DatabricksRun, status: JobStatus) -> dict[str, Any]:
        """What the members need."""
        self.workflow_run_metadata = WorkflowRunMetadata(job.conn_id, int(job.job_id or 0), job.run_id)
        return asdict(self.workflow_run_metadata)

    def _create_or_reset_job(self, context: Any) -> int:
        settings = self.create_workflow_json(context=context)
        self.log.debug("The job's settings: %s", json.dumps(settings, indent=2))
        try:
            job_id = self.ask_workspace(lambda client: put_job(client, settings))
        except RequestRejected as refused:
            raise JobFailed(
                f"Databricks refused the workflow's job {settings['name']!r}: {refused}. Nothing was started. "
                "Correct the arguments of the task group and its tasks."
            ) from refused
        self.log.info("The workflow's job %r has the id %d", settings["name"], job_id)
        return job_id

    def _resume(self, context: Mapping[str, Any], memory: Memory) -> tuple[Attempt, Outcome | None]:
        """As the engine does; but a launch that succeeded and was cleared has a run that may still go on."""
        last = memory.last()
        if last is not None and last.settled not in (None, self._clears(context)):
            self._end_superseded(context, last)
            memory.save(last, ended=True)
        return super()._resume(context, memory)
