"""The database as a triggerer would find it, written by Airflow's own functions in a process of its own.

``python -m benchmarks.external_task.prepare CROWD SIDE...`` makes the tables, the Dags, their runs, the deferred tasks
and the triggers of each side.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.models.dag_version import DagVersion
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.sensors.external_task import ExternalTaskSensor
from airflow.sdk import DAG, TaskGroup
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from benchmarks.external_task.plan import GROUP, PER_RUN, TASK, WAITING, Crowd, run_id
from benchmarks.external_task.triggers import TRIGGERS

__all__ = ["main"]

_BUNDLE = "dags-folder"
_START = datetime(2025, 1, 1, tzinfo=timezone.utc)
_TIMEOUT = timedelta(days=7)  # a sensor's own


def main(crowd: Crowd, sides: Iterable[str]) -> None:
    """Write everything."""
    initdb()
    with create_session() as session:
        _write_dags([*_external_dags(crowd), _waiting_dag()], session)
    with create_session() as session:
        for dag_id in crowd.names(TASK):
            _write_runs(dag_id, crowd.external_dates, TaskInstanceState.RUNNING, session)
        _write_runs(WAITING, crowd.waiting_dates, TaskInstanceState.DEFERRED, session)
    with create_session() as session:
        _number_sensors(crowd, session)
        for side in sides:
            _write_triggers(side, crowd, session)


def _external_dags(crowd: Crowd) -> Iterable[DAG]:
    tasks, groups = crowd.names(TASK), crowd.names(GROUP)
    for dag_id in tasks:
        with DAG(dag_id, schedule=None, start_date=_START, catchup=False) as dag:
            EmptyOperator(task_id="last")
            for name in tasks[dag_id]:
                EmptyOperator(task_id=name)
            for name in groups[dag_id]:
                with TaskGroup(name):
                    EmptyOperator(task_id="a")
                    EmptyOperator(task_id="b")
        yield dag


def _waiting_dag() -> DAG:
    with DAG(WAITING, schedule=None, start_date=_START, catchup=False) as dag:
        for number in range(PER_RUN):
            ExternalTaskSensor(task_id=f"wait_{number}", external_dag_id="external_0", deferrable=True)
    return dag


def _write_dags(dags: list[DAG], session: Session) -> None:
    DagBundlesManager().sync_bundles_to_db(session=session)
    session.flush()
    for dag in dags:
        dag.relative_fileloc = f"{dag.dag_id}.py"
    parsed = [LazyDeserializedDAG.from_dag(dag) for dag in dags]
    errors: dict[tuple[str, str], str] = {}
    update_dag_parsing_results_in_db(_BUNDLE, None, parsed, errors, None, set(), session)
    if errors:
        raise RuntimeError(f"Airflow refuses the Dags: {errors}")


def _write_runs(dag_id: str, dates: Iterable[datetime], state: TaskInstanceState, session: Session) -> None:
    """The runs of one Dag with all their tasks, which have all begun."""
    dag = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
    version = DagVersion.get_latest_version(dag_id, session=session)
    assert dag is not None
    assert version is not None
    runs = [_run(dag_id, date, version.id) for date in dates]
    session.add_all(runs)
    session.flush()
    rows = [
        TaskInstance.insert_mapping(run.run_id, task, -1, dag_version_id=version.id, dag_run=run)
        | _began(state)
        for run in runs
        for task in dag.task_dict.values()
    ]
    session.execute(insert(TaskInstance), rows)


def _run(dag_id: str, date: datetime, version_id: Any) -> DagRun:
    run = DagRun(
        dag_id,
        run_id(date),
        logical_date=date,
        run_after=date,
        data_interval=(date, date),
        start_date=datetime.now(timezone.utc),
        state=DagRunState.RUNNING,
        run_type=DagRunType.SCHEDULED,
        triggered_by=DagRunTriggeredByType.TIMETABLE,
    )
    run.created_dag_version_id = version_id
    return run


def _began(state: TaskInstanceState) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    found = {"state": state, "try_number": 1, "start_date": now, "updated_at": now}
    if state is TaskInstanceState.DEFERRED:
        found |= {"next_method": "execute_complete", "next_kwargs": {}, "trigger_timeout": now + _TIMEOUT}
    return found


def _number_sensors(crowd: Crowd, session: Session) -> None:
    """Each sensor that waits has its number for a process id; what is left of the last run waits for nothing."""
    asked = select(TaskInstance.run_id, TaskInstance.task_id, TaskInstance.id)
    ids = {
        (run, task): id_ for run, task, id_ in session.execute(asked.where(TaskInstance.dag_id == WAITING))
    }
    numbered = [{"id": ids[crowd.sensor(n)], "pid": n} for n in range(crowd.sensors)]
    session.execute(update(TaskInstance), numbered)


def _write_triggers(side: str, crowd: Crowd, session: Session) -> None:
    """The triggers of one side, which ``Database.renew`` gives to the sensors: see there."""
    rows = []
    for number, target in enumerate(crowd.waits):
        row = Trigger.from_object(TRIGGERS[side](target, crowd.interval))
        row.queue, row.triggerer_id = side, number
        rows.append(row)
    session.add_all(rows)


if __name__ == "__main__":
    main(Crowd(**json.loads(sys.argv[1])), sys.argv[2:])
