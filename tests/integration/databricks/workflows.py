"""A Dag run of a workflow, each task of it driven as Airflow drives it; they share their XComs."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests
from airflow.sdk import DAG

from tests.integration.driving import Task, TaskInstance, collected, triggerer
from tests.unit.deferral.fakes import MemoryStore

__all__ = ["WAIT", "Api", "DagRun"]

WAIT = "/lab/wait"
_numbers = itertools.count(1)


@dataclass
class SharingTaskInstance(TaskInstance):
    """Reads what other tasks of its Dag run have returned."""

    returned: dict[str, Any] = field(default_factory=dict)

    def xcom_pull(self, task_ids: str, key: str = "return_value", default: Any = None, **_: Any) -> Any:
        return self.returned.get(task_ids, default) if key == "return_value" else default


class WorkflowTask(Task):
    """A task of a Dag, which each process makes anew."""

    def __init__(
        self, make_dag: Callable[[], DAG], task_id: str, run_id: str, returned: dict[str, Any]
    ) -> None:
        self._class = lambda: make_dag().get_task(task_id)  # type: ignore[assignment]
        self._arguments = {}
        self._dag = None
        self._returned = returned
        self.store = MemoryStore()
        self.ti = SharingTaskInstance(task_id=task_id, run_id=run_id, returned=returned)
        self.op = self.trigger = None
        self.method, self.events = "", []

    def run(self) -> Any:
        result = super().run()
        self._returned[self.ti.task_id] = json.loads(json.dumps(result))
        return result


class DagRun:
    """The tasks of one run of a Dag.

    :param make_dag: makes the Dag, as each process does.
    """

    def __init__(self, make_dag: Callable[[], DAG]) -> None:
        self._make_dag = make_dag
        self._run_id = f"run-{next(_numbers)}"
        self._tasks: dict[str, WorkflowTask] = {}
        self.returned: dict[str, Any] = {}

    def __getitem__(self, name: str) -> WorkflowTask:
        task_id = f"wf.{name}"
        if task_id not in self._tasks:
            self._tasks[task_id] = WorkflowTask(self._make_dag, task_id, self._run_id, self.returned)
        return self._tasks[task_id]

    def launch(self) -> int:
        """Run the launch task; the id of the run that it started."""
        return int(self["launch"].run()["run_id"])

    def wait_for_all(self, *names: str) -> None:
        """The triggerer: run the triggers of these tasks to their events, all at once."""
        tasks = [self[name] for name in names]

        async def main() -> list[Any]:
            async with triggerer():
                waits = (collected(task.trigger) for task in tasks)
                return await asyncio.wait_for(asyncio.gather(*waits), 100)

        for task, (event,) in zip(tasks, asyncio.run(main()), strict=True):
            task.events.append(event)


class Api:
    """The workspace, without any client library."""

    def __init__(self, lab: Any) -> None:
        self._lab = lab

    def get(self, path: str, **arguments: Any) -> dict[str, Any]:
        return self._answered(requests.get(self._url(path), params=arguments, **self._options()))

    def post(self, path: str, **arguments: Any) -> dict[str, Any]:
        return self._answered(requests.post(self._url(path), json=arguments, **self._options()))

    def results(self, run_id: int) -> dict[str, str]:
        """How each task of a run has ended, or what it does, by its key."""
        tasks = sorted(
            self.get("2.2/jobs/runs/get", run_id=run_id)["tasks"], key=lambda one: one["attempt_number"]
        )
        states = {task["task_key"]: task["state"] for task in tasks}
        return {key: state.get("result_state") or state["life_cycle_state"] for key, state in states.items()}

    def _url(self, path: str) -> str:
        return f"{self._lab.url}/api/{path}"

    def _options(self) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self._lab.token}"}
        return {"headers": headers, "verify": str(self._lab.ca_bundle), "timeout": 10}

    @staticmethod
    def _answered(answer: requests.Response) -> dict[str, Any]:
        answer.raise_for_status()
        return dict(answer.json())
