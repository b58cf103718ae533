"""The tasks of a job or of a submitted run, checked as the service checks them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from astronomer.lab.databricks.errors import invalid

__all__ = ["OVERRIDES", "check_overrides", "is_single", "key_from", "parameters_of", "selected", "task_specs"]

OVERRIDES = (
    "dbt_commands",
    "jar_params",
    "notebook_params",
    "pipeline_params",
    "python_named_params",
    "python_params",
    "spark_submit_params",
    "sql_params",
)
"""The parameters of ``run-now`` that replace those of the tasks."""

_OF_ONE_TASK = (
    "existing_cluster_id",
    "new_cluster",
    "libraries",
    "max_retries",
    "min_retry_interval_millis",
    "retry_on_timeout",
)
_RULES = frozenset(
    ("ALL_SUCCESS", "NONE_FAILED", "AT_LEAST_ONE_SUCCESS", "ALL_DONE", "AT_LEAST_ONE_FAILED", "ALL_FAILED")
)
_LONGEST_PARAMETERS = 10_000
_MOST_TASKS = 1000


def is_single(settings: Mapping[str, Any]) -> bool:
    """Return whether the settings are one task without a name, the format of API 2.0."""
    return not settings.get("tasks") and bool(_kinds(settings))


def _kinds(spec: Mapping[str, Any]) -> list[str]:
    """Return the kinds of task that are given: the fields named ``..._task``."""
    return sorted(name for name in spec if name.endswith("_task"))


def key_from(name: str) -> str:
    """Return the key of the one task of what has this name."""
    return re.sub(r"[^\w-]", "_", name)[:100]


def task_specs(settings: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the tasks.

    :param name: of the task that has none.
    :raises ApiError: they cannot be run.
    """
    given = settings.get("tasks") or []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise invalid("Could not parse request object: Expected 'tasks' to be a list of objects.")
    if is_single(settings):
        one = {
            field: value
            for field, value in settings.items()
            if field in _OF_ONE_TASK or field in _kinds(settings)
        }
        given = [{"task_key": name, **one}]
    if len(given) > _MOST_TASKS:
        raise invalid(f"The number of tasks {len(given)} exceeds the limit of {_MOST_TASKS}.")
    specs = [dict(one) for one in given]
    keys = [str(one.get("task_key") or "") for one in specs]
    if not all(keys):
        raise invalid("Invalid task: task_key is required.")
    if len(set(keys)) != len(keys):
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        raise invalid(f"Duplicate task keys found: {', '.join(repeated)}.")
    for spec in specs:
        _check(spec, set(keys))
    _check_cycles(specs)
    return specs


def _check(spec: dict[str, Any], keys: set[str]) -> None:
    key = spec["task_key"]
    kinds = _kinds(spec)
    if not kinds:
        raise invalid(f"Task {key} must have one of the task types.")
    if len(kinds) > 1:
        raise invalid(f"Task {key} has more than one task type: {', '.join(kinds)}.")
    if not isinstance(spec[kinds[0]], dict):
        raise invalid(f"Could not parse request object: Expected '{kinds[0]}' to be an object.")
    rule = spec.setdefault("run_if", "ALL_SUCCESS")
    if rule not in _RULES:
        raise invalid(f"Invalid run_if {rule!r} of task {key}.")
    for number in ("timeout_seconds", "max_retries", "min_retry_interval_millis"):
        if spec.get(number) is not None:
            try:
                spec[number] = int(spec[number])
            except (TypeError, ValueError):
                raise invalid(f"Expected '{number}' of task {key} to be a number.") from None
    for before in spec.get("depends_on") or []:
        if before.get("task_key") not in keys:
            raise invalid(
                f"Invalid dependency: {before.get('task_key')} of task {key} is not a task of this job."
            )


def _check_cycles(specs: list[dict[str, Any]]) -> None:
    waiting = {spec["task_key"]: {one["task_key"] for one in spec.get("depends_on") or []} for spec in specs}
    while ready := {key for key, upstream in waiting.items() if not upstream & waiting.keys()}:
        for key in ready:
            del waiting[key]
    if waiting:
        raise invalid(f"The dependencies of tasks form a cycle: {', '.join(sorted(waiting))}.")


def check_overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request that replace those of the tasks.

    :raises ApiError: they are too long or exclude each other.
    """
    overrides = {name: given[name] for name in OVERRIDES if given.get(name)}
    if "notebook_params" in overrides and "jar_params" in overrides:
        raise invalid("notebook_params and jar_params cannot be specified together.")
    for name, value in overrides.items():
        if len(json.dumps(value)) > _LONGEST_PARAMETERS:
            raise invalid(f"The JSON of {name} exceeds {_LONGEST_PARAMETERS} bytes.")
    return overrides


def selected(specs: list[dict[str, Any]], only: list[str]) -> list[dict[str, Any]]:
    """Return the tasks with those disabled that ``only`` does not name.

    :raises ApiError: it names a task that does not exist.
    """
    unknown = sorted(set(only) - {spec["task_key"] for spec in specs})
    if unknown:
        raise invalid(f"Unknown tasks in 'only': {', '.join(unknown)}.")
    return [{**spec, "disabled": True} if spec["task_key"] not in only else spec for spec in specs]


def parameters_of(defined: list[dict[str, Any]], given: Any) -> list[dict[str, Any]]:
    """Return the parameters of a run as the API shows them: name, default and value."""
    if not isinstance(given, dict):
        raise invalid("Could not parse request object: Expected 'job_parameters' to be an object.")
    shown = {
        one["name"]: {"name": one["name"], "default": one.get("default", ""), "value": one.get("default", "")}
        for one in defined
    }
    for name, value in given.items():
        shown[name] = {**shown.get(name, {"name": name}), "value": str(value)}
    return list(shown.values())
