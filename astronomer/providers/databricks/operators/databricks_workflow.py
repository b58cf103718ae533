"""A task group that is one run of a Databricks job, as in the stock provider."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from airflow.providers.databricks.operators.databricks_workflow import (
    DatabricksWorkflowTaskGroup as StockWorkflowTaskGroup,
)
from airflow.providers.databricks.operators.databricks_workflow import WorkflowRunMetadata
from airflow.sdk import TaskGroup

from astronomer.deferral._compat import AirflowException
from astronomer.providers.databricks.operators.launch import DatabricksWorkflowLaunchOperator

__all__ = ["DatabricksWorkflowTaskGroup", "WorkflowRunMetadata"]

_OF_LAUNCH = (
    "databricks_conn_id",
    "access_control_list",
    "existing_clusters",
    "extra_job_params",
    "jar_params",
    "job_clusters",
    "max_concurrent_runs",
    "notebook_params",
    "python_params",
    "spark_submit_params",
)


class DatabricksWorkflowTaskGroup(StockWorkflowTaskGroup):  # type: ignore[misc,unused-ignore]
    """Run the tasks of the group as one Databricks job: a ``launch`` task starts it, each member waits for its part.

    Takes what the stock group takes, and members of both packages. The launch task is
    :class:`~astronomer.providers.databricks.operators.launch.DatabricksWorkflowLaunchOperator`: it waits in the
    triggerer, accepts a run that is queued, and owns it. ``default_args`` reach it as they reach any operator.

    :raises AirflowException: a task of the group cannot be part of a job. Mapped tasks cannot.
    """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Add the launch task before all others."""
        try:
            if kind is None:
                self._launch_members()
        finally:
            TaskGroup.__exit__(self, kind, error, trace)  # type: ignore[no-untyped-call]

    def _launch_members(self) -> None:
        members: list[Any] = list(self.iter_tasks())
        roots = list(self.get_roots())
        arguments = {name: getattr(self, name) for name in _OF_LAUNCH}
        launch = DatabricksWorkflowLaunchOperator(
            task_id="launch", dag=self.dag, task_group=self, **arguments
        )
        for member in members:
            if not callable(getattr(member, "_convert_to_databricks_workflow_task", None)):
                raise AirflowException(
                    f"Task {member.task_id} does not support conversion to databricks workflow task."
                )
            member.workflow_run_metadata = launch.output
            launch.relevant_upstreams.append(member.task_id)
            launch.add_task(member.task_id, member)
        for root in roots:
            root.set_upstream(launch)
        self._hand_on_dependencies(launch)

    def _hand_on_dependencies(self, launch: Any) -> None:
        """To those that the group had before its tasks were known."""
        for task_id in self.upstream_task_ids:
            launch.set_upstream(self.dag.get_task(task_id))
        for task_id in self.downstream_task_ids:
            for leaf in list(self.get_leaves()):
                leaf.set_downstream(self.dag.get_task(task_id))
