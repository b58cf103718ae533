"""A run, and a statement that follows it, without any worker.

`start_from_trigger=True` lets the triggerer submit the run once, wait for it, and submit the statement in the moment in
which it has ended: there is no worker to wait for in between. Nothing else about the tasks is different.

Needs the Airflow connection `databricks_default` with the `http_path` of a warehouse, and the files of
`examples/workspace` in the workspace's folder `Shared/airflow_examples`.
"""

from __future__ import annotations

from airflow.sdk import dag

from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator

FOLDER = "/Workspace/Shared/airflow_examples"


@dag(schedule=None, catchup=False, tags=["databricks"], params={"seconds": 10}, doc_md=__doc__)
def databricks_worker_free():
    extract = DatabricksSubmitRunOperator(
        task_id="extract",
        tasks=[
            {
                "task_key": "extract",
                "spark_python_task": {
                    "python_file": f"{FOLDER}/extract.py",
                    "parameters": ["--day", "{{ run_id[:6] }}", "--seconds", "{{ params.seconds }}"],
                },
                "environment_key": "default",
            }
        ],
        environments=[{"environment_key": "default", "spec": {"client": "3"}}],
        start_from_trigger=True,
    )

    count = DatabricksSqlOperator(
        task_id="count",
        sql="SELECT count(*) AS n FROM range(:rows)",
        parameters={"rows": 1000},
        start_from_trigger=True,
    )

    extract >> count


databricks_worker_free()
