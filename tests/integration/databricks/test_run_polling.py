"""What hundreds of waits cost the workspace: requests, logins and connections, at its real quotas."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from itertools import groupby, pairwise

import pytest

from astronomer.deferral import Hub
from astronomer.deferral.pacing import Pacing
from astronomer.providers.databricks.jobs.poller import RunPoller
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.triggers.databricks import DatabricksRunTrigger
from tests.integration.databricks.runs import POLLS, phase
from tests.integration.driving import BRISK, collected, triggerer, until, until_now

PAGE = 25
LIST, GET = "/jobs/runs/list$", "/jobs/runs/get$"
LONG = 300


@pytest.fixture
def fast(monkeypatch):
    """As fast as the client ever gets, so that a test sees many ticks."""
    monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__DATABRICKS_REQUESTS_PER_SECOND", "25")


@pytest.fixture
def between_ticks(monkeypatch):
    """What is called before each tick."""
    poll, calls = RunPoller.poll, []

    async def noted(poller, jobs):
        for call in calls:
            call()
        return await poll(poller, jobs)

    monkeypatch.setattr(RunPoller, "poll", noted)
    return calls


def trigger(lab, run_id, **fields):
    """What an operator defers with."""
    run = lab.runs[run_id]
    job = DatabricksRun(
        run_id,
        "databricks_default",
        url=run.url,
        address=lab.url,
        job_id=run.job_id,
        started_at=run.start_time / 1000,
    )
    return DatabricksRunTrigger(job.to_dict(), poll_interval=0.1, **fields)


async def events_of(triggers):
    waiting = asyncio.gather(*(collected(one) for one in triggers))
    return [event for (event,) in await asyncio.wait_for(waiting, 60)]


def ticks(lab):
    """For each round over the list, how often the list was asked for and how often a run."""
    numbers, number = [], -1
    for entry in lab.requests.select(POLLS):
        number += entry.path.endswith("list") and "page_token" not in entry.query
        numbers.append((number, entry.path.rpartition("/")[2]))
    rounds = [Counter(path for _, path in group) for _, group in groupby(numbers, key=lambda one: one[0])]
    return [(one["list"], one["get"]) for one in rounds]


async def for_a_while(lab, triggers, condition):
    """The waits go on until the condition holds; then the triggerer goes."""
    waiting = [asyncio.ensure_future(collected(one)) for one in triggers]
    try:
        await until(condition, 30)
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def test_a_request_for_25_waits_and_one_for_each_end(lab, workspace, connect_as, fast, between_ticks):
    """200 waits; between two ticks, the runs of 20 of them end."""
    connect_as(auth="oauth")
    ids = lab.seed(60, seconds=LONG)
    ends = [trigger(lab, run_id) for run_id in ids]
    goes_on = [trigger(lab, run_id) for run_id in lab.seed(140, seconds=LONG)]

    def end_some():
        if ticks(lab):
            workspace.finish(*(lab.runs[run_id] for run_id in ids[:20]))
            del ids[:20]

    between_ticks.append(end_some)

    async def main():
        async with triggerer():
            ending = asyncio.ensure_future(events_of(ends))
            await for_a_while(lab, goes_on, ending.done)
            return ending.result()

    assert [phase(event) for event in asyncio.run(main())] == ["succeeded"] * 60
    seen = ticks(lab)
    assert len(seen) >= 3
    assert all(pages <= math.ceil(200 / PAGE) + 1 for pages, _ in seen)
    assert lab.requests.count(GET) <= 64, "a run was asked for that the list has shown"
    assert lab.requests.count(status=429) == 0
    assert lab.requests.connections <= 8
    assert lab.requests.logins == 1


def test_nothing_but_pages_while_nothing_ends(lab, fast, between_ticks):
    begun = []
    between_ticks.append(lambda: begun.append(time.monotonic()))
    triggers = [trigger(lab, run_id) for run_id in lab.seed(200, seconds=LONG)]

    async def main():
        async with triggerer():
            await for_a_while(lab, triggers, lambda: len(ticks(lab)) > 4)

    asyncio.run(main())
    assert ticks(lab)[:4] == [(8, 0)] * 4
    pauses = [later - earlier for earlier, later in pairwise(begun)]
    assert min(pauses[1:]) > 0.5, "it takes more than half of the 25 requests a second"


def test_the_runs_of_others_cost_their_pages(lab, fast):
    triggers = [trigger(lab, run_id) for run_id in lab.seed(100, seconds=LONG)]
    lab.seed(300, seconds=LONG)

    async def main():
        async with triggerer():
            await for_a_while(lab, triggers, lambda: len(ticks(lab)) > 3)

    asyncio.run(main())
    assert all(pages == 16 and gets == 0 for pages, gets in ticks(lab)[:3])


def test_where_they_are_too_many_each_run_is_asked_for(lab, fast):
    """Ten waits, two thousand other runs that are newer: 80 pages."""
    mine = lab.seed(10, seconds=LONG)
    lab.seed(2000, seconds=LONG)

    async def main():
        async with triggerer():
            await for_a_while(lab, [trigger(lab, one) for one in mine], lambda: lab.requests.count(GET) >= 40)

    asyncio.run(main())
    assert lab.requests.count(LIST) <= 20
    assert len(lab.requests.select(POLLS)) <= 80


def test_waits_on_one_job_list_that_job_alone(lab, workspace, fast):
    job_id = workspace.job()
    lab.seed(1000, seconds=LONG)
    triggers = [trigger(lab, one) for one in lab.seed(50, seconds=LONG, job_id=job_id)]

    async def main():
        async with triggerer():
            await for_a_while(lab, triggers, lambda: len(ticks(lab)) > 3)

    asyncio.run(main())
    assert ticks(lab)[:3] == [(2, 0)] * 3
    assert {entry.query["job_id"] for entry in lab.requests.select(LIST)} == {str(job_id)}


def test_a_restart_is_not_throttled_and_loses_nobody(lab):
    """300 waits come back at once, at the pace and in the quotas of real life; some runs have ended meanwhile."""
    ids = lab.seed(300, seconds=LONG)
    triggers = [trigger(lab, run_id) for run_id in ids]

    async def first_life():
        async with triggerer(Pacing()):
            await for_a_while(lab, triggers, lambda: lab.requests.count(LIST) >= 12)

    asyncio.run(first_life())
    for run_id in ids[:20]:
        lab.cancel_by_user(run_id)
    until_now(lambda: all(lab.runs[run_id].ended for run_id in ids[:20]))
    lab.requests.clear()

    async def second_life():
        async with triggerer(Pacing()):
            going_on = [asyncio.ensure_future(collected(one)) for one in triggers[20:]]
            ended = await events_of(triggers[:20])
            assert not [one for one in going_on if one.done()]
            for one in going_on:
                one.cancel()
            await asyncio.gather(*going_on, return_exceptions=True)
            return ended

    assert [phase(event) for event in asyncio.run(second_life())] == ["cancelled"] * 20
    assert lab.requests.count(status=429) == 0
    assert lab.requests.connections <= 8
    assert lab.requests.count(POLLS) <= 3 * (12 + 1) + 20


def test_several_triggerers_stay_within_the_quotas(lab):
    """Two of them, each with a loop of its own, after a restart of both."""
    halves = [[trigger(lab, one) for one in lab.seed(40, seconds=1.0)] for _ in range(2)]
    told = []

    def live(triggers):
        async def main():
            async with Hub(pacing=BRISK) as hub:
                Hub._of_loop[asyncio.get_running_loop()] = hub
                return await events_of(triggers)

        told.append(asyncio.run(main()))

    threads = [threading.Thread(target=live, args=(half,)) for half in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [phase(event) for events in told for event in events] == ["succeeded"] * 80
    assert lab.requests.count(status=429) == 0
