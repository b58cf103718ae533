"""An identity provider that is away for a while, or refuses: weather or a login, and never an error of its own kind."""

from __future__ import annotations

import asyncio

import pytest
import tenacity
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

from astronomer.deferral import Hub, JobError, JobLost
from astronomer.providers.snowflake.jobs.query import SnowflakePoller
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor
from tests.integration.snowflake.driving import Task, until

TOKEN = "^/oauth/token-request"
WAIT = "CALL SYSTEM$WAIT(1)"
OPERATORS = [SnowflakeOperator, SnowflakeSqlApiOperator]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The stock hook pauses between its three requests for a token; not here."""
    retrying = SnowflakeHook("none")._oauth.request_oauth_token.retry
    monkeypatch.setattr(retrying, "wait", tenacity.wait_none())


@pytest.fixture(autouse=True)
def client(connect_as):
    """A connection that gets its tokens for a client's secret; ``client(secret)`` changes that."""

    def define(secret=None):
        connect_as(auth="oauth", fields={"password": secret} if secret else None)

    define()
    return define


def rejections():
    return sum(line._rejections for line in Hub.current()._lines.values())


@pytest.mark.parametrize("operator", OPERATORS)
def test_that_is_away_at_the_submit_costs_patience(lab, operator, user_queries):
    fault = lab.faults.status(503, TOKEN, times=4)
    Task(operator, sql=WAIT).run()
    assert fault.hits == 4
    assert len(user_queries(WAIT)) == 1


@pytest.mark.parametrize(
    ("operator", "nothing"),
    [(SnowflakeOperator, "No query was started"), (SnowflakeSqlApiOperator, "started no statement")],
)
@pytest.mark.parametrize("weather", [True, False], ids=["away", "refuses"])
def test_that_stays_so_at_the_submit_is_told(lab, client, operator, nothing, weather, user_queries):
    if weather:
        lab.faults.status(503, TOKEN)
    else:
        client("not-it-at-all")
    with pytest.raises(JobError) as caught:
        Task(operator, sql=WAIT, outage_tolerance=0.5).run()
    for said in ("'snowflake_default'", "503" if weather else "401", nothing):
        assert said in str(caught.value)
    assert "not-it-at-all" not in str(caught.value)
    assert user_queries() == []
    if not weather:
        assert lab.requests.count(TOKEN) == 1, "the client would be locked out"


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_secret_that_was_rotated_is_read_anew(lab, client, operator):
    task = Task(operator, sql=WAIT)
    task.deferred()
    client("not-it-at-all")

    async def correct(trigger):
        await until(lambda: rejections() == 1)
        client()

    assert task.wait(correct)["outcome"]["status"]["phase"] == "succeeded"


@pytest.mark.parametrize("operator", OPERATORS)
def test_that_refuses_a_triggerer_is_asked_three_times(lab, client, operator):
    task = Task(operator, sql=WAIT)
    task.deferred()
    client("not-it-at-all")
    lab.requests.clear()
    task.wait()
    assert lab.requests.count(TOKEN) == 3
    with pytest.raises(JobLost, match=r"Cannot log in to ask about .*'snowflake_default'.*401"):
        task.resume()


def test_a_refusal_is_heard_by_all_who_wait_for_the_session(lab, client):
    task = Task(SnowflakeOperator, sql=WAIT)
    job = task.deferred().remote_job
    client("not-it-at-all")
    lab.requests.clear()

    async def main():
        poller = SnowflakePoller(job)
        try:
            return await asyncio.gather(*(poller.cancel(job) for _ in range(5)), return_exceptions=True)
        finally:
            await poller.close()

    assert len({id(refusal) for refusal in asyncio.run(main())}) == 1
    assert lab.requests.count(TOKEN) == 1


def test_a_private_key_that_is_broken_while_a_query_runs(lab, connect_as, tmp_path):
    connect_as(auth="key_pair")
    task = Task(SnowflakeOperator, sql=WAIT)
    job = task.deferred().remote_job
    extra = lab.airflow_connection(auth="key_pair")["extra"]
    connect_as(fields={"extra": extra | {"private_key_file": str(tmp_path / "gone")}})

    async def correct(trigger):
        await until(lambda: rejections() == 1)
        connect_as(auth="key_pair")

    assert task.wait(correct)["outcome"]["status"]["phase"] == "succeeded"

    async def twice():
        connect_as(fields={"extra": extra | {"private_key_file": str(tmp_path / "gone")}})
        poller = SnowflakePoller(job)
        refusals = await asyncio.gather(poller.cancel(job), poller.cancel(job), return_exceptions=True)
        await poller.close()
        return refusals

    first, second = asyncio.run(twice())
    assert first is second, "it was remembered as a refused login is"


def test_a_sensor_waits_for_it_in_the_triggerer(lab, client):
    task = Task(SnowflakeSensor, sql="select 1", poke_interval=0.1)
    lab.faults.status(503, TOKEN)
    task.deferred()
    lab.faults.clear()
    task.run()


def test_a_sensor_with_a_broken_key_says_so(connect_as, lab):
    extra = lab.airflow_connection()["extra"] | {"private_key_file": "/nowhere/key.p8"}
    connect_as(fields={"extra": extra})
    with pytest.raises(JobError, match="'snowflake_default': ValueError: The private_key_file"):
        Task(SnowflakeSensor, sql="select 1", poke_interval=0.1).run()
