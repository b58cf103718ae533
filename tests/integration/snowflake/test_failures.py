"""Each way in which a wait can go wrong, and what becomes of the task and of its query."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import re
import time
from contextlib import suppress
from datetime import timedelta

import pytest
from airflow.sdk.execution_time.comms import GetTICount
from snowflake.connector.errors import ProgrammingError

from astronomer.deferral import JobCancelled, JobFailed, JobLost, JobTimedOut
from astronomer.deferral._compat import AirflowFailException
from astronomer.providers.snowflake import arguments
from astronomer.providers.snowflake.jobs import query as jobs
from astronomer.providers.snowflake.operators import query as queries
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from tests.integration.snowflake.driving import DyingStore, Killed, Task, collected, polls, triggerer, until
from tests.unit.deferral.fakes import Count

WAIT = "CALL SYSTEM$WAIT(0.3)"
LONG = "CALL SYSTEM$WAIT(300)"
WAITED = [("waited 0.3 seconds",)]
MONITORING = "^/monitoring/queries"


def query(sql=WAIT, **arguments):
    return Task(SnowflakeOperator, sql=sql, **arguments)


def running(lab, task):
    return not lab.queries[task.query_id].finished


class TestWeather:
    @pytest.mark.parametrize("weather", [500, 503, 403, 408, "reset", "cut", "lose_answer"])
    def test_costs_patience_but_not_the_task(self, lab, user_queries, weather):
        task = query()
        task.deferred()
        logins = lab.requests.logins
        if isinstance(weather, int):
            fault = lab.faults.status(weather, MONITORING, times=3)
        else:
            fault = getattr(lab.faults, weather)(MONITORING, times=3)
        assert task.wait()["outcome"]["status"]["phase"] == "succeeded"
        assert task.resume() == (False, WAITED)
        assert fault.hits == 3
        assert lab.requests.logins == logins + 2  # the triggerer's and the resumed worker's
        assert len(user_queries(WAIT)) == 1

    def test_a_storm_that_also_hits_logins_is_survived(self, lab, user_queries):
        task = query()
        task.deferred()
        lab.faults.storm(2.0, rate=0.7, seed=1)
        task.wait()
        lab.faults.clear()
        assert task.resume() == (False, WAITED)
        assert len(user_queries(WAIT)) == 1

    def test_results_are_fetched_through_weather(self, lab, sql):
        sql("create or replace table weather (a int)")
        for text in ("insert into weather values (1); select count(*) from weather", "select 7"):
            task = query(text, autocommit=True)
            task.deferred()
            task.wait()
            fault = lab.faults.status(503, "/result$", times=1)
            assert task.resume()[1] in ([(1,)], [(7,)])
            assert fault.hits == 1

    def test_longer_than_the_tolerance_loses_sight_but_does_not_cancel(self, lab, user_queries):
        task = query("CALL SYSTEM$WAIT(2)", outage_tolerance=0.5)
        task.deferred()
        lab.faults.status(503, MONITORING)
        task.wait()
        with pytest.raises(JobLost, match=f"{task.query_id}.* for 0.5 s.*503.*may still be running"):
            task.resume()
        lab.faults.clear()
        task.next_try()
        assert task.run() == [("waited 2 seconds",)]
        assert len(user_queries("SYSTEM$WAIT(2)")) == 1

    def test_retry_after_keeps_the_whole_connection_away(self, lab):
        tasks = [query("CALL SYSTEM$WAIT(2)") for _ in range(3)]
        for task in tasks:
            task.deferred()
        lab.requests.clear()
        lab.faults.status(429, MONITORING, retry_after=1, times=2)

        async def main():
            async with triggerer():
                return await asyncio.gather(*(collected(task.trigger) for task in tasks))

        events = asyncio.run(main())
        assert [event[0]["outcome"]["status"]["phase"] for event in events] == ["succeeded"] * 3
        refused = [entry.at for entry in lab.requests.select(status=429)]
        # The first poll has one request for each.
        after = sorted(entry.at for entry in polls(lab))[len(tasks) :]
        assert min(after) - refused[0] >= 1.0

    @pytest.mark.parametrize("tolerance", [0, 0.5])
    def test_no_tolerance_is_no_reason_to_abort_what_was_submitted(self, lab, tolerance):
        # the connector's own timer would, if it were told to have as little patience
        task = query("select 1; CALL SYSTEM$WAIT(0.3)", outage_tolerance=tolerance)
        assert task.run() == WAITED
        assert lab.requests.count("abort-request") == 0

    def test_a_slow_answer_is_waited_for(self, lab):
        task = query()
        task.deferred()
        lab.faults.slow(1.5, MONITORING, times=1)
        task.wait()
        assert task.resume() == (False, WAITED)

    def test_one_line_tells_of_an_outage(self, lab, caplog):
        task = query()
        task.deferred()
        lab.faults.status(503, MONITORING, times=4)
        caplog.set_level(logging.WARNING)
        caplog.clear()
        task.wait()
        assert len(caplog.records) == 1, caplog.text
        assert "cannot be polled" in caplog.text


class TestCredentials:
    def test_an_expired_session_is_renewed_without_a_login(self, lab, let_go):
        task = query()
        task.deferred()

        async def expire(trigger):
            seen = len(polls(lab))
            await until(lambda: len(polls(lab)) > seen + 1)
            lab.expire_sessions()
            await until(lambda: lab.requests.count("^/session/token-request"))
            let_go()

        logins = lab.requests.logins
        task.wait(expire)
        assert lab.requests.logins == logins + 1

    @pytest.mark.parametrize("direct", [False, True])
    def test_after_an_expired_master_token_one_login_serves_all_waits(self, lab, let_go, direct):
        tasks = [query() for _ in range(8)]
        for task in tasks:
            task.deferred()
        logins = lab.requests.logins

        async def main():
            async with triggerer():
                waiting = [asyncio.ensure_future(collected(task.trigger)) for task in tasks]
                seen = len(polls(lab))
                await until(lambda: len(polls(lab)) > seen + 10)
                assert lab.requests.logins == logins + 1
                lab.expire_masters(direct=direct)
                await until(lambda: lab.requests.logins > logins + 1)
                let_go()
                return await asyncio.gather(*waiting)

        for (event,) in asyncio.run(main()):
            assert event["outcome"]["status"]["phase"] == "succeeded"
        assert lab.requests.logins == logins + 2

    def test_a_rotated_password_is_read_from_the_connection_again(self, lab, connect_as, let_go):
        task = query()
        task.deferred()

        async def rotate(trigger):
            await until(lambda: polls(lab))
            lab.rotate_password("N3w-secret")
            lab.expire_masters(direct=True)
            refused = len([one for one in lab.logins if not one.ok])
            await until(lambda: len([one for one in lab.logins if not one.ok]) > refused)
            connect_as()
            let_go()

        assert task.wait(rotate)["outcome"]["status"]["phase"] == "succeeded"
        assert task.resume() == (False, WAITED)

    def test_a_session_that_ends_with_the_password_costs_each_refusal_once(self, lab):
        """A few waits are asked for by a thread each, and five refusals lock a user."""
        tasks = [query("CALL SYSTEM$WAIT(300)") for _ in range(4)]
        for task in tasks:
            task.deferred()

        async def main():
            async with triggerer():
                waiting = [asyncio.ensure_future(collected(task.trigger)) for task in tasks]
                seen = len(polls(lab))
                await until(lambda: len(polls(lab)) > seen + 8)
                logins = lab.requests.logins
                lab.rotate_password("N3w-secret")
                lab.expire_masters(direct=True)
                await asyncio.gather(*waiting)
                return lab.requests.logins - logins

        assert asyncio.run(main()) <= 3

    def test_a_password_that_stays_wrong_loses_sight_after_three_tries(self, lab):
        task = query(LONG)
        task.deferred()
        lab.rotate_password("N3w-secret")
        logins = lab.requests.logins
        task.wait()
        assert lab.requests.logins == logins + 3
        with pytest.raises(JobLost, match="Cannot log in") as caught:
            task.resume()
        for said in (
            task.query_id,
            "refused the login",
            "snowflake_default",
            "LAB_USER",
            "may still be running",
        ):
            assert said in str(caught.value)
        assert lab.password not in str(caught.value)
        assert running(lab, task)


class TestStates:
    def test_of_waiting_are_running(self, lab, capsys, let_go):
        task = query("select /* lab: running=1 */ 5")
        task.deferred()
        told = []

        def is_told(state):
            lab.queries[task.query_id].state = state
            told.extend(re.findall(r"is active \((\w+)\)", capsys.readouterr().out))
            return state in told

        async def pass_through(trigger):
            for state in ("QUEUED", "RESUMING_WAREHOUSE", "BLOCKED", "RESTARTED"):
                await until(lambda state=state: is_told(state))
            let_go()

        task.wait(pass_through)
        assert task.resume() == (False, [(5,)])
        assert [key for key, _ in itertools.groupby(told)] == told, "a line without a change"

    def test_that_are_new_are_running_and_told_once(self, lab, caplog, let_go):
        tasks = [query("select /* lab: running=1 status=PONDERING */ 5") for _ in range(2)]
        for task in tasks:
            task.deferred()

        async def ponder(trigger):
            other = asyncio.ensure_future(collected(tasks[1].trigger))
            for task in tasks:
                await until(lambda task=task: lab.requests.count(f"{MONITORING}/{task.query_id}"))
            let_go()
            tasks[1].events += await other

        tasks[0].wait(ponder)
        for task in tasks:
            assert task.resume() == (False, [(5,)])
        assert len([one for one in caplog.records if "unknown query state 'PONDERING'" in one.message]) == 1

    @pytest.mark.parametrize(
        ("end", "error"),
        [
            ("FAILED_WITH_ERROR", JobFailed),
            ("FAILED_WITH_INCIDENT", JobFailed),
            ("DISCONNECTED", JobFailed),
            ("ABORTED", JobCancelled),
        ],
    )
    def test_of_failure(self, lab, end, error):
        task = query(f"select /* lab: end={end} */ 5")
        with pytest.raises(error, match=r"000603|000604") as caught:
            task.run()
        assert type(caught.value) is error
        assert task.query_id in str(caught.value)

    def test_a_warehouse_that_does_not_resume(self, lab):
        lab.set_warehouse("STOPPED", auto_resume=False)
        lab.suspend_warehouse("STOPPED")
        task = query(WAIT, warehouse="stopped")
        with pytest.raises(JobFailed, match=r"000606.*[Ss]elect an active warehouse.*57P03.*`warehouse`"):
            task.run()


class TestCancelledOutside:
    def test_says_so_and_a_retry_starts_a_new_query(self, lab, user_queries, let_go):
        task = query()
        task.deferred()
        assert lab.abort_by_admin(task.query_id)
        task.wait()
        with pytest.raises(JobCancelled, match=r"cancelled outside Airflow \(000604"):
            task.resume()
        let_go()
        task.next_try()
        assert task.run() == WAITED
        assert len(user_queries(WAIT)) == 2

    def test_can_be_final(self, lab):
        task = query(LONG, retry_cancelled=False)
        task.deferred()
        lab.abort_by_admin(task.query_id)
        task.wait()
        with pytest.raises(AirflowFailException, match="cancelled outside Airflow"):
            task.resume()


class TestTime:
    def test_snowflakes_own_timeout_names_its_parameter(self, lab):
        task = query(LONG, session_parameters={"STATEMENT_TIMEOUT_IN_SECONDS": 1})
        with pytest.raises(JobTimedOut, match=r"STATEMENT_TIMEOUT_IN_SECONDS.*000630"):
            task.run()

    def test_the_server_would_end_the_query_a_little_after_the_engine(self, lab):
        task = query(LONG, execution_timeout=timedelta(seconds=60))
        task.deferred()
        limit = lab.queries[task.query_id].timeout
        assert math.ceil(task.trigger.deadline - time.time()) + 30 <= limit <= 90

    def test_the_server_ends_the_query_when_no_triggerer_does(self, lab, monkeypatch):
        monkeypatch.setattr(arguments, "_SERVER_IS_LATER", 0)
        task = query(LONG, execution_timeout=timedelta(seconds=1.5))
        task.deferred()
        assert lab.queries[task.query_id].timeout in {1.0, 2.0}
        task.trigger.deadline = None
        task.wait()
        assert lab.queries[task.query_id].error_code == "000630"
        with pytest.raises(JobTimedOut, match="execution_timeout"):
            task.resume()

    def test_a_lower_timeout_of_the_users_own_stays(self, lab):
        parameters = {"statement_timeout_in_seconds": 7}
        task = query(LONG, execution_timeout=timedelta(seconds=60), session_parameters=parameters)
        task.deferred()
        assert lab.queries[task.query_id].timeout == 7.0

    def test_the_triggerer_ends_the_query_at_the_deadline(self, lab):
        task = query(LONG, execution_timeout=timedelta(seconds=60))
        started = time.time()
        task.deferred()
        assert started + 60 <= task.trigger.deadline <= time.time() + 60
        task.trigger.deadline = time.time() + 0.3
        task.wait()
        assert lab.queries[task.query_id].error_code == "000604"
        with pytest.raises(
            JobTimedOut, match="did not end before the task's execution_timeout; it was cancelled"
        ):
            task.resume()

    def test_a_restarted_triggerer_does_not_renew_the_time(self, lab):
        task = query(LONG, execution_timeout=timedelta(seconds=60))
        first = task.deferred().deadline
        _, kwargs = task.trigger.serialize()
        assert kwargs["deadline"] == first

    def test_at_the_deadline_in_bad_weather_the_cancel_is_repeated(self, lab):
        task = query(LONG, execution_timeout=timedelta(seconds=60))
        task.deferred()
        task.trigger.deadline = time.time() + 0.2
        fault = lab.faults.status(503, "abort-request", times=2)
        task.wait()
        assert fault.hits == 2
        assert lab.queries[task.query_id].error_code == "000604"
        with pytest.raises(JobTimedOut):
            task.resume()


class TestUnknownToSnowflake:
    def test_is_waited_for_and_then_lost(self, lab, monkeypatch):
        task = query(store=None)  # so that nothing remembers the query it was
        task.deferred()
        task.trigger.job["query_id"] = "01000000-0000-0000-0000-000000000000"

        async def pass_time(trigger):
            await until(lambda: len(polls(lab)) > 3)
            assert jobs._APPEARS_WITHIN == 120
            monkeypatch.setattr(jobs, "_APPEARS_WITHIN", 0.0)

        event = task.wait(pass_time)
        status = event["outcome"]["status"]
        assert (status["phase"], status["raw"]) == ("lost", "NO_DATA")
        with pytest.raises(JobLost, match=r"Snowflake knows no query 01000000-.* that user LAB_USER may see"):
            task.resume()


class TestResultsGone:
    def test_is_a_clear_error_when_they_are_wanted(self, lab):
        task = query("select 1")
        task.deferred()
        task.wait()
        lab.expire_results()
        with pytest.raises(
            AirflowFailException, match=f"{task.query_id} succeeded, but .*24 hours.* clear the task"
        ):
            task.resume()

    @pytest.mark.parametrize("text", ["select 1", "select 1; select 2"])
    def test_does_not_matter_when_they_are_not(self, lab, text):
        task = query(text, do_xcom_push=False)
        task.deferred()
        task.wait()
        lab.expire_results()
        assert task.resume() == (False, None)


class TestUserKill:
    def test_ends_the_query(self, lab, supervisor):
        task = query(LONG)
        task.deferred()
        supervisor.answer = Count(0)  # its Dag run was deleted

        async def kill(trigger):
            await until(lambda: polls(lab))
            await trigger.on_kill()
            assert lab.queries[task.query_id].error_code == "000604"

        event = task.wait(kill)
        assert event["outcome"]["status"]["phase"] == "cancelled"
        questions = [one for one in supervisor.questions if isinstance(one, GetTICount)]
        assert [questions[0].states, questions[-2].states] == [["deferred"], None]
        assert {(one.dag_id, *one.task_ids, *one.run_ids) for one in questions} == {
            ("dag", "task", task.ti.run_id)
        }

    @pytest.mark.parametrize("answer", [Count(1), OSError("gone")])
    def test_a_move_to_another_triggerer_does_not(self, lab, supervisor, answer):
        task = query(WAIT)
        task.deferred()
        supervisor.answer = answer

        async def move(trigger):
            await until(lambda: polls(lab))
            await trigger.on_kill()

        task.wait(move)
        assert task.resume() == (False, WAITED)

    def test_can_leave_the_query_alone(self, lab, supervisor):
        task = query(WAIT, cancel_on_kill=False)
        task.deferred()
        supervisor.answer = Count(0)
        task.wait(lambda trigger: trigger.on_kill())
        assert task.resume() == (False, WAITED)

    def test_in_the_worker_ends_the_query_too(self, lab, user_queries):
        task = query(LONG, deferrable=False)

        class Impatient(SnowflakeOperator):
            def announce(self, context, job):
                self.on_kill()

        task._class = Impatient
        with pytest.raises(JobCancelled):
            task.run()
        (ended,) = user_queries(LONG)
        assert ended.error_code == "000604"


class TestDeadWorker:
    """The process is gone after the submit; the retry must find what it started."""

    def test_a_worker_that_defers_leaves_its_session_alone(self, lab):
        """To log out would end the query; newer connectors do it unless they are told not to."""
        task = query()
        task.deferred()
        assert [entry.path for entry in lab.requests.entries if entry.method == "GET"] == []
        assert lab.requests.count("^/session$") == 0

    @pytest.mark.parametrize("text", [WAIT, "select 1; CALL SYSTEM$WAIT(0.3)"])
    def test_before_the_id_was_saved_the_session_tells(self, lab, user_queries, text):
        store = DyingStore()
        store.dies_at = 2
        task = query(text, store=store)
        with pytest.raises(Killed):
            task.start()
        task.next_try()
        assert task.run() == WAITED
        assert len(user_queries("SYSTEM$WAIT(0.3)")) == 1
        assert lab.requests.count("queries/v1/query-request") <= 4 + 2 * text.count(";")

    @pytest.mark.parametrize("text", [WAIT, "select 1; CALL SYSTEM$WAIT(0.3)"])
    def test_without_a_store_the_tag_tells(self, lab, user_queries, text):
        task = query(text, store=None)
        task.deferred()
        task.next_try()
        assert task.run() == WAITED
        assert len(user_queries("SYSTEM$WAIT(0.3)")) == 1

    def test_after_the_id_was_saved_the_store_tells(self, lab, user_queries):
        task = query()
        task.deferred()
        first = task.query_id
        task.next_try()
        task.deferred()
        assert task.query_id == first
        assert len(user_queries(WAIT)) == 1

    def test_a_retry_looks_for_the_query_as_patiently_as_it_would_wait(self, lab, user_queries, monkeypatch):
        """The try before could log in, so nothing is mistyped."""
        store = DyingStore()
        store.dies_at = 2
        task = query(store=store)
        with pytest.raises(Killed):
            task.start()
        task.next_try()
        monkeypatch.setattr(queries, "_LOGIN_PATIENCE", 0.0)
        lab.faults.status(503, "/session/v1/login-request", times=3)
        assert task.run() == WAITED
        assert len(user_queries(WAIT)) == 1

    def test_before_the_submit_nothing_is_found_and_one_query_is_started(self, lab, user_queries):
        store = DyingStore()
        task = query(store=store)

        class Dying(SnowflakeOperator):
            def submit(self, context, attempt):
                raise Killed

        task._class = Dying
        with pytest.raises(Killed):
            task.start()
        task._class = SnowflakeOperator
        task.next_try()
        assert task.run() == WAITED
        assert len(user_queries(WAIT)) == 1

    def test_a_result_that_was_ready_is_returned_at_once(self, lab, user_queries):
        task = query("select 3", quick_wait=60)
        store = task.store = DyingStore()
        store.dies_at = 2
        with pytest.raises(Killed):
            task.start()
        task.next_try()
        assert task.start() == (False, [(3,)])
        assert len(user_queries("select 3")) == 1

    def test_a_retry_after_a_failure_starts_a_new_query(self, lab, user_queries, sql):
        sql("drop table if exists later")
        task = query("select * from later")
        with pytest.raises(JobFailed):
            task.run()
        sql("create or replace table later as select 4 as a")
        task.next_try()
        assert task.run() == [(4,)]
        assert len(user_queries("select * from later")) == 2

    def test_a_clear_cancels_what_it_supersedes(self, lab, user_queries):
        task = query(LONG)
        task.deferred()
        first = task.query_id
        task.clear()
        task._arguments["sql"] = WAIT
        assert task.run() == WAITED
        assert lab.queries[first].error_code == "000604"
        assert len(user_queries(WAIT)) == 1

    def test_so_does_one_whose_new_sql_needs_a_session(self, lab, tmp_path):
        task = query(LONG)
        task.deferred()
        first = task.query_id
        (tmp_path / "rows.csv").write_text("1\n")
        task.clear()
        task._arguments["sql"] = f"put file://{tmp_path}/rows.csv @~"
        with suppress(Exception):  # what a local stand-in makes of a file is not the point
            task.run()
        assert lab.queries[first].error_code == "000604"

    def test_an_answer_that_was_lost_does_not_start_it_twice(self, lab, user_queries):
        task = query()
        lab.faults.lose_answer("query-request", times=1)
        assert task.run() == WAITED
        assert len(user_queries(WAIT)) == 1


class TestStatementErrors:
    def test_tell_all_that_snowflake_tells(self, lab):
        task = query("select nonsense from nowhere")
        with pytest.raises(JobFailed) as caught:
            task.run()
        message = str(caught.value)
        for said in (
            "002003",
            "42S02",
            task.query_id,
            "https://app.snowflake.com/",
            "does not exist or not authorized",
        ):
            assert said in message
        cause = caught.value.__cause__
        assert isinstance(cause, ProgrammingError)
        assert (cause.errno, cause.sqlstate, cause.sfqid) == (2003, "42S02", task.query_id)
