"""A task that may be part of a workflow: then it starts nothing, and waits for its part of the workflow's run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from airflow.providers.databricks.operators.databricks_workflow import WorkflowRunMetadata
from airflow.providers.databricks.plugins.databricks_workflow import WorkflowJobRunLink

from astronomer.deferral import Attempt, JobError, JobFailed, JobLost, Outcome
from astronomer.deferral.memory import Memory
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks.client import DatabricksClient
from astronomer.providers.databricks.jobs.poller import RunPoller
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.operators.running import RunOperator
from astronomer.providers.databricks.output import failures_of
from astronomer.providers.databricks.states import attempts_by_task

__all__ = ["MemberOperator", "push_link"]


def push_link(context: Mapping[str, Any], url: str) -> None:
    """Let the workflow's link, on the page of this task, lead to the run."""
    context["ti"].xcom_push(key=WorkflowJobRunLink().xcom_key, value=url)


class MemberOperator(RunOperator):
    """A :class:`~astronomer.providers.databricks.operators.running.RunOperator` that, in a ``DatabricksWorkflowTaskGroup``, follows its task of the launched run.

    The run belongs to the launch task. A member only ever ends its own task of it; its siblings go on.
    """

    databricks_task_key: str
    databricks_run_id: int | None
    workflow_run_metadata: Mapping[str, Any] | None
    _databricks_workflow_task_group: Any
    _resolved_max_retries: Callable[[], int | None]
    _retry_settings: Callable[[], dict[str, Any]]

    @property
    def in_workflow(self) -> bool:
        """Whether the task is part of a workflow."""
        return self._databricks_workflow_task_group is not None

    @classmethod
    def needs_worker(cls, arguments: Mapping[str, Any], task: Any) -> str | None:
        """Which run a member belongs to is known by the Dag's task groups."""
        group = task.task_group
        while group is not None:
            if getattr(group, "is_databricks", False):
                return "it is part of a workflow, which the Dag file knows"
            group = group.parent_group
        return super().needs_worker(arguments, task)

    # The engine's steps.

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Wait for the task of the workflow's run; without a workflow, start a run of its own."""
        if self.in_workflow:
            launched = self._launched(context)
            self.databricks_conn_id, self.databricks_run_id = launched.conn_id, launched.run_id
        return super().execute(context)

    def prepare(self, context: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
        """In a workflow there is nothing to prepare."""
        return {} if self.in_workflow else super().prepare(context, attempt)

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> DatabricksRun:
        """In a workflow the launch task has started everything."""
        if self.in_workflow:
            return self._own_task(self._launched(context))
        return super().submit(context, attempt)

    def announce(self, context: Mapping[str, Any], job: DatabricksRun) -> None:
        """In a workflow, the link leads to the run of all."""
        if self.in_workflow:
            push_link(context, job.url)
        else:
            super().announce(context, job)

    def settle(self, context: Mapping[str, Any], job: DatabricksRun, outcome: Outcome) -> Any:
        """The one end of every path; asks over the connection that the launch task used."""
        self.databricks_conn_id = job.conn_id
        self.databricks_run_id = job.parent_run_id or job.run_id
        return super().settle(context, job, outcome)

    def failure(self, context: Mapping[str, Any], job: DatabricksRun, outcome: Outcome) -> JobError:
        """The error; for a part of a run, also how to run it again."""
        error = super().failure(context, job, outcome)
        if not job.parent_run_id or isinstance(error, JobLost):
            return error
        return type(error)(f"{error}\n{self._advice}")

    def error_message(self, job: Any, outcome: Outcome) -> str:
        """What happened; a clear starts nothing here."""
        if job.parent_run_id and self.error_type(outcome) is JobLost:
            return f"{outcome.status.message} A retry looks for {job.name} again."
        return super().error_message(job, outcome)

    # Steps.

    def _launched(self, context: Mapping[str, Any]) -> WorkflowRunMetadata:
        """The run that the launch task has started."""
        found = self.workflow_run_metadata or context["ti"].xcom_pull(task_ids=self._launch_task_id)
        if not found:
            raise JobError(
                f"The task {self._launch_task_id!r} has left no run to wait for. Clear it, and what follows it."
            )
        return WorkflowRunMetadata(**found)

    @property
    def _launch_task_id(self) -> str:
        return str(self._databricks_workflow_task_group.child_id("launch"))

    @property
    def _advice(self) -> str:
        launch = self._launch_task_id
        return (
            f"It is part of the run that the task {launch!r} started, and neither a retry nor a clear of this task "
            "starts it again. Repair the run in Databricks and clear this task, or clear "
            f"{launch!r} and what follows it for a new run."
        )

    def _own_task(self, launched: WorkflowRunMetadata) -> DatabricksRun:
        config = getattr(self, "task_config", None) or {}
        settings = {**config, **self._retry_settings()}
        job = DatabricksRun(
            0,
            launched.conn_id,
            job_id=launched.job_id,
            parent_run_id=launched.run_id,
            task_key=self.databricks_task_key,
            task_retries=self._resolved_max_retries() or 0,
            retry_on_timeout=str(settings.get("retry_on_timeout")).lower() == "true",
        )
        try:
            run = self._read_parent(job)
        except RequestRejected as refused:
            raise JobFailed(f"{job.name} cannot be seen: {refused}. {self._advice}") from refused
        attempts = attempts_by_task(run).get(job.task_key)
        # A run that waits for its turn may not list its tasks yet.
        run_id = int(attempts[-1]["run_id"]) if attempts else 0
        self.log.info("Waiting for %s: %s", job.name, run.get("run_page_url"))
        return replace(job, run_id=run_id, url=str(run.get("run_page_url") or ""))

    def _read_parent(self, job: DatabricksRun) -> dict[str, Any]:
        async def read(client: DatabricksClient) -> dict[str, Any]:
            return await RunPoller(job, client).read(job.parent_run_id or 0, tasks=True)

        return self.ask_workspace(read)

    def _causes(self, job: DatabricksRun) -> list[str]:
        if job.parent_run_id is None:
            return super()._causes(job)
        try:
            own = attempts_by_task(self._read_parent(job)).get(job.task_key, [])
            return self.in_workspace(lambda client: failures_of(client, {"tasks": own}))
        except (JobError, RequestRejected) as error:
            return [f"(Its errors cannot be read: {error})"]

    def _find_again(self, context: Mapping[str, Any], memory: Memory, attempt: Attempt) -> Attempt:
        """What was waited for, unless the launch task has started another run since."""
        job = attempt.job
        if self.in_workflow and job and job["parent_run_id"] != self._launched(context).run_id:
            attempt = replace(attempt, job=None)
        return super()._find_again(context, memory, attempt)

    def _end_superseded(self, context: Mapping[str, Any], attempt: Attempt) -> None:
        """A clear of a member alone starts no other run that would run beside this one."""
        if not self.in_workflow:
            super()._end_superseded(context, attempt)
