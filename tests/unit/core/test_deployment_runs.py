"""Runs of another deployment, by their ids, their dates, and as the latest one."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astronomer.deferral import Phase, clock
from astronomer.providers.core.hooks import deployment_login
from astronomer.providers.core.jobs.deployment import DELETED, moment
from astronomer.providers.core.jobs.external import FAILED, SKIPPED
from tests.unit.core.deployment_looks import NO_RUN, NOT_YET, latest, look, on_time, watching
from tests.unit.core.deployments import (
    URL,
    Deployment,
    after,
    date,
    reply,
    wait,
)


@pytest.fixture(autouse=True)
def _no_tokens():
    deployment_login._kept.clear()


@pytest.fixture
def deployment():
    return Deployment()


class TestARun:
    @pytest.mark.parametrize("state", ["queued", "running", "paused"])
    def test_that_goes_on(self, deployment, state):
        deployment.start(state=state)
        status = look(deployment, wait(run_ids=["r1"]))
        assert (status.phase, status.raw) == (Phase.ACTIVE, NOT_YET)
        assert status.url == f"{URL}/dags/orders/runs/r1"

    def test_that_was_over_before(self, deployment):
        deployment.start(state="success")
        status = look(deployment, wait(run_ids=["r1"]))
        assert (status.phase, status.raw) == (Phase.SUCCEEDED, "success")
        assert deployment.count() == (1, 0, 1)

    def test_that_ends(self, deployment):
        deployment.start()
        status = look(deployment, wait(run_ids=["r1"]), times=2, then=deployment.end)
        assert status.phase is Phase.SUCCEEDED
        assert deployment.count() == (1, 0, 1)

    def test_that_fails(self, deployment):
        deployment.start(state="failed")
        status = look(deployment, wait(run_ids=["r1"], failed_states=["failed"]))
        assert (status.phase, status.code) == (Phase.FAILED, FAILED)
        assert status.message == "it is failed, in r1"

    def test_that_is_to_be_skipped(self, deployment):
        deployment.start(state="failed")
        status = look(deployment, wait(run_ids=["r1"], skipped_states=["failed"]))
        assert (status.phase, status.code) == (Phase.FAILED, SKIPPED)

    def test_that_only_has_to_run(self, deployment):
        deployment.start()
        assert look(deployment, wait(run_ids=["r1"], allowed_states=["running"])).phase is Phase.SUCCEEDED

    def test_that_is_cleared_before_the_other_one_has_ended(self, deployment):
        deployment.start("r1", state="success")
        deployment.start("r2")
        both = wait(run_ids=["r1", "r2"])

        def then():
            deployment.runs["orders", "r1"]["state"] = "queued"
            deployment.end("r2")

        assert look(deployment, both, times=2).phase is Phase.ACTIVE
        assert look(deployment, both, times=2, then=then).phase is Phase.ACTIVE

    def test_that_may_not_be_seen(self, deployment):
        deployment.script += [None, reply(403, {"detail": "Forbidden"})]
        status = look(deployment, wait(run_ids=["r1"]))
        assert status.phase is Phase.LOST
        assert "Forbidden" in status.message

    @pytest.mark.parametrize("which", ["run_id", "date"])
    def test_that_does_not_exist_yet_costs_nothing(self, deployment, which):
        job = wait(run_ids=["r1"]) if which == "run_id" else wait(logical_dates=[date(1)])
        status = look(deployment, job, times=2)
        assert (status.phase, status.raw, status.url) == (Phase.ACTIVE, NO_RUN, None)
        assert deployment.count() == (2, 0, 0)  # one about what has ended, four times a minute
        look(deployment, job, times=3)
        assert deployment.count() == (1, 0, 0)

    @pytest.mark.parametrize("which", ["run_id", "date"])
    def test_that_begins_to_exist(self, deployment, which):
        job = wait(run_ids=["r1"]) if which == "run_id" else wait(logical_dates=[date(1)])
        status = look(deployment, job, times=2, then=lambda: deployment.start(date=date(1)))
        assert (status.phase, status.raw) == (Phase.ACTIVE, NOT_YET)

    @pytest.mark.parametrize("which", ["run_id", "date", "latest"])
    @pytest.mark.parametrize("end", ["success", "failed"])
    def test_that_is_over_before_anybody_has_seen_it(self, deployment, which, end):
        async def main():
            jobs = {
                "run_id": wait(run_ids=["r1"], failed_states=["failed"]),
                "date": wait(logical_dates=[date(1)], failed_states=["failed"]),
                "latest": latest(failed_states=["failed"]),
            }
            poller = deployment.poller()
            waiting = asyncio.ensure_future(watching(jobs[which], poller))
            await asyncio.sleep(100)
            started = clock.now()
            deployment.start(date=date(1), due=100.0, state=end)
            status = await waiting
            return status, clock.now() - started

        status, seconds = on_time(main)
        assert (status.phase is Phase.SUCCEEDED) == (end == "success")
        assert seconds < 25

    def test_that_was_over_before_anybody_has_seen_it_and_was_written_late(self, deployment):
        async def main():
            waiting = asyncio.ensure_future(watching(wait(run_ids=["r1"]), deployment.poller()))
            await asyncio.sleep(400)
            deployment.start(due=100.0)
            deployment.runs["orders", "r1"] |= {"state": "success", "end_date": after(-200).isoformat()}
            started = clock.now()
            await waiting
            return clock.now() - started

        assert on_time(main) < 25

    def test_that_was_over_before_anybody_has_seen_it_and_whose_end_is_no_news(self, deployment):
        async def main():
            waiting = asyncio.ensure_future(watching(wait(run_ids=["r1"]), deployment.poller()))
            await asyncio.sleep(100)
            deployment.start()
            deployment.runs["orders", "r1"] |= {"state": "success", "end_date": after(-4000).isoformat()}
            started = clock.now()
            await waiting
            return clock.now() - started

        assert on_time(main) < 330

    @pytest.mark.parametrize("which", [{"run_ids": ["r1"]}, {"logical_dates": [date(1)]}])
    def test_that_has_failed_and_is_marked_as_success_unseen(self, deployment, which):
        async def main():
            deployment.start(date=date(1), state="failed")
            waiting = asyncio.ensure_future(watching(wait(**which), deployment.poller()))
            await asyncio.sleep(400)
            assert not waiting.done()
            deployment.runs["orders", "r1"]["state"] = "success"  # and no other end
            started = clock.now()
            status = await waiting
            return status.phase, clock.now() - started

        phase, seconds = on_time(main)
        assert phase is Phase.SUCCEEDED
        assert seconds < 70

    def test_that_has_failed_is_deleted_and_comes_again_unseen(self, deployment):
        async def main():
            deployment.start(date=date(1), state="failed")
            waiting = asyncio.ensure_future(watching(wait(logical_dates=[date(1)]), deployment.poller()))
            await asyncio.sleep(400)
            deployment.delete()
            deployment.start("r2", date=date(1), state="success")
            started = clock.now()
            status = await waiting
            return status.url, clock.now() - started

        url, seconds = on_time(main)
        assert url.endswith("/runs/r2")
        assert seconds < 400

    def test_that_is_deleted_is_waited_for(self, deployment):
        job = wait(run_ids=["r1"])
        deployment.start()
        status = look(deployment, job, times=2, then=deployment.delete)
        assert (status.phase, status.raw) == (Phase.ACTIVE, NO_RUN)
        status = look(deployment, job, times=2, then=lambda: deployment.start(state="running"))
        assert status.raw == NOT_YET

    def test_of_a_date_that_comes_again_under_another_name(self, deployment):
        job = wait(logical_dates=[date(1)])
        deployment.start(date=date(1))

        def again():
            deployment.delete()
            deployment.start("r2", date=date(1))

        assert look(deployment, job, times=2, then=again).url.endswith("/runs/r2")

    @pytest.mark.parametrize(
        "zone",
        ["2026-01-02T00:00:00+00:00", "2026-01-02T02:00:00+02:00", "2026-01-02", "2026-01-02T00:00:00Z"],
    )
    def test_of_a_date_in_any_spelling(self, deployment, zone):
        deployment.start("r1", date=date(1))
        deployment.start("r2", date=date(2))
        assert look(deployment, wait(logical_dates=[zone])).url.endswith("/runs/r1")

    def test_of_a_date_without_a_zone_is_of_utc_wherever_it_is_asked(self, deployment, monkeypatch):
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        try:
            assert moment("2026-01-02T03:04:05") == "2026-01-02T03:04:05.000000+00:00"
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_of_dates_that_are_far_apart_are_asked_for_apart(self, deployment):
        for days in range(400):
            deployment.start(f"r{days}", date=date(days))
        for run in deployment.runs.values():
            run["state"] = "success"
        jobs = [wait(logical_dates=[date(days)]) for days in (0, 0.5, 1, 200, 399)]
        found = look(deployment, *jobs)
        assert [status.phase is Phase.SUCCEEDED for status in found.values()] == [
            True,
            False,
            True,
            True,
            True,
        ]
        windows = [
            (body["logical_date_gte"][:10], body["logical_date_lte"][:10])
            for _, _, body in deployment.asked
            if "logical_date_gte" in body
        ]
        days = [date(one)[:10] for one in (0, 1, 200, 399)]
        assert windows == [(days[0], days[1]), (days[2], days[2]), (days[3], days[3])]

    def test_that_does_not_exist_is_asked_for_by_itself_now_and_then(self, deployment):
        jobs = [wait(run_ids=[f"r{number}"]) for number in range(100)]
        look(deployment, *jobs, times=2, between=299)
        assert deployment.count()[2] == 0
        look(deployment, *jobs, times=2, between=301)
        assert deployment.count()[2] == 20

    def test_that_nobody_waits_for_any_more_is_forgotten(self, deployment):
        async def main():
            poller = deployment.poller()
            await poller.poll([wait(run_ids=[f"r{number}"]) for number in range(100)])
            for _ in range(3):
                await asyncio.sleep(301)
                await poller.poll([wait(run_ids=["r1"])])
            await poller.close()
            return len(poller._runs._found)

        assert on_time(main) == 1

    def test_of_the_same_date_of_another_dag(self, deployment):
        deployment.start("r1", "another", state="success", date=date(1))
        assert look(deployment, wait(logical_dates=[date(1)])).raw == NO_RUN


class TestTheLatestRun:
    def test_is_the_one_that_was_due_last(self, deployment):
        async def main():
            deployment.start("r1", due=-10)
            deployment.start("r2", due=-20)
            deployment.start("r3", due=50)
            poller = deployment.poller()
            job = latest()
            await poller.poll([job])
            await poller.close()
            return poller.run_of(job)

        assert on_time(main) == "r1"

    @pytest.mark.parametrize("end", ["success", "failed"])
    def test_counts_when_it_has_ended(self, deployment, end):
        deployment.start("r1", state=end, due=-10)
        deployment.start("r0", due=-20)
        status = look(deployment, latest(failed_states=["failed"]))
        assert (status.phase is Phase.SUCCEEDED) == (end == "success")

    def test_is_the_first_one_when_there_was_none(self, deployment):
        async def main():
            job = latest()
            poller = deployment.poller()
            first = await poller.poll([job])
            deployment.start("r1", due=10)
            deployment.start("r2", due=20)
            await poller.poll([job])
            await poller.close()
            return first[job].raw, poller.run_of(job)

        assert on_time(main) == (NO_RUN, "r1")

    @given(st.lists(st.integers(-20, 20), unique=True, max_size=8), st.integers(0, 8))
    @settings(max_examples=60)
    def test_is_the_same_one_for_every_process(self, due, seen):
        """A triggerer that starts later, when there are more runs, finds the run that the first one has found."""
        deployment = Deployment()

        async def main():
            job = latest()
            found = []
            dues = sorted(due)
            for number, one in enumerate(dues):
                if one > 0 and number >= seen:
                    found.append(await asked(job))
                deployment.start(f"r{one}", due=one)
            found.append(await asked(job))
            return {one for one in found if one is not None}

        async def asked(job):
            poller = deployment.poller()
            await poller.poll([job])
            await poller.close()
            return poller.run_of(job)

        assert len(on_time(main)) <= 1

    def test_is_not_left_for_a_newer_one(self, deployment):
        deployment.start("r1", due=-10)
        job = latest()
        status = look(deployment, job, times=3, then=lambda: deployment.start("r2", due=-5))
        assert status.url.endswith("/runs/r1")
        assert deployment.count() == (1, 0, 0)

    def test_that_was_deleted_before_the_triggerer_looks_is_the_end(self, deployment):
        status = look(deployment, latest().pinned("r1"))
        assert (status.phase, status.code) == (Phase.FAILED, DELETED)
        assert "r1, which was the latest run" in status.message

    @pytest.mark.parametrize("pinned", [False, True])
    @pytest.mark.parametrize("tasks", [(), ("a",)])
    def test_that_is_deleted_is_the_end(self, deployment, pinned, tasks):
        deployment.start("r1", due=-10, a="running")
        job = latest(tasks=tasks)
        job = job.pinned("r1") if pinned else job
        assert look(deployment, job, times=2).phase is Phase.ACTIVE
        status = look(deployment, job, times=2, then=deployment.delete)
        assert (status.phase, status.code) == (Phase.FAILED, DELETED)
        assert "has been deleted" in status.message
