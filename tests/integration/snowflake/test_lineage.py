"""Lineage of the Snowflake family, beside that of the stock operators."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter

import pytest
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.common.sql.sensors.sql import SqlSensor
from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator as StockSqlApiOperator
from airflow.sdk.lineage import get_hook_lineage_collector

from astronomer.deferral import JobFailed, JobTimedOut
from astronomer.deferral._compat import AirflowFailException
from astronomer.deferral.lineage import REMOTE_JOB
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor
from tests.integration.lineage.telling import ListenedTask, finish, openlineage, ours_of, superset, whole
from tests.integration.snowflake.driving import in_enough_time
from tests.integration.without_worker import triggerer_in_place

TABLES = "create or replace table target as select a from source; select * from target"
ACCOUNT = "snowflake://localhost.us-west-1.aws"


@pytest.fixture
def events(tmp_path, sql):
    """What was told since, oldest first."""
    sql("create or replace table source as select 1 as a", "create or replace table target (a int)")
    with openlineage(tmp_path) as events:
        yield events


def of_queries(events):
    return [event for event in events if event["job"]["name"].startswith("dag.task.query.")]


def query_of(event):
    """The remote query that an event names."""
    return event["run"]["facets"]["externalQuery"]


@pytest.mark.parametrize("text", ["select * from source", TABLES, "select 1", "select 1; select 2"])
def test_success_is_told_as_the_stock_operator_tells_it(lab, events, text):
    finish(SQLExecuteQueryOperator, conn_id="snowflake_default", sql=text)
    stock = events()
    task = finish(SnowflakeOperator, sql=text)
    assert task.events
    ours = events()
    more = superset(ours, stock)
    print(f"more than stock: {more}")
    assert REMOTE_JOB in more["COMPLETE of dag.task: run facets"]

    ids = task.op.get_db_hook().query_ids
    queries = of_queries(ours)
    if "from" not in text:
        # The provider tells of a query without tables once more, from the hook's lineage; so it does for stock.
        assert len(queries) == 4 * len(ids)
        queries = queries[: 2 * len(ids)]
    assert [event["eventType"] for event in queries] == ["START", "COMPLETE"] * len(ids)
    assert [query_of(event)["externalQueryId"] for event in queries] == [one for one in ids for _ in range(2)]
    assert {query_of(event)["source"] for event in queries} == {ACCOUNT}
    assert set(Counter((event["run"]["runId"], event["eventType"]) for event in queries).values()) == {1}

    end = whole(ours)
    assert query_of(end)["externalQueryId"] == task.trigger.job["query_id"]
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in queries} == {end["run"]["runId"]}


def test_times_and_texts_are_snowflakes(lab, events):
    task = finish(SnowflakeOperator, sql="select 1; call system$wait(0.3)", autocommit=True)
    start, _, begin, end, *_ = of_queries(events())
    assert start["job"]["facets"]["sql"]["query"] == "select 1"
    assert begin["job"]["facets"]["sql"]["query"] == "call system$wait(0.3)"
    took = dt.datetime.fromisoformat(end["eventTime"]) - dt.datetime.fromisoformat(begin["eventTime"])
    first, second = [lab.queries[one] for one in task.op.get_db_hook().query_ids]
    assert took.total_seconds() == pytest.approx(second.ended_at - second.started_at, abs=0.01)
    assert [first.sql, second.sql] == ["select 1", "call system$wait(0.3)"]


def test_the_failure_of_one_query(lab, events):
    task = finish(SnowflakeOperator, sql="select * from not_there")
    written = events()
    start, fail = of_queries(written)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert fail["run"]["facets"]["externalQuery"]["externalQueryId"] == task.trigger.job["query_id"]
    assert "002003" in fail["run"]["facets"]["errorMessage"]["message"]
    end = whole(written)
    assert end["eventType"] == "FAIL"
    assert task.trigger.job["query_id"] in end["run"]["facets"]["errorMessage"]["message"]
    assert end["run"]["facets"][REMOTE_JOB]["url"].startswith("https://app.snowflake.com/")


def test_the_failure_of_a_block_tells_what_ran(lab, events):
    task = finish(SnowflakeOperator, sql="select 1; select 1/0; select 3", autocommit=True)
    queries = of_queries(events())
    assert [event["eventType"] for event in queries] == ["START", "COMPLETE", "START", "FAIL"]
    ids = task.op.get_db_hook().query_ids
    assert [lab.queries[query_id].sql for query_id in ids] == ["select 1", "select 1/0"]
    assert [event["run"]["facets"]["externalQuery"]["externalQueryId"] for event in queries[::2]] == ids


def test_a_cancelled_query_is_a_failed_one(lab, events):
    task = ListenedTask(SnowflakeOperator, sql="call system$wait(300)")
    task.deferred()
    lab.abort_by_admin(task.trigger.job["query_id"])
    task.wait()
    with pytest.raises(Exception, match="000604") as caught:
        task.resume()
    task.tell("failed", caught.value)
    written = events()
    assert [event["eventType"] for event in of_queries(written)] == ["START", "FAIL"]
    assert whole(written)["eventType"] == "FAIL"


@pytest.mark.parametrize(
    ("text", "timeout", "error"),
    [("select 1", 600, None), ("selec 1", 600, JobFailed), ("call system$wait(300)", 1, JobTimedOut)],
)
def test_the_sql_api_operator(lab, events, connect_as, text, timeout, error):
    connect_as("api", auth="pat")
    with lab.redirected():
        task = finish(SnowflakeSqlApiOperator, sql=text, snowflake_conn_id="api", timeout=timeout)
    (query_id,) = task.op.query_ids
    assert task.op._hook.query_ids == [query_id]
    ended = "COMPLETE" if error is None else "FAIL"
    written = events()
    # The provider's own question to the query history is among them, as it is for stock.
    told_of = [
        event
        for event in of_queries(written)
        if event["run"]["facets"]["externalQuery"]["externalQueryId"] == query_id
    ]
    assert [event["eventType"] for event in told_of] == ["START", ended]
    end = whole(written)
    assert end["eventType"] == ended
    assert query_of(end) == query_of(told_of[-1])


def test_hook_lineage_is_sent_once_per_statement(lab, events):
    task = ListenedTask(SnowflakeOperator, sql=TABLES)
    task.run()
    extras = get_hook_lineage_collector().collected_assets.extra
    assert [extra.value["job_id"] for extra in extras] == task.op.get_db_hook().query_ids
    assert [extra.value["sql"] for extra in extras] == TABLES.split("; ")


def test_the_sql_api_operator_tells_no_less_than_stock(lab, events, connect_as):
    connect_as("api", auth="pat")
    arguments = {"sql": "select * from source", "snowflake_conn_id": "api", "statement_count": 1}
    with lab.redirected():
        finish(StockSqlApiOperator, **arguments, durable=False)
        stock = events()
        finish(SnowflakeSqlApiOperator, **arguments)
    more = superset(events(), stock)
    print(f"more than stock: {more}")
    assert REMOTE_JOB in more["COMPLETE of dag.task: run facets"]


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize(("text", "arguments"), [
    ("select * from source", {}),
    ("select * from source", {"success": bool}),
    ("select 1", {}),
])  # fmt: skip
def test_the_sensor_tells_no_less_than_stock(lab, events, text, arguments, deferrable):
    finish(SqlSensor, conn_id="snowflake_default", sql=text, **arguments)
    stock = events()
    finish(SnowflakeSensor, sql=text, deferrable=deferrable, **arguments)
    ours = events()
    more = superset(ours, stock)
    print(f"more than stock: {more}")
    assert "sql" in more["COMPLETE of dag.task: job facets"]
    if "from" in text:
        assert [one["name"] for one in whole(ours)["inputs"]] == ["LAB.PUBLIC.SOURCE"]
        assert len(of_queries(ours)) == len(of_queries(stock)) == 2
    assert (REMOTE_JOB in whole(ours)["run"]["facets"]) is deferrable


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize(("operator", "text", "how"), [
    (SnowflakeOperator, "select * from not_there", {}),
    (SnowflakeOperator, "call system$wait(300)", {"execution_timeout": dt.timedelta(seconds=1)}),
    (SnowflakeSensor, "select * from not_there", {}),
    (SnowflakeSensor, "select a from source where a = 2", {"timeout": 0.5, "poke_interval": 0.2}),
])  # fmt: skip
def test_failures_and_timeouts(lab, events, operator, text, how, deferrable):
    finish(operator, sql=text, deferrable=deferrable, **how)
    written = events()
    end = whole(written)
    assert end["eventType"] == "FAIL"
    assert end["job"]["facets"]["sql"]["query"] == text
    assert end["run"]["facets"]["errorMessage"]["message"]
    if deferrable or operator is SnowflakeOperator:
        assert query_of(end)["source"] == ACCOUNT
    assert lab.password not in str(written)


@pytest.mark.parametrize("how", [{"retries": 1}, {"soft_fail": True}])
def test_the_end_of_a_failed_poke_is_not_that_of_its_task(lab, events, how):
    finish(SnowflakeSensor, sql="select * from not_there", **how)
    written = events()
    assert whole(written)["eventType"] == ("COMPLETE" if "soft_fail" in how else "FAIL")
    assert [one["eventType"] for one in of_queries(written)] == ["START", "FAIL"]


def test_the_end_of_the_last_poke_is_not_that_of_its_task(lab, events):
    def succeeds_within(timeout):
        finish(SnowflakeSensor, sql="select a from source where a = 2", timeout=timeout, poke_interval=60.0)
        written = events()
        assert whole(written)["eventType"] == "FAIL"
        return [one["eventType"] for one in of_queries(written)] == ["START", "COMPLETE"]

    in_enough_time(succeeds_within, 1.5, 5.0, 20.0)


def test_inlets_of_a_sensor_are_told_beside_what_it_reads(lab, events):
    from airflow.sdk import Asset

    finish(SnowflakeSensor, sql="select * from source", inlets=[Asset("file://host/orders")])
    names = {one["name"] for one in whole(events())["inputs"]}
    assert "LAB.PUBLIC.SOURCE" in names
    assert len(names) == 2


@pytest.mark.parametrize(("operator", "text", "ended"), [
    (SnowflakeOperator, "select * from source", "COMPLETE"),
    (SnowflakeOperator, "select * from not_there", "FAIL"),
    (SnowflakeSensor, "select * from source", "COMPLETE"),
    (SnowflakeSensor, "select * from not_there", "FAIL"),
])  # fmt: skip
def test_without_a_worker(lab, events, operator, text, ended):
    with triggerer_in_place() as free, free.airflow.in_place():
        (end,) = free.run(free.task(operator, sql=text))
    assert end.state == {"COMPLETE": "success", "FAIL": "failed"}[ended]
    written = events()
    told = whole(written)
    assert told["eventType"] == ended
    assert told["job"]["facets"]["sql"]["query"] == text
    assert query_of(told)["source"] == ACCOUNT
    assert told["run"]["facets"][REMOTE_JOB]["name"].startswith("Snowflake query ")
    assert [event["eventType"] for event in of_queries(written)] == ["START", ended]
    assert not get_hook_lineage_collector().has_collected


@pytest.mark.parametrize("kind", [SnowflakeOperator, SnowflakeSqlApiOperator])
@pytest.mark.parametrize("text", ["select * from source", TABLES])
def test_without_a_worker_a_failure_for_good_is_told_by_one(lab, events, connect_as, monkeypatch, kind, text):
    def finish(self, context, job, status):
        raise AirflowFailException("its result is gone")

    connect_as("api", auth="pat")
    monkeypatch.setattr(kind, "finish", finish)
    arguments = {"sql": text, "snowflake_conn_id": "api", "retries": 1}
    arguments |= {"statement_count": 0} if kind is SnowflakeSqlApiOperator else {}
    with lab.redirected():
        with triggerer_in_place() as free, free.airflow.in_place():
            (end,) = free.run(free.task(kind, **arguments))
        assert of_queries(events()) == []
        worker = ListenedTask(kind, **arguments)
        with pytest.raises(AirflowFailException) as caught:
            worker._step(lambda op: op.resume_in_worker({}, json.loads(json.dumps(end.resume))))
        worker.tell("failed", caught.value)
    job = end.resume["resume"]["event"]["job"]
    query_id = job["query_id"] if kind is SnowflakeOperator else job["query_ids"][0]
    written = events()
    assert query_of(whole(written))["externalQueryId"] == query_id
    told = [query_of(one)["externalQueryId"] for one in of_queries(written)]
    assert (query_id in told) is not (kind is SnowflakeOperator and text == TABLES)


SECRET = "078-05-1120 o'x"


@pytest.mark.parametrize("free_of_workers", [True, False])
@pytest.mark.parametrize(("operator", "mark", "values"), [
    (SnowflakeOperator, "%(ssn)s", {"parameters": {"ssn": SECRET}}),
    (SnowflakeSensor, "%(ssn)s", {"parameters": {"ssn": SECRET}}),
    (SnowflakeSqlApiOperator, "?", {"bindings": {"1": {"type": "TEXT", "value": SECRET}}}),
])  # fmt: skip
def test_values_of_parameters_are_not_told(lab, events, connect_as, operator, mark, values, free_of_workers):
    connect_as("api", auth="pat")
    text = f"select * from source where to_varchar(a) <> {mark}"
    arguments = {"sql": text, "snowflake_conn_id": "api", **values}
    with lab.redirected():
        if free_of_workers:
            with triggerer_in_place() as free, free.airflow.in_place():
                free.run(free.task(operator, **arguments))
        else:
            finish(operator, **arguments)
    written = events()
    end = whole(written)
    assert end["eventType"] == "COMPLETE"
    assert end["job"]["facets"]["sql"]["query"] == text
    # The provider asks Snowflake what has run, and the connector had put the values in place, as for stock.
    by_provider = of_queries(written) if operator is SnowflakeOperator else []
    assert "078-05" not in str([event for event in ours_of(written) if event not in by_provider])
