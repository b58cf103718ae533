"""Each way in which a wait for a statement can go wrong, and what becomes of the task and of the statement."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from airflow.exceptions import AirflowException
from airflow.providers.databricks.exceptions import DatabricksSqlExecutionError

from astronomer.deferral import JobCancelled, JobError, JobFailed, JobLost, JobTimedOut, clock
from astronomer.deferral._compat import AirflowFailException
from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator, StatementFailed
from astronomer.providers.databricks.sql import submit
from tests.integration.driving import Task, collected, triggerer, until, until_now
from tests.unit.deferral.fakes import Count

WAIT = "select lab_wait(0.3) as waited"
LONG = "select lab_wait(300)"
STATEMENTS = "^/api/2.0/sql/statements"
POLLS = STATEMENTS + "/[^/]+$"


@pytest.fixture
def query(path):
    return lambda sql=WAIT, **arguments: Task(
        DatabricksSqlOperator, **{"sql": sql, "http_path": path, "do_xcom_push": False, **arguments}
    )


def statement_of(lab, task):
    return lab.statements[task.trigger.job["statement_id"]]


def polls(lab):
    return lab.requests.select(POLLS, method="GET")


def phase(event):
    return event["outcome"]["status"]["phase"]


class TestBadSql:
    def test_is_told_in_databricks_words(self, lab, query, started):
        with pytest.raises(StatementFailed) as caught:
            query("selec 1").run()
        assert isinstance(caught.value, (JobFailed, DatabricksSqlExecutionError))
        (statement,) = started("selec 1")
        for said in (
            statement.id,
            "BAD_REQUEST",
            "PARSE_SYNTAX_ERROR",
            f"{lab.url}/sql/history?queryId={statement.id}",
        ):
            assert said in str(caught.value)

    def test_of_the_second_ends_the_attempt_and_a_retry_begins_anew(self, lab, query, started):
        task = query("select 1 as first; select * from nowhere; select 3 as third")
        with pytest.raises(StatementFailed, match=r"\(2 of 3\).*TABLE_OR_VIEW_NOT_FOUND"):
            task.run()
        assert len(task.op.get_db_hook().query_ids) == 2
        task.next_try()
        with pytest.raises(StatementFailed):
            task.run()
        assert len(started("as first")) == 2
        assert started("as third") == []

    def test_that_is_refused_ends_the_attempt_too(self, lab, query, started):
        task = query("select 1 as first; select 2 as second")

        class Refused(DatabricksSqlOperator):
            def _start(self, context, wanted, attempt):
                if wanted.index == 1:
                    lab.faults.status(400, STATEMENTS + "/?$", method="POST", times=1)
                return super()._start(context, wanted, attempt)

        task._class = Refused
        with pytest.raises(StatementFailed, match="refused the request"):
            task.run()
        task._class = DatabricksSqlOperator
        task.next_try()
        task.run()
        assert [one.text for one in started("select")] == [
            "select 1 as first",
            "select 1 as first",
            "select 2 as second",
        ]


class TestBadInput:
    @pytest.mark.parametrize("sql", ["", "-- nothing", ["select 1", ""], []])
    def test_empty_sql_fails_when_the_dag_is_parsed(self, sql):
        with pytest.raises(ValueError, match="holds no statement"):
            DatabricksSqlOperator(task_id="t", sql=sql, http_path="/sql/1.0/warehouses/a")

    def test_two_warehouses_fail_when_the_dag_is_parsed(self):
        with pytest.raises(ValueError, match="both name a warehouse"):
            DatabricksSqlOperator(task_id="t", sql="select 1", http_path="/x", sql_endpoint_name="y")

    def test_a_template_that_renders_to_nothing_fails_before_anything_starts(self, lab, query):
        with pytest.raises(ValueError, match="holds no statement"):
            query("{{ '' }}").run()
        assert lab.requests.count(STATEMENTS) == 0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"http_path": None}, r"No warehouse is named.*No statement was started"),
            ({"http_path": None, "sql_endpoint_name": "Nowhere"}, r"no SQL warehouse 'Nowhere'.*'Serverless Starter"),
            ({"http_path": "/sql/1.0/warehouses/0123456789abcdef"}, r"RESOURCE_DOES_NOT_EXIST.*last part of `http_path`"),
        ],
    )  # fmt: skip
    def test_of_a_warehouse(self, lab, query, connect_as, arguments, words):
        connect_as(fields={"extra": {}})
        with pytest.raises(JobError, match=words):
            query(**arguments).run()

    def test_of_the_login(self, lab, query, connect_as):
        connect_as(fields={"password": "dapi-wrong-secret"})
        with pytest.raises(JobError, match=r"refused the login .*'databricks_default'") as caught:
            query().run()
        assert "dapi-wrong-secret" not in str(caught.value)

    def test_a_missing_connection(self, lab, query):
        with pytest.raises(AirflowException, match="nowhere"):
            query(databricks_conn_id="nowhere").run()


class TestWarehouse:
    def test_by_its_name(self, lab, query, started):
        other = lab.warehouses.add("Other")
        query(http_path=None, sql_endpoint_name="Other", sql="select 1").run()
        (statement,) = started("select 1")
        assert statement.compute == other.id

    def test_of_the_connection(self, lab, query, connect_as):
        connect_as(http_path=lab.warehouses.default.path)
        task = query(http_path=None)
        task.run()
        assert task.events

    def test_that_sleeps_is_waited_for_without_a_worker(self, lab, query):
        asleep = lab.warehouses.add("Asleep", state="STOPPED", start_seconds=0.5)
        task = query("select 1", http_path=asleep.path)
        task.deferred()
        assert phase(task.wait()) == "succeeded"


class TestWeather:
    @pytest.mark.parametrize("weather", [500, 503, 429, "reset", "cut", "lose_answer"])
    def test_costs_patience_but_not_the_task(self, lab, query, started, weather):
        task = query(do_xcom_push=True)
        task.deferred()
        if isinstance(weather, int):
            fault = lab.faults.status(weather, POLLS, retry_after=1 if weather == 429 else None, times=2)
        else:
            fault = getattr(lab.faults, weather)(POLLS, times=2)
        assert phase(task.wait()) == "succeeded"
        _, (_, rows) = task.resume()
        assert [float(row.waited) for row in rows] == [0.3]
        assert fault.hits == 2
        assert len(started(WAIT)) == 1

    def test_does_not_keep_results_from_being_fetched(self, lab, query):
        task = query("select 1 as a", do_xcom_push=True)
        task.deferred()
        task.wait()
        faults = [
            lab.faults.status(503, POLLS, times=1),
            lab.faults.reset("^/lab-storage", times=1),
        ]
        _, (_, rows) = task.resume()
        assert [row.a for row in rows] == [1]
        assert [fault.hits for fault in faults] == [1, 1]

    def test_that_lasts_loses_sight(self, lab, query):
        task = query(LONG, outage_tolerance=0.5)
        task.deferred()
        lab.faults.status(503, POLLS)
        task.wait()
        with pytest.raises(JobLost, match=r"(?i)no answer .* 503"):
            task.resume()
        assert not statement_of(lab, task).ended

    def test_a_rotated_token_is_read_from_the_connection_again(self, lab, query, connect_as):
        task = query(LONG)
        task.deferred()

        async def rotate(trigger):
            await until(lambda: polls(lab))
            lab.rotate_token()
            await until(lambda: lab.requests.select(POLLS, status=403))
            connect_as()
            await until(lambda: polls(lab)[-1].status == 200)
            lab.cancel_statement_by_user(trigger.job["statement_id"])

        assert phase(task.wait(rotate)) == "cancelled"

    def test_a_token_that_stays_wrong_loses_sight(self, lab, query):
        task = query(LONG)
        task.deferred()
        lab.rotate_token()
        task.wait()
        with pytest.raises(JobLost, match=r"(?i)cannot log in"):
            task.resume()
        assert len(lab.requests.select(POLLS, status=403)) <= 6

    def test_many_waits_share_one_login(self, lab, query, connect_as):
        connect_as(auth="oauth")
        tasks = [query("select lab_wait(0.8)") for _ in range(10)]
        for task in tasks:
            task.deferred()
        logins = lab.requests.logins

        async def main():
            async with triggerer():
                return await asyncio.gather(*(collected(task.trigger) for task in tasks))

        assert [phase(event) for (event,) in asyncio.run(main())] == ["succeeded"] * 10
        assert lab.requests.logins == logins + 1
        assert len({entry.client_port for entry in polls(lab)}) <= 8


class TestStates:
    def test_that_are_new_are_running_and_told_once(self, lab, query, caplog):
        task = query(LONG)
        task.deferred()
        statement = statement_of(lab, task)

        async def ponder(trigger):
            await until(lambda: statement.state == "RUNNING")
            statement.state = "PONDERING"
            seen = len(polls(lab))
            await until(lambda: len(polls(lab)) > seen + 2)
            statement.state = "RUNNING"
            lab.cancel_statement_by_user(statement.id)

        assert phase(task.wait(ponder)) == "cancelled"
        assert caplog.text.count("unknown statement state 'PONDERING'") == 1

    def test_closed_is_a_success(self, lab, query):
        task = query("select 1")
        task.deferred()
        until_now(lambda: statement_of(lab, task).ended)
        lab.expire_results()
        assert statement_of(lab, task).state == "CLOSED"
        assert phase(task.wait()) == "succeeded"
        assert task.resume() == (False, None)

    def test_a_statement_that_databricks_has_forgotten_is_lost(self, lab, query):
        task = query(LONG)
        task.deferred()
        lab.sql.statements.pop(task.trigger.job["statement_id"])
        task.trigger.job["submitted_at"] -= 200
        task.store.values.clear()
        task.wait()
        with pytest.raises(JobLost, match=r"does not show Databricks statement .*twelve hours"):
            task.resume()

    def test_a_connection_that_points_elsewhere_is_noticed(self, lab, query, connect_as):
        task = query(LONG)
        task.deferred()
        connect_as(fields={"host": "127.0.0.1"})
        task.wait()
        with pytest.raises(JobLost, match=r"now points to https://127.0.0.1.*submitted to https://localhost"):
            task.resume()


class TestCancelledOutside:
    def test_says_so_and_a_retry_starts_a_new_statement(self, lab, query, started):
        task = query(LONG)
        task.deferred()
        assert lab.cancel_statement_by_user(task.trigger.job["statement_id"])
        task.wait()
        with pytest.raises(JobCancelled, match="cancelled outside Airflow"):
            task.resume()
        task.next_try()
        task.deferred()
        assert [one.ended for one in started(LONG)] == [True, False]

    def test_can_be_final(self, lab, query):
        task = query(LONG, retry_cancelled=False)
        task.deferred()
        lab.cancel_statement_by_user(task.trigger.job["statement_id"])
        task.wait()
        with pytest.raises(AirflowFailException, match="cancelled outside Airflow"):
            task.resume()


class TestTime:
    def test_the_triggerer_ends_the_statement_at_the_deadline(self, lab, query):
        task = query(LONG, execution_timeout=timedelta(seconds=60))
        started_at = time.time()
        task.deferred()
        assert task.trigger.deadline - started_at == pytest.approx(60, abs=2)
        task.trigger.deadline = time.time() + 0.3
        fault = lab.faults.status(503, "/cancel$", times=1)
        task.wait()
        assert fault.hits == 1
        assert statement_of(lab, task).state == "CANCELED"
        with pytest.raises(JobTimedOut, match=r"execution_timeout; it was cancelled"):
            task.resume()

    @pytest.mark.parametrize("store", [..., None])
    def test_is_that_of_all_statements_together(self, lab, query, started, store):
        task = query(f"{WAIT}; {LONG}", execution_timeout=timedelta(seconds=60), store=store)
        deadline = task.deferred().deadline
        task.wait()
        assert task.resume()[0]
        assert task.trigger.deadline == deadline
        task.trigger.deadline = time.time() + 0.3
        task.wait()
        with pytest.raises(JobTimedOut, match=r"\(2 of 2\)"):
            task.resume()
        assert {event["job"]["deadline"] for event in task.events} == {deadline}
        assert [one.state for one in started("lab_wait")] == ["SUCCEEDED", "CANCELED"]

    def test_that_is_up_starts_no_further_statement(self, lab, query, started, monkeypatch):
        task = query(f"{WAIT}; {LONG}", execution_timeout=timedelta(seconds=60))
        task.deferred()
        task.wait()
        monkeypatch.setattr(clock, "now", lambda: time.time() + 60)
        with pytest.raises(JobTimedOut, match="1 of 2 statements were not started"):
            task.resume()
        assert not task.op.query_failed(otherwise=True), "lineage: the one that ran has succeeded"
        assert len(started("lab_wait")) == 1


class TestUserKill:
    @pytest.mark.parametrize(
        ("answer", "ended"), [(Count(0), True), (Count(1), False), (OSError("gone"), False)]
    )
    def test_ends_the_statement_and_a_move_does_not(self, lab, query, supervisor, answer, ended):
        task = query(LONG if ended else "select lab_wait(1)")
        task.deferred()
        supervisor.answer = answer

        async def kill(trigger):
            await until(lambda: polls(lab))
            await trigger.on_kill()

        assert phase(task.wait(kill)) == ("cancelled" if ended else "succeeded")
        assert statement_of(lab, task).state == ("CANCELED" if ended else "SUCCEEDED")

    def test_in_the_worker_ends_the_statement_too(self, lab, query, started):
        task = query(LONG, deferrable=False)

        class Impatient(DatabricksSqlOperator):
            def announce(self, context, job):
                self.on_kill()

        task._class = Impatient
        with pytest.raises(JobCancelled):
            task.run()
        (statement,) = started(LONG)
        assert statement.state == "CANCELED"


class TestClear:
    def test_ends_the_statement_of_the_earlier_run(self, lab, query, started):
        task = query(LONG)
        task.deferred()
        task.clear()
        task.deferred()
        first, second = started(LONG)
        assert (first.state, second.ended) == ("CANCELED", False)

    def test_after_success_runs_everything_again(self, lab, query, started):
        task = query("select 1 as a; select 2 as b")
        task.run()
        task.clear()
        task.run()
        assert len(started("as a")) == len(started("as b")) == 2


class TestResultsGone:
    def test_are_a_clear_error_when_they_are_wanted(self, lab, query):
        task = query("select 1", do_xcom_push=True)
        task.deferred()
        task.wait()
        lab.expire_results()
        with pytest.raises(AirflowFailException, match=r"succeeded, but .*one hour.* clear the task"):
            task.resume()

    def test_links_that_have_expired_are_asked_for_again(self, lab, query):
        lab.sql.rows_per_chunk = 10
        task = query("select id from range(30)", do_xcom_push=True)
        task.deferred()
        task.wait()
        fault = lab.faults.status(403, "^/lab-storage", times=1)
        _, (_, rows) = task.resume()
        assert len(rows) == 30
        assert fault.hits == 1
        assert len(lab.requests.select("/result/chunks/")) == 3

    def test_links_that_nobody_may_open_are_a_clear_error(self, lab, query):
        task = query("select 1", do_xcom_push=True)
        task.deferred()
        task.wait()
        lab.faults.status(403, "^/lab-storage")
        with pytest.raises(AirflowFailException, match="succeeded, but") as caught:
            task.resume()
        assert "Signature" not in str(caught.value)


class TestQuick:
    def test_statements_never_defer(self, lab, query):
        task = query("select 1 as a; select 2 as b", quick_wait=60, do_xcom_push=True)
        deferred, (_, rows) = task.start()
        assert not deferred
        assert [row.b for row in rows] == [2]

    def test_is_no_longer_than_was_said(self, lab, query, monkeypatch):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__QUICK_WAIT", "60")
        task = query(LONG, quick_wait=0.3)
        began = time.monotonic()
        task.deferred()
        assert time.monotonic() - began < 20


class TestLink:
    def test_is_there_while_the_statement_runs(self, lab, query):
        task = query(LONG)
        task.deferred()
        address = f"{lab.url}/sql/history?queryId={task.trigger.job['statement_id']}"
        assert task.ti.xcoms == {"databricks_query": address}


def test_a_history_that_lags_is_waited_for(lab, query, started, monkeypatch):
    monkeypatch.setattr(submit, "HISTORY_LAGS", 5.0)
    lab.sql.history_latency = 0.6
    lab.faults.lose_answer(STATEMENTS + "/?$", method="POST", times=1)
    query().run()
    assert len(started(WAIT)) == 1
