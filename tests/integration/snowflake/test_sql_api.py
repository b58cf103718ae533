"""The SQL API operator: the stock arguments on one HTTP session and one token, through any weather."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from airflow.providers.snowflake.utils.sql_api_generate_jwt import JWTGenerator

from astronomer.deferral import JobCancelled, JobError, JobFailed, JobLost, JobTimedOut
from astronomer.deferral._compat import AirflowFailException
from astronomer.providers.snowflake.jobs import statements
from astronomer.providers.snowflake.operators.snowflake import (
    SnowflakeSqlApiOperator,
    SnowflakeSqlApiOperatorAsync,
)
from astronomer.providers.snowflake.operators.sql_api import StatementFailed
from tests.integration.snowflake.driving import DyingStore, Killed, Task, collected, triggerer, until
from tests.unit.deferral.fakes import Count

API = "^/api/v2/statements"
SUBMIT = "^/api/v2/statements$"
WAIT = "CALL SYSTEM$WAIT(0.3)"
LONG = "CALL SYSTEM$WAIT(300)"
WAITED = [[{"SYSTEM$WAIT": "waited 0.3 seconds"}]]


@pytest.fixture(autouse=True)
def access_token(connect_as):
    """A connection that costs no signature."""
    return connect_as("api", auth="pat")


@pytest.fixture
def signed(monkeypatch, connect_as, access_token):
    """A connection that does, and how many there were, by the stock hook's own generator."""
    connect_as("api", auth="key_pair")
    counted = []
    real = JWTGenerator.__init__

    def count(self, *args, **kwargs):
        counted.append(self)
        real(self, *args, **kwargs)

    monkeypatch.setattr(JWTGenerator, "__init__", count)
    return counted


def statement(sql=WAIT, **arguments):
    return Task(
        SnowflakeSqlApiOperator, sql=sql, **{"snowflake_conn_id": "api", "fetch_results": True, **arguments}
    )


def handle(task):
    return task.trigger.job["query_ids"][0]


class TestArguments:
    def test_results_are_not_fetched_unless_wanted(self, lab):
        task = statement(fetch_results=False)
        assert task.run() is None
        assert task.ti.xcoms["query_ids"] == task.op.query_ids == task.op._hook.query_ids

    def test_results_of_several_statements(self, lab):
        task = statement(
            "select 1 as a, null as b; select 'x' as c union all select 'y' order by 1", statement_count=2
        )
        assert task.run() == [[{"A": "1", "B": None}], [{"C": "x"}, {"C": "y"}]]

    @pytest.mark.parametrize("sql", [["select 1", "select 2"], "select 1; select 2"])
    def test_any_number_of_statements(self, lab, sql):
        assert len(statement(sql, statement_count=0).run()) == 2

    def test_a_wrong_number_of_statements(self, lab):
        with pytest.raises(StatementFailed, match=r"000008.*Actual statement count 2"):
            statement("select 1; select 2", statement_count=1).run()

    def test_bindings(self, lab):
        bindings = {"1": {"type": "FIXED", "value": "41"}, "2": {"type": "TEXT", "value": "it's"}}
        assert statement("select ? + 1 as a, ? as b", bindings=bindings).run() == [[{"A": "42", "B": "it's"}]]

    def test_bindings_of_several_statements_are_refused_before_the_submit(self, lab, user_queries):
        task = statement("select ?; select 2", bindings={"1": {"type": "FIXED", "value": "41"}})
        with pytest.raises(ValueError, match="takes no `bindings` with several statements"):
            task.run()
        assert user_queries() == []

    def test_bindings_are_a_dictionary(self):
        with pytest.raises(TypeError, match="Bindings should be a dictionary"):
            SnowflakeSqlApiOperator(task_id="t", sql="select ?", bindings=["1"])

    def test_context_and_session_parameters(self, lab, sql):
        sql("create warehouse if not exists other_wh")
        task = statement(
            "select current_warehouse() as w, current_role() as r",
            warehouse="other_wh",
            role="PUBLIC",
            session_parameters={"QUERY_TAG": "mine", "TIMEZONE": "Europe/Berlin"},
        )
        assert task.run() == [[{"W": "OTHER_WH", "R": "PUBLIC"}]]
        query = lab.queries[handle(task)]
        assert (query.tag, query.parameters["TIMEZONE"]) == ("mine", "Europe/Berlin")

    def test_partitions(self, lab, monkeypatch):
        monkeypatch.setattr(
            lab.account_state, "settings", lab.account_state.settings.__class__(partition_rows=40)
        )
        (rows,) = statement("select seq4() as n from table(generator(rowcount => 100)) order by n").run()
        assert [row["N"] for row in rows] == [str(n) for n in range(100)]

    def test_a_transaction_is_kept_together(self, lab, sql):
        sql("create or replace table api_ledger (a int)")
        text = "begin; insert into api_ledger values (1); insert into api_ledger values (1/0); commit"
        with pytest.raises(StatementFailed, match="100051"):
            statement(text, statement_count=4).run()
        assert sql("select count(*) from api_ledger") == [(0,)]
        assert lab.open_transactions() == []

    @pytest.mark.parametrize("sql", ["", "  ", "-- nothing", "/* a; b */;", ["", "-- x"]])
    def test_empty_sql_when_the_dag_is_parsed(self, sql):
        with pytest.raises(ValueError, match="no statement"):
            SnowflakeSqlApiOperator(task_id="t", sql=sql)

    def test_of_the_1x_name_and_in_the_worker(self, lab):
        task = Task(
            SnowflakeSqlApiOperatorAsync,
            sql=WAIT,
            snowflake_conn_id="api",
            deferrable=False,
            fetch_results=True,
        )
        assert task.start() == (False, WAITED)

    def test_the_link_is_there_before_the_first_look(self, lab):
        task = statement(quick_wait=0.1)
        task.run()
        (push,) = [push for push in task.ti.pushes if push.key == "snowsight_query"]
        assert push.value.endswith(f"/#/compute/history/queries/{handle(task)}/detail")
        assert push.at < min(entry.at for entry in lab.requests.select(f"{API}/", "GET"))


class TestSharing:
    def test_one_session_and_one_token_for_twenty_waits(self, lab, signed, connect_as, let_go):
        connect_as("api", auth="pat")  # quicker to submit with
        tasks = [statement() for _ in range(20)]
        for task in tasks:
            task.deferred()
        connect_as("api", auth="key_pair")
        lab.requests.clear()

        async def main():
            async with triggerer():
                waiting = [asyncio.ensure_future(collected(task.trigger)) for task in tasks]
                await until(lambda: lab.requests.count(API) >= 40)
                let_go()
                return await asyncio.gather(*waiting)

        for (event,) in asyncio.run(main()):
            assert event["outcome"]["status"]["phase"] == "succeeded"
        assert len(signed) == 1
        assert lab.requests.connections <= 16
        assert lab.requests.logins == 0

    @pytest.mark.parametrize("auth", ["key_pair", "key_pair_encrypted", "oauth", "pat"])
    def test_every_authentication(self, lab, connect_as, auth):
        connect_as("api", auth=auth)
        assert statement().run() == WAITED


class TestWeather:
    @pytest.mark.parametrize("weather", [429, 500, 503, "reset", "cut", "lose_answer"])
    def test_costs_patience(self, lab, user_queries, weather):
        task = statement()
        task.deferred()
        add = lab.faults.status if isinstance(weather, int) else getattr(lab.faults, weather)
        fault = add(*([weather] if isinstance(weather, int) else []), API, times=3)
        assert task.wait()["outcome"]["status"]["phase"] == "succeeded"
        assert task.resume() == (False, WAITED)
        assert fault.hits == 3
        assert len(user_queries(WAIT)) == 1

    def test_retry_after_is_honoured(self, lab):
        task = statement("CALL SYSTEM$WAIT(2)")
        task.deferred()
        lab.requests.clear()
        lab.faults.status(429, API, retry_after=1, times=1)
        task.wait()
        refused, after, *_ = lab.requests.select(API)
        assert refused.status == 429
        assert after.at - refused.at >= 1.0

    def test_at_the_submit_costs_patience(self, lab, user_queries):
        lab.faults.status(503, SUBMIT, times=1)
        assert statement().run() == WAITED
        assert len(user_queries(WAIT)) == 1

    @pytest.mark.parametrize("weather", ["lose_answer", "cut"])
    def test_an_answer_that_was_lost_does_not_start_it_twice(self, lab, user_queries, weather):
        getattr(lab.faults, weather)(SUBMIT, times=1)
        assert statement().run() == WAITED
        assert len(user_queries(WAIT)) == 1

    def test_when_the_result_is_read_costs_patience(self, lab):
        task = statement()
        task.deferred()
        task.wait()
        lab.faults.status(503, API, times=1)
        assert task.resume() == (False, WAITED)

    def test_longer_than_the_tolerance_loses_sight(self, lab, user_queries):
        task = statement("CALL SYSTEM$WAIT(2)", outage_tolerance=0.5)
        task.deferred()
        lab.faults.status(503, API)
        task.wait()
        with pytest.raises(JobLost, match=f"{handle(task)}.*may still be running"):
            task.resume()
        lab.faults.clear()
        task.next_try()
        assert task.run() == [[{"SYSTEM$WAIT": "waited 2 seconds"}]]
        assert len(user_queries("SYSTEM$WAIT(2)")) == 1

    def test_the_stock_retry_arguments_are_the_tolerance(self, lab):
        from tenacity import stop_after_attempt, wait_fixed

        task = statement(snowflake_api_retry_args={"stop": stop_after_attempt(4), "wait": wait_fixed(0.2)})
        assert task.deferred().outage_tolerance == pytest.approx(0.6)


class TestCredentials:
    def test_a_refused_token_is_signed_again_once(self, lab, signed):
        task = statement("CALL SYSTEM$WAIT(1)")
        task.deferred()
        signed.clear()
        fault = lab.faults.expired(API, times=1)
        task.wait()
        assert fault.hits == 1
        assert len(signed) == 2
        assert task.resume()[1] == [[{"SYSTEM$WAIT": "waited 1 seconds"}]]

    @pytest.mark.parametrize("auth", ["oauth", "pat"])
    def test_revoked_tokens_are_asked_for_anew(self, lab, connect_as, let_go, auth):
        connect_as("api", auth=auth)
        task = statement()
        task.deferred()

        async def revoke(trigger):
            await until(lambda: lab.requests.select(API, "GET", 202))
            lab.revoke_tokens()
            lab.programmatic_access_token = lab.account_state.credentials.new_access_token(lab.user)
            connect_as("api", auth=auth)
            let_go()

        assert task.wait(revoke)["outcome"]["status"]["phase"] == "succeeded"

    def test_that_stay_wrong_lose_sight_and_say_so(self, lab):
        task = statement(LONG)
        task.deferred()
        fault = lab.faults.expired(API)
        task.wait()
        assert fault.hits <= 6
        with pytest.raises(JobLost, match=f"Cannot log in to ask about .*{handle(task)}.*401"):
            task.resume()
        lab.faults.clear()
        assert not lab.queries[handle(task)].finished

    def test_that_are_wrong_at_the_submit_start_nothing(self, lab, user_queries):
        lab.faults.expired(API)
        with pytest.raises(JobError, match="401"):
            statement().run()
        assert user_queries() == []

    def test_a_missing_connection(self, lab):
        with pytest.raises(Exception, match="nowhere"):
            statement(snowflake_conn_id="nowhere").run()


class TestEnds:
    def test_a_failed_statement_tells_all(self, lab):
        task = statement("select nonsense from nowhere")
        with pytest.raises(StatementFailed) as caught:
            task.run()
        for said in ("002003", "42S02", handle(task), "https://app.snowflake.com/", "does not exist"):
            assert said in str(caught.value)
        assert isinstance(caught.value, (JobFailed, RuntimeError))

    def test_a_name_that_the_api_refuses(self, lab, user_queries):
        with pytest.raises(StatementFailed, match=r"HTTP 422: 390201 .*warehouse does not exist"):
            statement(warehouse="nope").run()
        assert user_queries() == []

    def test_snowflakes_timeout(self, lab):
        task = statement(LONG, timeout=1)
        with pytest.raises(JobTimedOut, match="000630"):
            task.run()

    def test_the_tasks_timeout_goes_to_the_server(self, lab):
        task = statement(LONG, timeout=600, execution_timeout=timedelta(seconds=60))
        task.deferred()
        limit = lab.queries[handle(task)].timeout
        assert math.ceil(task.trigger.deadline - time.time()) + 30 <= limit <= 90

    def test_the_deadline_cancels(self, lab):
        task = statement(LONG, execution_timeout=timedelta(seconds=60))
        task.deferred()
        task.trigger.deadline = time.time() + 0.3
        task.wait()
        assert lab.queries[handle(task)].error_code == "000604"
        with pytest.raises(JobTimedOut, match="it was cancelled"):
            task.resume()

    def test_an_administrator(self, lab, user_queries, let_go):
        task = statement()
        task.deferred()
        lab.abort_by_admin(handle(task))
        task.wait()
        with pytest.raises(JobCancelled, match="000604"):
            task.resume()
        let_go()
        task.next_try()
        assert task.run() == WAITED
        assert len(user_queries(WAIT)) == 2

    def test_an_administrator_for_good(self, lab):
        task = statement(LONG, retry_cancelled=False)
        task.deferred()
        lab.abort_by_admin(handle(task))
        task.wait()
        with pytest.raises(AirflowFailException):
            task.resume()

    def test_a_user(self, lab, supervisor):
        supervisor.answer = Count(0)
        task = statement(LONG)
        task.deferred()

        async def kill(trigger):
            await until(lambda: lab.requests.select(f"{API}/", "GET"))
            await trigger.on_kill()

        assert task.wait(kill)["outcome"]["status"]["phase"] == "cancelled"
        assert lab.queries[handle(task)].error_code == "000604"

    def test_a_user_in_the_worker(self, lab, user_queries):
        class Impatient(SnowflakeSqlApiOperator):
            def announce(self, context, job):
                self.on_kill()

        with pytest.raises(JobCancelled):
            Task(Impatient, sql=LONG, snowflake_conn_id="api", deferrable=False).run()
        (query,) = user_queries(LONG)
        assert query.error_code == "000604"

    def test_a_cancel_may_be_repeated(self, lab):
        job = statement(LONG).deferred().remote_job
        unknown = replace(job, query_ids=("01000000-0000-0000-0000-000000000000",))

        async def main():
            for one in (job, job, unknown):
                await one.cancel()
            await until(lambda: lab.queries[job.query_ids[0]].finished)
            await job.cancel()

        asyncio.run(main())
        assert lab.queries[job.query_ids[0]].error_code == "000604"

    def test_results_that_are_gone(self, lab):
        task = statement()
        task.deferred()
        task.wait()
        lab.expire_results()
        with pytest.raises(AirflowFailException, match=r"succeeded, but .*24 hours"):
            task.resume()

    def test_results_that_are_gone_do_not_matter_when_not_wanted(self, lab):
        task = statement(fetch_results=False)
        task.deferred()
        task.wait()
        lab.expire_results()
        assert task.resume() == (False, None)

    def test_an_unknown_statement_is_waited_for_and_then_lost(self, lab, monkeypatch):
        task = statement(store=None)  # a remembered job would be asked for instead
        task.deferred()
        task.trigger.job["query_ids"] = ["01000000-0000-0000-0000-000000000000"]

        async def pass_time(trigger):
            await until(lambda: lab.requests.count(f"{API}/", "GET", 404) > 3)
            assert statements._APPEARS_WITHIN == 120
            monkeypatch.setattr(statements, "_APPEARS_WITHIN", 0.0)

        task.wait(pass_time)
        with pytest.raises(JobLost, match="knows no statement 01000000-"):
            task.resume()


class TestDeadWorker:
    def test_before_the_id_was_saved_the_request_id_tells(self, lab, user_queries):
        store = DyingStore()
        store.dies_at = 2
        task = statement(store=store)
        with pytest.raises(Killed):
            task.start()
        task.next_try()
        assert task.run() == WAITED
        assert len(user_queries(WAIT)) == 1

    def test_a_retry_re_attaches(self, lab, user_queries):
        task = statement()
        task.deferred()
        task.next_try()
        assert task.run() == WAITED
        assert len(user_queries(WAIT)) == 1

    @pytest.mark.parametrize("saved", [True, False])
    def test_a_clear_cancels_what_it_supersedes(self, lab, user_queries, saved):
        store = DyingStore()
        task = statement(LONG, store=store)
        if saved:
            task.deferred()
        else:
            store.dies_at = 2
            with pytest.raises(Killed):
                task.start()
        task.clear()
        task._arguments["sql"] = WAIT
        assert task.run() == WAITED
        (old,) = user_queries(LONG)
        assert old.error_code == ("000604" if saved else None)
