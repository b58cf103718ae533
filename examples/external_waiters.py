"""Dags that wait for another Dag: for one task, several, a task group, or the whole run.

`external_waiters` names the run by its logical date, which is its own. Dags with the same schedule have the same
dates; here, where nothing has a schedule, give both the same one. It waits as well if there is no such run yet.
All its waits share one question per poll, and none holds a worker, so any number of them cannot keep the producer
from getting one.

`external_waiters_by_id` starts a run of the producer and waits for that run by its id. It gives the run its own logical
date, so that this is the run which `external_waiters` of that date waits for.

Needs no connection. Waits for `external_producer`.
"""

from __future__ import annotations

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag, task

from astronomer.providers.core.sensors.external_task import ExternalDagRunSensor, ExternalTaskSensor

PRODUCER = "external_producer"
FIRST = {"priority_weight": 10}  # a wait holds no worker, so it may begin and go on before what does


@dag(schedule=None, catchup=False, tags=["external"], default_args=FIRST, doc_md=__doc__)
def external_waiters():
    # Without `failed_states` a sensor goes on when its task fails: somebody may clear the task.
    ExternalTaskSensor(task_id="for_task", external_dag_id=PRODUCER, external_task_id="extract")

    ExternalTaskSensor(
        task_id="for_tasks",
        external_dag_id=PRODUCER,
        external_task_ids=["extract", "load"],  # `load` is mapped: all of it has to succeed
    )

    ExternalTaskSensor(task_id="for_group", external_dag_id=PRODUCER, external_task_group_id="clean")

    for_run = ExternalTaskSensor(task_id="for_run", external_dag_id=PRODUCER, failed_states=["failed"])

    @task
    def report(logical_date=None):
        print(f"{PRODUCER} has done what it does for {logical_date}")

    for_run >> report()


@dag(schedule=None, catchup=False, tags=["external"], params={"seconds": 5}, doc_md=__doc__)
def external_waiters_by_id():
    start = TriggerDagRunOperator(
        task_id="start",
        trigger_dag_id=PRODUCER,
        logical_date="{{ logical_date }}",
        conf={"seconds": "{{ params.seconds }}"},
    )

    wait = ExternalDagRunSensor(
        task_id="wait",
        external_dag_id=PRODUCER,
        external_run_id="{{ ti.xcom_pull(task_ids='start', key='trigger_run_id') }}",
    )

    start >> wait


external_waiters()
external_waiters_by_id()
