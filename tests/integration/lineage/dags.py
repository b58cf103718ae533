"""One success and one failure of each family; each also without a worker."""

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG

from astronomer.providers.core.sensors.external_task import ExternalDagRunSensor
from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator


def work(fail: str = "") -> dict[str, Any]:
    """A notebook that takes a moment."""
    parameters = {"seconds": "2"} | ({"fail": fail} if fail else {})
    return {"notebook_path": "/lab/wait", "base_parameters": parameters}


TABLE = "CREATE OR REPLACE TABLE told_{{ dag.dag_id }} AS SELECT 1 AS n"
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
ARGUMENTS = {"retries": 0, "execution_timeout": timedelta(minutes=5)}


def waits(**more: Any) -> None:
    """Two waits for a run that fails: one that wants just that, and one that does not."""
    for name, wanted, unwanted in (("right", "failed", []), ("wrong", "success", ["failed"])):
        ExternalDagRunSensor(
            task_id=f"core_{name}",
            external_dag_id="fails",
            external_run_id="{{ dag_run.conf['fails'] }}",
            allowed_states=[wanted],
            failed_states=unwanted,
            timeout=120,
            **more,
        )


with DAG("fails", schedule=None, start_date=START, default_args=ARGUMENTS):
    SnowflakeOperator(task_id="query", sql="SELECT * FROM SYSTEM$WAIT(5)")

with DAG("deferred", schedule=None, start_date=START, default_args=ARGUMENTS):
    defers = {"quick_wait": 0}
    SnowflakeOperator(task_id="snowflake_right", sql=TABLE, **defers)
    SnowflakeOperator(task_id="snowflake_wrong", sql="SELECT * FROM not_there", **defers)
    DatabricksSubmitRunOperator(task_id="databricks_right", notebook_task=work(), **defers)
    DatabricksSubmitRunOperator(task_id="databricks_wrong", notebook_task=work("no luck"), **defers)
    waits()

with DAG("worker_free", schedule=None, start_date=START, default_args=ARGUMENTS):
    free = {"start_from_trigger": True}
    SnowflakeOperator(task_id="snowflake_right", sql=TABLE, **free)
    SnowflakeOperator(task_id="snowflake_wrong", sql="SELECT * FROM not_there", **free)
    DatabricksSubmitRunOperator(task_id="databricks_right", notebook_task=work(), **free)
    DatabricksSubmitRunOperator(task_id="databricks_wrong", notebook_task=work("no luck"), **free)
    waits(**free)
