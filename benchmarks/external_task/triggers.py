"""The triggers of all sides, as their sensors defer with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.external_task.plan import DAG, GROUP, OURS_API, TASK, Target
from benchmarks.sides import OURS, STOCK

__all__ = ["CONN_ID", "FAILED_STATES", "TRIGGERS"]

FAILED_STATES = ["failed"]
"""What people set, so that a failure ends the wait."""
CONN_ID = "this_airflow"
"""The connection to this Airflow's own API, as ``[astronomer_providers] airflow_conn_id`` would name it."""


def _ours(target: Target, interval: float) -> Any:
    """The trigger that this package's ``ExternalTaskSensor`` defers with."""
    from astronomer.providers.core.triggers.external_task import ExternalTaskTrigger

    return ExternalTaskTrigger(job=_wait(target).to_dict(), poll_interval=interval, cancel_on_kill=False)


def _ours_api(target: Target, interval: float) -> Any:
    """The trigger that it defers with where the connection to this Airflow's own API is set."""
    from astronomer.providers.core.jobs.deployment import DeploymentWait
    from astronomer.providers.core.triggers.astro import AstroDeploymentTrigger

    job = DeploymentWait(conn_id=CONN_ID, **_wait(target).to_dict())
    return AstroDeploymentTrigger(job=job.to_dict(), poll_interval=interval, cancel_on_kill=False)


def _wait(target: Target) -> Any:
    from astronomer.providers.core.jobs.external import ExternalWait

    return ExternalWait(
        dag_id=target.dag_id,
        task_ids=(target.name,) if target.kind == TASK else (),
        group_id=target.name if target.kind == GROUP else None,
        logical_dates=(target.date.isoformat(),),
        allowed_states=("success",),
        failed_states=tuple(FAILED_STATES),
    )


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


TRIGGERS: dict[str, Callable[[Target, float], Any]] = {OURS: _ours, OURS_API: _ours_api, STOCK: _stock}
