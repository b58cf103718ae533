"""Statements of tasks that never start a worker: what they leave behind is what the worker path leaves behind."""

from __future__ import annotations

import asyncio
import datetime as dt
import json

import pytest
from airflow.providers.common.sql.hooks.handlers import fetch_one_handler
from airflow.providers.standard.operators.empty import EmptyOperator

from astronomer.deferral import xcom_memory
from astronomer.deferral._compat import AirflowFailException
from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator
from astronomer.providers.databricks.operators.statements import DatabricksSQLStatementsOperator
from astronomer.providers.databricks.sensors.databricks import DatabricksSQLStatementsSensor
from astronomer.providers.databricks.sensors.databricks_partition import DatabricksPartitionSensor
from astronomer.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor
from tests.integration.databricks.sql.test_parity import CASES as PARITY
from tests.integration.databricks.sql.test_parity import IN_THE_WORKER, comparable
from tests.integration.driving import Task, as_xcom, until
from tests.integration.without_worker import failure_in_worker, triggerer_in_place
from tests.worker_free import WorkerFreeTask

# The stock hook asks Airflow for its own version in a way that Airflow 3.2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")

ONLY_THE_DAG_FILE_KNOWS = {
    "parameters of all types",  # a decimal
    "parameter objects",
    "a handler of one's own",
    "a handler that iterates",
}
CASES = {name: case for name, case in PARITY.items() if name not in {"templated", "a file"}}
NUMBERS = "create or replace table numbers (n int)", "insert into numbers values (1), (2), (3)"
LONG = "select lab_wait(300)"
YES, NO = "select 1 as a", "select 1 as a where 1 = 0"
STATEMENTS = "^/api/2.0/sql/statements"
TOKEN = "/oidc/v1/token$"


@pytest.fixture(autouse=True)
def numbers(lab):
    lab.run_sql(
        *NUMBERS,
        "create schema if not exists main.side",
        "create or replace table main.side.numbers as select 42 as n",
    )


@pytest.fixture
def free():
    with triggerer_in_place() as free:
        yield free


@pytest.fixture
def known(free, lab, monkeypatch):
    """The connection is in Airflow's database, and not in the environment."""

    def define(auth="pat"):
        monkeypatch.delenv("AIRFLOW_CONN_DATABRICKS_DEFAULT", raising=False)
        found = lab.airflow_connection(auth=auth)
        free.airflow.connections["databricks_default"] = found | {"extra": json.dumps(found["extra"])}
        return found

    return define


class TestOperator:
    @pytest.mark.parametrize("name", sorted(CASES))
    def test_results(self, lab, free, name):
        def rows():
            return lab.run_sql("select n from numbers order by n")

        case = CASES[name]
        task = free.task(DatabricksSqlOperator, **case)
        if name in ONLY_THE_DAG_FILE_KNOWS:
            assert not task.starts_in_triggerer
            return
        if name in IN_THE_WORKER:
            (ended,) = free.run(task)
            assert ended.state == "scheduled"
            assert "resume" not in ended.resume
            assert "through databricks-sql-connector" in ended.resume["why"]
            return
        expected = comparable(as_xcom(Task(DatabricksSqlOperator, **case).run()))
        left = rows()
        lab.run_sql(*NUMBERS)
        (ended,) = free.run(task)
        if name == "many rows":
            assert comparable(as_xcom(free.in_worker(task, ended))) == expected
            return
        assert ended.state == "success", free.said()
        if not case.get("do_xcom_push", True):
            expected = None
        assert (comparable(free.result), rows()) == (expected, left)

    def test_leaves_the_same_xcoms_behind(self, free):
        worker = Task(DatabricksSqlOperator, sql="select 1 as a")
        worker.run()
        assert free.end(DatabricksSqlOperator, sql="select 1 as a") == "success"
        links = {link.xcom_key for link in worker.op.operator_extra_links}
        assert free.xcoms().keys() - links == worker.ti.xcoms.keys() - links

    def test_statements_run_in_order_up_to_the_first_failure(self, free, started):
        texts = ["select 1 as a", "select 2 as b", "select * from nowhere", "select 4 as d"]
        said = free.failure(DatabricksSqlOperator, sql=texts)
        assert "(3 of 4)" in said
        assert "TABLE_OR_VIEW_NOT_FOUND" in said
        assert [one.text for one in started("select")] == texts[:3]

    def test_a_large_result_is_read_by_a_worker_and_the_statement_runs_once(self, free, started):
        task = free.task(DatabricksSqlOperator, sql="select id, repeat('x', 99) as t from range(2000)")
        (ended,) = free.run(task)
        _, rows = free.in_worker(task, ended)
        assert len(rows) == 2000
        assert len(started("range(2000)")) == 1
        assert "worker_free_result_bytes" in free.said()

    def test_a_file_is_read_when_the_dag_is_parsed_and_rendered_in_the_triggerer(self, free, tmp_path):
        (tmp_path / "by_day.sql").write_text(
            "select '{{ ds }}' as d, :p as p;\nselect {{ params.x }} as x;\n"
        )
        task = free.task(
            DatabricksSqlOperator,
            sql="by_day.sql",
            parameters={"p": "{{ ds_nodash }}"},
            params={"x": 7},
            return_last=False,
            dag={"template_searchpath": str(tmp_path)},
        )
        (tmp_path / "by_day.sql").unlink()
        (ended,) = free.run(task)
        assert ended.state == "success", free.said()
        assert [[tuple(row) for row in rows] for _, rows in free.result] == [
            [("2026-01-01", "20260101")],
            [(7,)],
        ]

    def test_an_xcom_as_sql_is_not_rendered(self, free):
        def make():
            upstream = EmptyOperator(task_id="texts")
            return DatabricksSqlOperator(
                task_id="task", sql=upstream.output, poll_interval=0.1, start_from_trigger=True
            )

        free.airflow.xcoms[(free.airflow.run_id, "texts", -1, "return_value")] = "select '{{ ds }}' as d"
        (ended,) = free.run(WorkerFreeTask(free.airflow, make))
        assert ended.state == "success", free.said()
        assert [tuple(row) for row in free.result[1]] == [("{{ ds }}",)]

    @pytest.mark.parametrize("kwargs", [False, True])
    def test_mapped(self, free, kwargs):
        texts = ["select 1 as a", "select {{ ds_nodash }} as b"]
        expand = [{"sql": text} for text in texts] if kwargs else {"sql": texts}
        tasks = [free.mapped(DatabricksSqlOperator, expand, index) for index in (0, 1)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 2, free.said()
        rows = [free.airflow.pull("task", map_index=index)[1] for index in (0, 1)]
        assert [tuple(row[0]) for row in rows] == [(1,), (20260101,)]

    def test_a_timeout_ends_the_statement(self, free, started):
        case = {"sql": LONG, "execution_timeout": dt.timedelta(seconds=2)}
        assert "execution_timeout; it was cancelled" in free.failure(DatabricksSqlOperator, **case)
        assert all(one.ended for one in started(LONG))


@pytest.fixture
def warehouse(lab):
    return {"warehouse_id": lab.warehouses.default.id}


@pytest.mark.parametrize("kind", [DatabricksSQLStatementsOperator, DatabricksSQLStatementsSensor])
class TestStatements:
    def test_leave_the_same_behind(self, free, started, warehouse, kind):
        case = {
            "statement": "select :a as a, current_schema() as s",
            "parameters": [{"name": "a", "value": "7", "type": "INT"}],
            "catalog": "main",
            "schema": "default",
            "query_tags": {"team": "x"},
            **warehouse,
        }
        worker = Task(kind, **case)
        assert worker.run() is None
        assert free.end(kind, **case) == "success", free.said()
        assert free.result is None
        theirs, ours = started("select :a")
        assert free.xcoms().pop("statement_id") == ours.id
        assert free.xcoms().keys() == worker.ti.xcoms.keys()
        for same in ("text", "parameters", "shape", "compute", "state"):
            assert getattr(ours, same) == getattr(theirs, same)
        assert ours.tags.keys() == theirs.tags.keys()

    def test_failure(self, free, warehouse, kind):
        case = {"statement": "select * from nowhere", **warehouse}
        assert free.failure(kind, **case) == failure_in_worker(Task(kind, **case))

    def test_a_timeout_ends_the_statement(self, free, started, warehouse, kind):
        case = {"statement": LONG, "execution_timeout": dt.timedelta(seconds=2), **warehouse}
        said = free.failure(kind, **case)
        assert said.startswith("JobTimedOut: ")
        assert all(one.ended for one in started(LONG))

    def test_its_time_is_up_before_airflow_ends_it_without_a_word(self, free, started, warehouse, kind):
        limit = dt.timedelta(seconds=10)
        task = free.task(kind, statement="select 1 as a", execution_timeout=limit, **warehouse)
        (ended,) = free.run(task)
        assert ended.state == "success", free.said()
        note = json.loads(free.airflow.xcoms[(free.airflow.run_id, "task", -1, "astronomer_deferral")])
        assert note["deadline"] <= task.timeout_after.timestamp() - 2

    def test_nobody_waits_for(self, free, started, warehouse, kind):
        case = {"statement": LONG, "wait_for_termination": False, **warehouse}
        assert free.end(kind, **case) == "success"
        assert not started(LONG)[0].ended


class TestStatementsSensor:
    def test_its_own_timeout(self, free, started, warehouse):
        case = {"statement": LONG, "timeout": 2.0, **warehouse}
        assert free.failure(DatabricksSQLStatementsSensor, **case).startswith("SensorTimedOut: ")
        assert all(one.ended for one in started(LONG))

    def test_its_timeout_is_final_as_on_the_worker_path(self, free, warehouse):
        task = free.task(DatabricksSQLStatementsSensor, statement=LONG, timeout=1.0, retries=2, **warehouse)
        (ended,) = free.run(task)
        with pytest.raises(AirflowFailException, match="its `timeout` of 1 s"):
            free.in_worker(task, ended)

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    @pytest.mark.parametrize("statement", ["selec 1", "select * from nowhere"])
    def test_skips_when_it_may(self, free, warehouse, flag, statement):
        case = {"statement": statement, flag: True, **warehouse}
        assert free.end(DatabricksSQLStatementsSensor, **case) == "skipped"

    def test_waits_for_a_statement_that_was_given(self, free, started, warehouse):
        case = {"statement": "select lab_wait(1)", "wait_for_termination": False, **warehouse}
        assert free.end(DatabricksSQLStatementsOperator, **case) == "success"
        (one,) = started()
        case = {"statement_id": one.id, **warehouse}
        assert free.end(DatabricksSQLStatementsSensor, **case) == "success", free.said()
        assert started() == [one]


class TestSqlSensor:
    def end(self, free, sql, **arguments):
        return free.end(DatabricksSqlSensor, sql=sql, **{"poke_interval": 0.2, "timeout": 20.0, **arguments})

    @pytest.mark.parametrize(
        ("text", "arguments"),
        [
            (YES, {}),
            ("select 0 as a", {}),
            (f"{NO}; {YES};", {}),
            (YES, {"handler": fetch_one_handler}),
            ("select '{{ ds }}' as a", {}),
        ],
    )
    def test_of_yes(self, free, text, arguments):
        assert self.end(free, text, **arguments) == "success", free.said()
        assert free.airflow.xcoms == {}

    def test_of_no_that_becomes_yes(self, lab, free, started):
        lab.run_sql("create or replace table switch (a int)")
        task = free.task(DatabricksSqlSensor, sql="select * from switch", poke_interval=0.2, timeout=20.0)

        async def turn():
            await until(lambda: len(started("switch")) >= 2)
            await asyncio.to_thread(lab.run_sql, "insert into switch values (1)")

        (ended,) = free.run(task, meanwhile=turn)
        assert ended.state == "success"

    def test_a_timeout_is_final_as_on_the_worker_path(self, free):
        task = free.task(DatabricksSqlSensor, sql=NO, timeout=0.7, poke_interval=0.2, retries=2)
        (ended,) = free.run(task)
        assert ended.state == "scheduled", "only a worker can say that a failure is final"
        with pytest.raises(AirflowFailException, match="not yes after"):
            free.in_worker(task, ended)

    @pytest.mark.parametrize(
        ("text", "arguments", "state", "words"),
        [
            (NO, {"timeout": 0.7}, "failed", "AirflowSensorTimeout"),
            (NO, {"timeout": 0.7, "soft_fail": True}, "skipped", "soft_fail"),
            ("selec", {}, "failed", "PARSE_SYNTAX_ERROR"),
            ("selec", {"never_fail": True}, "skipped", "never_fail"),
            ("selec", {"silent_fail": True, "timeout": 1.0}, "failed", "AirflowSensorTimeout"),
        ],
    )
    def test_of_no(self, free, text, arguments, state, words):
        assert self.end(free, text, **arguments) == state
        assert words in free.said()

    def test_that_only_a_worker_can_ask(self, free):
        assert not free.task(DatabricksSqlSensor, sql=YES, handler=lambda cursor: True).starts_in_triggerer
        (ended,) = free.run(free.task(DatabricksSqlSensor, sql=f"set x = 1; {YES}"))
        assert ended.state == "scheduled"
        assert "through databricks-sql-connector" in ended.resume["why"]


class TestPartitionSensor:
    @pytest.fixture(autouse=True)
    def sales(self, lab):
        lab.run_sql(
            "create or replace table sales (n int, day date, region string) partitioned by (day, region)",
            r"insert into sales values (1, date'2026-01-01', 'it\'s')",
        )

    @pytest.mark.parametrize(
        ("partitions", "state"),
        [
            ({"day": "{{ ds }}"}, "success"),
            ({"day": dt.date(2026, 1, 1)}, "success"),
            ({"day": ["2025-12-31", "2026-01-01"], "region": "it's"}, "success"),
            ({"day": "2026-01-02"}, "failed"),
            ({"n": 1}, "failed"),
        ],
    )
    def test_of_partitions(self, free, partitions, state):
        timeout = 2.0 if partitions == {"day": "2026-01-02"} else 60.0
        case = {"table_name": "sales", "partitions": partitions, "timeout": timeout, "poke_interval": 0.3}
        assert free.end(DatabricksPartitionSensor, **case) == state, free.said()
        if state == "failed":
            words = "AirflowSensorTimeout" if "day" in partitions else "Column n not part"
            assert words in free.said()


class TestFailures:
    """What a user reads in the log is as good as on the worker path, and comes as soon."""

    @pytest.mark.parametrize("kind", [DatabricksSqlOperator, DatabricksSqlSensor])
    @pytest.mark.parametrize(
        "case",
        [
            {"sql": "selec 1"},
            {"sql": "select * from nowhere"},
            {"sql": YES, "http_path": "/sql/1.0/warehouses/nowhere"},
            {"sql": YES, "databricks_conn_id": "nowhere"},
            {"sql": "{{ '' }}"},
        ],
        ids=lambda case: " ".join(map(str, case.values())),
    )
    def test_of_bad_input(self, free, kind, case):
        assert free.failure(kind, **case) == failure_in_worker(Task(kind, **case))

    def test_of_a_name_that_no_warehouse_has(self, connect_as, free):
        connect_as(http_path=None)
        case = {"sql": YES, "sql_endpoint_name": "no such"}
        assert free.failure(DatabricksSqlOperator, **case) == failure_in_worker(
            Task(DatabricksSqlOperator, **case)
        )

    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    @pytest.mark.parametrize("kind", [DatabricksSqlOperator, DatabricksSqlSensor])
    def test_of_a_login(self, connect_as, free, started, kind, auth):
        connect_as(auth=auth, fields={"password": "dapi-not-it-at-all"})
        assert free.failure(kind, sql=YES) == failure_in_worker(Task(kind, sql=YES))
        assert "dapi-not-it-at-all" not in free.said()
        assert started() == []


class TestLoop:
    def test_goes_on_while_databricks_is_slow(self, lab, free, warehouse):
        assert free.end(DatabricksSqlOperator, sql=YES) == "success"
        free.anew()
        lab.faults.late(1.5, STATEMENTS, times=4)
        lab.faults.late(1.5, "^/lab-storage", times=1)
        tasks = [
            free.task(DatabricksSqlOperator, sql=[YES, "select * from range(50)"]),
            free.task(DatabricksSqlSensor, task_id="sensor", sql=YES),
            free.task(DatabricksSQLStatementsOperator, task_id="statement", statement=YES, **warehouse),
        ]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 3, free.said()
        assert free.lag.longest < 1.0
        assert free.lag.ticks > 10


class TestMany:
    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    def test_cost_one_login_and_few_messages(self, lab, free, known, monkeypatch, auth):
        monkeypatch.setattr(xcom_memory, "_CLAIM_LASTS", 1e6)
        known(auth)
        texts = {"sql": [f"select {number} as n" for number in range(6)]}
        tasks = [free.mapped(DatabricksSqlOperator, texts, index) for index in range(6)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 6, free.said()
        assert lab.requests.count(TOKEN) == (auth == "oauth")
        found = free.kinds()
        connections = found.pop("GetConnection")
        assert found.pop("MaskSecret") == connections * 4
        assert connections <= 2, "the connection was read by each task"
        assert found == {"GetXCom": 6 * 3, "SetXCom": 6 * 4}


class TestSecrets:
    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    @pytest.mark.parametrize("text", [YES, "selec 1"])
    def test_are_nowhere(self, free, known, auth, text, warehouse):
        secret = known(auth)["password"]
        for task in (
            free.task(DatabricksSqlOperator, sql=text),
            free.task(DatabricksSqlSensor, sql=text, timeout=5.0),
            free.task(DatabricksSQLStatementsOperator, task_id="statement", statement=text, **warehouse),
        ):
            assert secret not in free.everything(task, ended=free.run(task))
