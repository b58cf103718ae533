"""What is run to see what it writes: every family, every way to log in, both when it goes well and when it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import DAG

from astronomer.lab.databricks import LabClient as Databricks
from astronomer.lab.snowflake import LabClient as Snowflake
from astronomer.providers.core.sensors.astro import ExternalDeploymentSensor
from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator
from astronomer.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor

__all__ = ["CASES", "DAG_ID", "MODES", "Case", "Labs", "dag", "free_task"]

DAG_ID = "security"
MODES = ("worker", "deferred", "free")


@dataclass(frozen=True)
class Labs:
    """The local services, from the process of the tasks."""

    snowflake: Snowflake
    databricks: Databricks

    def calm(self) -> None:
        self.snowflake.clear_faults()
        self.databricks.clear_faults()

    def storm(self) -> None:
        """Bad weather for a while, which answers repeat what they were asked."""
        for lab in (self.snowflake, self.databricks):
            lab.add_fault("status", status=503, times=3, path="(monitoring|statements|runs|query-request)")

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
    """

    name: str
    kind: type[Any]
    arguments: dict[str, Any]
    ends: str = "success"
    before: Callable[[Labs], None] = Labs.calm
    modes: tuple[str, ...] = MODES
    more: dict[str, Any] = field(default_factory=dict)

    def task(self, mode: str) -> Any:
        sensor = self.kind.__name__.endswith("Sensor")
        pace = {"poke_interval": 0.05, "timeout": 8.0} if sensor else {"quick_wait": 0, "poll_interval": 0.1}
        how = {"start_from_trigger": True} if mode == "free" else {"deferrable": mode == "deferred"}
        patience = {} if sensor else {"outage_tolerance": 6.0}
        arguments = {**pace, **patience, **how, **self.arguments}
        return self.kind(task_id=f"{mode}__{self.name}", **arguments)


def _snowflake() -> Iterator[Case]:
    wrong = {"ends": "failed", "modes": ("worker", "free")}
    for conn in ("sf_password", "sf_key", "sf_key_text", "sf_key_locked", "sf_oauth", "sf_pat"):
        yield Case(conn, SnowflakeOperator, {"sql": "select 1 as a", "snowflake_conn_id": conn})
    for conn in ("sf_key", "sf_key_text", "sf_oauth", "sf_pat"):
        yield Case(f"api_{conn}", SnowflakeSqlApiOperator, {"sql": "select 1", "statement_count": 1, "snowflake_conn_id": conn})
    for conn in ("sf_wrong", "sf_wrong_key", "sf_wrong_pat", "sf_nowhere"):
        yield Case(conn, SnowflakeOperator, {"sql": "select 1", "snowflake_conn_id": conn}, **wrong)
    for conn in ("sf_wrong_key", "sf_wrong_pat"):
        yield Case(f"api_{conn}", SnowflakeSqlApiOperator, {"sql": "select 1", "statement_count": 1, "snowflake_conn_id": conn}, **wrong)
    yield Case("sf_sensor", SnowflakeSensor, {"sql": "select 1", "snowflake_conn_id": "sf_password"})
    for name, conn in (("sf", "sf_password"), ("sf_oauth", "sf_oauth")):
        sql = {"sql": "select 1; select 2", "snowflake_conn_id": conn}
        yield Case(f"{name}_storm", SnowflakeOperator, sql, before=Labs.storm)
        yield Case(f"{name}_expired", SnowflakeOperator, sql, before=Labs.expire)
        yield Case(f"{name}_refused", SnowflakeOperator, sql, before=Labs.forbid, ends="failed", modes=("worker",))
        yield Case(f"{name}_syntax", SnowflakeOperator, {**sql, "sql": "selec t"}, ends="failed")


def _databricks() -> Iterator[Case]:
    work = {"notebook_path": "/lab/wait", "base_parameters": {"seconds": "0.2"}}
    fails = {"notebook_path": "/lab/wait", "base_parameters": {"seconds": "0.2", "fail": "no such table"}}
    for conn in ("db_pat", "db_oauth", "db_wrong", "db_wrong_oauth"):
        run = {"notebook_task": work, "databricks_conn_id": conn, "polling_period_seconds": 1}
        ends = {"ends": "failed", "modes": ("worker", "free")} if "wrong" in conn else {}
        yield Case(conn, DatabricksSubmitRunOperator, run, **ends)
        yield Case(f"{conn}_sql", DatabricksSqlOperator, {"sql": "select 1", "databricks_conn_id": conn}, **ends)
    for conn in ("db_pat", "db_oauth"):
        run = {"notebook_task": work, "databricks_conn_id": conn}
        sql = {"sql": "select 1", "databricks_conn_id": conn}
        yield Case(f"{conn}_fails", DatabricksSubmitRunOperator, {**run, "notebook_task": fails}, ends="failed")
        yield Case(f"{conn}_syntax", DatabricksSqlOperator, {**sql, "sql": "selec t"}, ends="failed")
        yield Case(f"{conn}_storm", DatabricksSubmitRunOperator, run, before=Labs.storm)
        yield Case(f"{conn}_expired", DatabricksSqlOperator, sql, before=Labs.expire)
        yield Case(f"{conn}_refused", DatabricksSubmitRunOperator, run, before=Labs.forbid, ends="failed", modes=("worker",))
    yield Case("db_sensor", DatabricksSqlSensor, {"sql": "select 1", "databricks_conn_id": "db_oauth"})


def _core() -> Iterator[Case]:
    wait = {"external_dag_id": "orders", "external_dag_run_id": "done"}
    for conn in ("air_login", "air_token", "air_wrong", "air_wrong_token"):
        ends = {"ends": "failed"} if "wrong" in conn else {}
        yield Case(conn, ExternalDeploymentSensor, {**wait, "astro_cloud_conn_id": conn}, **ends)


CASES = {case.name: case for case in (*_snowflake(), *_databricks(), *_core())}


def dag() -> DAG:
    """All of them but those without a worker, of which each has a Dag of its own."""
    with DAG(DAG_ID, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), max_active_tasks=1) as made:
        for case in CASES.values():
            for mode in set(case.modes) - {"free"}:
                case.task(mode)
    return made
