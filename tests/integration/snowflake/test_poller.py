"""Many waits on one connection: one login, a list for those that run, single requests for the rest."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from astronomer.deferral import Phase, Transient, watch
from astronomer.lab.snowflake.account import DEFAULT_CONTEXT
from astronomer.providers.snowflake.jobs.query import SnowflakePoller, SnowflakeQuery
from tests.integration.snowflake.driving import polls, triggerer, until

LIST = "^/monitoring/queries$"
SINGLE = "^/monitoring/queries/."
LONG = "CALL SYSTEM$WAIT(300)"


@pytest.fixture
def start(lab):
    """Start queries in one session, without a client."""

    def queries(count, sql=LONG):
        account = lab.account_state

        def submit():
            session = account.new_session(lab.user, {**DEFAULT_CONTEXT, "parameters": None})
            found = [account.new_query(session, sql, None, None, asynchronous=True) for _ in range(count)]
            for query in found:
                account.runner.submit(query)
            return found

        where = {"account": lab.account, "host": lab.host, "user": lab.user}
        return [
            SnowflakeQuery(
                query.id, "snowflake_default", **where, session_id=query.session_id, submitted_at=time.time()
            )
            for query in lab._do(submit)
        ]

    return queries


@pytest.fixture
async def poller(start):
    """A poller, and what it answers and asks."""
    jobs = start(1)
    poller = SnowflakePoller(jobs[0])
    yield poller
    await poller.close()


async def asked(lab, poller, jobs):
    lab.requests.clear()
    answers = await poller.poll(jobs)
    return answers, lab.requests.count(LIST), lab.requests.count(SINGLE)


def phases(answers):
    return [status.phase for status in answers.values()]


async def test_two_hundred_that_run_cost_one_request(lab, poller, start):
    jobs = start(200)
    answers, lists, singles = await asked(lab, poller, jobs)
    assert set(answers) == set(jobs)
    assert set(phases(answers)) == {Phase.ACTIVE}
    assert (lists, singles, lab.requests.logins) == (1, 0, 1)
    _, lists, singles = await asked(lab, poller, jobs)
    assert (lists, singles, lab.requests.logins) == (1, 0, 0)


async def test_only_those_that_ended_are_asked_for_by_id(lab, poller, start):
    jobs = start(200)
    for job in jobs[:4]:
        lab.abort_by_admin(job.query_id)
    await until(lambda: all(lab.queries[job.query_id].finished for job in jobs[:4]))
    answers, lists, singles = await asked(lab, poller, jobs)
    assert (lists, singles) == (1, 4)
    assert {job for job, status in answers.items() if status.phase is Phase.CANCELLED} == set(jobs[:4])
    assert len(answers) == 200


async def test_those_that_queue_or_are_blocked_are_listed_too(lab, poller, start):
    jobs = (
        start(20) + start(20, "select /* lab: queued=60 */ 1") + start(20, "select /* lab: blocked=60 */ 1")
    )
    answers, lists, singles = await asked(lab, poller, jobs)
    assert (lists, singles) == (3, 0)
    assert {status.raw for status in answers.values()} == {"RUNNING", "QUEUED", "BLOCKED"}
    assert len(answers) == 60


async def test_a_handful_is_asked_for_by_id(lab, poller, start):
    _, lists, singles = await asked(lab, poller, start(5))
    assert (lists, singles) == (0, 5)


async def test_queries_that_the_list_leaves_out_are_asked_for_by_id(lab, poller, start, monkeypatch):
    jobs = start(30)
    monkeypatch.setattr(lab.account_state, "settings", replace(lab.account_state.settings, list_limit=20))
    answers, _, singles = await asked(lab, poller, jobs)
    assert singles == 10
    assert len(answers) == 30


@pytest.mark.parametrize("fault", ["status", "reset", "empty"])
async def test_without_a_list_all_are_asked_for_by_id(lab, poller, start, monkeypatch, fault):
    jobs = start(30)
    if fault == "empty":
        monkeypatch.setattr(lab.account_state, "settings", replace(lab.account_state.settings, list_limit=0))
    elif fault == "reset":
        lab.faults.reset(LIST)
    else:
        lab.faults.status(500, LIST)
    answers, _, singles = await asked(lab, poller, jobs)
    assert (len(answers), singles) == (30, 30)
    assert set(phases(answers)) == {Phase.ACTIVE}


async def test_a_list_that_asks_for_a_pause_gets_it(lab, poller, start):
    jobs = start(30)
    await asked(lab, poller, jobs)
    lab.faults.status(429, LIST, retry_after=200)
    with pytest.raises(Transient) as caught:
        await asyncio.wait_for(asked(lab, poller, jobs), 60)  # no thread may wait it out
    assert caught.value.retry_after == 200
    assert lab.requests.count(SINGLE) == 0


async def test_what_is_known_is_kept_when_the_weather_turns(lab, poller, start):
    jobs = start(40)
    lab.faults.status(503, LIST)
    await asked(lab, poller, jobs[:1])
    lab.faults.status(503, SINGLE, rate=0.2, seed=3)
    answers, _, _ = await asked(lab, poller, jobs)
    assert 0 < len(answers) < 40


async def test_the_end_is_not_believed_of_the_list(lab, poller, start):
    """An entry of the list that says FAILED is not an end; the id's own answer is."""
    jobs = start(10)
    for job in jobs:
        lab.abort_by_admin(job.query_id)
    await until(lambda: all(lab.queries[job.query_id].finished for job in jobs))
    listed = await poller._listed(jobs, None)
    assert listed == {}


async def test_an_abort_may_be_repeated(lab, poller, start):
    (job,) = start(1)
    for one in (job, job, replace(job, query_id="01000000-0000-0000-0000-000000000000")):
        await poller.cancel(one)
    await until(lambda: lab.queries[job.query_id].finished)
    await poller.cancel(job)
    assert lab.queries[job.query_id].error_code == "000604"


def test_a_restarted_triggerer_with_two_hundred_waits(lab, start, let_go):
    """All of them from one login, in steady state with few requests, and each to its end."""
    jobs = start(200, "CALL SYSTEM$WAIT(4)")
    lab.requests.clear()

    async def main():
        async with triggerer():
            waits = [asyncio.ensure_future(watch(job, poll_interval=0.5)) for job in jobs]
            await until(lambda: len(polls(lab)) >= 2)
            assert lab.requests.count(SINGLE) == 0
            let_go()
            return await asyncio.gather(*waits)

    outcomes = asyncio.run(main())
    assert {outcome.status.phase for outcome in outcomes} == {Phase.SUCCEEDED}
    assert lab.requests.logins == 1
    assert lab.requests.count(SINGLE) <= 250
