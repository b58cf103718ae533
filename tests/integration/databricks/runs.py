"""Jobs and runs of the local workspace, as the tests make them and find them again."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Callable
from typing import Any

from astronomer.lab.databricks import DatabricksLab
from astronomer.providers.databricks.operators.databricks import (
    DatabricksRunNowOperator,
    DatabricksSubmitRunOperator,
)
from tests.integration import driving

__all__ = ["CANCEL", "GET", "POLLS", "REPAIR", "RUN_NOW", "SUBMIT", "Task", "Workspace", "notebook", "phase"]

SUBMIT, RUN_NOW = "^/api/2.2/jobs/runs/submit$", "^/api/2.2/jobs/run-now$"
GET, CANCEL, REPAIR = "/jobs/runs/get$", "/jobs/runs/cancel$", "/jobs/runs/repair$"
POLLS = "/jobs/runs/(get|list)$"


def notebook(seconds: float = 0.3, fail: str = "") -> dict[str, Any]:
    """Work that takes so long."""
    parameters = {"seconds": f"{seconds:g}"} | ({"fail": fail} if fail else {})
    return {"notebook_path": "/lab/wait", "base_parameters": parameters}


def phase(event: dict[str, Any]) -> str:
    """What the event of a trigger says of the run."""
    found: str = event["outcome"]["status"]["phase"]
    return found


class Task(driving.Task):
    """A task with one run."""

    @property
    def run_id(self) -> int:
        found: int = self.trigger.job["run_id"]
        return found


class Workspace:
    """The lab, with what has been started since."""

    def __init__(self, lab: DatabricksLab) -> None:
        self.lab = lab
        self._before = set(lab.runs)
        self._context = ssl.create_default_context(cafile=str(lab.ca_file))

    @property
    def runs(self) -> list[Any]:
        """The runs since, oldest first."""
        return [run for run_id, run in self.lab.runs.items() if run_id not in self._before]

    @property
    def run(self) -> Any:
        """The one run since."""
        (found,) = self.runs
        return found

    def job(self, *tasks: dict[str, Any], **settings: Any) -> int:
        """A new job; of one task that waits, unless told otherwise."""
        given = list(tasks) or [{"task_key": "wait", "notebook_task": notebook()}]
        settings = {"name": "job", "max_concurrent_runs": 100, "tasks": given, **settings}
        found: int = self.post("2.2/jobs/create", settings)["job_id"]
        return found

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What somebody else asks of the workspace."""
        headers = {"Authorization": f"Bearer {self.lab.token}"}
        request = urllib.request.Request(f"{self.lab.url}/api/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, context=self._context) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def file(self, name: str, text: str) -> str:
        """A file in the workspace's directory."""
        (self.lab.workspace_directory / name).write_text(text)
        return f"/Workspace/{name}"

    def submits(self, seconds: float = 0.3, fail: str = "", **arguments: Any) -> Task:
        """A task that submits a notebook, unless other work is given."""
        work = {} if "tasks" in arguments else {"notebook_task": notebook(seconds, fail)}
        return Task(DatabricksSubmitRunOperator, **work, **arguments)

    def runs_job(self, job_id: int, **arguments: Any) -> Task:
        """A task that runs a job."""
        return Task(DatabricksRunNowOperator, job_id=job_id, **arguments)

    def finish(self, *runs: Any) -> None:
        """The work of these runs is over; with ``lab.advance`` the clock of all later tests would be ahead."""
        begun = [task.stop for run in runs for task in run.tasks if task.stop]
        self.lab._do(lambda: [stop.__self__.ring() for stop in begun])

    def change(self, run: Any, change: Callable[[Any], object]) -> None:
        """Something happens to a run, in the workspace's own thread."""
        self.lab._do(lambda: (change(run), run.touch()))
