"""Many runs at once that only wait, for tests and benchmarks."""

from __future__ import annotations

from typing import Any

from astronomer.lab.databricks.credentials import USER
from astronomer.lab.databricks.runs import Run
from astronomer.lab.databricks.work import WAIT
from astronomer.lab.databricks.workspace import Workspace

__all__ = ["seed"]


def seed(
    workspace: Workspace,
    count: int,
    *,
    seconds: float = 600.0,
    spread: float = 0.0,
    job_id: int | None = None,
    tasks: int = 1,
    fail: str = "",
    name: str = "foreign",
    creator: str = USER,
) -> list[int]:
    """Start runs past every quota and limit, and return their ids.

    :param seconds: how long the first waits; the last waits ``spread`` seconds more, those between in even steps.
    :param job_id: the job they are runs of; each is one of its own if none is given.
    :param tasks: how many tasks each has, all waiting at once.
    :param fail: the error they end with, if any.
    """
    return [
        _start(workspace, seconds + spread * number / max(count - 1, 1), job_id, tasks, fail, name, creator)
        for number in range(count)
    ]


def _start(
    workspace: Workspace, seconds: float, job_id: int | None, tasks: int, fail: str, name: str, creator: str
) -> int:
    parameters = {"seconds": f"{seconds:g}", **({"fail": fail} if fail else {})}
    task: dict[str, Any] = {
        "run_if": "ALL_SUCCESS",
        "notebook_task": {"notebook_path": WAIT, "base_parameters": parameters, "source": "WORKSPACE"},
    }
    run = Run(
        run_id=workspace.ids.next(),
        job_id=workspace.ids.next() if job_id is None else job_id,
        name=name,
        kind="SUBMIT_RUN" if job_id is None else "JOB_RUN",
        creator=creator,
        origin=workspace.origin(),
        settings={},
        start_time=workspace.clock.milliseconds(),
    )
    workspace.conductor.launch(run, [{"task_key": f"wait_{number}", **task} for number in range(tasks)])
    return run.run_id
