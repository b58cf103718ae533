"""Lineage of a deferred query, through the real OpenLineage provider and its file transport."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections import Counter
from types import SimpleNamespace

import pytest
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.openlineage import conf
from airflow.providers.openlineage.plugins.listener import get_openlineage_listener
from airflow.sdk import DAG, plugins_manager
from airflow.sdk.api.datamodels._generated import DagRun, TIRunContext
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.lineage import HookLineageReader, get_hook_lineage_collector
from airflow.utils.state import TaskInstanceState

from astronomer.deferral import JobFailed, JobTimedOut
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator
from tests.integration.snowflake.driving import Task

TABLES = "create or replace table target as select a from source; select * from target"


@pytest.fixture
def events(tmp_path, monkeypatch, sql):
    """What was written since, oldest first."""
    written = tmp_path / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(written), "append": True}
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(transport))
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__NAMESPACE", "tests")
    for cached in vars(conf).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    # The plugins may have been loaded in this process when OpenLineage had no transport, and so without its reader.
    monkeypatch.setattr(plugins_manager, "get_hook_lineage_readers_plugins", lambda: [HookLineageReader])
    get_openlineage_listener.cache_clear()
    in_this_process = get_openlineage_listener()
    monkeypatch.setattr(in_this_process, "_execute", lambda call, name, use_fork=False: call())
    get_hook_lineage_collector.cache_clear()
    sql("create or replace table source as select 1 as a", "create or replace table target (a int)")

    def read():
        found = [json.loads(line) for line in written.read_text().splitlines()]
        written.write_text("")
        return found

    written.write_text("")
    yield read
    get_hook_lineage_collector.cache_clear()
    get_openlineage_listener.cache_clear()


def dag():
    return DAG("dag", schedule=None, start_date=dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc))


def told(task, error=None):
    """Tell the listener of the end of a task, as the process in which it ended does."""
    instance = runtime(task)
    instance.state = TaskInstanceState.SUCCESS if error is None else TaskInstanceState.FAILED
    context = instance.get_template_context()
    about = (instance, context["dag"], context["dag_run"], context["task"])
    if error is None:
        get_openlineage_listener()._on_task_instance_success(*about)
    else:
        get_openlineage_listener()._on_task_instance_failed(*about, error)


def runtime(task):
    now = dt.datetime.now(dt.timezone.utc)
    run = DagRun(
        dag_id="dag", run_id=task.ti.run_id, logical_date=now, data_interval_start=now, data_interval_end=now,
        run_after=now, start_date=now, end_date=None, clear_number=0, run_type="manual", state="running", conf={},
        consumed_asset_events=[], partition_key=None,
    )  # fmt: skip
    instance = RuntimeTaskInstance.model_construct(
        id=uuid.uuid4(), task_id="task", dag_id="dag", run_id=task.ti.run_id, try_number=1, map_index=-1,
        dag_version_id=uuid.uuid4(), task=task.op, start_date=now, max_tries=0, log_url="",
        bundle_instance=SimpleNamespace(version=None, name="bundle"),
        _ti_context_from_server=TIRunContext(dag_run=run, max_tries=0, should_retry=False),
    )  # fmt: skip
    instance._cached_template_context = None
    return instance


def finish(operator_class, **arguments):
    """A task from its first step to its lineage; its operator as the last process has it."""
    task = Task(operator_class, dag=dag, **arguments)
    try:
        task.run()
    except Exception as error:  # noqa: BLE001 - the listener wants it
        told(task, error)
    else:
        told(task)
    return task


def of_queries(events):
    return [event for event in events if event["job"]["name"].startswith("dag.task.query.")]


def shape(event):
    facets = event["run"]["facets"]
    return (
        event["eventType"],
        event["job"]["name"],
        sorted(facets),
        sorted(event["job"]["facets"]),
        sorted(dataset["name"] for dataset in event["inputs"]),
        sorted(dataset["name"] for dataset in event["outputs"]),
    )


@pytest.mark.parametrize("text", ["select * from source", TABLES, "select 1", "select 1; select 2"])
def test_success_is_told_as_the_stock_operator_tells_it(lab, events, text):
    finish(SQLExecuteQueryOperator, conn_id="snowflake_default", sql=text)
    stock = events()
    get_hook_lineage_collector.cache_clear()
    task = finish(SnowflakeOperator, sql=text)
    assert task.events
    ours = events()
    assert [shape(event) for event in ours] == [shape(event) for event in stock]

    ids = task.op.get_db_hook().query_ids
    queries = of_queries(ours)
    if "from" not in text:
        # The provider tells of a query without tables once more, from the hook's lineage; so it does for stock.
        assert len(queries) == 4 * len(ids)
        queries = queries[: 2 * len(ids)]
    assert [event["eventType"] for event in queries] == ["START", "COMPLETE"] * len(ids)
    external = [event["run"]["facets"]["externalQuery"] for event in queries]
    assert [one["externalQueryId"] for one in external] == [query_id for query_id in ids for _ in range(2)]
    assert {one["source"] for one in external} == {"snowflake://localhost.us-west-1.aws"}
    assert set(Counter((event["run"]["runId"], event["eventType"]) for event in ours).values()) == {1}
    assert task.query_id not in ids or len(ids) == 1

    (whole,) = [event for event in ours if event["job"]["name"] == "dag.task"]
    assert whole["eventType"] == "COMPLETE"
    assert ("externalQuery" in whole["run"]["facets"]) is (len(ids) == 1)
    parents = {event["run"]["facets"]["parent"]["run"]["runId"] for event in queries}
    assert parents == {whole["run"]["runId"]}


def test_times_and_texts_are_snowflakes(lab, events):
    task = finish(SnowflakeOperator, sql="select 1; call system$wait(0.3)", autocommit=True)
    start, _, begin, end, *_ = of_queries(events())
    assert start["job"]["facets"]["sql"]["query"] == "select 1"
    assert begin["job"]["facets"]["sql"]["query"] == "call system$wait(0.3)"
    took = dt.datetime.fromisoformat(end["eventTime"]) - dt.datetime.fromisoformat(begin["eventTime"])
    assert took.total_seconds() == pytest.approx(0.3, abs=0.2)
    assert [lab.queries[one].sql for one in task.op.get_db_hook().query_ids] == [
        "select 1",
        "call system$wait(0.3)",
    ]


def test_the_failure_of_one_query(lab, events):
    task = finish(SnowflakeOperator, sql="select * from not_there")
    written = events()
    start, fail = of_queries(written)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert fail["run"]["facets"]["externalQuery"]["externalQueryId"] == task.query_id
    assert "002003" in fail["run"]["facets"]["errorMessage"]["message"]
    (whole,) = [event for event in written if event["job"]["name"] == "dag.task"]
    assert whole["eventType"] == "FAIL"
    assert task.query_id in whole["run"]["facets"]["errorMessage"]["message"]


def test_the_failure_of_a_block_tells_what_ran(lab, events):
    task = finish(SnowflakeOperator, sql="select 1; select 1/0; select 3", autocommit=True)
    queries = of_queries(events())
    assert [event["eventType"] for event in queries] == ["START", "COMPLETE", "START", "FAIL"]
    ids = task.op.get_db_hook().query_ids
    assert [lab.queries[query_id].sql for query_id in ids] == ["select 1", "select 1/0"]
    assert [event["run"]["facets"]["externalQuery"]["externalQueryId"] for event in queries[::2]] == ids


def test_a_cancelled_query_is_a_failed_one(lab, events):
    task = Task(SnowflakeOperator, dag=dag, sql="call system$wait(300)")
    task.deferred()
    lab.abort_by_admin(task.query_id)
    task.wait()
    with pytest.raises(Exception, match="000604") as caught:
        task.resume()
    told(task, caught.value)
    assert [event["eventType"] for event in of_queries(events())] == ["START", "FAIL"]


@pytest.mark.parametrize(
    ("text", "error"), [("select 1", None), ("selec 1", JobFailed), ("call system$wait(9)", JobTimedOut)]
)
def test_the_sql_api_operator(lab, events, connect_as, text, error):
    connect_as("api", auth="pat")
    with lab.redirected():
        task = finish(SnowflakeSqlApiOperator, sql=text, snowflake_conn_id="api", timeout=1)
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
    (whole,) = [event for event in written if event["job"]["name"] == "dag.task"]
    assert whole["eventType"] == ended


def test_hook_lineage_is_sent_once_per_statement(lab, events):
    task = Task(SnowflakeOperator, sql=TABLES, dag=dag)
    task.run()
    extras = get_hook_lineage_collector().collected_assets.extra
    assert [extra.value["job_id"] for extra in extras] == task.op.get_db_hook().query_ids
    assert [extra.value["sql"] for extra in extras] == TABLES.split("; ")
