"""The sensor: the stock rules of yes and no, pokes one at a time, and nothing left running."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from itertools import pairwise
from operator import itemgetter

import pytest

from astronomer.deferral import JobCancelled, JobError, JobFailed, JobLost, JobTimedOut, poke
from astronomer.deferral._compat import AirflowException, AirflowSensorTimeout, AirflowSkipException
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor, SnowflakeSensorAsync
from tests.integration.snowflake.driving import (
    Task,
    collected,
    for_a_while,
    in_enough_time,
    polls,
    triggerer,
    until,
)
from tests.unit.deferral.fakes import Count

LONG = "CALL SYSTEM$WAIT(300)"


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    monkeypatch.setattr(poke, "_PAUSE_IN_TROUBLE", 0.1)


@pytest.fixture
def switch(sql):
    """A table that the pokes look at."""
    sql("create or replace table switch (a int)")
    return lambda value: sql("delete from switch", f"insert into switch values ({value})")


def sensor(sql="select max(a) from switch", **arguments):
    return Task(SnowflakeSensor, sql=sql, **{"poke_interval": 0.3, "timeout": 120.0, **arguments})


@pytest.fixture
def asked(monkeypatch):
    """Each question for the pause: the moment that the last poke was planned for, the answer, and when it was asked."""
    asked, pause = [], poke.PokeTrigger._pause

    def noted(self):
        at = time.time()
        asked.append((self.next_poke, pause(self), at))
        return asked[-1][1]

    monkeypatch.setattr(poke.PokeTrigger, "_pause", noted)
    return asked


def poke_until(enough, *tasks):
    """Let the tasks poke until there was enough of it."""

    for task in tasks:
        task.deferred()
    asyncio.run(for_a_while(tasks, until(enough)))


class TestAnswers:
    @pytest.mark.parametrize(
        ("sql", "arguments"),
        [
            ("select 1", {}),
            ("select 'yes'", {}),
            ("select 0, 5", {"selector": itemgetter(1)}),
            ("select 3", {"success": lambda cell: cell == 3}),
            ("select 0", {"success": lambda cell: cell == 0}),
            ("select 1, 2", {"selector": lambda row: row, "success": lambda row: row == (1, 2)}),
            ("select %(a)s", {"parameters": {"a": "x"}, "success": lambda cell: cell == "x"}),
            ("select %s", {"parameters": ["x"]}),
            ("select 0; select 4", {}),
            ("select 1;", {"fail_on_empty": True}),
        ],
    )
    def test_of_yes(self, lab, sql, arguments):
        task = sensor(sql, **arguments)
        assert task.run() is None
        assert len(task.events) == 1
        assert task.events[0]["pokes"] == 1

    @pytest.mark.parametrize(
        "sql", ["select 0", "select null", "select ''", "select 1 where 1 = 0", "select 'x' where 1 = 0"]
    )
    def test_of_no_until_the_timeout(self, lab, sql):
        def pokes_twice(timeout):
            task = sensor(sql, timeout=timeout, poke_interval=0.25)
            with pytest.raises(AirflowSensorTimeout, match=r"not yes after \d+ pokes"):
                task.run()
            (event,) = task.events  # no worker is called for a no
            return event["pokes"] >= 2

        in_enough_time(pokes_twice)

    def test_of_no_that_becomes_yes(self, lab, switch, user_queries):
        switch(0)
        task = sensor()
        task.deferred()

        async def turn(trigger):
            await until(lambda: len(user_queries("max(a)")) >= 2)
            switch(1)

        task.wait(turn)
        assert task.resume() == (False, None)

    def test_of_a_function_that_becomes_yes(self, lab, switch, user_queries):
        switch(1)
        task = sensor(success=lambda cell: cell == 2)
        task.deferred()
        task.wait()
        deferred, _ = task.resume()
        assert deferred
        switch(2)
        task.wait()
        assert task.resume() == (False, None)
        assert task.events[-1]["pokes"] == 2
        first, second = user_queries("max(a)")
        assert second.started_at - first.started_at > 0.2

    def test_of_failure_comes_first(self, lab):
        task = sensor("select 1", success=lambda cell: True, failure=lambda cell: cell == 1)
        with pytest.raises(AirflowException, match=r"self.failure\(1\) returned True"):
            task.run()

    @pytest.mark.parametrize("arguments", [{}, {"success": bool}])
    def test_of_no_rows(self, lab, arguments):
        task = sensor("select 1 where 1 = 0", fail_on_empty=True, **arguments)
        with pytest.raises(AirflowException, match="fail_on_empty"):
            task.run()

    @pytest.mark.parametrize("criterion", ["success", "failure"])
    def test_need_functions(self, criterion):
        with pytest.raises(ValueError, match=f"`{criterion}` must be a function"):
            SnowflakeSensor(task_id="t", sql="select 1", **{criterion: 7})

    def test_in_the_worker_as_the_stock_sensor(self, lab, switch):
        switch(2)
        sensor(deferrable=False, success=lambda cell: cell == 2).run()
        with pytest.raises(AirflowSensorTimeout):
            sensor("select 0", deferrable=False, timeout=0.2, poke_interval=0.1).run()

    def test_of_the_1x_name(self, lab):
        task = Task(
            SnowflakeSensorAsync,
            sql="select 1",
            snowflake_conn_id="snowflake_default",
            warehouse="compute_wh",
        )
        task.run()
        assert task.trigger.job["hook_params"] == {"warehouse": "compute_wh"}


class TestFailingPokes:
    def test_fail_the_task_with_snowflakes_words(self, lab):
        with pytest.raises(JobFailed, match=r"(?s)001003.*syntax error.*See https://app.snowflake.com"):
            sensor("selec 1").run()

    def test_of_an_administrator(self, lab, user_queries):
        task = sensor(LONG)
        task.deferred()

        async def abort(trigger):
            (query,) = await until(lambda: user_queries(LONG))
            lab.abort_by_admin(query.id)

        task.wait(abort)
        with pytest.raises(JobCancelled, match="000604"):
            task.resume()

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    @pytest.mark.parametrize("sql", ["selec 1", "select 1 where 1 = 0"])
    def test_skip_when_they_may(self, lab, flag, sql):
        with pytest.raises(AirflowSkipException, match=f"{flag} is set"):
            sensor(sql, fail_on_empty=True, **{flag: True}).run()

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_timeouts_skip_too(self, lab, flag):
        with pytest.raises(AirflowSkipException):
            sensor("select 0", timeout=0.2, **{flag: True}).run()

    def test_are_silent_when_they_may(self, lab, sql):
        sql("drop table if exists later_still")
        task = sensor("select max(a) from later_still", silent_fail=True)
        task.deferred()
        task.wait()
        deferred, _ = task.resume()
        assert deferred
        sql("create or replace table later_still as select 1 as a")
        task.wait()
        assert task.resume() == (False, None)

    def test_of_a_function_that_raises(self, lab):
        with pytest.raises(ZeroDivisionError):
            sensor("select 1", success=lambda cell: 1 / 0).run()


class TestPokes:
    def test_never_overlap(self, lab, user_queries):
        text = "select 0 /* lab: running=0.3 */"
        task = sensor(text, poke_interval=0.1)
        poke_until(lambda: task.trigger.pokes >= 3, task)
        for before, after in pairwise(user_queries(text)):
            assert after.started_at >= before.ended_at

    @pytest.mark.parametrize(
        ("pauses", "arguments"),
        [
            ([0.4, 0.4], {"poke_interval": 0.4}),
            (
                [0.2, 0.4, 0.5, 0.5],
                {"poke_interval": 0.2, "exponential_backoff": True, "max_wait": timedelta(seconds=0.5)},
            ),
        ],
    )
    def test_keep_their_distance_from_start_to_start(self, lab, user_queries, asked, pauses, arguments):
        task = sensor("select 0", **arguments)
        poke_until(lambda: task.trigger.pokes > len(pauses), task)
        # The pause is asked for after each poke, and again before the next one.
        for pause, (start, given, at), (following, *_) in zip(pauses, asked[1::2], asked[2::2], strict=False):
            assert given == pause
            assert start + pause <= following <= max(at, start + pause)
        for (start, *_), query in zip(asked[::2], user_queries("select 0"), strict=False):
            assert query.started_at > start - 0.05

    def test_in_one_session_for_all_sensors_of_a_connection(self, lab, user_queries):
        tasks = [sensor("select 0") for _ in range(10)]
        poke_until(lambda: all(task.trigger.pokes >= 2 for task in tasks), *tasks)
        assert lab.requests.logins == 1
        assert len({query.session_id for query in user_queries("select 0")}) == 1

    def test_of_a_sensor_are_its_own_beside_a_block_of_another_task(self, lab):
        block = Task(SnowflakeOperator, task_id="block", sql=f"select 1; {LONG}", autocommit=False)
        task = sensor("select 1")
        block.deferred()
        task.deferred()

        async def main():
            async with triggerer():
                waiting = asyncio.ensure_future(collected(block.trigger))  # the session is opened for it
                await until(lambda: polls(lab))
                (event,) = await asyncio.wait_for(collected(task.trigger), 60)
                waiting.cancel()
                return event

        event = asyncio.run(main())
        assert event["met"]
        assert not event["job"]["block"]
        assert event["job"]["statements"] == 1


class TestEnds:
    def test_the_timeout_cancels_the_poke(self, lab, user_queries):
        task = sensor(LONG, timeout=1.0)
        with pytest.raises(AirflowSensorTimeout, match="1 pokes"):
            task.run()
        (query,) = user_queries(LONG)
        assert query.error_code == "000604"

    def test_the_execution_timeout_too_and_is_told_apart(self, lab, user_queries):
        task = sensor(LONG, execution_timeout=timedelta(seconds=1))
        with pytest.raises(JobTimedOut):
            task.run()
        (query,) = user_queries(LONG)
        assert query.error_code == "000604"

    def test_the_timeout_is_not_renewed_by_a_worker_in_between(self, lab):
        task = sensor("select 1", success=lambda cell: False, timeout=1.5)
        started = time.monotonic()
        with pytest.raises(AirflowSensorTimeout):
            task.run()
        assert time.monotonic() - started < 30
        assert len({event["deadline"] for event in task.events}) == 1

    @pytest.mark.parametrize(("answer", "ended"), [(Count(0), True), (Count(1), False)])
    def test_a_user_cancels_the_poke_and_a_move_does_not(
        self, lab, supervisor, user_queries, let_go, answer, ended
    ):
        supervisor.answer = answer
        task = sensor("CALL SYSTEM$WAIT(1)")
        task.deferred()

        async def kill(trigger):
            await until(lambda: trigger.job["query_id"] and polls(lab))
            await trigger.on_kill()
            let_go()

        task.wait(kill)
        (query,) = user_queries("SYSTEM$WAIT(1)")
        assert (query.error_code == "000604") is ended

    def test_a_user_between_two_pokes_cancels_nothing(self, lab, supervisor):
        supervisor.answer = Count(0)
        task = sensor("select 0", timeout=0.5)
        task.deferred()
        assert task.trigger.job["query_id"] == ""
        task.trigger.next_poke = task.trigger.deadline
        task.wait(lambda trigger: trigger.on_kill())
        assert lab.requests.count("abort-request") == 0


class TestWeather:
    @pytest.mark.parametrize("path", ["query-request", "^/monitoring", "/result$"])
    def test_costs_patience(self, lab, path):
        task = sensor("select 1")
        task.deferred()
        fault = lab.faults.status(503, path, times=2)
        task.wait()
        assert fault.hits == 2
        assert task.resume() == (False, None)

    def test_in_the_worker_that_judges_costs_patience(self, lab):
        task = sensor("select 0; select 1", success=bool)
        task.deferred()
        task.wait()
        fault = lab.faults.status(503, "/result$", times=1)
        assert task.resume() == (False, None)
        assert fault.hits == 1

    @pytest.mark.parametrize("direct", [True, False])
    def test_a_login_that_expired_between_two_pokes_is_renewed(self, lab, switch, user_queries, direct):
        switch(0)
        task = sensor(poke_interval=0.6)
        task.deferred()

        async def expire(trigger):
            (query,) = await until(lambda: user_queries("max(a)"))
            await until(lambda: query.finished and lab.requests.count("/result$"))
            lab.expire_masters(direct=direct)
            await until(lambda: len(user_queries("max(a)")) > 1)
            switch(1)

        task.wait(expire)
        assert task.resume() == (False, None)

    def test_a_wrong_password_is_told(self, lab):
        task = sensor("select 1")
        task.deferred()
        lab.rotate_password("N3w-secret")
        logins = lab.requests.logins
        task.wait()
        assert lab.requests.logins - logins <= 3
        with pytest.raises((JobLost, JobError), match="refused the login"):
            task.resume()

    def test_that_lasts_loses_sight(self, lab):
        task = sensor("CALL SYSTEM$WAIT(2)", outage_tolerance=0.5)
        task.deferred()
        lab.faults.status(503, "^/monitoring")
        task.wait()
        with pytest.raises(JobLost, match="503"):
            task.resume()
