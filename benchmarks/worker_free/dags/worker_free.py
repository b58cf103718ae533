"""Pairs of tasks: a run on Databricks, and what comes after it. The sides differ in one import and one argument."""

from __future__ import annotations

import json
import os

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

PLAN = json.loads(os.environ["BENCHMARK_WORKER_FREE"])

if PLAN["side"] == "ours":
    from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator

    FLAGS = {"start_from_trigger": True}
else:
    from airflow.providers.databricks.operators.databricks import DatabricksSubmitRunOperator

    FLAGS = {"deferrable": PLAN["side"] == "stock_deferrable"}

with DAG("worker_free", schedule=None, max_active_runs=1000):
    for number, seconds in enumerate(PLAN["seconds"]):
        notebook = {"notebook_path": "/lab/wait", "base_parameters": {"seconds": str(seconds)}}
        run = DatabricksSubmitRunOperator(
            task_id=f"run_{number}",
            json={
                "run_name": "{{ run_id }}/{{ ti.task_id }}",
                "tasks": [{"task_key": "wait", "notebook_task": notebook}],
            },
            polling_period_seconds=PLAN["interval"],
            **FLAGS,
        )
        run >> EmptyOperator(task_id=f"next_{number}")
