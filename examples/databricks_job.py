"""A Databricks run of four tasks that depend on each other, and one Airflow task that waits for it.

`orders` submits the run once, with a token of its own for each attempt, and defers; neither a worker that dies nor an
answer that is lost starts it twice. "See Databricks Job Run" on the task's page leads to the run from its first second
on. `report` reads what the run is called from the task's XComs.

Needs the Airflow connection `databricks_default`, and the files of `examples/workspace` in the workspace's folder
`Shared/airflow_examples`.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator

FOLDER = "/Workspace/Shared/airflow_examples"


def python_task(key, file, *parameters, after=()):
    return {
        "task_key": key,
        "depends_on": [{"task_key": one} for one in after],
        "spark_python_task": {
            "python_file": f"{FOLDER}/{file}",
            "parameters": [*parameters, "--seconds", "{{ params.seconds }}"],
        },
        "environment_key": "default",
    }


@dag(schedule=None, catchup=False, tags=["databricks"], params={"seconds": 10}, doc_md=__doc__)
def databricks_job():
    orders = DatabricksSubmitRunOperator(
        task_id="orders",
        tasks=[
            python_task("extract", "extract.py", "--day", "2026-11-22"),
            python_task("euro", "convert.py", "--currency", "EUR", after=["extract"]),
            python_task("yen", "convert.py", "--currency", "JPY", after=["extract"]),
            python_task("load", "extract.py", "--day", "2026-11-22", after=["euro", "yen"]),
        ],
        environments=[{"environment_key": "default", "spec": {"client": "3"}}],
    )

    @task
    def report(ti=None):
        print("the run:", ti.xcom_pull(task_ids="orders", key="run_page_url"))

    orders >> report()


databricks_job()
