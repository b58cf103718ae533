"""All or nothing, and no transaction or lock that outlives its task."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from astronomer.deferral import JobCancelled, JobFailed, JobTimedOut
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from tests.integration.snowflake.driving import Task, polls, until
from tests.unit.deferral.fakes import Count

INSERT = "insert into ledger values (1)"
FAIL = "insert into ledger values (1/0)"
LONG = "CALL SYSTEM$WAIT(300)"


@pytest.fixture(autouse=True)
def ledger(sql):
    """What is in the table that every test here writes to."""
    sql("create or replace table ledger (a int)")
    return lambda: [row[0] for row in sql("select a from ledger order by a")]


@pytest.fixture(autouse=True)
def nothing_left_open(lab, ledger):
    assert lab.open_transactions() == []
    yield
    assert lab.open_transactions() == []


def transaction(*statements, **arguments):
    return Task(SnowflakeOperator, sql=list(statements), **arguments)


@pytest.mark.parametrize("deferrable", [True, False])
class TestWithoutAutocommit:
    def test_success_commits_all(self, ledger, deferrable):
        task = transaction(INSERT, "update ledger set a = a + 1", deferrable=deferrable, return_last=False)
        assert task.run() == [[(1,)], [(1, 0)]]
        assert ledger() == [2]

    def test_a_failure_in_the_middle_leaves_nothing(self, lab, ledger, deferrable):
        task = transaction(INSERT, "update ledger set a = 5", FAIL, INSERT, deferrable=deferrable)
        with pytest.raises(JobFailed, match="100051"):
            task.run()
        assert lab.open_transactions() == []
        assert ledger() == []

    def test_the_table_is_free_when_the_task_has_failed(self, sql, ledger, deferrable):
        sql(INSERT)
        with pytest.raises(JobFailed):
            transaction("update ledger set a = 9", FAIL, deferrable=deferrable).run()
        sql("alter session set lock_timeout = 1", "update ledger set a = 3")
        assert ledger() == [3]

    def test_a_compile_error_runs_nothing(self, ledger, deferrable):
        with pytest.raises(JobFailed, match="001003"):
            transaction(INSERT, "selec 1", deferrable=deferrable).run()
        assert ledger() == []


class TestWithAutocommit:
    def test_what_came_before_a_failure_stays(self, ledger):
        with pytest.raises(JobFailed, match="100051"):
            transaction(INSERT, FAIL, INSERT, autocommit=True).run()
        assert ledger() == [1]

    def test_of_the_session_parameters_counts_too(self, ledger):
        with pytest.raises(JobFailed, match="100051"):
            transaction(INSERT, FAIL, session_parameters={"autocommit": True}).run()
        assert ledger() == [1]

    def test_an_explicit_transaction_is_kept_together(self, ledger):
        text = "BEGIN; insert into ledger values (1); insert into ledger values (2); COMMIT"
        Task(SnowflakeOperator, sql=text, autocommit=True).run()
        assert ledger() == [1, 2]

    def test_an_explicit_transaction_that_fails_is_rolled_back(self, lab, ledger):
        text = "BEGIN; insert into ledger values (1); insert into ledger values (1/0); COMMIT"
        with pytest.raises(JobFailed, match="100051"):
            Task(SnowflakeOperator, sql=text, autocommit=True).run()
        assert lab.open_transactions() == []
        assert ledger() == []

    def test_an_explicit_transaction_that_nobody_ended_does_not_stay_open(self, lab, ledger):
        Task(SnowflakeOperator, sql="BEGIN; insert into ledger values (1)", autocommit=True).run()
        assert lab.open_transactions() == []
        assert ledger() == []


class TestAnEndInTheMiddle:
    def test_by_a_user(self, lab, ledger, supervisor):
        supervisor.answer = Count(0)
        task = transaction(INSERT, LONG)
        task.deferred()

        async def kill(trigger):
            await until(lab.open_transactions)
            await until(lambda: polls(lab))
            await trigger.on_kill()
            assert lab.open_transactions() == []

        task.wait(kill)
        assert ledger() == []

    def test_by_an_administrator(self, lab, ledger):
        task = transaction(INSERT, LONG)
        task.deferred()

        async def abort(trigger):
            await until(lab.open_transactions)
            lab.abort_by_admin(task.query_id)

        task.wait(abort)
        with pytest.raises(JobCancelled):
            task.resume()
        assert ledger() == []

    def test_at_the_deadline(self, lab, ledger):
        task = transaction(INSERT, LONG, execution_timeout=timedelta(seconds=60))
        task.deferred()
        task.trigger.deadline = time.time() + 0.3
        task.wait()
        assert lab.open_transactions() == []
        with pytest.raises(JobTimedOut):
            task.resume()
        assert ledger() == []

    def test_by_snowflakes_timeout(self, lab, ledger):
        task = transaction(INSERT, LONG, session_parameters={"STATEMENT_TIMEOUT_IN_SECONDS": 1})
        with pytest.raises(JobTimedOut):
            task.run()
        assert ledger() == []

    def test_in_the_worker(self, lab, ledger):
        class Impatient(SnowflakeOperator):
            def announce(self, context, job):
                self.on_kill()

        with pytest.raises(JobCancelled):
            Task(Impatient, sql=[INSERT, LONG], deferrable=False).run()
        assert lab.open_transactions() == []
        assert ledger() == []

    def test_by_a_clear(self, lab, ledger):
        task = transaction(INSERT, LONG)
        task.deferred()
        task.clear()
        task._arguments["sql"] = "insert into ledger values (7)"
        task.run()
        assert lab.open_transactions() == []
        assert ledger() == [7]

    def test_the_roll_back_survives_weather(self, lab, ledger):
        task = transaction(INSERT, FAIL)
        task.deferred()
        fault = lab.faults.status(503, "query-request", times=2)
        task.wait()
        assert fault.hits == 2
        with pytest.raises(JobFailed, match="100051"):
            task.resume()
        assert lab.open_transactions() == []
