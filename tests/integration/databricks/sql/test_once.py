"""Each statement runs once, whatever dies or gets lost."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from airflow.providers.databricks.operators.databricks_sql import DatabricksSqlOperator as StockSqlOperator

from astronomer.deferral import JobLost
from astronomer.lab.databricks import DatabricksLab
from astronomer.providers.databricks.operators import statement_jobs
from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator
from astronomer.providers.databricks.sql import submit
from tests.integration.driving import DyingStore, Killed, Task

FIRST, SECOND, THIRD = "select lab_wait(0.1) as one", "select 2 as two", "select lab_wait(0.1) as three"
SUBMIT = "^/api/2.0/sql/statements/?$"
HISTORY = "^/api/2.0/sql/history"


def query(path, **arguments):
    return Task(
        DatabricksSqlOperator, **{"sql": f"{FIRST}; {SECOND}; {THIRD}", "http_path": path, **arguments}
    )


def rows(task):
    """Run to the end; the last statement's rows."""
    _, found = task.run()
    return [tuple(map(float, row)) for row in found]


def run_to_death(task):
    with pytest.raises(Killed):
        task.run()


async def killed(*_, **__):
    raise Killed


def run_to_death_by_another_clock(task, off, start=killed):
    """The worker dies as it starts a statement; its clock is off by so many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statement_jobs, "clock", SimpleNamespace(now=lambda: time.time() + off))
        patch.setattr(submit, "start", start)
        run_to_death(task)


@pytest.mark.parametrize("kind", ["lose_answer", "reset", 503])
@pytest.mark.parametrize("place", [0, 1])
def test_when_an_answer_is_lost(lab, path, started, kind, place):
    hits = []

    class Unlucky(DatabricksSqlOperator):
        def _start(self, context, wanted, attempt):
            if wanted.index == place:
                where = {"path": SUBMIT, "method": "POST", "times": 1}
                weather = (
                    lab.faults.status(kind, **where) if kind == 503 else getattr(lab.faults, kind)(**where)
                )
                hits.append(weather)
            return super()._start(context, wanted, attempt)

    task = query(path)
    task._class = Unlucky
    assert rows(task) == [(0.1,)]
    assert [weather.hits for weather in hits] == [1]
    assert [one.text for one in started("select")] == [FIRST, SECOND, THIRD]


# The store is written before and after each submit, and once at the end.
@pytest.mark.parametrize("write", range(1, 7))
def test_when_the_worker_dies_at_a_write(lab, path, started, write):
    store = DyingStore()
    store.dies_at = write
    task = query(path, store=store)
    run_to_death(task)
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert [one.text for one in started("select")] == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("write", [2, 4, 6])  # its statement was started, and nobody knows its id
def test_when_it_dies_and_the_task_is_cleared_nothing_of_it_runs_on(lab, path, started, write):
    store = DyingStore()
    store.dies_at = write
    task = query(path, store=store, sql=f"{FIRST}; {SECOND}; select lab_wait(300) as three")
    run_to_death(task)
    before = started("select")
    task.clear()
    task.deferred()
    assert all(one.ended for one in before)
    assert not started("select")[-1].ended


def test_a_clear_ends_what_ran_though_the_new_sql_needs_a_session(path, started, monkeypatch):
    monkeypatch.setattr(StockSqlOperator, "execute", lambda self, context: "in the worker")
    task = query(path, sql="select lab_wait(300)")
    task.deferred()
    task.clear()
    task._arguments["sql"] = "SET spark.sql.shuffle.partitions = 7; SET spark.sql.shuffle.partitions"
    assert task.run() == "in the worker"
    assert [one.state for one in started("lab_wait")] == ["CANCELED"]


@pytest.mark.parametrize("submits", [1, 2, 3])
def test_when_it_dies_where_nothing_is_remembered(lab, path, started, submits):
    task = query(path, store=None)

    class Dying(DatabricksSqlOperator):
        def announce(self, context, job):
            if job.index + 1 == submits:
                raise Killed

    task._class = Dying
    run_to_death(task)
    task._class = DatabricksSqlOperator
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert [one.text for one in started("select")] == [FIRST, SECOND, THIRD]


def test_a_retry_reads_the_rows_of_a_statement_that_has_succeeded(lab, path, started):
    task = query(path)
    assert rows(task) == [(0.1,)]
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert len(started("select")) == 3


def test_a_retry_after_a_crash_searches_the_history_once(lab, path, started):
    store = DyingStore()
    store.dies_at = 2
    task = query(path, store=store)
    run_to_death(task)
    lab.requests.clear()
    task.next_try()
    rows(task)
    assert lab.requests.count(HISTORY) == 1
    (entry,) = lab.requests.select(HISTORY)
    assert entry.query["filter_by.warehouse_ids"] == lab.warehouses.default.id


def test_a_retry_waits_for_the_history_however_long_ago_the_submit_began(lab, path, started, monkeypatch):
    """A submit repeats its request for as long as an outage lasts, and its last one may have arrived."""
    monkeypatch.setattr(submit, "_LOOK_AGAIN", 0.1)
    monkeypatch.setattr(lab.sql, "history_latency", 1.0)
    store = DyingStore()
    store.dies_at = 3  # after the note that the request is sent late
    task = query(path, store=store)
    lab.faults.status(503, SUBMIT, method="POST", times=1)
    begun = iter([time.time() - 1000])
    with monkeypatch.context() as patch:
        patch.setattr(statement_jobs, "clock", SimpleNamespace(now=lambda: next(begun, time.time())))
        run_to_death(task)
    assert len(started()) == 1
    assert all(json.loads(value)["job"] is None for value in store.values.values()), "nobody knows its id"
    monkeypatch.setattr(submit, "HISTORY_LAGS", 60.0)
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert [one.text for one in started("select")] == [FIRST, SECOND, THIRD]


def test_a_retry_looks_once_for_what_was_sent_once_long_ago(lab, path, started, monkeypatch):
    monkeypatch.setattr(submit, "HISTORY_LAGS", 60.0)
    task = query(path, store=DyingStore())
    run_to_death_by_another_clock(task, -1000)
    lab.requests.clear()
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert lab.requests.count(HISTORY) == 1


def test_a_retry_waits_for_a_request_that_may_be_under_way(lab, path, started, monkeypatch):
    monkeypatch.setattr(submit, "_LOOK_AGAIN", 0.1)
    monkeypatch.setattr(lab.sql, "history_latency", 1.0)
    store = DyingStore()
    store.dies_at = 2
    task = query(path, store=store)
    run_to_death(task)
    monkeypatch.setattr(submit, "ARRIVES_WITHIN", 60.0)
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert [one.text for one in started("select")] == [FIRST, SECOND, THIRD]


def test_what_was_sent_late_long_ago_is_waited_for_no_more(lab, path, monkeypatch):
    async def dies_late(*_, check, **__):
        check()
        raise Killed

    store = DyingStore()
    task = query(path, store=store)
    with monkeypatch.context() as patch:
        patch.setattr(statement_jobs, "_SENT_WITHIN", 0.0)
        run_to_death_by_another_clock(task, -1000, dies_late)
    (noted,) = (json.loads(value)["notes"] for value in store.values.values())
    assert noted["sent"] >= noted["since"]
    monkeypatch.setattr(submit, "ARRIVES_WITHIN", 60.0)
    lab.requests.clear()
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert lab.requests.count(HISTORY) == 1


def test_a_retry_does_not_wait_by_the_clock_of_another_worker(lab, path):
    task = query(path, store=DyingStore())
    run_to_death_by_another_clock(task, 3600)
    lab.requests.clear()
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert lab.requests.count(HISTORY) == 1


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_a_clock_that_is_an_hour_off_starts_nothing_twice(ahead, monkeypatch):
    with DatabricksLab() as lab:
        lab.advance(ahead)
        for name, value in (lab.client_env() | lab.connection_env()).items():
            monkeypatch.setenv(name, value)
        lab.faults.lose_answer(SUBMIT, method="POST", times=1)
        store = DyingStore()
        store.dies_at = 4  # the second statement was started, and nobody knows its id
        task = query(lab.warehouses.default.path, store=store)
        run_to_death(task)
        task.next_try()
        assert rows(task) == [(0.1,)]
        assert [one.text for one in lab.statements.values()] == [FIRST, SECOND, THIRD]


def test_no_history_is_searched_when_all_is_well(lab, path):
    rows(query(path))
    assert lab.requests.count(HISTORY) == 0


def test_when_nobody_answers_a_retry_looks_for_it(lab, path, started):
    task = query(path, outage_tolerance=0.3)
    answers = lab.faults.lose_answer(SUBMIT, method="POST")
    history = lab.faults.status(503, HISTORY)
    with pytest.raises(JobLost, match="It may have been started: a retry looks for it"):
        task.run()
    assert answers.hits == 1
    assert history.hits
    lab.faults.clear()
    task.next_try()
    assert rows(task) == [(0.1,)]
    assert len(started("select")) == 3


def test_a_retry_after_a_failure_is_a_statement_of_its_own(lab, path, started):
    lab.run_sql("drop table if exists later")
    task = query(path, sql="select * from later")
    for _ in range(2):
        with pytest.raises(Exception, match="TABLE_OR_VIEW_NOT_FOUND"):
            task.run()
        task.next_try()
    lab.run_sql("create table later as select 1 as a")
    assert rows(task) == [(1,)]
    assert len({one.tags["airflow_submit_key"] for one in started("later")}) == 3
