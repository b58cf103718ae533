"""Whether a task may run after those it depends on, and what the tasks' ends make of their run."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from astronomer.lab.databricks import states
from astronomer.lab.databricks.runs import Run, TaskRun
from astronomer.lab.databricks.states import State

__all__ = ["outcome", "verdict"]

_FINE = ("SUCCESS", "EXCLUDED", "DISABLED")
_CANCELED = ("CANCELED", "UPSTREAM_CANCELED")


def verdict(task: TaskRun, latest: Mapping[str, TaskRun]) -> State | bool | None:
    """Return True to run the task, the state it ends in without running, or None to go on waiting."""
    if task.spec.get("disabled"):
        return states.disabled()
    upstream = [
        (latest[one["task_key"]], one.get("outcome")) for one in task.upstream if one["task_key"] in latest
    ]
    if not all(before.state.ended for before, _ in upstream):
        return None
    results = [before.state.result or "" for before, _ in upstream]
    if upstream and all(result in ("EXCLUDED", "DISABLED") for result in results):
        return True if set(results) == {"DISABLED"} else states.excluded("All upstream tasks were excluded.")
    for before, wanted in upstream:
        if wanted is not None and before.state.result == "SUCCESS" and before.values.get("outcome") != wanted:
            return states.excluded(f"The outcome of {before.key} was not {wanted}.")
    return _by_rule(
        str(task.spec.get("run_if") or "ALL_SUCCESS"), [before for before, _ in upstream], results
    )


def _by_rule(rule: str, upstream: list[TaskRun], results: list[str]) -> State | bool:
    bad = [before for before, result in zip(upstream, results, strict=True) if result not in _FINE]
    met = {
        "ALL_SUCCESS": not bad,
        "NONE_FAILED": not bad,
        "AT_LEAST_ONE_SUCCESS": not upstream or len(bad) < len(upstream),
        "ALL_DONE": True,
        "AT_LEAST_ONE_FAILED": bool(bad),
        "ALL_FAILED": len(bad) == len(upstream),
    }[rule]
    if met:
        return True
    if not bad:
        return states.excluded(f"The condition {rule} was not met.")
    canceled = all((one.state.result or "") in _CANCELED for one in bad)
    return states.upstream(
        "UPSTREAM_CANCELED" if canceled else "UPSTREAM_FAILED", ", ".join(one.key for one in bad)
    )


def outcome(run: Run, latest: Mapping[str, TaskRun]) -> State:
    """Return how a run ended of which every task has ended: the tasks that no other depends on decide."""
    results = {key: task.state.result or "" for key, task in latest.items()}
    bad = [latest[key] for key, result in results.items() if result not in _FINE]
    if not bad:
        return states.SUCCESS
    if run.single:
        return bad[0].state
    leaves = set(latest) - {one["task_key"] for task in latest.values() for one in task.upstream}
    if all(results[key] in _FINE for key in leaves):
        return states.SUCCESS_WITH_FAILURES
    if {task.state.result for task in bad} <= {"CANCELED", "UPSTREAM_CANCELED"}:
        return states.CANCELED
    return _failure([task for task in bad if task.state.result in ("FAILED", "TIMEDOUT")] or bad)


def _failure(tasks: Collection[TaskRun]) -> State:
    sentences = [f"Task {task.key} failed with message: {task.state.message.rstrip('.')}." for task in tasks]
    causes = {(task.state.code, task.state.type) for task in tasks if task.state.result == "FAILED"}
    if len(causes) == 1:
        return states.run_failed(" ".join(sentences), *causes.pop())
    return states.run_failed(" ".join(sentences))
