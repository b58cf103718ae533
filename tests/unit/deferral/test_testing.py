import asyncio
import threading

import pytest

from astronomer.deferral import JobStatus, Phase, watch
from astronomer.deferral.testing import FakeClock, ScriptedJob, ScriptedOperator, ScriptedService


def test_hours_pass_at_once():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(36_000)
        return loop.time()

    assert FakeClock().run(main) == pytest.approx(36_000)


def test_what_nothing_will_wake_is_an_error():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="a wake-up was lost"):
        FakeClock().run(main)


def test_an_error_comes_through_and_background_tasks_are_ended():
    ended = []

    async def background():
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append(True)

    async def main():
        task = asyncio.ensure_future(background())
        await asyncio.sleep(1)
        assert not task.done()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        FakeClock().run(main)
    assert ended == [True]


def test_time_stands_still_while_a_thread_works():
    release = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        timer = loop.call_later(3600, release.set)
        working = loop.run_in_executor(None, release.wait, 0.12)
        released = await working
        timer.cancel()
        return released, loop.time()

    assert FakeClock().run(main) == (False, 0.0)


def test_the_example_of_the_docstring():
    service = ScriptedService("reports")
    service.start("job-1", runs_for=3600)
    outcome = FakeClock().run(lambda: watch(ScriptedJob("job-1", service="reports")))
    assert outcome.status.phase is Phase.SUCCEEDED


class TestService:
    def test_a_key_starts_one_job(self, service):
        first = service.submit("key", runs_for=5)
        assert service.submit("key", runs_for=5) == first == service.with_key("key")
        assert service.jobs == ["job-1"]
        assert service.submits == ["key", "key"]
        assert service.with_key("other") is None

    def test_an_unknown_job_is_lost(self, service):
        assert service.status("nowhere").phase is Phase.LOST
        service.cancel("nowhere")
        assert service.cancels == ["nowhere"]

    def test_a_cancel_ends_a_job_once(self, service, timeline):
        service.start("a", runs_for=60)
        assert service.status("a") == JobStatus(Phase.ACTIVE, raw="RUNNING")
        service.cancel("a")
        ended = service.status("a")
        timeline.now += 5
        service.cancel("a")
        assert (
            service.status("a")
            == ended
            == JobStatus(Phase.CANCELLED, raw="CANCELED", ended_at=timeline.now - 5)
        )

    def test_a_cancel_comes_too_late_for_a_job_that_has_ended(self, service, timeline):
        service.start("a", runs_for=1, ends=Phase.FAILED, message="why")
        service.status("a")
        timeline.now += 2
        service.cancel("a")
        assert (service.status("a").phase, service.status("a").message) == (Phase.FAILED, "why")

    def test_a_job_may_not_obey(self, service, timeline):
        service.start("a", runs_for=60, obeys_cancel=False)
        service.status("a")
        service.cancel("a")
        assert service.status("a").phase is Phase.ACTIVE


async def test_an_operator_of_its_own_finds_by_key(service):
    operator = ScriptedOperator(task_id="t", service="scripted")
    assert operator.script == {}
    assert service.jobs == []
