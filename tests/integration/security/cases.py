"""What is run to see what it writes: every family, every way to log in, both when it goes well and when it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from airflow.sdk import DAG

from astronomer.lab.databricks import LabClient as Databricks
from astronomer.lab.snowflake import LabClient as Snowflake
from astronomer.providers.core.sensors.astro import ExternalDeploymentSensor
from astronomer.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator,
    DatabricksSQLStatementsOperator,
    DatabricksSubmitRunOperator,
    DatabricksTaskOperator,
)
from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator
from astronomer.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor

__all__ = ["CASES", "DAG_ID", "MODES", "Case", "Labs", "dag"]

DAG_ID = "security"
MODES = ("worker", "deferred", "free")
WAREHOUSE = "{{ conn.db_oauth.extra_dejson.http_path.rpartition('/')[2] }}"
CLUSTER = {"databricks_conn_id": "db_oauth", "existing_cluster_id": "any", "polling_period_seconds": 1}
WORD = "{{ var.value.my_password }}"
SECRET = f"'{WORD}'"


@dataclass(frozen=True)
class Labs:
    """The local services, from the process of the tasks."""

    snowflake: Snowflake
    databricks: Databricks

    def calm(self) -> None:
        self.snowflake.clear_faults()
        self.databricks.clear_faults()

    def storm(self) -> None:
        """Bad weather for a while."""
        self.snowflake.add_fault("status", status=503, times=2, path="(monitoring|query-request)")
        # A submit that is not answered is looked for in a history that is minutes behind.
        self.databricks.add_fault("status", status=503, times=2, path="(statements|runs)", method="GET")

    def expire(self) -> None:
        """No token that was given out is good any more."""
        self.snowflake.expire_sessions()
        self.databricks.expire_tokens()

    def forbid(self) -> None:
        """Logins and questions are refused, whatever they show."""
        self.snowflake.add_fault("status", status=403, path="(login-request|api/v2/statements)")
        self.databricks.add_fault("status", status=403, path="/api/")
        self.databricks.add_fault("status", status=401, path="/oidc/")


@dataclass(frozen=True)
class Case:
    """A task in each of the modes.

    :param ends: in this state.
    :param before: what happens to the local services before the task.
    :param masked: its SQL holds what only Airflow's masker can hide, where the task reads it.
    """

    name: str
    kind: type[Any]
    arguments: dict[str, Any]
    ends: str = "success"
    before: Callable[[Labs], None] = Labs.calm
    modes: tuple[str, ...] = MODES
    masked: bool = False

    def task(self, mode: str) -> Any:
        sensor = self.kind.__name__.endswith("Sensor")
        # What fails, fails when its patience is at an end.
        timeout, tolerance = (8.0, 3.0) if self.ends == "failed" else (60.0, 60.0)
        pace = (
            {"poke_interval": 0.05, "timeout": timeout} if sensor else {"quick_wait": 0, "poll_interval": 0.1}
        )
        how = {"start_from_trigger": True} if mode == "free" else {"deferrable": mode == "deferred"}
        patience = {} if sensor else {"outage_tolerance": tolerance}
        arguments = {**pace, **patience, **how, **self.arguments}
        return self.kind(task_id=f"{mode}__{self.name}", **arguments)


def _snowflake() -> Iterator[Case]:
    sql, api = {"sql": "select 1 as a"}, {"sql": "select 1", "statement_count": 1}
    ways = {
        "sf_password": MODES,
        "sf_key": MODES,
        "sf_key_text": ("deferred",),
        "sf_key_locked": ("free",),
        "sf_oauth": ("worker", "deferred"),
        "sf_pat": ("deferred",),
    }
    for conn, modes in ways.items():
        yield Case(conn, SnowflakeOperator, {**sql, "snowflake_conn_id": conn}, modes=modes)
    # The stock operator adds the connection's extra to what it was given for the hook.
    chosen = {**sql, "snowflake_conn_id": "sf_key_text", "warehouse": "COMPUTE_WH"}
    yield Case("sf_chosen", SnowflakeOperator, chosen)
    for conn, modes in {
        "sf_key": MODES,
        "sf_key_text": ("worker",),
        "sf_oauth": ("free",),
        "sf_pat": ("deferred",),
    }.items():
        yield Case(f"api_{conn}", SnowflakeSqlApiOperator, {**api, "snowflake_conn_id": conn}, modes=modes)
    refused = {
        "sf_wrong": ("worker", "free"),
        "sf_wrong_key": ("worker",),
        "sf_wrong_pat": ("free",),
        "sf_nowhere": ("worker",),
    }
    for conn, modes in refused.items():
        yield Case(conn, SnowflakeOperator, {**sql, "snowflake_conn_id": conn}, ends="failed", modes=modes)
    for conn, mode in {"sf_wrong_key": "free", "sf_wrong_pat": "worker"}.items():
        yield Case(
            f"api_{conn}",
            SnowflakeSqlApiOperator,
            {**api, "snowflake_conn_id": conn},
            ends="failed",
            modes=(mode,),
        )
    yield Case("sf_sensor", SnowflakeSensor, {**sql, "snowflake_conn_id": "sf_password"}, modes=("deferred",))
    two = {"sql": "select 1; select 2", "snowflake_conn_id": "sf_password"}
    yield Case("sf_storm", SnowflakeOperator, two, before=Labs.storm, modes=("deferred", "free"))
    yield Case("sf_expired", SnowflakeOperator, two, before=Labs.expire, modes=("deferred", "free"))
    yield Case("sf_refused", SnowflakeOperator, two, before=Labs.forbid, ends="failed", modes=("worker",))
    yield Case("sf_syntax", SnowflakeOperator, {**two, "sql": "selec t"}, ends="failed")
    for name, text in {
        "good": f"select length({SECRET}) as a, length(%(p)s) as b",
        "bad": f"selec {SECRET} from %(p)s",
    }.items():
        arguments = {**two, "sql": text, "parameters": {"p": WORD}}
        yield Case(
            f"sf_masked_{name}",
            SnowflakeOperator,
            arguments,
            ends="success" if name == "good" else "failed",
            masked=True,
        )


def _databricks() -> Iterator[Case]:
    work = {"notebook_path": "/lab/wait", "base_parameters": {"seconds": "0.2"}}
    fails = {"notebook_path": "/lab/wait", "base_parameters": {"seconds": "0.2", "fail": "no such table"}}
    for conn in ("db_pat", "db_oauth"):
        run = {"notebook_task": work, "databricks_conn_id": conn, "polling_period_seconds": 1}
        sql = {"sql": "select 1", "databricks_conn_id": conn}
        yield Case(conn, DatabricksSubmitRunOperator, run)
        yield Case(f"{conn}_sql", DatabricksSqlOperator, sql)
        yield Case(
            f"{conn}_expired", DatabricksSqlOperator, sql, before=Labs.expire, modes=("deferred", "free")
        )
        yield Case(
            f"{conn}_refused",
            DatabricksSubmitRunOperator,
            run,
            before=Labs.forbid,
            ends="failed",
            modes=("worker",),
        )
    for conn in ("db_wrong", "db_wrong_oauth"):
        wrong = {"ends": "failed", "modes": ("worker", "free")}
        yield Case(
            conn, DatabricksSubmitRunOperator, {"notebook_task": work, "databricks_conn_id": conn}, **wrong
        )
    run, sql = {"notebook_task": fails, "databricks_conn_id": "db_oauth"}, {"databricks_conn_id": "db_oauth"}
    yield Case("db_fails", DatabricksSubmitRunOperator, run, ends="failed", modes=("deferred", "free"))
    yield Case(
        "db_storm",
        DatabricksSqlOperator,
        {**sql, "sql": "select 1"},
        before=Labs.storm,
        modes=("deferred", "free"),
    )
    yield Case(
        "db_syntax",
        DatabricksSqlOperator,
        {**sql, "sql": "selec t"},
        ends="failed",
        modes=("deferred", "free"),
    )
    on_warehouse = {"statement": "select 1", "warehouse_id": WAREHOUSE, **sql}
    yield Case("db_statement", DatabricksSQLStatementsOperator, on_warehouse)
    notebook = {"notebook_path": "/lab/wait", "notebook_params": {"seconds": "0.2"}, "source": "WORKSPACE"}
    yield Case("db_notebook", DatabricksNotebookOperator, {**notebook, **CLUSTER}, modes=("worker", "free"))
    config = {"notebook_task": work}
    yield Case("db_task", DatabricksTaskOperator, {"task_config": config, **CLUSTER}, modes=("deferred",))
    yield Case("db_sensor", DatabricksSqlSensor, {**sql, "sql": "select 1"}, modes=("deferred", "free"))
    for name, text in {
        "good": f"select length({SECRET}) as a, length(:p) as b",
        "bad": f"selec {SECRET} from :p",
    }.items():
        arguments = {**sql, "sql": text, "parameters": {"p": WORD}}
        yield Case(
            f"db_masked_{name}",
            DatabricksSqlOperator,
            arguments,
            ends="success" if name == "good" else "failed",
            masked=True,
        )


def _core() -> Iterator[Case]:
    wait = {"external_dag_id": "orders", "external_run_id": "done"}
    for conn in ("air_login", "air_token", "air_wrong", "air_wrong_token"):
        ends = {"ends": "failed", "modes": ("worker", "free")} if "wrong" in conn else {}
        yield Case(conn, ExternalDeploymentSensor, {**wait, "astro_cloud_conn_id": conn}, **ends)


CASES = {case.name: case for case in (*_snowflake(), *_databricks(), *_core())}


def dag() -> DAG:
    """All of them but those without a worker, of which each has a Dag of its own."""
    with DAG(
        DAG_ID, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), max_active_tasks=1
    ) as made:
        for case in CASES.values():
            for mode in set(case.modes) - {"free"}:
                case.task(mode)
    return made
