"""Run one notebook, or one task of any kind: as a run of its own, or as part of a workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator as StockNotebookOperator,
)
from airflow.providers.databricks.operators.databricks import DatabricksTaskOperator as StockTaskOperator

from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.operators.member import MemberOperator
from astronomer.providers.databricks.operators.running import server_timeout

__all__ = [
    "DatabricksNotebookOperator",
    "DatabricksNotebookOperatorAsync",
    "DatabricksTaskOperator",
    "DatabricksTaskOperatorAsync",
]

_NOT_KNOWN_AT_LAUNCH = ("databricks_conn_id", "workflow_run_metadata")


class TaskRunOperator(MemberOperator):
    """Goes before a stock operator of one task among the bases; the stock one describes the task."""

    path = "2.2/jobs/runs/submit"
    idempotency_token = None

    _get_run_json: Callable[[], dict[str, Any]]

    def request(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The body of the request for a run of its own."""
        return dict(self._get_run_json())

    def announce(self, context: Mapping[str, Any], job: DatabricksRun) -> None:
        """Push ``run_id`` and ``run_page_url``; in a workflow, the link to its run."""
        if self.in_workflow:
            super().announce(context, job)
            return
        self.run_id = self.databricks_run_id = job.run_id
        if self.do_xcom_push:
            context["ti"].xcom_push(key="run_id", value=job.run_id)
            context["ti"].xcom_push(key="run_page_url", value=job.url)

    def server_limit(self, deadline: float | None) -> dict[str, Any]:
        """The run's own time limit, unless the user has set one."""
        return {} if self._body.get("timeout_seconds") else server_timeout(deadline)

    def _convert_to_databricks_workflow_task(
        self, relevant_upstreams: list[str], task_dict: dict[str, Any], context: Any = None
    ) -> dict[str, object]:
        """The task as part of the workflow's job, its templates filled in with the context of the launch task."""
        if context is not None:
            for name in self.template_fields:
                if name not in _NOT_KNOWN_AT_LAUNCH:
                    setattr(self, name, self.render_template(getattr(self, name), context))
        stock: Any = super()
        converted: dict[str, object] = stock._convert_to_databricks_workflow_task(
            relevant_upstreams, task_dict, context=context
        )
        return converted


class DatabricksNotebookOperator(TaskRunOperator, StockNotebookOperator):  # type: ignore[misc,unused-ignore]
    """Run a notebook once, and wait for it in the triggerer.

    Takes what the stock operator takes, and pushes what it pushes: ``run_id`` and ``run_page_url``. In a
    ``DatabricksWorkflowTaskGroup`` it is a task of the workflow's run: it starts nothing, and all members of a run
    are asked for by one request.

    - A retry, or a clear, of a member finds its task as it is now. It never starts a run.
    - A kill and the deadline cancel this task of the run only; the tasks that depend on it are then left out by
      Databricks, its siblings go on.
    - Retries by Databricks itself (``max_retries``) are waited for, within the ``execution_timeout``.
    - Templates of members are filled in when the workflow is launched, with the launch task's context; write
      ``{% raw %}`` round a reference that Databricks is to resolve.

    :param execution_timeout: counts from the start of this task, and is also Databricks' limit for each attempt.
    :param result_actions: see :class:`~astronomer.providers.databricks.operators.running.RunOperator`.

    :raises JobFailed: with the task's own error, and the tail of its trace.
    """

    def server_limit(self, deadline: float | None) -> dict[str, Any]:
        """The run's own time limit; what the stock operator makes of the ``execution_timeout`` would be too early."""
        return server_timeout(deadline)


class DatabricksTaskOperator(TaskRunOperator, StockTaskOperator):  # type: ignore[misc,unused-ignore]
    """Run a task of any kind once, and wait for it in the triggerer.

    Takes what the stock operator takes; in every other way like :class:`DatabricksNotebookOperator`.

    :param task_config: the task, as the Jobs API takes it. Without a ``timeout_seconds`` of its own, and with an
        ``execution_timeout``, a run of its own is given that time and half a minute more, so that it ends even when
        no triggerer is there to end it.
    """


class DatabricksNotebookOperatorAsync(DatabricksNotebookOperator):
    """The name in the manner of 1.x for :class:`DatabricksNotebookOperator`."""


class DatabricksTaskOperatorAsync(DatabricksTaskOperator):
    """The name in the manner of 1.x for :class:`DatabricksTaskOperator`."""
