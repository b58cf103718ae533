"""What a task's work is, or what it waits for, in words that fit into a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

FILES = re.compile(r"([\w.-]+\.py)")


def work(instance: Mapping[str, Any]) -> str:
    """What the remote job does, in its own words: its SQL, or the files that it runs."""
    fields = instance.get("rendered_fields") or {}
    sql = fields.get("sql")
    if sql:
        return " ".join((sql if isinstance(sql, str) else "; ".join(map(str, sql))).split())
    files = FILES.findall(f"{fields.get('tasks')} {fields.get('spark_python_task')}")
    return ", ".join(dict.fromkeys(files)) or "its job"


def external(instance: Mapping[str, Any]) -> str | None:
    """What a sensor on another Dag waits for; None for any other task."""
    fields = instance.get("rendered_fields") or {}
    dag_id = fields.get("external_dag_id")
    if not dag_id:
        return None
    where = ", in the other Airflow" if instance.get("operator_name") == "ExternalDeploymentSensor" else ""
    return f"{_part(fields)} of {dag_id}{where}"


def _part(fields: Mapping[str, Any]) -> str:
    if fields.get("external_task_group_id"):
        return f"group {fields['external_task_group_id']}"
    for kind in ("task", "run"):
        found = fields.get(f"external_{kind}_ids") or fields.get(f"external_{kind}_id")
        if found:
            names = [found] if isinstance(found, str) else list(map(str, _some(found)))
            return f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return "a run"


def _some(found: Any) -> Iterable[Any]:
    return found if isinstance(found, Iterable) else [found]
