"""Tasks that have deferred in a real metadata database: what a worker has sent of them is in its rows."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.task_runner import _defer_task
from airflow.utils.session import create_session
from sqlalchemy import select
from structlog import get_logger

from astronomer.deferral._compat import TaskDeferred
from tests.docs.world import new_context
from tests.integration.core.airflow_db import RealAirflow

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag

__all__ = ["RUN", "defer", "parsed", "row", "rows", "takes"]

RUN = "manual__1"


def defer(airflow: RealAirflow, file: Path, dag_id: str, task_id: str, **context: Any) -> None:
    """Run the first step of a task as a worker does, up to the message that it is deferred."""
    operator = parsed(file, dag_id, task_id)
    operator.quick_wait = 0.0
    context = new_context(**context)
    context["ti"].run_id = str(uuid.uuid4())  # not RUN, of which the remote side may have heard before
    operator.render_template_fields(context)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(task_runner, "SUPERVISOR_COMMS")  # which knows no such run
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(context)
    ti = SimpleNamespace(dag_id=dag_id, task_id=task_id, run_id=RUN, task=operator)
    message, _ = _defer_task(deferred.value, ti, get_logger())
    airflow.set(RUN, dag_id, **{task_id: "running"})
    airflow._client.task_instances.defer(row(task_id)[0].id, message)


def parsed(file: Path, dag_id: str, task_id: str) -> Any:
    """A task as its Dag file makes it."""
    return DagBag(file, load_op_links=False).dags[dag_id].get_task(task_id)


def rows() -> list[tuple[TaskInstance, Trigger | None]]:
    """Every task instance, and its trigger if it has one."""
    asked = select(TaskInstance, Trigger).outerjoin(Trigger, TaskInstance.trigger_id == Trigger.id)
    with create_session() as session:
        found = [(ti, trigger) for ti, trigger in session.execute(asked)]
        session.expunge_all()
    return found


def row(task_id: str) -> tuple[TaskInstance, Trigger | None]:
    """A task instance and its trigger."""
    return next((ti, trigger) for ti, trigger in rows() if ti.task_id == task_id)


def takes(queues: set[str] | None) -> set[str]:
    """The tasks whose triggers a triggerer of these queues would be given, asked of Airflow's own query."""
    tasks = {trigger.id: ti.task_id for ti, trigger in rows() if trigger is not None}
    with create_session() as session:
        ids = Trigger.get_sorted_triggers(capacity=10, alive_triggerer_ids=[], queues=queues, session=session)
    return {tasks[id_] for (id_,) in ids}
