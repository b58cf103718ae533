"""A real Airflow API server on loopback, with a database of its own; a program, started by ``deployments.py``.

``python -m tests.integration.core.deployment_server PORT``
"""

from __future__ import annotations

import sys
from pathlib import Path

DAGS = """
from datetime import datetime
from airflow.sdk import DAG, TaskGroup, task
from airflow.providers.standard.operators.empty import EmptyOperator

def dag(name):
    with DAG(name, schedule=None, start_date=datetime(2026, 1, 1)) as found:
        for task_id in "abc":
            EmptyOperator(task_id=task_id)
        with TaskGroup("g"):
            EmptyOperator(task_id="x")
            EmptyOperator(task_id="y")
        with TaskGroup("plain", prefix_group_id=False):
            EmptyOperator(task_id="z")

        @task
        def m(number): ...

        m.expand(number=[1, 2, 3])
    return found

orders = dag("orders")
never_ran = dag("never_ran")
for number in range(6):
    with DAG(f"many_{number}", schedule=None, start_date=datetime(2026, 1, 1)) as found:
        EmptyOperator(task_id="load")
    globals()[found.dag_id] = found
"""


def main(port: int) -> None:
    import uvicorn
    from airflow import settings
    from airflow.configuration import conf
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models import import_all_models
    from airflow.models.base import Base
    from airflow.utils.db import synchronize_log_template

    import_all_models()
    Base.metadata.create_all(settings.engine)
    synchronize_log_template()
    folder = Path(conf.get("core", "dags_folder"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dags.py"
    path.write_text(DAGS)
    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(dag_folder=str(path), bundle_path=folder, bundle_name="dags-folder")
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "dags-folder", None)
    uvicorn.run("airflow.api_fastapi.main:app", host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
