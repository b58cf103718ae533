"""The numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.sides import OURS, STOCK
from benchmarks.table import about, at, markdown, ratio, show
from benchmarks.worker_free.plan import DEFERRABLE

__all__ = ["render"]

_ROWS = {
    "worker_starts": "worker starts",
    "worker_seconds": "seconds of workers",
    "cpu_s_per_task": "CPU of all of Airflow per task, s",
    "cpu_s_per_task_net": "- without what an idle Airflow uses, s",
    "cpu_s_per_task_by_part.workers": "- of workers, s",
    "cpu_s_per_task_by_part.scheduler": "- of the scheduler, s",
    "cpu_s_per_task_by_part.triggerer_supervisor": "- of the triggerer's supervisor, s",
    "cpu_s_per_task_by_part.triggerer_runner": "- of the triggerer's runner, s",
    "cpu_s_per_task_by_part.api_server": "- of the API server, s",
    "cpu_s_per_task_by_part.dag_processor": "- of the Dag processor, s",
    "cpu_s_per_task_by_part.dag_parsing": "- of its parsing, s",
    "cpu_s_per_task_by_part.database": "- of the database, s",
    "cpu_cores_idle": "an idle Airflow, cores",
    "end_to_next_s.p50": "remote end to next task, median, s",
    "end_to_next_s.p99": "remote end to next task, 99th perc., s",
    "seconds": "first trigger to last end, s",
    "submitted": "runs submitted",
    "succeeded": "tasks that succeeded",
}


def render(found: Mapping[str, Any]) -> str:
    """One column for each side that was measured, and what they come to."""
    settings = found["settings"]
    rows = []
    for path, words in _ROWS.items():
        ours, deferrable, stock = (at(found, f"{side}.{path}") for side in (OURS, DEFERRABLE, STOCK))
        rows.append((words, [show(ours), show(deferrable), show(stock), ratio(ours, deferrable)]))
    heads = [OURS, "stock, deferred", "stock, worker", "ours / deferred"]
    setting = (
        f"{settings['tasks']} tasks, {settings['per_run']} more every {settings['every']:g} s, on Databricks "
        f"{settings['shortest']:g} to {settings['longest']:g} s each, a poll every {settings['interval']} s, "
        f"up to {settings['workers']} workers at once ({settings['executor']}), an idle scheduler looks every {settings['scheduler_sleep']:g} s"
    )
    return "\n".join([markdown(heads, rows), "", f"{setting}; {about(found['machine'])}."])
