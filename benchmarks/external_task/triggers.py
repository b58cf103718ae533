"""The triggers of both sides, as their sensors defer with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.external_task.plan import DAG, GROUP, TASK, Target
from benchmarks.sides import OURS, STOCK

__all__ = ["FAILED_STATES", "TRIGGERS"]

FAILED_STATES = ["failed"]
"""What people set, so that a failure ends the wait."""


def _ours(target: Target, interval: float) -> Any:
    """The trigger that this package's ``ExternalTaskSensor`` defers with."""
    from astronomer.providers.core.jobs.external import ExternalWait
    from astronomer.providers.core.triggers.external_task import ExternalTaskTrigger

    job = ExternalWait(
        dag_id=target.dag_id,
        task_ids=(target.name,) if target.kind == TASK else (),
        group_id=target.name if target.kind == GROUP else None,
        logical_dates=(target.date.isoformat(),),
        allowed_states=("success",),
        failed_states=tuple(FAILED_STATES),
    )
    return ExternalTaskTrigger(job=job.to_dict(), poll_interval=interval, cancel_on_kill=False)


def _stock(target: Target, interval: float) -> Any:
    """The trigger that the stock ``ExternalTaskSensor(deferrable=True)`` defers with: it is asked for it."""
    from airflow.providers.standard.sensors.external_task import ExternalTaskSensor
    from airflow.sdk.exceptions import TaskDeferred

    names = {TASK: "external_task_id", GROUP: "external_task_group_id"}
    sensor = ExternalTaskSensor(
        task_id="wait",
        external_dag_id=target.dag_id,
        failed_states=FAILED_STATES,
        poke_interval=interval,
        deferrable=True,
        **({} if target.kind == DAG else {names[target.kind]: target.name}),
    )
    try:
        sensor.execute({"logical_date": target.date})
    except TaskDeferred as deferred:
        return deferred.trigger
    raise AssertionError("the sensor did not defer")


TRIGGERS: dict[str, Callable[[Target, float], Any]] = {OURS: _ours, STOCK: _stock}
