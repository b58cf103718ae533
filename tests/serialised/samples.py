"""What this release stores in Airflow's database, with sample values.

Record a release, just before it is tagged::

    python -m tests.serialised.samples > tests/serialised/<version>.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import date, timedelta
from importlib.metadata import version
from typing import Any

from airflow.providers.common.sql.hooks.handlers import fetch_one_handler

from astronomer.deferral import Attempt, JobStatus, JobTrigger, Outcome, Phase, TaskIdentity, recipe
from astronomer.deferral.testing import ScriptedJob, ScriptedTrigger
from astronomer.providers.core.jobs.deployment import DeploymentWait
from astronomer.providers.core.jobs.external import ExternalWait
from astronomer.providers.core.jobs.files import FileWait
from astronomer.providers.core.triggers.astro import AstroDeploymentTrigger
from astronomer.providers.core.triggers.external_task import ExternalTaskTrigger
from astronomer.providers.core.triggers.filesystem import FileTrigger
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.jobs.statement import DatabricksStatement
from astronomer.providers.databricks.triggers.databricks import (
    DatabricksPartitionSensorTrigger,
    DatabricksRunTrigger,
    DatabricksSqlSensorTrigger,
    DatabricksStatementTrigger,
)
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery
from astronomer.providers.snowflake.jobs.statements import SnowflakeStatements
from astronomer.providers.snowflake.triggers.poke import SnowflakeSensorTrigger
from astronomer.providers.snowflake.triggers.snowflake_trigger import SnowflakeSqlApiTrigger, SnowflakeTrigger

__all__ = ["record", "triggers"]

_WAIT: dict[str, Any] = {
    "deadline": 1_800_003_600.0,
    "poll_interval": 5.0,
    "outage_tolerance": 3600.0,
    "cancel_confirm_timeout": 60.0,
    "not_before": 1_800_000_002.0,
    "cancel_on_kill": True,
}
_PLACE: dict[str, Any] = {
    "conn_id": "snowflake_default",
    "hook_params": {"warehouse": "WH", "role": None, "session_parameters": {"TIMEZONE": "UTC"}},
    "account": "org-account",
    "submitted_at": 1_800_000_000.0,
}
_RUN = DatabricksRun(
    415,
    "databricks_default",
    "https://dbc.cloud.databricks.com/?o=1#job/42/run/415",
    "https://dbc.cloud.databricks.com",
    job_id=42,
    started_at=1_800_000_000.0,
    repair_id=7,
    parent_run_id=414,
    task_key="load",
    task_retries=2,
    retry_on_timeout=True,
    until_started=False,
)
_STATEMENT = DatabricksStatement(
    "01f0d1a8-2e01-4567-b821-317902744617",
    "databricks_default",
    "0123456789abcdef",
    "https://dbc.cloud.databricks.com",
    1_800_000_000.0,
    "k" * 64,
    1_800_003_600.0,
    index=1,
    count=2,
    earlier=("01f0d1a8-2e01-4567-b821-317902744616",),
)
_POKES: dict[str, Any] = {
    "next_poke": 1_800_000_060.0,
    "pokes": 3,
    "poke_interval": 60.0,
    "exponential_backoff": True,
    "max_wait": 600.0,
    "judge": False,
}
_REQUESTS: dict[str, Any] = {
    "requests": [{"statement": "SELECT 1", "format": "ARROW_STREAM"}],
    "warehouse_name": "orders",
}
_EXTERNAL: dict[str, Any] = {
    "dag_id": "orders",
    "task_ids": ("load", "check"),
    "logical_dates": ("2026-11-26T00:00:00+00:00",),
    "allowed_states": ("success",),
    "skipped_states": ("skipped",),
    "failed_states": ("failed", "upstream_failed"),
}
_QUERY_ID = "01b2c3d4-0000-1111-0002-333300004444"


def triggers() -> list[JobTrigger]:
    """One of each class; the next family adds its own here."""
    query = SnowflakeQuery(
        _QUERY_ID, host="org-account.snowflakecomputing.com", user="USER", session_id=7, **_PLACE
    )
    return [
        ScriptedTrigger(job=ScriptedJob("job-1", "reports").to_dict(), **_WAIT),
        SnowflakeTrigger(job=query.to_dict(), **_WAIT),
        SnowflakeSqlApiTrigger(job=SnowflakeStatements((_QUERY_ID,), **_PLACE).to_dict(), **_WAIT),
        SnowflakeSensorTrigger(
            job=query.to_dict(),
            **_WAIT,
            **_POKES,
            sql="SELECT COUNT(*) FROM T WHERE X = %(x)s",
            parameters={"x": 1},
            fail_on_empty=True,
        ),
        DatabricksRunTrigger(job=_RUN.to_dict(), **_WAIT),
        DatabricksStatementTrigger(job=_STATEMENT.to_dict(), **_WAIT),
        DatabricksSqlSensorTrigger(job=_STATEMENT.to_dict(), **_WAIT, **_POKES, **_REQUESTS),
        DatabricksPartitionSensorTrigger(
            job=_STATEMENT.to_dict(),
            **_WAIT,
            **_POKES,
            **_REQUESTS,
            detail={"statement": "DESCRIBE DETAIL orders"},
            columns=["day"],
        ),
        ExternalTaskTrigger(job=ExternalWait(**_EXTERNAL).to_dict(), **_WAIT),
        AstroDeploymentTrigger(
            job=DeploymentWait(
                **_EXTERNAL | {"logical_dates": (), "run_ids": ("manual__1",)},
                conn_id="astro_cloud_default",
                address="https://airflow.example.com/orders",
                latest=True,
            ).to_dict(),
            **_WAIT,
        ),
        FileTrigger(job=FileWait("/data/orders/*.csv", True, "").to_dict(), **_WAIT),
    ]


def recipes() -> list[dict[str, Any]]:
    """Operators as they stand in serialised Dags, and in the triggers that are made of them."""
    rest = {"native": False, "limit": 3720.0, "dag_result": False}
    query = {
        "sql": ["DELETE FROM orders", "SELECT '{{ ds }}'"],
        "parameters": {"day": date(2026, 11, 26), "ids": (1, 2), "since": timedelta(hours=1)},
        "handler": fetch_one_handler,
        "do_xcom_push": True,
    }
    path = "astronomer.providers.snowflake.operators.query:SnowflakeOperator"
    return [
        {"operator": path, "arguments": recipe.encode(query, "query"), "expand": None, **rest},
        {
            "operator": path,
            "arguments": {},
            "expand": ["dict-of-lists", recipe.encode({"sql": ["SELECT 1", "SELECT 2"]}, "expand")],
            **rest,
        },
    ]


def record() -> dict[str, Any]:
    """All of it as plain JSON: triggers, events, and what a task remembers."""
    stored = [trigger.serialize() for trigger in triggers()]
    status = JobStatus(Phase.FAILED, "FAILED_WITH_ERROR", "why", "https://x", 1.0, 2.0, "002003")
    identity = TaskIdentity("dag", "run", "task", -1, 2)
    jobs = [arguments["job"] for _, arguments in stored]
    return {
        "triggers": [{"classpath": path, "kwargs": arguments} for path, arguments in stored],
        "events": [{"job": job, "outcome": Outcome(status, timed_out=True).to_dict()} for job in jobs],
        "attempts": [
            asdict(Attempt(2, 1, identity.submit_key(1), 1_800_003_600.0, job, {"session_id": 7}))
            for job in [None, *jobs]
        ],
        "submit_key": identity.submit_key(1),
        "recipes": recipes(),
    }


if __name__ == "__main__":
    json.dump(record(), sys.stdout, indent=2)
    sys.stdout.write("\n")
    sys.stderr.write(f"recorded {version('astronomer-providers')}\n")
