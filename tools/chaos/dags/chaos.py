"""The same work twice: by our operators and by the stock ones. What a remote job is called says which task started it.

A run's parameter ``seconds`` says how long its jobs take.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.databricks.operators import databricks as stock_databricks
from airflow.providers.snowflake.operators import snowflake as stock_snowflake
from airflow.providers.standard.sensors import external_task as stock_core
from airflow.sdk import DAG, dag, get_current_context, task

from astronomer.providers.core.sensors import external_task as our_core
from astronomer.providers.databricks.operators import databricks as our_databricks
from astronomer.providers.snowflake.operators import snowflake as our_snowflake

EXECUTION_TIMEOUT = timedelta(minutes=20)
WAREHOUSE = "{{ conn.databricks_default.extra_dejson.http_path.rpartition('/')[2] }}"
FILE = "/Workspace/Shared/airflow_examples/wait.py"
DEFAULTS = {"retries": 60, "retry_delay": timedelta(seconds=1), "execution_timeout": EXECUTION_TIMEOUT}
LATE = {"retries": 0, "execution_timeout": timedelta(seconds=25)}
POLL = 2


class StockStatements(stock_databricks.DatabricksSQLStatementsOperator):
    """The stock one has no templates."""

    template_fields = (
        *stock_databricks.DatabricksSQLStatementsOperator.template_fields,
        "statement",
        "warehouse_id",
    )


def owner(dag_id: str, task_id: str) -> str:
    """What tells whose a remote job is."""
    return f"chaos|{dag_id}|{{{{ run_id }}}}|{task_id}|"


def python_run(dag_id: str, task_id: str) -> dict:
    """A run that waits."""
    work = {"python_file": FILE, "parameters": ["{{ params.seconds }}"]}
    return {
        "run_name": owner(dag_id, task_id),
        "tasks": [{"task_key": "wait", "spark_python_task": work, "environment_key": "default"}],
        "environments": [{"environment_key": "default", "spec": {"client": "3"}}],
    }


def query(dag_id: str, task_id: str) -> str:
    return f"SELECT SYSTEM$WAIT({{{{ params.seconds }}}}) /* {owner(dag_id, task_id)} */"


def statement(dag_id: str, task_id: str) -> str:
    return f"SELECT lab_wait({{{{ params.seconds }}}}) /* {owner(dag_id, task_id)} */"


def ours(name: str):
    """All families, each with and without a worker where it can do without."""
    for task_id, more in (("snowflake_query", {}), ("snowflake_query_free", {"start_from_trigger": True})):
        our_snowflake.SnowflakeOperator(
            task_id=task_id, sql=query(name, task_id), poll_interval=POLL, quick_wait=1, **more
        )
    our_snowflake.SnowflakeSqlApiOperator(
        task_id="snowflake_sql_api",
        snowflake_conn_id="snowflake_sql_api",
        sql=query(name, "snowflake_sql_api"),
        statement_count=1,
        poll_interval=POLL,
    )
    for task_id, more in (("databricks_run", {}), ("databricks_run_free", {"start_from_trigger": True})):
        our_databricks.DatabricksSubmitRunOperator(
            task_id=task_id,
            databricks_conn_id="databricks_oauth",
            json=python_run(name, task_id),
            polling_period_seconds=POLL,
            **more,
        )
    our_databricks.DatabricksSQLStatementsOperator(
        task_id="databricks_statement",
        databricks_conn_id="databricks_oauth",
        statement=statement(name, "databricks_statement"),
        warehouse_id=WAREHOUSE,
        polling_period_seconds=POLL,
    )
    our_core.ExternalTaskSensor(
        task_id="external_task",
        external_dag_id=name,
        external_task_id="snowflake_sql_api",
        poll_interval=POLL,
    )


def stock(name: str):
    """The same, as far as there is a stock operator that defers."""
    stock_snowflake.SnowflakeSqlApiOperator(
        task_id="snowflake_sql_api",
        snowflake_conn_id="snowflake_sql_api",
        sql=query(name, "snowflake_sql_api"),
        statement_count=1,
        poll_interval=POLL,
        deferrable=True,
    )
    stock_databricks.DatabricksSubmitRunOperator(
        task_id="databricks_run",
        json=python_run(name, "databricks_run"),
        polling_period_seconds=POLL,
        deferrable=True,
    )
    StockStatements(
        task_id="databricks_statement",
        statement=statement(name, "databricks_statement"),
        warehouse_id=WAREHOUSE,
        polling_period_seconds=POLL,
        deferrable=True,
    )
    stock_core.ExternalTaskSensor(
        task_id="external_task",
        external_dag_id=name,
        external_task_id="snowflake_sql_api",
        poll_interval=POLL,
        deferrable=True,
    )


@dag(schedule=None, default_args=DEFAULTS, params={"seconds": 60, "tasks": 500}, max_active_runs=100)
def chaos_many():
    """Many tasks at once, which start in the triggerer."""

    @task
    def numbers():
        return list(range(int(get_current_context()["params"]["tasks"])))

    @task
    def statements(many: list[int]):
        """Whole texts: Airflow renders no templates in what comes out of another task."""
        context = get_current_context()
        wait = f"SELECT SYSTEM$WAIT({context['params']['seconds']})"
        return [f"{wait} /* chaos|chaos_many|{context['run_id']}|wait|{number} */" for number in many]

    our_snowflake.SnowflakeOperator.partial(
        task_id="wait", poll_interval=POLL, start_from_trigger=True
    ).expand(sql=statements(numbers()))


for side in (ours, stock):
    for suffix, defaults in (("", DEFAULTS), ("_late", LATE)):
        dag_id = f"chaos_{side.__name__}{suffix}"
        with DAG(dag_id, schedule=None, default_args=defaults, params={"seconds": 10}, max_active_runs=100):
            side(dag_id)
chaos_many()
