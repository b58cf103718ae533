"""Why a run failed: the errors of its tasks, as a person wants to read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from astronomer.deferral import Transient
from astronomer.deferral.patience import insist
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks.client import DatabricksClient
from astronomer.providers.databricks.states import failed_tasks, status_of

__all__ = ["failed_tasks", "failures_of"]

_TASKS_SHOWN = 5
_PATIENCE = 15.0  # many failures at once meet a quota
_TRACE_LINES = 15
_TRACE_CHARACTERS = 2000


async def failures_of(client: DatabricksClient, run: Mapping[str, Any]) -> list[str]:
    """A paragraph for each failed task: its error, and the tail of its trace. Never raises for what it cannot read."""
    failed = failed_tasks(run)
    told = [await _paragraph(client, task) for task in failed[:_TASKS_SHOWN]]
    if more := len(failed) - _TASKS_SHOWN:
        told += [f"{more} more of its tasks failed."] if more > 0 else []
    return told


async def _paragraph(client: DatabricksClient, task: Mapping[str, Any]) -> str:
    status = status_of(task)
    head = f"Task {task.get('task_key')!r} (run {task.get('run_id')}) ended {status.raw}"
    try:
        output = await insist(
            lambda: client.get("2.2/jobs/runs/get-output", run_id=task.get("run_id")), tolerance=_PATIENCE
        )
    except (RequestRejected, Transient) as error:
        return f"{head}: {status.message or ''} (its output cannot be read: {error})"
    said = output.get("error") or status.message or "no error was reported"
    return "\n".join([f"{head}: {str(said).strip()}", *_tail(str(output.get("error_trace") or ""))])


def _tail(trace: str) -> Iterable[str]:
    lines = trace.strip()[-_TRACE_CHARACTERS:].splitlines()
    return [f"    {line}" for line in lines[-_TRACE_LINES:]]
