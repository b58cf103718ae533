"""All waits on one deployment, asked about together, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from astronomer.deferral import CredentialsRejected, Hub, Pacing, Phase, Transient, clock, watch
from astronomer.providers.core.hooks import deployment_login
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable
from astronomer.providers.core.jobs.deployment import DeploymentWait
from astronomer.providers.core.jobs.deployment_poller import DeploymentPoller
from tests.unit.core.deployment_looks import look, on_time
from tests.unit.core.deployments import (
    RUNS,
    TASKS,
    TOKEN,
    Deployment,
    OwnPoller,
    after,
    date,
    reply,
    wait,
    with_password,
)


@pytest.fixture(autouse=True)
def _no_tokens():
    deployment_login._kept.clear()


@pytest.fixture
def deployment():
    return Deployment()


class TestBadWeather:
    def test_of_one_run_concerns_no_other(self, deployment):
        deployment.start("r1", state="success")
        deployment.start("r2", state="success")
        deployment.script += [None, 500, None]
        jobs = [wait(run_ids=["r1"]), wait(run_ids=["r2"])]
        found = look(deployment, *jobs)
        assert len(jobs) == 2
        assert [status.phase for status in found.values()] == [Phase.SUCCEEDED]

    def test_of_tasks_concerns_no_runs(self, deployment):
        deployment.start(state="success", a="success")
        deployment.script += [None, None, 500]
        found = look(deployment, wait(run_ids=["r1"]), wait(run_ids=["r1"], tasks="a"))
        assert [job.task_ids for job in found] == [()]

    def test_of_all_is_raised(self, deployment):
        deployment.start(a="success")
        deployment.script += [None, 500]
        with pytest.raises(Transient):
            look(deployment, wait(run_ids=["r1"], tasks="a"))

    def test_that_is_to_be_waited_for_is_raised_at_once(self, deployment):
        deployment.script += [None, reply(429, {}, headers={"Retry-After": "60"})]
        with pytest.raises(Transient) as caught:
            look(deployment, *(wait(run_ids=[f"r{number}"]) for number in range(100)))
        assert caught.value.retry_after == 60.0
        assert len(deployment.asked) < 12

    def test_a_defect_is_no_weather(self, deployment):
        deployment.script += [None, RuntimeError("a defect")]
        with pytest.raises(RuntimeError):
            look(deployment, wait(run_ids=["r1"]))

    @pytest.mark.parametrize(("latency", "rest"), [(0.01, 4 * 0.02), (2.0, 4 * 2.01), (20.0, 30.0)])
    def test_a_slow_deployment_is_asked_less_often(self, deployment, latency, rest):
        async def main():
            poller = deployment.poller()
            deployment.latency[1] = latency
            await poller.poll([wait(run_ids=["r1"])])
            await poller.close()
            return poller.least_interval

        assert on_time(main) == pytest.approx(rest, abs=0.05)

    def test_a_connection_that_leads_elsewhere(self, deployment):
        poller = OwnPoller(
            DeploymentWait("orders", address="https://another.example.com"), deployment.client()
        )
        with pytest.raises(ConnectionUnusable, match="leads to https://airflow"):
            on_time(lambda: poller.poll([wait(run_ids=["r1"])]))

    def test_a_connection_that_is_gone(self, monkeypatch):
        poller = DeploymentPoller(wait(conn_id="no_such"))
        with pytest.raises(ConnectionUnusable, match="'no_such' is gone"):
            asyncio.run(poller.poll([wait(run_ids=["r1"])]))


def in_a_hub(deployment, jobs, meanwhile, *, pause=60.0, read=None, **how):
    """What becomes of many waits in one triggerer, and over how many sessions."""

    async def main():
        async with Hub(lambda _: deployment.poller(read), Pacing(random=random.Random(1))) as hub:
            waiting = [asyncio.ensure_future(watch(job, hub=hub, **how)) for job in jobs]
            await asyncio.sleep(pause)
            deployment.asked.clear()
            await meanwhile()
            assert hub.connections == 1
            return [outcome.status.phase for outcome in await asyncio.gather(*waiting)]

    return on_time(main)


def test_1000_waits_on_50_dags_share_two_questions(deployment):
    jobs = []
    for number in range(1000):
        dag_id, run_id = f"dag{number % 50}", f"r{number // 50}"
        about = {"tasks": ["load"]} if number % 3 else {}
        if number < 900:
            deployment.start(run_id, dag_id, date=date(number // 50), load="running")
        named = {"run_ids": [run_id]} if number % 2 else {"logical_dates": [date(number // 50)]}
        jobs.append(wait(dag_id, **about, **named))

    async def meanwhile():
        await asyncio.sleep(120)
        seconds = Counter(round(at) for at, _, _ in deployment.asked)
        kinds = Counter(path for _, path, _ in deployment.asked)
        # One in three looks also asks what has ended: some of the runs do not exist yet.
        assert set(kinds) == {RUNS, TASKS}
        assert 20 <= kinds[TASKS] <= 28
        assert kinds[RUNS] - kinds[TASKS] <= 9
        assert max(seconds.values()) <= 3
        for number in range(1000):
            deployment.start(
                f"r{number // 50}", f"dag{number % 50}", "success", date=date(number // 50), load="success"
            )

    assert in_a_hub(deployment, jobs, meanwhile) == [Phase.SUCCEEDED] * 1000
    assert (deployment.opened, deployment.closed) == (1, 1)


def test_waits_on_runs_that_exist_cost_two_questions_at_each_look(deployment):
    jobs = []
    for number in range(1000):
        deployment.start(f"r{number // 50}", f"dag{number % 50}", load="running")
        jobs.append(
            wait(f"dag{number % 50}", tasks=["load"] if number % 2 else [], run_ids=[f"r{number // 50}"])
        )

    async def meanwhile():
        await asyncio.sleep(60)
        kinds = Counter(path for _, path, _ in deployment.asked)
        assert set(kinds) == {RUNS, TASKS}
        assert abs(kinds[RUNS] - kinds[TASKS]) <= 1
        assert 10 <= kinds[RUNS] <= 14
        for number in range(1000):
            deployment.end(f"r{number // 50}", f"dag{number % 50}")
            deployment.set(f"r{number // 50}", f"dag{number % 50}", load="success")

    assert in_a_hub(deployment, jobs, meanwhile) == [Phase.SUCCEEDED] * 1000


def test_a_restarted_triggerer_asks_no_more_than_it_must(deployment):
    """1000 runs that go on are one question; 50 that have ended meanwhile are one each."""
    jobs = []
    for number in range(1000):
        deployment.start(f"r{number}", f"dag{number % 50}", "success" if number < 50 else "running")
        jobs.append(wait(f"dag{number % 50}", run_ids=[f"r{number}"]))
    found = look(deployment, *jobs)
    assert Counter(status.phase for status in found.values()) == {Phase.SUCCEEDED: 50, Phase.ACTIVE: 950}
    assert deployment.count() == (1, 0, 50)


@pytest.mark.parametrize(("number", "others"), [(1, 1), (20, 20), (21, 0), (1000, 0)])
def test_many_that_end_at_once_are_not_asked_for_one_by_one(deployment, number, others):
    jobs = []
    for one in range(number):
        deployment.start(f"r{one}", f"dag{one % 50}", due=-1e9)
        jobs.append(wait(f"dag{one % 50}", run_ids=[f"r{one}"]))

    def then():
        for run in deployment.runs.values():
            run |= {"state": "success", "end_date": after(-1).isoformat()}

    found = look(deployment, *jobs, times=2, then=then)
    phases = {found.phase} if number == 1 else {status.phase for status in found.values()}
    assert phases == {Phase.SUCCEEDED}
    runs, _, asked = deployment.count()
    assert runs == (1 if others else 2)
    assert asked == others


def test_an_outage_of_half_an_hour_hides_no_run(deployment):
    """What began and ended meanwhile is found by one question, and not by one for each."""
    jobs = [wait(run_ids=[f"r{number}"]) for number in range(100)]

    async def meanwhile():
        deployment.script += [503] * 10_000
        await asyncio.sleep(900)
        for number in range(100):
            deployment.start(f"r{number}", state="success", due=900.0)
        await asyncio.sleep(900)
        deployment.script.clear()
        deployment.asked.clear()

    assert in_a_hub(deployment, jobs, meanwhile) == [Phase.SUCCEEDED] * 100
    assert set(deployment.paths()) == {RUNS}


def test_a_token_that_ends_in_the_middle_is_fetched_anew_once(deployment):
    async def meanwhile():
        (token,) = set(deployment.alive) - {TOKEN}
        deployment.alive[token] = clock.now()
        await asyncio.sleep(60)
        assert len(deployment.logins) == 2
        deployment.end()

    deployment.start()
    jobs = [wait(run_ids=["r1"]) for _ in range(20)]
    assert in_a_hub(deployment, jobs, meanwhile, read=with_password()) == [Phase.SUCCEEDED] * 20


def test_a_login_that_is_refused_ends_the_waits(deployment):
    async def meanwhile():
        deployment.alive.clear()
        await asyncio.sleep(1)

    deployment.start()
    assert in_a_hub(deployment, [wait(run_ids=["r1"])], meanwhile) == [Phase.LOST]
    assert len(deployment.asked) == 3


def test_it_has_nothing_to_cancel(deployment):
    with pytest.raises(NotImplementedError):
        on_time(lambda: DeploymentPoller(wait()).cancel(wait(run_ids=["r1"])))


def test_credentials_are_rejected_to_all(deployment):
    deployment.alive.clear()
    with pytest.raises(CredentialsRejected):
        look(deployment, wait(run_ids=["r1"]))
