"""Dags that wait for as long as the tests want: at the gate, a warehouse with one place, which the tests hold."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

GATE = "GATE"
FOREVER = "SELECT SYSTEM$WAIT(3600)"
AT_THE_GATE = "SELECT SYSTEM$WAIT(0) AS answer"
SOON = timedelta(seconds=1)

defaults = {"poll_interval": 1, "quick_wait": 0, "do_xcom_push": True}


@dag(schedule=None, default_args=defaults)
def chaos_ten():
    SnowflakeOperator.partial(task_id="wait", warehouse=GATE).expand(sql=[AT_THE_GATE] * 10)


@dag(schedule=None, default_args=defaults)
def chaos_one():
    SnowflakeOperator(task_id="wait", warehouse=GATE, sql=AT_THE_GATE)


@dag(schedule=None, default_args=defaults | {"retries": 1, "retry_delay": SOON, "quick_wait": 10})
def chaos_worker():
    for task_id in ("task_killed", "worker_killed"):
        SnowflakeOperator(task_id=task_id, warehouse=GATE, sql=AT_THE_GATE)


@dag(schedule=None, default_args=defaults | {"retries": 1, "retry_delay": SOON})
def chaos_answer():
    SnowflakeOperator(task_id="one", warehouse=GATE, sql=AT_THE_GATE)
    SnowflakeOperator(task_id="block", warehouse=GATE, sql=[AT_THE_GATE, AT_THE_GATE], autocommit=False)


@dag(schedule=None, default_args=defaults)
def chaos_user():
    for task_id in ("marked_failed", "marked_success", "cleared"):
        SnowflakeOperator(task_id=task_id, sql=FOREVER)


@dag(schedule=None, default_args=defaults)
def chaos_timeout():
    SnowflakeOperator(task_id="late", sql=FOREVER, execution_timeout=timedelta(seconds=10))


chaos_ten()
chaos_one()
chaos_worker()
chaos_answer()
chaos_user()
chaos_timeout()
