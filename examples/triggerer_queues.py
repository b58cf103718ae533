"""Two waits that never share a triggerer: one for Snowflake, one for Databricks.

Each task has a queue. With `[triggerer] queues_enabled`, which Airflow has since 3.2, only triggerers that were started
with `airflow triggerer --queues snowflake` wait for `total`, and only those of `databricks` wait for `to_euro`. Without
that option, which is the default, the queues say nothing to triggerers, and any of them waits for both.

Celery's workers know the same queues, in any case: have them listen to both. Other executors run the Dag as it is.

Needs the Airflow connections `snowflake_default` and `databricks_default`, and the files of `examples/workspace` in the
workspace's folder `Shared/airflow_examples`. Trigger it with other parameters to change how long both take (seconds).
"""

from __future__ import annotations

from airflow.sdk import dag

from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

FOLDER = "/Workspace/Shared/airflow_examples"


@dag(schedule=None, catchup=False, tags=["triggerer"], params={"seconds": 10}, doc_md=__doc__)
def triggerer_queues():
    SnowflakeOperator(
        task_id="total",
        sql="SELECT SYSTEM$WAIT({{ params.seconds }})",
        queue="snowflake",
    )

    DatabricksSubmitRunOperator(
        task_id="to_euro",
        tasks=[
            {
                "task_key": "euro",
                "spark_python_task": {
                    "python_file": f"{FOLDER}/convert.py",
                    "parameters": ["--currency", "EUR", "--seconds", "{{ params.seconds }}"],
                },
                "environment_key": "default",
            }
        ],
        environments=[{"environment_key": "default", "spec": {"client": "3"}}],
        queue="databricks",
    )


triggerer_queues()
