"""Asks every endpoint of a whole API server with every role, and writes what each answered into a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401 - an Airflow home of its own, before anything imports Airflow
from astronomer.lab.issuer import IssuerServer
from tests.integration.runtime.samples import sampled

BASE = "http://localhost:8080"
RUN = "matrix_run"
DAG = """
from datetime import datetime
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("matrix", schedule=None, start_date=datetime(2026, 1, 1)):
    EmptyOperator(task_id="a")
"""
KNOWN = {
    "dag_id": "matrix", "dag_run_id": RUN, "run_id": RUN, "task_id": "a", "map_index": -1, "try_number": 1,
    "connection_id": "matrix", "conn_type": "http", "variable_key": "matrix", "pool_name": "matrix",
    "section": "core", "option": "executor", "version_number": 1,
    "xcom_key": "matrix", "key": "matrix", "interval": 1, "new_state": "success", "state": "success", "slots": 1,
}  # fmt: skip
BODIES = {
    "/api/v2/dags/{dag_id}/clearDagRuns": {"dag_runs": [{"dag_id": "matrix", "dag_run_id": RUN}]},
    "/api/v2/dags/{dag_id}/clearPartitions": {"run_id": RUN},
}
"""Where what is required is not written in the document."""


def routes(app: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every (method, path), of what is mounted, too; but not of the API for tasks, which knows no users."""
    for route in app.routes:
        path = prefix + route.path
        if hasattr(route, "methods"):
            yield from ((method, path) for method in sorted(route.methods - {"HEAD"}))
        elif hasattr(route.app, "routes") and path != "/execution":
            yield from routes(route.app, path)


def order(endpoint: tuple[str, str]) -> tuple[int, int, str]:
    """Read first, delete last, and what holds others last of all."""
    method, path = endpoint
    return ["GET", "POST", "PUT", "PATCH", "DELETE"].index(method), -len(path), path


def seed(airflow: Any) -> int:
    """Put one of the things into the database on which an endpoint's answer to strangers depends."""
    from airflow.models.backfill import Backfill
    from airflow.utils.session import create_session

    from tests.integration.core.airflow_db import DAY

    airflow.read(DAG, "matrix.py")
    airflow.delete()
    airflow.run(RUN, DAY, "matrix", state="success")
    with create_session() as session:
        backfill = Backfill(dag_id="matrix", from_date=DAY, to_date=DAY, dag_run_conf={}, max_active_runs=1)
        session.add(backfill)
        session.flush()
        return int(backfill.id)


def main() -> None:
    """Write method and path -> role -> status."""
    issuer = IssuerServer().start()
    os.environ.update(
        issuer.settings(),
        AIRFLOW__API__BASE_URL=BASE,
        AIRFLOW__CORE__TEST_CONNECTION="Enabled",
        AIRFLOW__API__EXPOSE_CONFIG="True",
        AIRFLOW__API__ENABLE_SWAGGER_UI="True",
        AIRFLOW__API_AUTH__JWT_SECRET="secret-of-a-test-secret-of-a-test-secret-of-a-test-secret-of-a-test",
    )
    from airflow.api_fastapi.app import create_app
    from itsdangerous import URLSafeSerializer
    from starlette.testclient import TestClient

    from tests.integration.core.airflow_db import RealAirflow

    airflow = RealAirflow()
    app = create_app()
    document = app.openapi()
    answers: dict[str, dict[str, Any]] = {}
    for role in (None, "viewer", "editor", "admin"):
        file = {"bundle_name": "dags-folder", "relative_fileloc": "matrix.py"}
        known = {
            **KNOWN,
            "backfill_id": seed(airflow),
            "file_token": URLSafeSerializer(app.state.secret_key).dumps(file),
        }
        for method, path in sorted(set(routes(app)), key=order):
            client = TestClient(app, BASE, raise_server_exceptions=False, follow_redirects=False)
            # A new one each time, as one of the endpoints is the way out.
            headers = {} if role is None else {"authorization": f"Bearer {issuer.platform.token(role)}"}
            request = sampled(document, method, path, known)
            if path in BODIES:
                request["json"] = BODIES[path]
            answer = client.request(**request, headers=headers)
            answers.setdefault(f"{method} {path}", {})[str(role)] = answer.status_code
    Path(sys.argv[1]).write_text(json.dumps(answers))
    airflow.close()
    issuer.stop()


if __name__ == "__main__":
    main()
