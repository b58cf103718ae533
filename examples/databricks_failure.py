"""A run that fails, and an error that can be read where it is looked for.

The currency of `convert` has a typo. The Airflow task fails with the error of the Databricks task that failed, the tail
of its trace and the link to the run, in its log and in the exception. `after_failure` runs because of its trigger rule.

Needs the Airflow connection `databricks_default`, and the files of `examples/workspace` in the workspace's folder
`Shared/airflow_examples`.
"""

from __future__ import annotations

from airflow.sdk import TriggerRule, dag, task

from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator

FOLDER = "/Workspace/Shared/airflow_examples"


@dag(schedule=None, catchup=False, tags=["databricks"], params={"seconds": 5}, doc_md=__doc__)
def databricks_failure():
    convert = DatabricksSubmitRunOperator(
        task_id="convert",
        tasks=[
            {
                "task_key": "convert",
                "spark_python_task": {
                    "python_file": f"{FOLDER}/convert.py",
                    "parameters": ["--currency", "EURO", "--seconds", "{{ params.seconds }}"],
                },
                "environment_key": "default",
            }
        ],
        environments=[{"environment_key": "default", "spec": {"client": "3"}}],
    )

    @task(trigger_rule=TriggerRule.ALL_FAILED)
    def after_failure():
        print("The run failed; its error stands in the log of `convert`.")

    convert >> after_failure()


databricks_failure()
