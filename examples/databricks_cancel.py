"""A long run to cancel.

While `long_run` is deferred, mark it as failed in the Airflow UI, or clear it. The triggerer then cancels the run in
Databricks and waits for the confirmation. Without a user's help the task's `execution_timeout` ends the run in the same
way.

Needs the Airflow connection `databricks_default`, and the files of `examples/workspace` in the workspace's folder
`Shared/airflow_examples`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator

FOLDER = "/Workspace/Shared/airflow_examples"


@dag(schedule=None, catchup=False, tags=["databricks"], params={"seconds": 1800}, doc_md=__doc__)
def databricks_cancel():
    DatabricksSubmitRunOperator(
        task_id="long_run",
        spark_python_task={
            "python_file": f"{FOLDER}/extract.py",
            "parameters": ["--day", "2026-11-22", "--seconds", "{{ params.seconds }}"],
        },
        execution_timeout=timedelta(hours=1),
    )


databricks_cancel()
