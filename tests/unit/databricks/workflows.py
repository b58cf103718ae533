"""A workspace in memory that also keeps jobs, and lets one task of a run be cancelled; and a Dag with a workflow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from airflow.sdk import DAG, chain

from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.operators.databricks import DatabricksNotebookOperator
from astronomer.providers.databricks.operators.databricks_workflow import DatabricksWorkflowTaskGroup
from tests.unit.databricks.airflow_side import Task, TaskInstance
from tests.unit.databricks.workspace import GET, Client, Piece, Run, Workspace
from tests.unit.deferral.fakes import FakeAirflow, revived

__all__ = [
    "CREATE",
    "FAILED",
    "JOBS",
    "KEY",
    "LINK",
    "NOTEBOOK",
    "PERMISSIONS",
    "RESET",
    "Member",
    "WorkflowWorkspace",
    "dag",
    "killed",
]

NOTEBOOK = {"notebook_path": "/report", "source": "WORKSPACE", "existing_cluster_id": "c1"}
KEY, LINK = "report", "databricks_job_run_link"
FAILED = "RUN_EXECUTION_ERROR"

CREATE, RESET, JOBS = "2.2/jobs/create", "2.2/jobs/reset", "2.2/jobs/list"
PERMISSIONS = "2.0/permissions/jobs/"


class WorkflowClient(Client):
    async def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._request(path, dict(body))


class WorkflowWorkspace(Workspace):
    """With ``jobs/create``, ``reset``, ``list``, their permissions, and the cancel of a task run.

    :ivar settings: of each job.
    :ivar queue_seconds: how long each new run is QUEUED.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.settings: dict[int, dict[str, Any]] = {}
        self.queue_seconds = 0.0
        self._task_numbers = itertools.count(5001)
        self.before = lambda _: self._let_begin()

    def client(self) -> Client:
        self.clients += 1
        return WorkflowClient(self)

    def start(self, job_id: int = 7, **fields: Any) -> Run:
        run = super().start(job_id, **fields)
        if self.queue_seconds:
            run.active_as = "QUEUED"
        return run

    def _let_begin(self) -> None:
        for run in self.runs.values():
            if run.active_as == "QUEUED" and self.now >= run.started + self.queue_seconds:
                run.active_as = "RUNNING"

    def add_task(
        self, run: Run, key: str, *, runs_for: float = math.inf, attempt: int = 0, **fields: Any
    ) -> Piece:
        """A task of a run that begins now, or another attempt of one."""
        ends = self.now + runs_for
        task = Piece(next(self._task_numbers), self.now, ends, key=key, attempt=attempt, **fields)
        run.tasks.append(task)
        return task

    def end_task(self, task: Piece, code: str = "SUCCESS", message: str = "") -> None:
        task.ends, task.code, task.message = self.now, code, message

    @property
    def cancelled(self) -> list[int]:
        """The ids that were asked to end, in order."""
        return [int(body["run_id"]) for body in self.asked("2.2/jobs/runs/cancel")]

    def answer(self, request: Any) -> dict[str, Any]:
        if request.path.startswith(PERMISSIONS):
            return {}
        return super().answer(request)

    def _runs_cancel(self, *, run_id: int) -> dict[str, Any]:
        tasks = [task for run in self.runs.values() for task in run.tasks if task.number == int(run_id)]
        if not tasks:
            return super()._runs_cancel(run_id=run_id)
        tasks[0].cancelled = min(tasks[0].cancelled, self.now)
        return {}

    def _list(self, *, name: str, **_: Any) -> dict[str, Any]:
        """Its filter takes capitals for small letters."""
        found = [(number, job) for number, job in self.jobs.items() if job.lower() == name.lower()]
        return {"jobs": [{"job_id": number, "settings": {"name": job}} for number, job in found]}

    def _create(self, **settings: Any) -> dict[str, Any]:
        if not settings.get("tasks"):
            raise RequestRejected(400, "INVALID_PARAMETER_VALUE", "A job has no task.")
        job_id = next(self._numbers)
        self.jobs[job_id], self.settings[job_id] = settings["name"], settings
        return {"job_id": job_id}

    def _reset(self, *, job_id: int, new_settings: dict[str, Any]) -> dict[str, Any]:
        self.settings[int(job_id)] = new_settings
        return {}


def dag(*tasks, operator=DatabricksNotebookOperator, group=DatabricksWorkflowTaskGroup, **arguments):
    """A workflow with these tasks, each after the one before."""
    with DAG("dag", schedule=None) as found, group(group_id="wf", databricks_conn_id="databricks_default"):
        chain(
            *(
                operator(task_id=name, databricks_task_key=name, **NOTEBOOK, **{"quick_wait": 0, **arguments})
                for name in tasks
            )
        )
    return found


class Member(Task):
    """The member ``report`` of a workflow whose run the workspace has."""

    def __init__(self, **arguments):
        super().__init__(
            lambda: self._make(arguments), WorkflowWorkspace(), ti=TaskInstance(task_id="wf.report")
        )
        self.launched()

    def _make(self, arguments):
        task = dag(KEY, **arguments).get_task("wf.report")
        task.workflow_run_metadata = {"conn_id": "other", "job_id": 7, "run_id": self.run.run_id}
        return task

    def launched(self, **fields):
        """The launch task has started a run."""
        with self.in_place():
            self.run = self.workspace.start(7)
            self.part = self.workspace.add_task(self.run, KEY, **fields)
            self.sibling = self.workspace.add_task(self.run, "sibling")

    @property
    def orders(self):
        """The requests that are no questions."""
        return [request.path for request in self.workspace.requests if request.path != GET]


def killed(task, state=None):
    """A user ends the task while it is deferred; or Airflow's state of it says otherwise."""
    trigger = revived(task.trigger)
    trigger.task_instance = task.ti
    with FakeAirflow(states={task.ti.task_id: state} if state else {}).in_place():
        task.timeline.run(trigger.on_kill)
