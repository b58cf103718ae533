"""The Dags: one whose tasks wait, one whose tasks need no worker, and those whose tasks and runs are waited for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from tools.soak.place import DATABRICKS_CONN
from tools.soak.plan import POLL_INTERVAL

__all__ = ["EXTERNAL", "FREE", "TASKS", "WAITING", "dags", "worker_free"]

WAITING, FREE = "soak", "soak_worker_free"
EXTERNAL = tuple(f"external_{number}" for number in range(5))
TASKS = tuple(f"task_{number}" for number in range(50))

_START = datetime(2025, 1, 1, tzinfo=timezone.utc)
_NOTEBOOK = "/lab/wait"


def dags() -> Iterator[Any]:
    """All of them, as their files would make them."""
    for dag_id in (WAITING, *EXTERNAL):
        with _dag(dag_id) as dag:
            for task_id in TASKS:
                EmptyOperator(task_id=task_id)
        yield dag
    with _dag(FREE) as dag:
        for task_id in TASKS:
            _operator(task_id, 1.0, fails=False)
    yield dag


def worker_free(seconds: float, *, fails: bool) -> tuple[str, dict[str, Any]]:
    """The trigger that a scheduler makes of a task that starts in the triggerer, and whose run takes so long.

    :raises RuntimeError: the task would take the worker path.
    """
    with _dag(FREE):
        task = _operator(TASKS[0], seconds, fails=fails)
    given = task.start_trigger_args
    if given is None:
        raise RuntimeError("the task needs a worker")
    return given.trigger_cls, dict(given.trigger_kwargs)


def _operator(task_id: str, seconds: float, *, fails: bool) -> Any:
    parameters = {"seconds": f"{seconds:g}", **({"fail": "broken"} if fails else {})}
    return DatabricksSubmitRunOperator(
        task_id=task_id,
        databricks_conn_id=DATABRICKS_CONN,
        notebook_task={"notebook_path": _NOTEBOOK, "base_parameters": parameters},
        polling_period_seconds=int(POLL_INTERVAL),
        start_from_trigger=True,
        do_xcom_push=False,
    )


def _dag(dag_id: str) -> Any:
    dag = DAG(dag_id, schedule=None, start_date=_START, catchup=False)
    dag.relative_fileloc = f"{dag_id}.py"
    return dag
