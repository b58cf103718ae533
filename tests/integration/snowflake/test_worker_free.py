"""Tasks that never start a worker leave behind what the worker path leaves behind."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from operator import itemgetter

import pytest
from airflow.providers.common.sql.hooks.handlers import fetch_one_handler
from airflow.providers.standard.operators.empty import EmptyOperator

from astronomer.deferral import poke, xcom_memory
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor
from tests.integration.snowflake.driving import Task, as_xcom, in_enough_time, until
from tests.integration.snowflake.test_parity import CASES as PARITY
from tests.integration.without_worker import failure_in_worker, triggerer_in_place
from tests.worker_free import WorkerFreeTask

ONLY_THE_DAG_FILE_KNOWS = {
    "decimal parameter",
    "bytes and times",
    "a handler of one's own",
    "a handler that iterates",
    "an output processor",
    "an output processor of several",
}
BYTES = {"types", "types of a block"}  # no XCom, on no path
CASES = {name: case for name, case in PARITY.items() if name not in {"templated", "a file", *BYTES}} | {
    "types that XComs have": {
        "sql": "select 1::int as i, 1.50::number(10, 2) as d, 1.5::float as f, 'ü''\"\n%' as s, null as n, true as b, "
        "'2024-02-29'::date as day, '2024-01-01 10:00:00.5'::timestamp_ntz as ntz, "
        "'2024-01-01 10:00:00 +02:00'::timestamp_tz as tz, parse_json('[1, null]') as a, null::timestamp_ntz as nt"
    },
}
NUMBERS = "create or replace table numbers (n int)", "insert into numbers values (1), (2), (3)"


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    monkeypatch.setattr(poke, "_PAUSE_IN_TROUBLE", 0.1)


@pytest.fixture(autouse=True)
def numbers(sql):
    sql(*NUMBERS, "create or replace table other as select 2 as m")


@pytest.fixture
def free():
    with triggerer_in_place() as free:
        yield free


@pytest.fixture
def known(free, lab, monkeypatch):
    """The connection is in Airflow's database, and not in the environment."""

    def define(auth="password", **fields):
        monkeypatch.delenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT", raising=False)
        found = lab.airflow_connection(auth=auth) | fields
        free.airflow.connections["snowflake_default"] = found | {"extra": json.dumps(found["extra"])}
        return found

    return define


class TestOperator:
    @pytest.mark.parametrize("name", sorted(CASES))
    def test_results(self, lab, sql, free, name):
        def rows():
            return sql("select n from numbers order by n")

        case = CASES[name]
        task = free.task(SnowflakeOperator, **case)
        if name in ONLY_THE_DAG_FILE_KNOWS:
            assert not task.starts_in_triggerer
            return
        expected = as_xcom(Task(SnowflakeOperator, **case).run())
        left = rows()
        sql(*NUMBERS)
        (ended,) = free.run(task)
        if name == "many rows":
            assert as_xcom(free.in_worker(task, ended)) == expected
            return
        assert ended.state == "success", free.said()
        if not case.get("do_xcom_push", True):
            expected = None
        assert (free.result, rows()) == (expected, left)
        assert list(free.xcoms()) == ["snowsight_query"]

    @pytest.mark.parametrize(
        ("value", "kind"),
        [("to_binary('C0FFEE', 'HEX')", "bytearray"), ("'10:20:30'::time", "datetime.time")],
    )
    def test_what_no_xcom_can_be_is_no_result_on_either_path(self, free, value, kind):
        text = f"select {value} as a"
        with pytest.raises(TypeError, match=kind):
            as_xcom(Task(SnowflakeOperator, sql=text).run())
        assert kind in free.failure(SnowflakeOperator, sql=text)
        assert free.end(SnowflakeOperator, sql=text, do_xcom_push=False) == "success"

    def test_a_large_result_is_read_by_a_worker_and_the_query_runs_once(self, free, user_queries):
        text = "select seq4() as n, repeat('x', 100) as t from table(generator(rowcount => 2000)) order by n"
        task = free.task(SnowflakeOperator, sql=text)
        (ended,) = free.run(task)
        result = free.in_worker(task, ended)
        assert (len(result), result[-1]) == (2000, (1999, "x" * 100))
        assert "worker_free_result_bytes" in free.said()
        assert len(user_queries("generator")) == 1

    def test_a_file_is_read_when_the_dag_is_parsed_and_rendered_in_the_triggerer(self, free, tmp_path):
        (tmp_path / "by_day.sql").write_text(
            "select '{{ ds }}' as d, %(p)s as p, {{ params.x }} as x; -- {{ ti.task_id }}\nselect 1;\n"
        )
        task = free.task(
            SnowflakeOperator,
            sql="by_day.sql",
            parameters={"p": "{{ ds_nodash }}"},
            params={"x": 7},
            return_last=False,
            dag={"template_searchpath": str(tmp_path)},
        )
        (tmp_path / "by_day.sql").unlink()
        (ended,) = free.run(task)
        assert ended.state == "success", free.said()
        assert free.result == [[("2026-01-01", "20260101", 7)], [(1,)]]

    @pytest.mark.parametrize("texts", ["include_other.sql", "missing.sql"])
    def test_a_file_that_needs_another_one_is_for_a_worker(self, free, tmp_path, texts):
        (tmp_path / "include_other.sql").write_text("{% include 'other.sql' %}")
        dag = {"template_searchpath": str(tmp_path)}
        assert not free.task(SnowflakeOperator, sql=texts, dag=dag).starts_in_triggerer

    @pytest.mark.parametrize("given", ["select '{{ ds }}' as d", ["select '{{ ds }}' as d"]])
    def test_an_xcom_as_sql_is_not_rendered(self, free, given):
        def make():
            upstream = EmptyOperator(task_id="texts")
            return SnowflakeOperator(
                task_id="task", sql=upstream.output, poll_interval=0.1, start_from_trigger=True
            )

        free.airflow.xcoms[(free.airflow.run_id, "texts", -1, "return_value")] = given
        (ended,) = free.run(WorkerFreeTask(free.airflow, make))
        assert ended.state == "success", free.said()
        one = [("{{ ds }}",)]
        assert free.result == (one if isinstance(given, str) else [one])

    def test_a_transaction_is_all_or_nothing(self, free, sql):
        text = "insert into numbers values (4); insert into numbers values (5)"
        assert free.end(SnowflakeOperator, sql=f"{text}; select 1 / 0", autocommit=False) == "failed"
        assert sql("select max(n) from numbers") == [(3,)]
        assert free.end(SnowflakeOperator, sql=f"{text}; select 1 / 0", autocommit=True) == "failed"
        assert sql("select max(n) from numbers") == [(5,)]

    def test_the_query_has_its_context(self, lab, free, sql, user_queries):
        sql("create schema if not exists side", "create warehouse if not exists other_wh")
        text = "select current_warehouse(), current_role(), current_schema()"
        given = {"warehouse": "other_wh", "role": "PUBLIC", "schema": "side"}
        assert free.end(SnowflakeOperator, sql=text, **given) == "success"
        assert free.result == Task(SnowflakeOperator, sql=text, **given).run()
        ours, theirs = [json.loads(one.tag) for one in user_queries("current_role")]
        assert ours.keys() == theirs.keys()

    def test_what_only_a_worker_can_do_goes_to_one(self, free, user_queries):
        (ended,) = free.run(free.task(SnowflakeOperator, sql="put file:///etc/hosts @~/hosts"))
        assert ended.state == "scheduled"
        assert "resume" not in ended.resume
        assert "PUT, GET" in ended.resume["why"]
        assert user_queries() == []


class TestMapped:
    @pytest.mark.parametrize(
        ("expand", "expected"),
        [
            ({"sql": ["select '{{ ds }}'", "select 2"]}, [[("2026-01-01",)], [(2,)]]),
            (
                {"sql": ["select %(a)s"], "parameters": [{"a": "{{ ds }}"}, {"a": 1}]},
                [[("2026-01-01",)], [(1,)]],
            ),
            (
                [{"sql": "select 1"}, {"sql": "select 2", "handler": fetch_one_handler}],
                [[(1,)], (2,)],
            ),
        ],
    )
    def test_over_what_stands_in_the_dag(self, free, expand, expected):
        partial = {} if isinstance(expand, list) else {"do_xcom_push": True}
        tasks = [free.mapped(SnowflakeOperator, expand, index, **partial) for index in (0, 1)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 2, free.said()
        assert [free.airflow.pull("task", map_index=index) for index in (0, 1)] == expected

    @pytest.mark.parametrize("kwargs", [False, True])
    def test_over_the_xcom_of_another_task(self, free, kwargs):
        def make():
            upstream = EmptyOperator(task_id="texts")
            partial = SnowflakeOperator.partial(task_id="task", poll_interval=0.1, start_from_trigger=True)
            return partial.expand_kwargs(upstream.output) if kwargs else partial.expand(sql=upstream.output)

        texts = ["select 1", "select '{{ ds }}'"]
        found = [{"sql": text} for text in texts] if kwargs else texts
        free.airflow.xcoms[(free.airflow.run_id, "texts", -1, "return_value")] = found
        tasks = [WorkerFreeTask(free.airflow, make, map_index=index) for index in (0, 1)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 2, free.said()
        rows = [free.airflow.pull("task", map_index=index) for index in (0, 1)]
        # Airflow renders whole dictionaries of arguments, and not the values of one argument.
        assert rows == [[(1,)], [("2026-01-01" if kwargs else "{{ ds }}",)]]


SQL_API = {
    "rows": {"sql": "select 1 as a, 'x' as b, null as n, 1.50::number(10, 2) as d", "statement_count": 1},
    "several": {"sql": "select 1 as a; select 2 as b", "statement_count": 2},
    "none wanted": {"sql": "select 1 as a", "statement_count": 1, "fetch_results": False},
    "bindings": {
        "sql": "select ? as a",
        "statement_count": 1,
        "bindings": {"1": {"type": "TEXT", "value": "{{ ds }}"}},
    },
    "a list": {"sql": ["select 1 as a", "select 2 as b"], "statement_count": 2},
}


class TestSqlApi:
    @pytest.mark.parametrize("name", SQL_API)
    @pytest.mark.parametrize("auth", ["pat", "key_pair", "oauth"])
    def test_results(self, lab, connect_as, free, name, auth):
        if auth != "pat" and name != "several":
            pytest.skip("one is enough")
        connect_as("api", auth=auth)
        case = {"snowflake_conn_id": "api", "fetch_results": True, **SQL_API[name]}
        if name == "bindings":
            case["bindings"] = {"1": {"type": "TEXT", "value": "x"}}
        worker = Task(SnowflakeSqlApiOperator, **case)
        expected = worker.run()
        assert free.end(SnowflakeSqlApiOperator, **case) == "success", free.said()
        assert free.result == (None if expected is None else as_xcom(expected))
        assert set(free.xcoms()) == set(worker.ti.xcoms) == {"query_ids", "snowsight_query"}
        assert len(free.xcoms()["query_ids"]) == len(worker.ti.xcoms["query_ids"])

    def test_failure(self, connect_as, free):
        connect_as("api", auth="pat")
        case = {"sql": "select 1; selekt 2", "statement_count": 2, "snowflake_conn_id": "api"}
        expected = failure_in_worker(Task(SnowflakeSqlApiOperator, **case))
        assert free.failure(SnowflakeSqlApiOperator, **case) == expected

    def test_a_token_that_is_refused(self, connect_as, free):
        connect_as("api", auth="pat", fields={"password": "not-a-token-at-all"})
        case = {"sql": "select 1", "statement_count": 1, "snowflake_conn_id": "api", "outage_tolerance": 1}
        expected = failure_in_worker(Task(SnowflakeSqlApiOperator, **case))
        assert free.failure(SnowflakeSqlApiOperator, **case) == expected
        assert "not-a-token-at-all" not in free.said()


class TestSensor:
    def end(self, free, sql, **arguments):
        return free.end(SnowflakeSensor, sql=sql, **{"poke_interval": 0.3, "timeout": 20.0, **arguments})

    @pytest.mark.parametrize(
        ("text", "arguments"),
        [
            ("select 1", {}),
            ("select 'yes on {{ ds }}'", {}),
            ("select %(a)s", {"parameters": {"a": "x"}}),
            ("select 0; select 4", {}),
            ("select 1;", {"fail_on_empty": True}),
        ],
    )
    def test_of_yes(self, free, user_queries, text, arguments):
        assert self.end(free, text, **arguments) == "success", free.said()
        assert len(user_queries("select")) == 1
        assert free.airflow.xcoms == {}

    def test_of_no_that_becomes_yes(self, free, sql, user_queries):
        sql("create or replace table switch as select 0 as a")
        task = free.task(SnowflakeSensor, sql="select max(a) from switch", poke_interval=0.3, timeout=20.0)

        async def turn():
            await until(lambda: len(user_queries("max(a)")) >= 2)
            await asyncio.to_thread(sql, "update switch set a = 1")

        (ended,) = free.run(task, meanwhile=turn)
        assert ended.state == "success"

    @pytest.mark.parametrize(
        ("text", "arguments", "state", "words"),
        [
            ("select 0", {"timeout": 0.7}, "failed", "AirflowSensorTimeout"),
            ("select 0", {"timeout": 0.7, "soft_fail": True}, "skipped", "soft_fail"),
            ("select 1 where 1 = 0", {"fail_on_empty": True}, "failed", "No rows returned"),
            ("select 1 where 1 = 0", {"fail_on_empty": True, "soft_fail": True}, "skipped", "soft_fail"),
            ("selekt", {}, "failed", "syntax error"),
            ("selekt", {"soft_fail": True}, "skipped", "soft_fail"),
            ("selekt", {"never_fail": True}, "skipped", "never_fail"),
            ("selekt", {"silent_fail": True, "timeout": 1.0}, "failed", "AirflowSensorTimeout"),
        ],
    )
    def test_of_no(self, free, text, arguments, state, words):
        assert self.end(free, text, **arguments) == state
        assert words in free.said()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"success": lambda cell: cell == 3},
            {"failure": lambda cell: cell == 3},
            {"selector": itemgetter(1)},
            {"deferrable": False},
        ],
    )
    def test_of_functions_of_the_dag_file_are_a_workers(self, free, arguments):
        assert not free.task(SnowflakeSensor, sql="select 3", **arguments).starts_in_triggerer

    def test_mapped(self, free):
        tasks = [free.mapped(SnowflakeSensor, {"sql": ["select 1", "select 'x'"]}, index) for index in (0, 1)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 2, free.said()


class TestFailures:
    """What a user reads in the log is as good as on the worker path, and comes as soon."""

    @pytest.mark.parametrize(
        "case",
        [
            {"sql": "selekt 1"},
            {"sql": "select * from nowhere"},
            {"sql": "select 1; select 1 / 0; select 2"},
            {"sql": ["insert into numbers values (4); insert into numbers values (5)", "select 1"]},
            {"sql": "CALL SYSTEM$WAIT(0.3)", "warehouse": "nope"},
            {"sql": "select 1", "role": "emperor"},
            {"sql": "select %(a)s", "parameters": {"b": 1}},
            {"sql": "{% if false %} select 1 {% endif %} -- nothing"},
            {"sql": "select 1", "snowflake_conn_id": "nowhere"},
            {"sql": "select {{ params.none_such.deeper }}"},
            {"sql": "select {{ 1 +"},
        ],
        ids=lambda case: " ".join(map(str, case.values())),
    )
    def test_of_the_operator(self, free, case):
        if "{{" in str(case["sql"]):  # rendering fails before the operator is there
            assert free.end(SnowflakeOperator, **case) == "failed"
            assert "Task failed: " in free.said()
            return
        expected = failure_in_worker(Task(SnowflakeOperator, **case))
        assert free.failure(SnowflakeOperator, **case) == expected

    @pytest.mark.parametrize("kind", [SnowflakeOperator, SnowflakeSensor])
    @pytest.mark.parametrize("auth", ["password", "oauth", "pat"])
    def test_of_a_login(self, lab, connect_as, free, user_queries, kind, auth):
        connect_as(auth=auth, fields={"password": "not-it-at-all"})
        before = lab.requests.logins
        expected = failure_in_worker(Task(kind, sql="select 1"))
        in_worker = lab.requests.logins - before
        assert free.failure(kind, sql="select 1") == expected
        assert "not-it-at-all" not in free.said()
        assert lab.requests.logins - before == 2 * in_worker, "the user would be locked out"
        assert user_queries() == []

    @pytest.mark.parametrize("kind", [SnowflakeOperator, SnowflakeSqlApiOperator])
    def test_of_a_login_is_over_as_soon_as_the_connection_is_right(self, connect_as, free, kind):
        case = {"sql": "select 1"} | ({"statement_count": 1} if kind is SnowflakeSqlApiOperator else {})
        connect_as(auth="pat", fields={"password": "not-it-at-all"})
        task = free.task(kind, retries=1, **case)
        first, second = free.retried(task, lambda: connect_as(auth="pat"))
        assert (first.state, second.state) == ("up_for_retry", "success"), free.said()

    def test_of_a_sensor_without_a_connection(self, free):
        case = {"sql": "select 1", "snowflake_conn_id": "nowhere"}
        expected = failure_in_worker(Task(SnowflakeSensor, **case))
        assert free.failure(SnowflakeSensor, **case) == expected

    def test_of_a_timeout_ends_the_query(self, free, user_queries):
        def is_ended_by(timeout):
            case = {
                "sql": f"CALL SYSTEM$WAIT({60 + timeout})",
                "execution_timeout": dt.timedelta(seconds=timeout),
            }
            said = free.failure(SnowflakeOperator, **case)
            for query in user_queries(case["sql"]):
                assert "execution_timeout; it was cancelled" in said
                assert query.error_code == "000604"
            return user_queries(case["sql"])

        in_enough_time(is_ended_by, 2, 5, 20)


class TestLoop:
    def test_goes_on_while_snowflake_is_slow(self, lab, free):
        assert free.end(SnowflakeOperator, sql="select 1") == "success"  # imports what it needs
        free.anew()
        for path in ("/session/v1/login-request", "/queries/v1/query-request", "/result"):
            lab.faults.late(1.5, path, times=2)
        tasks = [free.task(SnowflakeOperator, sql="select 1"), free.task(SnowflakeSensor, sql="select 1")]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 2
        assert free.lag.longest < 1.0
        assert free.lag.ticks > 10

    def test_is_not_held_up_by_rendering_or_a_large_result(self, free):
        assert free.end(SnowflakeOperator, sql="select 1") == "success"
        free.anew()
        text = "select seq4() as n from table(generator(rowcount => 2000)) order by n"
        texts = {"sql": [f"{text} -- {{{{ 'x' * 100000 }}}}"] * 3}
        tasks = [free.mapped(SnowflakeOperator, texts, index) for index in range(3)]
        free.run(*tasks)
        assert free.lag.longest < 1.0


class TestMessages:
    @pytest.fixture(autouse=True)
    def no_hurry(self, monkeypatch):
        monkeypatch.setattr(xcom_memory, "_CLAIM_LASTS", 1e6)

    def test_of_an_operator_are_few(self, free, known):
        known()
        assert free.end(SnowflakeOperator, sql="select 1") == "success", free.said()
        twice = {"GetConnection": 2, "MaskSecret": 8}  # for the steps, and for the polls
        assert free.kinds() == {**twice, "GetXCom": 3, "SetXCom": 4}
        free.anew()
        texts = {"sql": ["select 1"] * 5}
        tasks = [free.mapped(SnowflakeOperator, texts, index) for index in range(5)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 5
        assert free.kinds() == {**twice, "GetXCom": 15, "SetXCom": 20}

    def test_of_a_sensor_are_those_about_its_connection(self, free, known):
        known()
        assert free.end(SnowflakeSensor, sql="select 1") == "success", free.said()
        assert free.kinds() == {"GetConnection": 2, "MaskSecret": 8}

    def test_of_the_sql_api_are_few(self, free, known):
        known("pat")
        case = {"sql": "select 1 as a", "statement_count": 1, "fetch_results": True}
        assert free.end(SnowflakeSqlApiOperator, **case) == "success", free.said()
        found = {"GetConnection": 2, "MaskSecret": 8, "GetXCom": 1, "SetXCom": 5}
        assert free.kinds() == found


class TestLogins:
    """A triggerer reads a connection once a minute, so what it knows may have been corrected since."""

    def test_what_was_corrected_a_moment_ago_is_used(self, lab, free, known):
        known()

        def between():
            lab.rotate_password("N3w-secret")
            known()

        task = free.task(SnowflakeOperator, sql="select 1")
        assert [one.state for one in free.retried(task, between)] == ["success", "success"], free.said()

    def test_what_stays_wrong_is_tried_once(self, lab, free, known):
        known()
        lab.rotate_password("N3w-secret")
        before = lab.requests.logins
        assert free.end(SnowflakeOperator, sql="select 1") == "failed"
        assert lab.requests.logins == before + 1


class TestSecrets:
    @pytest.mark.parametrize("text", ["select 1", "selekt", "select 1; select 1 / 0"])
    @pytest.mark.parametrize("auth", ["password", "pat"])
    def test_are_nowhere(self, lab, free, known, text, auth):
        secret = known(auth)["password"]
        tasks = [free.task(SnowflakeOperator, sql=text), free.task(SnowflakeSensor, sql=text, timeout=5.0)]
        if auth == "pat":
            tasks.append(free.task(SnowflakeSqlApiOperator, task_id="api", sql=text, statement_count=0))
        for task in tasks:
            assert secret not in free.everything(task, ended=free.run(task))

    def test_in_an_argument_are_not_written_down(self, free):
        arguments = {"hook_params": {"session_parameters": {"password": "very-secret"}}}
        task = free.task(SnowflakeOperator, sql="select 1", **arguments)
        assert not task.starts_in_triggerer
