"""A Dag that fails, and Dags that do not wait for it any longer.

`fails_too` has `failed_states`: it fails as soon as the task it waits for has failed, with the name of that task and a
link to its run. `is_skipped` has `soft_fail` as well: it is skipped instead, and so is what comes after it. Without
`failed_states` both would wait until their `timeout`.

Trigger `external_failure` and `external_failure_waiters` with the same logical date. Needs no connection.
"""

from __future__ import annotations

import time

from airflow.sdk import dag, task

from astronomer.providers.core.sensors.external_task import ExternalTaskSensor

FIRST = {"priority_weight": 10}  # a wait holds no worker, so it may begin and go on before what does


@dag(schedule=None, catchup=False, tags=["external"], params={"seconds": 5}, doc_md=__doc__)
def external_failure():
    @task
    def load(params=None):
        time.sleep(float(params["seconds"]))
        raise RuntimeError("The supplier has sent nothing.")

    load()


@dag(schedule=None, catchup=False, tags=["external"], default_args=FIRST, doc_md=__doc__)
def external_failure_waiters():
    ExternalTaskSensor(
        task_id="fails_too",
        external_dag_id="external_failure",
        external_task_id="load",
        failed_states=["failed"],
        timeout=3600,
    )

    ExternalTaskSensor(
        task_id="is_skipped",
        external_dag_id="external_failure",
        external_task_id="load",
        failed_states=["failed"],
        soft_fail=True,
        timeout=3600,
    )


external_failure()
external_failure_waiters()
