"""Lineage of statements, beside that of the stock operators."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from airflow.providers.databricks.operators.databricks import (
    DatabricksSQLStatementsOperator as StockStatementsOperator,
)
from airflow.providers.databricks.operators.databricks_sql import DatabricksSqlOperator as StockSqlOperator
from airflow.providers.databricks.sensors.databricks import (
    DatabricksSQLStatementsSensor as StockStatementsSensor,
)
from airflow.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor as StockSqlSensor
from airflow.providers.databricks.utils import openlineage as stock_lineage
from airflow.providers.openlineage.sqlparser import DatabaseInfo

from astronomer.deferral._compat import AirflowFailException
from astronomer.deferral.lineage import REMOTE_JOB
from astronomer.providers.databricks.lineage import filled_in, of_statement
from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator
from astronomer.providers.databricks.operators.statements import DatabricksSQLStatementsOperator
from astronomer.providers.databricks.sensors.databricks import DatabricksSQLStatementsSensor
from astronomer.providers.databricks.sensors.databricks_partition import DatabricksPartitionSensor
from astronomer.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor
from tests.integration.driving import in_enough_time
from tests.integration.lineage.telling import (
    ListenedTask,
    finish,
    job_of,
    openlineage,
    ours_of,
    superset,
    whole,
)
from tests.integration.without_worker import triggerer_in_place

# The stock hook asks Airflow for its own version in a way that Airflow 3.2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated"),
    # The stock operators leave connections open.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl:pytest.PytestUnraisableExceptionWarning"),
]

WORKSPACE = "databricks://localhost"
READS = "select * from main.default.source"
WRITES = "create or replace table main.default.target as select a from main.default.source"
MISSING = "select * from main.default.not_there"
LONG = "select lab_wait(300)"


@pytest.fixture
def events(tmp_path, lab, monkeypatch):
    lab.run_sql(
        "create or replace table main.default.source as select 1 as a",
        "create or replace table main.default.target (a int)",
    )
    # The provider asks the history at the workspace's host, at a port where nobody listens here.
    monkeypatch.setattr(stock_lineage, "_run_api_call", lambda hook, query_ids: [])
    with openlineage(tmp_path) as events:
        yield events


@pytest.fixture
def kinds(path, lab):
    """For each class: its stock one, and what makes arguments of a statement."""
    warehouse = lab.warehouses.default.id
    pokes = {"http_path": path, "poke_interval": 0.2, "timeout": 20.0}
    return {
        DatabricksSqlOperator: (StockSqlOperator, lambda sql: {"sql": sql, "http_path": path}),
        DatabricksSQLStatementsOperator: (
            StockStatementsOperator,
            lambda sql: {"statement": sql, "warehouse_id": warehouse, "polling_period_seconds": 0.1},
        ),
        DatabricksSQLStatementsSensor: (
            StockStatementsSensor,
            lambda sql: {"statement": sql, "warehouse_id": warehouse, "timeout": 20},
        ),
        DatabricksSqlSensor: (StockSqlSensor, lambda sql: {"sql": sql, **pokes}),
    }


KINDS = [
    DatabricksSqlOperator,
    DatabricksSQLStatementsOperator,
    DatabricksSQLStatementsSensor,
    DatabricksSqlSensor,
]


def names(event, key):
    return sorted(one["name"] for one in event[key])


def check(event, text, ended, statement=None):
    """The event is the end of the task of this statement."""
    assert event["eventType"] == ended
    facets = event["run"]["facets"]
    assert event["job"]["facets"]["sql"]["query"] == text
    if statement is not None:
        assert facets["externalQuery"]["externalQueryId"] == statement.id
        assert facets["externalQuery"]["source"] == WORKSPACE
        assert facets[REMOTE_JOB]["url"].endswith(f"/sql/history?queryId={statement.id}")
    assert ("errorMessage" in facets) is (ended == "FAIL")


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("text", [READS, WRITES])
@pytest.mark.parametrize("kind", [DatabricksSqlOperator, DatabricksSQLStatementsOperator])
def test_operators_tell_no_less_than_stock(lab, events, kinds, stock, started, kind, text, deferrable):
    stock_kind, arguments = kinds[kind]
    finish(stock_kind, databricks_conn_id=stock, **arguments(text))
    theirs, before = events(), len(started(text))
    finish(kind, deferrable=deferrable, **arguments(text))
    ours = events()
    more = superset(ours, theirs)
    print(f"more than stock: {more}")
    (statement,) = started(text)[before:]
    check(whole(ours), text, "COMPLETE", statement)
    assert names(whole(ours), "inputs") == ["main.default.source"]
    assert names(whole(ours), "outputs") == (["main.default.target"] if text == WRITES else [])
    assert lab.token not in str(ours)


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("kind", [DatabricksSQLStatementsSensor, DatabricksSqlSensor])
def test_sensors_tell_no_less_than_stock(lab, events, kinds, stock, started, kind, deferrable):
    stock_kind, arguments = kinds[kind]
    finish(stock_kind, databricks_conn_id=stock, **arguments(READS))
    # With the port, where the connection has one; the stock operator of the same statements is without.
    theirs = json.loads(json.dumps(events()).replace(f"localhost:{lab.port}", "localhost"))
    before = len(started(READS))
    worker_path = not deferrable and kind is DatabricksSqlSensor
    where = {"databricks_conn_id": stock} if worker_path else {}
    finish(kind, deferrable=deferrable, **arguments(READS), **where)
    ours = events()
    more = superset(ours, theirs)
    print(f"more than stock: {more}")
    found = started(READS)[before:]
    check(whole(ours), READS, "COMPLETE", None if worker_path else found[0])
    assert names(whole(ours), "inputs") == ["main.default.source"]
    assert [one["eventType"] for one in job_of(ours, "dag.task.query.1")] == ["START", "COMPLETE"]


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_failures(lab, events, kinds, started, stock, kind, deferrable):
    arguments = kinds[kind][1](MISSING)
    worker_path = not deferrable and kind is DatabricksSqlSensor
    where = {"databricks_conn_id": stock} if worker_path else {}
    finish(kind, deferrable=deferrable, **arguments, **where)
    written = events()
    check(whole(written), MISSING, "FAIL", None if worker_path else started(MISSING)[0])
    assert names(whole(written), "inputs") == ["main.default.not_there"]
    assert lab.token not in str(written)


def end_of_query(events):
    """The end of the last query that a task has run."""
    names = [one["job"]["name"] for one in events if ".query." in one["job"]["name"]]
    return job_of(events, max(names))[-1]["eventType"]


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *[(kind, {"retries": 1}) for kind in KINDS[:2]],
        *[(kind, how) for kind in KINDS[2:] for how in ({"retries": 1}, {"soft_fail": True})],
    ],
)
def test_a_query_that_failed_in_a_task_that_may_yet_do_well(events, kinds, kind, how):
    finish(kind, **kinds[kind][1](MISSING), **how)
    written = events()
    assert whole(written)["eventType"] == ("FAIL" if "retries" in how else "COMPLETE")
    assert end_of_query(written) == "FAIL"


def queries_of(events):
    """The events of the queries of a task."""
    return [one for one in events if one["job"]["name"].startswith("dag.task.query.")]


@pytest.mark.parametrize("where", ["at once", "deferred", "worker", "free"])
@pytest.mark.parametrize("text", [READS, "select 1"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_query_is_told_of_once(events, kinds, stock, started, kind, text, where):
    """Where it names no table, the provider tells of what hooks have run."""
    arguments = kinds[kind][1](text)
    if where == "free":
        with triggerer_in_place() as free:
            free.run(free.task(kind, **arguments))
    else:
        poking = where == "worker" and kind is DatabricksSqlSensor
        at_once = {"quick_wait": 20} if where == "at once" and kind is not DatabricksSqlSensor else {}
        conn = {"databricks_conn_id": stock} if poking else {}
        finish(kind, deferrable=where != "worker", **arguments, **at_once, **conn)
    told = queries_of(events())
    assert [one["eventType"] for one in told] == ["START", "COMPLETE"]
    assert len({one["run"]["runId"] for one in told}) == 1
    assert {one["job"]["facets"]["sql"]["query"] for one in told} == {text}
    if started(text):
        ids = {one["run"]["facets"]["externalQuery"]["externalQueryId"] for one in told}
        assert ids == {started(text)[0].id}


def test_a_statement_of_somebody_else_is_told_by_them(events, lab, kinds, started):
    finish(DatabricksSQLStatementsOperator, **kinds[DatabricksSQLStatementsOperator][1](READS))
    events()
    (one,) = started(READS)
    warehouse = lab.warehouses.default.id
    finish(DatabricksSQLStatementsSensor, statement_id=one.id, warehouse_id=warehouse, timeout=20)
    written = events()
    assert whole(written)["run"]["facets"]["externalQuery"]["externalQueryId"] == one.id
    assert not queries_of(written)


NO = "select * from main.default.source where a = 2"


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_query_that_succeeded_in_a_sensor_whose_time_is_up(events, kinds, stock, deferrable):
    where = {} if deferrable else {"databricks_conn_id": stock}
    pause = 60.0 if deferrable else 1.0  # which a worker sleeps through

    def poke(timeout):
        arguments = kinds[DatabricksSqlSensor][1](NO) | {"timeout": timeout, "poke_interval": pause} | where
        finish(DatabricksSqlSensor, deferrable=deferrable, **arguments)
        written = events()
        assert whole(written)["eventType"] == "FAIL"
        return queries_of(written) and end_of_query(written) == "COMPLETE"

    in_enough_time(poke)


def test_of_several_statements_of_a_poke_the_one_that_failed(events, kinds, started):
    finish(DatabricksSqlSensor, **kinds[DatabricksSqlSensor][1](f"{MISSING}; {READS}"))
    *_, end = job_of(events(), "dag.task.query.1")
    assert end["eventType"] == "FAIL"
    assert end["job"]["facets"]["sql"]["query"] == MISSING
    assert end["run"]["facets"]["externalQuery"]["externalQueryId"] == started(MISSING)[-1].id


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_timeouts(events, kinds, started, kind, deferrable):
    limit = dt.timedelta(seconds=1)
    finish(kind, deferrable=deferrable, execution_timeout=limit, **kinds[kind][1](LONG))
    check(whole(events()), LONG, "FAIL", started(LONG)[0])


def test_several_statements(events, path, started):
    finish(DatabricksSqlOperator, sql=[READS, WRITES], http_path=path)
    written = events()
    end = whole(written)
    assert end["run"]["facets"]["externalQuery"]["externalQueryId"] == started()[-1].id
    queries = [job_of(written, f"dag.task.query.{number}")[-1] for number in (1, 2)]
    told = [one["run"]["facets"]["externalQuery"]["externalQueryId"] for one in queries]
    assert told == [one.id for one in started()]
    assert {one["run"]["facets"]["parent"]["run"]["runId"] for one in queries} == {end["run"]["runId"]}


def test_a_partition(lab, events, path):
    lab.run_sql("create or replace table main.default.parts (a int, day string) partitioned by (day)")
    lab.run_sql("insert into main.default.parts values (1, 'x')")
    finish(
        DatabricksPartitionSensor,
        table_name="parts",
        catalog="main",
        schema="default",
        partitions={"day": "x"},
        http_path=path,
        poke_interval=0.2,
        timeout=20.0,
    )
    end = whole(events())
    assert end["eventType"] == "COMPLETE"
    assert names(end, "inputs") == ["main.default.parts"]
    assert end["run"]["facets"]["externalQuery"]["source"] == WORKSPACE


@pytest.mark.parametrize("given", [{}, {"catalog": "not_it", "schema": "nor_that"}])
@pytest.mark.parametrize("kind", [DatabricksSqlOperator, DatabricksSqlSensor])
def test_tables_are_where_the_connection_says(lab, events, kinds, connect_as, kind, given):
    lab.run_sql(
        "create schema if not exists main.side", "create or replace table main.side.here as select 1 as a"
    )
    host = f"LocalHost:{lab.port}"
    connect_as("side", catalog="main", schema="side", fields={"host": host})
    task = finish(kind, **kinds[kind][1]("select * from here") | given, databricks_conn_id="side")
    end = whole(events())
    assert end["eventType"] == "COMPLETE"
    assert names(end, "inputs") == ["main.side.here"]
    told_of = {one["namespace"] for one in end["inputs"]}
    assert told_of == {end["run"]["facets"]["externalQuery"]["source"]} == {WORKSPACE}
    if kind is DatabricksSqlOperator:  # what the stock operator tells, where it can
        hook = task.op.get_db_hook()
        assert hook.get_openlineage_database_info(None).database == "main"
        assert hook.get_openlineage_default_schema() == "side"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("text", "ended"), [(READS, "COMPLETE"), (MISSING, "FAIL")])
def test_without_a_worker(events, kinds, started, kind, text, ended):
    with triggerer_in_place() as free:
        (end,) = free.run(free.task(kind, **kinds[kind][1](text)))
    assert end.state == {"COMPLETE": "success", "FAIL": "failed"}[ended]
    check(whole(events()), text, ended, started(text)[0])


@pytest.mark.parametrize("kind", KINDS[:2])
def test_without_a_worker_a_failure_for_good_is_told_by_one(events, kinds, started, kind, monkeypatch):
    def finish(self, context, job, status):
        raise AirflowFailException("its result is gone")

    monkeypatch.setattr(kind, "finish", finish)
    arguments = kinds[kind][1](READS) | {"retries": 1}
    with triggerer_in_place() as free:
        (end,) = free.run(free.task(kind, **arguments))
    assert queries_of(events()) == []
    worker = ListenedTask(kind, **arguments)
    with pytest.raises(AirflowFailException) as caught:
        worker._step(lambda op: op.resume_in_worker({}, json.loads(json.dumps(end.resume))))
    worker.tell("failed", caught.value)
    written = events()
    check(whole(written), READS, "FAIL", started(READS)[0])
    assert whole(written)["run"]["facets"][REMOTE_JOB]["state"] == "SUCCEEDED"
    assert end_of_query(written) == "COMPLETE"


BOUND = "select * from main.default.source where cast(a as string) <> :ssn"
SECRET = "078-05-1120 o'x"


@pytest.mark.parametrize("free_of_workers", [True, False])
@pytest.mark.parametrize("text", [BOUND, BOUND.replace("source", "not_there")])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_values_of_parameters_are_told_to_nobody(events, kinds, kind, text, free_of_workers):
    arguments = kinds[kind][1](text)
    named = [{"name": "ssn", "value": SECRET}]
    arguments["parameters"] = {"ssn": SECRET} if kind is DatabricksSqlOperator else named
    if free_of_workers:
        with triggerer_in_place() as free:
            free.run(free.task(kind, **arguments))
    else:
        finish(kind, **arguments)
    written = events()
    check(whole(written), text, "COMPLETE" if text == BOUND else "FAIL")
    assert names(whole(written), "inputs") == [text.split()[3]]
    assert "extractionError" not in str(written)
    assert "078-05" not in str(ours_of(written))


@pytest.mark.parametrize("more", ["", f"; {WRITES}"])
def test_tables_of_sql_with_parameters_of_the_connector(events, path, more):
    text = "select * from main.default.source where cast(a as string) <> %(ssn)s" + more
    finish(DatabricksSqlOperator, sql=text, http_path=path, parameters={"ssn": SECRET})
    end = whole(events())
    assert end["eventType"] == "COMPLETE"
    assert end["job"]["facets"]["sql"]["query"] == text.replace("; ", ";\n")
    assert names(end, "inputs") == ["main.default.source"]
    assert "extractionError" not in end["run"]["facets"]


OF = DatabaseInfo(scheme="databricks", authority="host")


def tables(text, **values):
    """What a statement reads and writes, and whether an error is told."""
    parameters = [{"name": name, "value": value} for name, value in values.items()]
    told = of_statement(text, parameters, OF, "default")
    assert told.job_facets["sql"].query == text
    assert not [one for one in (*told.inputs, *told.outputs) if one.facets]
    return (
        {one.name for one in told.inputs},
        {one.name for one in told.outputs},
        "extractionError" in told.run_facets,
    )


@pytest.mark.parametrize("name", [":t", "identifier(:t)", "IDENTIFIER( :t )"])
def test_parameters_may_be_names_of_tables(name):
    text = f"insert into {name} select :ssn as b from source where c = :n"
    for ssn in (SECRET, "p4ssw0rd", None):
        found = tables(text, t="orders", ssn=ssn, n=ssn)
        assert found == ({"default.source"}, {"default.orders"}, False)


def test_what_cannot_be_parsed_is_told_as_it_was_written():
    text = "select * from :t where"
    assert tables(text, t=SECRET) == (set(), set(), True)
    told = of_statement(text, [{"name": "t", "value": SECRET}], OF, "default")
    assert "078-05" not in str(told)


def test_only_names_are_filled_in():
    parameters = [
        {"name": "t", "value": "orders"},
        {"name": "table", "value": "`my-c`.s.t"},
        {"name": "n", "value": "1 2"},
        {"name": "nothing"},
    ]
    text = "select a::int from :t join :table on :n = :unknown or :nothing"
    expected = "select a::int from orders join `my-c`.s.t on :n = :unknown or :nothing"
    assert filled_in(text, parameters) == expected
