"""One wait, one scene at a time; test_watch_properties.py has the random ones."""

import asyncio
import logging

import pytest

from astronomer.deferral import (
    CredentialsRejected,
    Hub,
    JobStatus,
    Outcome,
    Pacing,
    Phase,
    Transient,
    cancel_and_confirm,
    clock,
    watch,
)
from astronomer.deferral.testing import FakeClock
from tests.unit.deferral.fakes import DONE, RUNNING, START, FunctionPoller, PollerJob, let, reason_of_end

LOG = logging.getLogger("a task")
JOB = PollerJob("a")


@pytest.fixture
def messages(caplog):
    """The lines that the wait wrote to the task's log."""
    caplog.set_level(logging.INFO, LOG.name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == LOG.name]


def run(main):
    return FakeClock(START).run(main)


def timed(call):
    """The result of a coroutine, and the virtual seconds it took."""

    async def main():
        result = await call()
        return result, clock.now() - START

    return run(main)


def hub_of(poll, cancel=None):
    return Hub(lambda job: FunctionPoller(poll, cancel), Pacing(gather=0.0, jitter=0.0))


def last_asked(status):
    """When a cancel that is always throttled is asked for the last time, of a job whose time is up at 10 s."""
    asked = []

    async def poll(jobs):
        return dict.fromkeys(jobs, status())

    async def cancel(job):
        asked.append(clock.now() - START)
        raise Transient("429")

    async def main():
        await watch(JOB, hub=hub_of(poll, cancel), deadline=START + 10, cancel_confirm_timeout=5.0)
        await asyncio.sleep(3600)

    run(main)
    return asked[-1]


class TestWatch:
    @pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED])
    def test_the_outcome_is_the_last_status(self, service, phase):
        job = service.start("a", runs_for=100, ends=phase, message="why")
        outcome, seconds = timed(lambda: watch(job))
        assert (outcome.status.phase, outcome.status.message, outcome.timed_out) == (phase, "why", False)
        assert 100 <= seconds <= 107

    def test_a_job_the_remote_side_has_lost_is_lost(self, service):
        outcome = run(lambda: watch(PollerJob("nowhere"), hub=Hub(lambda job: service.start("x").poller())))
        assert outcome.status.phase is Phase.LOST

    def test_it_polls_at_the_interval(self, service):
        job = service.start("a", runs_for=100)
        run(lambda: watch(job, poll_interval=20.0, hub=Hub(pacing=Pacing(gather=0.0, jitter=0.0))))
        assert [at - START for at in service.polls] == [0, 20, 40, 60, 80, 100]


class TestDeadline:
    def test_the_job_is_cancelled_and_its_end_confirmed(self, service):
        job = service.start("a", runs_for=1e6)
        outcome, seconds = timed(lambda: watch(job, deadline=START + 30))
        assert (outcome.status.phase, outcome.timed_out) == (Phase.CANCELLED, True)
        assert service.cancels == ["a"]
        assert 30 <= seconds <= 35

    def test_it_holds_in_an_outage(self, service):
        job = service.start("a", runs_for=1e6)
        service.weather = [Transient("503", retry_after=1000.0)]
        outcome, seconds = timed(lambda: watch(job, deadline=START + 30))
        assert (outcome.status.phase, outcome.timed_out) == (Phase.LOST, True)
        assert seconds == pytest.approx(90, abs=0.01)

    def test_a_deadline_that_passed_long_ago_still_looks_after_the_job(self, service):
        job = service.start("a", runs_for=1e6)
        outcome = run(lambda: watch(job, deadline=START - 1000))
        assert outcome.timed_out
        assert service.cancels == ["a"]

    def test_a_job_that_succeeded_in_that_moment_has_succeeded(self, service):
        job = service.start("a", runs_for=28)
        outcome = run(lambda: watch(job, deadline=START + 29, poll_interval=20.0))
        assert outcome == Outcome(service_status(outcome, Phase.SUCCEEDED))

    def test_a_cancel_that_could_not_be_asked_for_in_time_is_asked_for_until_it_can_be(self):
        asked = []

        async def poll(jobs):
            return dict.fromkeys(jobs, RUNNING)

        async def cancel(job):
            asked.append(clock.now() - START)
            if asked[-1] < 300:
                raise Transient("429")

        async def main():
            outcome = await watch(
                JOB, hub=hub_of(poll, cancel), deadline=START + 10, cancel_confirm_timeout=5.0
            )
            assert (outcome.status.phase, outcome.timed_out) == (Phase.LOST, True)
            await asyncio.sleep(1000)

        run(main)
        assert any(300 <= moment < 320 for moment in asked)

    @pytest.mark.parametrize(("known_after", "moments"), [(3, [0, 10]), (40, [0, 10, 30, 70])])
    def test_a_cancel_that_came_too_early_is_asked_for_again(self, known_after, moments):
        """Vendors take a cancel of what they do not list yet, and do nothing."""
        asked = []

        async def poll(jobs):
            ended = any(moment > known_after for moment in asked)
            return dict.fromkeys(jobs, JobStatus(Phase.CANCELLED) if ended else RUNNING)

        async def cancel(job):
            asked.append(clock.now() - START)

        status = run(lambda: cancel_and_confirm(JOB, hub=hub_of(poll, cancel), timeout=300.0))
        assert status.phase is Phase.CANCELLED
        assert [round(moment) for moment in asked] == moments

    def test_it_is_not_asked_for_again_while_nobody_sees_whether_it_goes_on(self):
        asked = []

        async def poll(jobs):
            raise Transient("503")

        async def cancel(job):
            asked.append(job)

        status = run(lambda: cancel_and_confirm(JOB, hub=hub_of(poll, cancel), timeout=300.0))
        assert status.phase is Phase.LOST
        assert len(asked) == 1

    def test_but_not_beyond_its_end(self):
        """What comes after it, such as a repair by hand, is not to be cancelled."""
        assert 40 < last_asked(lambda: DONE if clock.now() > START + 60 else RUNNING) <= 62

    def test_and_no_longer_than_ten_minutes(self):
        assert 500 <= last_asked(lambda: RUNNING) <= 615 + 1

    def test_a_clock_that_is_put_forward_ends_the_wait_within_a_minute(self, service):
        job = service.start("a", runs_for=1e6)

        async def main():
            waiting = asyncio.ensure_future(watch(job, deadline=START + 7200, poll_interval=600.0))
            await asyncio.sleep(10)
            loop = asyncio.get_running_loop()
            put_forward_at, epoch = loop.time(), loop.epoch
            loop.epoch = lambda: epoch() + 7200
            outcome = await waiting
            return outcome, loop.time() - put_forward_at

        outcome, seconds = run(main)
        assert outcome.timed_out
        assert seconds <= 60 + 5

    def test_a_job_that_does_not_obey_is_lost(self, service):
        job = service.start("a", runs_for=1e6, obeys_cancel=False)
        outcome, seconds = timed(lambda: watch(job, deadline=START + 30, cancel_confirm_timeout=20.0))
        assert outcome.timed_out
        assert outcome.status.message == (
            "scripted job a was asked to stop but has not confirmed it within 20 s. It may still be running."
        )
        assert seconds == pytest.approx(50, abs=0.01)


def service_status(outcome, phase):
    assert outcome.status.phase is phase
    return outcome.status


class TestPatience:
    def test_a_short_outage_costs_nothing(self, service):
        job = service.start("a", runs_for=100)
        service.weather = [None, *[Transient("reset")] * 8]
        assert run(lambda: watch(job)).status.phase is Phase.SUCCEEDED

    def test_a_long_one_loses_the_job(self, service):
        job = service.start("a", runs_for=100)
        service.weather = [Transient("503 Service Unavailable")] * 1000
        outcome, seconds = timed(lambda: watch(job, outage_tolerance=600.0))
        assert outcome.status == JobStatus(
            Phase.LOST,
            message="No answer about scripted job a for 600 s: 503 Service Unavailable. "
            "It may still be running.",
        )
        assert seconds == pytest.approx(600, abs=1)
        assert service.cancels == []

    def test_an_answer_renews_it(self, service):
        job = service.start("a", runs_for=1000)
        service.weather = ([Transient("503")] * 6 + [None]) * 20
        assert run(lambda: watch(job, outage_tolerance=100.0)).status.phase is Phase.SUCCEEDED

    def test_credentials_that_are_refused_for_good_lose_the_job(self, service):
        job = service.start("a", runs_for=1000)
        service.weather = [CredentialsRejected("user disabled")] * 3
        outcome, seconds = timed(lambda: watch(job))
        assert outcome.status.message == (
            "Cannot log in to ask about scripted job a: user disabled. It may still be running."
        )
        assert 30 <= seconds < 35


class TestQuiet:
    def test_one_line_per_change(self, messages):
        states = iter(
            [*[RUNNING] * 10, *[JobStatus(Phase.ACTIVE, "QUEUED")] * 10, JobStatus(Phase.SUCCEEDED)]
        )

        async def poll(jobs):
            return dict.fromkeys(jobs, next(states))

        run(lambda: watch(JOB, hub=hub_of(poll), log=LOG))
        assert messages() == [
            "scripted job a is active (RUNNING)",
            "scripted job a is active (QUEUED)",
            "scripted job a has succeeded (no word from it)",
        ]

    def test_a_change_of_anything_else_is_no_line(self, messages):
        states = iter([JobStatus(Phase.ACTIVE, "RUNNING", message=str(number)) for number in range(10)])

        async def poll(jobs):
            return dict.fromkeys(jobs, next(states, DONE))

        run(lambda: watch(JOB, hub=hub_of(poll), log=LOG))
        assert len(messages()) == 2

    def test_a_short_outage_is_no_line(self, service, messages):
        service.weather = [Transient("503")] * 4
        job = service.start("a")
        run(lambda: watch(job, log=LOG))
        assert messages() == ["scripted job a has succeeded (SUCCEEDED)"]

    def test_a_lasting_one_is_two(self, service, messages):
        service.weather = [None, *[Transient("503")] * 9]
        job = service.start("a", runs_for=10_000)
        run(lambda: watch(job, log=LOG))
        assert messages() == [
            "scripted job a is active (RUNNING)",
            "scripted job a cannot be asked, waiting on: 503",
            "scripted job a can be asked again",
            "scripted job a has succeeded (SUCCEEDED)",
        ]

    def test_a_crowd_tells_an_outage_little_by_little(self, service, messages):
        """A triggerer's supervisor takes some ten lines a second, and is held up by more."""
        crowd = 400
        service.weather = [None, *[Transient("503")] * 60]
        jobs = [service.start(str(number), runs_for=10_000) for number in range(crowd)]
        told = []

        class Log(logging.Logger):
            def warning(self, *_line):
                told.append(clock.now())

        async def main():
            await asyncio.gather(*(watch(job, log=Log("told")) for job in jobs))

        run(main)
        assert len(told) == crowd
        assert max(told) - min(told) > crowd / 10 * 0.8
        assert max(sum(moment <= one < moment + 5 for one in told) for moment in told) < crowd / 4

    def test_a_crowd_does_not_tell_its_end(self, service, messages):
        service.weather = [None, *[Transient("503")] * 60]
        jobs = [service.start(str(number), runs_for=10_000) for number in range(150)]

        async def main():
            await asyncio.gather(*(watch(job, log=LOG) for job in jobs))

        run(main)
        assert sum("cannot be asked" in one for one in messages()) == 150
        assert not any("can be asked again" in one for one in messages())


class TestCancelAndConfirm:
    def test_the_end_is_seen(self, service):
        job = service.start("a", runs_for=1e6)
        assert run(lambda: cancel_and_confirm(job)).phase is Phase.CANCELLED

    def test_a_job_that_has_ended_is_as_it_was(self, service):
        job = service.start("a", ends=Phase.FAILED, message="why")
        assert run(lambda: cancel_and_confirm(job)).message == "why"

    def test_it_keeps_asking_through_bad_weather(self):
        troubles = [Transient("429", retry_after=7.0), asyncio.TimeoutError(), KeyError("odd")]
        asked = []

        async def poll(jobs):
            return dict.fromkeys(jobs, RUNNING if troubles else JobStatus(Phase.CANCELLED))

        async def cancel(job):
            asked.append(clock.now() - START)
            if troubles:
                raise troubles.pop(0)

        assert run(lambda: cancel_and_confirm(JOB, hub=hub_of(poll, cancel))).phase is Phase.CANCELLED
        assert asked == pytest.approx([0, 7, 21])

    def test_a_remote_side_that_cannot_be_asked_is_said_so(self):
        async def poll(jobs):
            return dict.fromkeys(jobs, RUNNING)

        async def cancel(job):
            raise Transient("503")

        status, seconds = timed(lambda: cancel_and_confirm(JOB, hub=hub_of(poll, cancel), timeout=10.0))
        assert status.message == (
            "scripted job a could not be asked to stop within 10 s. It may still be running."
        )
        assert seconds == pytest.approx(10)

    def test_a_defect_in_asking_is_told_once(self, caplog):
        async def poll(jobs):
            return dict.fromkeys(jobs, RUNNING)

        async def cancel(job):
            raise KeyError("odd")

        run(lambda: cancel_and_confirm(JOB, hub=hub_of(poll, cancel), timeout=60.0))
        assert caplog.text.count("Asking scripted job a to stop failed") == 1

    def test_the_cancel_of_a_cancel_ends_it(self):
        going = []

        async def poll(jobs):
            return dict.fromkeys(jobs, RUNNING)

        async def cancel(job):
            going.append(True)
            try:
                await asyncio.sleep(1e6)
            finally:
                going.clear()

        async def main():
            task = asyncio.ensure_future(reason_of_end(cancel_and_confirm(JOB, hub=hub_of(poll, cancel))))
            await let(5)
            assert going
            task.cancel("by the test")
            assert await task == ("by the test",)
            assert not going

        run(main)


def test_a_wait_that_is_cancelled_ends_with_the_reason_it_was_given(service):
    """Airflow tells a user's kill from a shutdown by the message of the cancellation."""
    job = service.start("a", runs_for=1e6)

    async def main():
        task = asyncio.ensure_future(reason_of_end(watch(job)))
        await let(50)
        task.cancel("a user")
        assert await task == ("a user",)

    run(main)
    assert service.cancels == []
