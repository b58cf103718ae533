"""The parameters that a task run really gets: the run's instead of the task's, and ``{{...}}`` references resolved."""

from __future__ import annotations

import re
from typing import Any

from astronomer.lab.databricks.runs import TaskRun

__all__ = ["job_parameters", "mapping", "resolved", "sequence"]

_REFERENCE = re.compile(r"\{\{\s*([^{}\s]+)\s*\}\}")
_PART = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")


def mapping(task: TaskRun, given: Any, override: str = "") -> dict[str, str]:
    """Return named parameters: the task's, then the run's ``override``, then the job's, each winning over those before."""
    own = dict(given) if isinstance(given, dict) else {}
    run = task.run.overriding.get(override) or {}
    found = {**own, **run, **job_parameters(task)}
    return {str(name): resolved(task, value) for name, value in found.items()}


def sequence(task: TaskRun, given: Any, override: str = "") -> list[str]:
    """Return positional parameters: the run's ``override``, or else the task's."""
    return [resolved(task, one) for one in task.run.overriding.get(override) or given or []]


def job_parameters(task: TaskRun) -> dict[str, str]:
    """Return the job's parameters and their values in this run."""
    return {one["name"]: str(one["value"]) for one in task.run.parameters}


def resolved(task: TaskRun, value: Any) -> str:
    """Return a parameter with its references resolved; one that means nothing stays as it is."""

    def one(found: re.Match[str]) -> str:
        path = [index or name for index, name in _PART.findall(found[1])]
        known = _look_up(task, path)
        return found[0] if known is None else str(known)

    return _REFERENCE.sub(one, str(value))


def _look_up(task: TaskRun, path: list[str]) -> Any:
    run = task.run
    if path[:2] == ["job", "parameters"] and len(path) == 3:
        return job_parameters(task).get(path[2])
    if path[0] == "tasks" and len(path) > 2:
        upstream = run.latest().get(path[1])
        if upstream is None:
            return None
        if path[2] == "values" and len(path) == 4:
            return upstream.values.get(path[3])
        return {"result_state": (upstream.state.result or "").lower(), "run_id": upstream.run_id}.get(path[2])
    known = {
        "job.id": run.job_id,
        "job.name": run.name,
        "job.run_id": run.run_id,
        "job_id": run.job_id,
        "parent_run_id": run.run_id,
        "run_id": task.run_id,
        "task.name": task.key,
        "task.run_id": task.run_id,
        "task.execution_count": task.attempt + 1,
        "task_key": task.key,
    }
    return known.get(".".join(path))
