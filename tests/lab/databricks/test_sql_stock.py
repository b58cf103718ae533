"""The unmodified hooks, operators, sensors and trigger of ``apache-airflow-providers-databricks`` on SQL."""

import json
import threading
from types import SimpleNamespace
from unittest.mock import MagicMock

import aiohttp
import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred
from airflow.providers.common.sql.hooks.handlers import fetch_all_handler, fetch_one_handler
from airflow.providers.databricks.exceptions import DatabricksSqlExecutionError
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook
from airflow.providers.databricks.operators.databricks import DatabricksSQLStatementsOperator
from airflow.providers.databricks.operators.databricks_sql import DatabricksSqlOperator
from airflow.providers.databricks.operators.warehouse import (
    DatabricksStartWarehouseOperator,
    DatabricksStopWarehouseOperator,
)
from airflow.providers.databricks.sensors.databricks_partition import DatabricksPartitionSensor
from airflow.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor

from tests.lab.conftest import until

pytestmark = [
    # the stock hook reads its own version in a way that Airflow has deprecated
    pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated"),
    # and hands its token over in a way that aiohttp 3.14 has deprecated
    pytest.mark.filterwarnings("ignore:BasicAuth is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated"),
    # and leaves the connection of a statement that failed to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CLUSTER = "/sql/protocolv1/o/0/1122-334455-abcdefgh"
WAYS = {"thrift": {}, "sea": {"use_sea": True}, "cluster": {"http_path": CLUSTER}}


@pytest.fixture
def lab(module_lab, monkeypatch):
    module_lab.faults.clear()
    module_lab.requests.clear()
    aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(str(module_lab.ca_file))
    for name, extra in WAYS.items():
        for variable, value in module_lab.connection_env(name, **module_lab.connector_extra(**extra)).items():
            monkeypatch.setenv(variable, value)
    module_lab.run_sql(
        "CREATE OR REPLACE TABLE main.default.sales (amount INT, day STRING) PARTITIONED BY (day)"
    )
    module_lab.run_sql("INSERT INTO main.default.sales VALUES (1, '2024-01-01'), (2, '2024-01-02')")
    with module_lab.keeping_garbage():
        yield module_lab


@pytest.fixture
def context():
    """The little of a task's context that the operators touch."""
    facts = {"dag_id": "dag", "task_id": "task", "run_id": "run", "try_number": 1, "map_index": -1}
    return {"ti": SimpleNamespace(**facts, xcom_push=MagicMock(), stats_tags={})}


@pytest.fixture(params=list(WAYS))
def way(request):
    """A connection over Thrift, over the Statement Execution API, or over Thrift to a cluster."""
    return request.param


class TestSqlHook:
    def test_rows(self, lab, way):
        hook = DatabricksSqlHook(way, query_tags={"team": "a:b"})
        rows = hook.run("SELECT * FROM main.default.sales ORDER BY amount", handler=fetch_all_handler)
        assert rows == [(1, "2024-01-01"), (2, "2024-01-02")]
        assert rows[0]._fields == ("amount", "day")
        assert [(column[0], column[1]) for column in hook.descriptions[0]] == [
            ("amount", "int"),
            ("day", "string"),
        ]
        statement = lab.statements[hook.query_ids[0]]
        assert (statement.tags, statement.ended) == ({"team": "a:b"}, True)
        assert statement.on_warehouse == (way != "cluster")

    def test_several_statements_share_a_session(self, lab, way):
        hook = DatabricksSqlHook(way)
        results = hook.run(
            "USE samples.nyctaxi; SELECT count(*) AS n FROM trips; SELECT pickup_zip FROM trips ORDER BY 1 LIMIT 1",
            handler=fetch_all_handler,
            split_statements=True,
            return_last=False,
        )
        # The hook closes a session only after the last statement.
        assert results[1:] == [[(100,)], [(10001,)]]
        assert len(hook.query_ids) == 3

    def test_every_type(self, lab, way):
        text = (
            "SELECT 1 AS i, 2L AS l, 1.50 AS d, 1.5D AS f, true AS b, 'x' AS s, date'2020-01-02' AS day, "
            "timestamp'2020-01-01 10:00:00' AS ts, x'ff' AS bin, array(1, 2) AS arr, named_struct('a', 1) AS st, null AS n"
        )
        (row,) = DatabricksSqlHook(way).run(text, handler=fetch_all_handler)
        assert (row.i, row.l, str(row.d), row.f, row.b, row.s, row.bin, row.n) == (
            1,
            2,
            "1.50",
            1.5,
            True,
            "x",
            b"\xff",
            None,
        )
        assert (row.day.isoformat(), row.ts.isoformat()) == ("2020-01-02", "2020-01-01T10:00:00+00:00")
        assert (list(row.arr), row.st) == ([1, 2], {"a": 1})

    def test_many_rows(self, lab, way, monkeypatch):
        monkeypatch.setattr(lab.sql, "rows_per_chunk", 1000)
        rows = DatabricksSqlHook(way).run("SELECT id FROM range(4500)", handler=fetch_all_handler)
        assert [row.id for row in rows] == list(range(4500))

    def test_rows_are_fetched_in_several_calls(self, lab, way):
        with DatabricksSqlHook(way).get_conn() as connection, connection.cursor(arraysize=1000) as cursor:
            cursor.execute("SELECT id FROM range(2500)")
            assert [row.id for row in cursor.fetchall()] == list(range(2500))

    def test_parameters(self, lab, way):
        hook = DatabricksSqlHook(way)
        text = "SELECT amount FROM main.default.sales WHERE day = :day AND amount < :most"
        assert hook.run(text, parameters={"day": "2024-01-01", "most": 5}, handler=fetch_one_handler) == (1,)

    def test_effects_and_no_rows(self, lab, way):
        hook = DatabricksSqlHook(way)
        assert hook.run("CREATE SCHEMA IF NOT EXISTS main.effects", handler=fetch_all_handler) == []
        inserted = hook.run("INSERT INTO main.default.sales VALUES (3, 'x')", handler=fetch_all_handler)
        assert inserted[0].num_inserted_rows == 1
        assert hook.run("SELECT * FROM main.default.sales WHERE false", handler=fetch_all_handler) == []

    def test_a_failure(self, lab, way):
        with pytest.raises(DatabricksSqlExecutionError, match="TABLE_OR_VIEW_NOT_FOUND"):
            DatabricksSqlHook(way).run("SELECT * FROM nope")

    def test_the_warehouse_by_name(self, lab, monkeypatch):
        extra = {name: value for name, value in lab.connector_extra().items() if name != "http_path"}
        monkeypatch.setenv(*next(iter(lab.connection_env("named", **extra).items())))
        hook = DatabricksSqlHook("named", sql_endpoint_name=lab.warehouses.default.name)
        assert hook.get_first("SELECT 1 AS a") == (1,)

    def test_a_long_statement_is_waited_for(self, lab):
        rows = []
        hook = DatabricksSqlHook("thrift")
        thread = threading.Thread(
            target=lambda: rows.extend(hook.run("SELECT lab_wait(60)", handler=fetch_all_handler))
        )
        thread.start()
        until(lambda: lab.active_statements == 1)
        lab.advance(60)
        thread.join(60)
        assert rows == [(60,)]

    def test_session_configuration(self, lab):
        hook = DatabricksSqlHook("cluster", session_configuration={"spark.sql.shuffle.partitions": "7"})
        rows = hook.run("SET spark.sql.shuffle.partitions", handler=fetch_all_handler)
        assert rows == [("spark.sql.shuffle.partitions", "7")]


class TestSqlOperators:
    def test_operator(self, lab, way, context):
        operator = DatabricksSqlOperator(
            task_id="t",
            databricks_conn_id=way,
            sql="SELECT amount FROM sales ORDER BY 1",
            catalog="main",
            schema="default",
        )
        columns, rows = operator.execute(context)
        assert ([column[0] for column in columns], rows) == (["amount"], [(1,), (2,)])
        assert list(lab.statements.values())[-1].text == "SELECT amount FROM sales ORDER BY 1"

    def test_output_file(self, lab, context, tmp_path):
        path = tmp_path / "rows.json"
        DatabricksSqlOperator(
            task_id="t",
            databricks_conn_id="thrift",
            sql="SELECT amount, day FROM main.default.sales ORDER BY 1",
            output_path=str(path),
            output_format="json",
        ).execute(context)
        assert json.loads(path.read_text())[0] == {"amount": 1, "day": "2024-01-01"}

    def test_sql_sensor(self, lab, context):
        for text, found in (("SELECT 1", True), ("SELECT 1 WHERE false", False)):
            sensor = DatabricksSqlSensor(
                task_id="s",
                databricks_conn_id="thrift",
                sql=text,
                sql_warehouse_name=lab.warehouses.default.name,
            )
            assert sensor.poke(context) is found

    def test_partition_sensor(self, lab, way, context):
        def sensor(**partitions):
            return DatabricksPartitionSensor(
                task_id="s",
                databricks_conn_id=way,
                catalog="main",
                schema="default",
                table_name="sales",
                partitions=partitions,
            )

        assert sensor(day="2024-01-01").poke(context)
        assert sensor(day=["2024-01-02", "2024-01-03"]).poke(context)
        with pytest.raises(AirflowException, match="were not found"):
            sensor(day="2030-01-01").poke(context)
        with pytest.raises(AirflowException, match="not part of table partitions"):
            sensor(amount=1).poke(context)

    def test_warehouses(self, lab, context):
        warehouse = lab.warehouses.add("operated")
        stop = DatabricksStopWarehouseOperator(
            task_id="t", warehouse_id=warehouse.id, databricks_conn_id="thrift"
        )
        stop.execute(context)
        assert warehouse.state == "STOPPED"
        start = DatabricksStartWarehouseOperator(
            task_id="t", warehouse_id=warehouse.id, databricks_conn_id="thrift"
        )
        start.execute(context)
        assert warehouse.state == "RUNNING"


class TestStatements:
    def test_hook(self, lab):
        hook = DatabricksHook("thrift")
        warehouse = lab.warehouses.default.id
        body = {"statement": "SELECT lab_wait(600)", "warehouse_id": warehouse, "wait_timeout": "0s"}
        statement_id = hook.post_sql_statement(body)
        assert hook.get_sql_statement_state(statement_id).is_running
        hook.cancel_sql_statement(statement_id)
        assert hook.get_sql_statement_state(statement_id).state == "CANCELED"

    def test_operator(self, lab, context):
        operator = self.operator(lab, statement="INSERT INTO main.default.sales VALUES (9, 'op')")
        operator.execute(context)
        statement = lab.statements[operator.statement_id]
        assert (statement.state, statement.tags["airflow_dag_id"]) == ("SUCCEEDED", "dag")
        assert lab.run_sql("SELECT amount FROM main.default.sales WHERE day = 'op'") == [["9"]]
        context["ti"].xcom_push.assert_called_once_with(key="statement_id", value=operator.statement_id)

    def test_operator_that_fails(self, lab, context):
        with pytest.raises(AirflowException, match=r"FAILED.*TABLE_OR_VIEW_NOT_FOUND"):
            self.operator(lab, statement="SELECT * FROM nope").execute(context)

    async def test_deferrable_operator(self, lab, context):
        trigger = self.deferred(
            lab, context, "SELECT lab_wait(:seconds)", [{"name": "seconds", "value": "60", "type": "INT"}]
        )
        lab.advance(60)
        event = await anext(trigger.run())
        self.operator(lab, deferrable=True).execute_complete(context, event.payload)

    async def test_deferrable_operator_whose_statement_is_cancelled(self, lab, context):
        trigger = self.deferred(lab, context, "SELECT lab_wait(600)")
        await trigger.on_kill()
        event = await anext(trigger.run())
        assert lab.statements[trigger.statement_id].cancelled_by == "lab@example.com"
        with pytest.raises(AirflowException, match="CANCELED"):
            self.operator(lab, deferrable=True).execute_complete(context, event.payload)

    def deferred(self, lab, context, statement, parameters=None):
        with pytest.raises(TaskDeferred) as deferral:
            self.operator(lab, statement=statement, parameters=parameters, deferrable=True).execute(context)
        return deferral.value.trigger

    @staticmethod
    def operator(lab, **arguments):
        return DatabricksSQLStatementsOperator(
            task_id="t",
            databricks_conn_id="thrift",
            warehouse_id=lab.warehouses.default.id,
            polling_period_seconds=0.05,
            **{"statement": "SELECT 1", **arguments},
        )
