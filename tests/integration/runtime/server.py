"""Fills a new metadata database and becomes Airflow's own API server: ``python -m tests.integration.runtime.server PORT``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PASSWORD = "the-password-of-a-connection"
VALUE = "the-value-of-a-variable"
DAG = """
from datetime import datetime
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("orders", schedule=None, start_date=datetime(2026, 1, 1)):
    EmptyOperator(task_id="a")
"""


def fill() -> None:
    """Make the tables, a Dag with a run, a connection and a variable."""
    from airflow.models import Connection, Variable
    from airflow.utils.session import create_session

    from tests.integration.core.airflow_db import DAY, RealAirflow

    airflow = RealAirflow()
    airflow.read(DAG, "orders.py")
    airflow.run("run", DAY, "orders", state="success")
    airflow.close()
    with create_session() as session:
        session.add(Connection(conn_id="bank", conn_type="http", host="bank.example", password=PASSWORD))
        session.add(Variable(key="safe", val=VALUE))


def main(port: str) -> None:
    """Run until the process is ended."""
    marker = Path(os.environ["AIRFLOW_HOME"], "filled")
    if not marker.exists():
        fill()
        marker.touch()
    command = ["airflow", "api-server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", *command])


if __name__ == "__main__":
    main(sys.argv[1])
