"""Waits for what is somebody else's: it is looked at, and nothing else is ever done to it."""

import asyncio
import logging

import pytest
from structlog.testing import capture_logs

from astronomer.deferral import (
    CredentialsRejected,
    Hub,
    JobStatus,
    Outcome,
    Pacing,
    Phase,
    Poller,
    Transient,
    clock,
    watch,
)
from astronomer.deferral.testing import FakeClock
from tests.unit.deferral.fakes import (
    DONE,
    RUNNING,
    START,
    Count,
    FakeSupervisor,
    FakeTaskInstance,
    FunctionPoller,
    events_of,
    let,
    reason_of_end,
)
from tests.unit.deferral.foreign import ForeignJob, ForeignPollerJob, ForeignTrigger

LOG = logging.getLogger("a task")
JOB = ForeignJob("a")
STEADY = Pacing(gather=0.0, jitter=0.0)


@pytest.fixture
def messages(caplog):
    """The lines that the wait wrote to the task's log."""
    caplog.set_level(logging.INFO, LOG.name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == LOG.name]


def timed(call):
    """The result of a coroutine, and the virtual seconds it took."""

    async def main():
        result = await call()
        return result, clock.now() - START

    return FakeClock(START).run(main)


def waited(service, *, deadline=30.0, interval=20.0, job=JOB, **options):
    """The outcome of a wait, and how long it took; whatever comes of it, nothing has been cancelled."""
    hub = options.pop("connect", None)
    hub = Hub(pacing=STEADY) if hub is None else Hub(hub, STEADY)
    found = timed(lambda: watch(job, hub=hub, deadline=START + deadline, poll_interval=interval, **options))
    assert service.cancels == []
    return found


def polls(service):
    return [at - START for at in service.polls]


class TestAtTheDeadline:
    def test_there_is_one_more_look_and_no_cancel(self, service):
        service.start("a", runs_for=1e6)
        outcome, took = waited(service)
        assert outcome == Outcome(RUNNING, timed_out=True)
        assert polls(service) == [0, 20, 30]
        assert took == 30

    def test_what_came_true_in_time_and_was_not_yet_seen_counts(self, service):
        service.start("a", runs_for=28)
        outcome, took = waited(service)
        assert (outcome.status.phase, outcome.timed_out) == (Phase.SUCCEEDED, False)
        assert took == 30

    def test_so_does_what_went_wrong_in_time(self, service):
        service.start("a", runs_for=28, ends=Phase.FAILED, message="why")
        outcome, _ = waited(service)
        assert (outcome.status.phase, outcome.status.message, outcome.timed_out) == (
            Phase.FAILED,
            "why",
            False,
        )

    def test_a_deadline_that_passed_long_ago_still_allows_a_look(self, service):
        service.start("a")
        outcome, took = waited(service, deadline=-1000.0)
        assert (outcome.status.phase, outcome.timed_out) == (Phase.SUCCEEDED, False)
        assert took <= 2.0

    def test_the_look_keeps_the_spacing(self, service):
        service.start("a", runs_for=1e6)
        _, took = waited(service, deadline=20.3)
        assert polls(service) == [0, 20, 21]
        assert took == 21

    def test_one_bad_answer_is_enough_to_give_up(self, service):
        service.start("a", runs_for=1e6)
        service.weather = [None, None, Transient("503"), None]
        outcome, took = waited(service)
        why = "it could not be asked at the end: 503"
        assert outcome == Outcome(JobStatus(Phase.ACTIVE, message=why), timed_out=True)
        assert took == 30

    def test_so_is_a_refused_login(self, service):
        service.start("a", runs_for=1e6)
        service.weather = [None, None, CredentialsRejected("locked")]
        outcome, took = waited(service)
        assert outcome.timed_out
        assert outcome.status.message == "it could not be asked at the end: locked"
        assert took == 30

    def test_an_outage_that_began_long_before_is_told(self, service):
        service.start("a", runs_for=1e6)
        service.weather = [None, Transient("503", retry_after=1000.0)]
        outcome, took = waited(service)
        assert outcome.timed_out
        assert outcome.status.message == "it could not be asked at the end: 503"
        assert took == 45

    def test_an_answer_that_does_not_come_is_not_awaited_for_long(self, service):
        async def poll(jobs):
            if clock.now() >= START + 30:
                await asyncio.sleep(1e6)
            return dict.fromkeys(jobs, RUNNING)

        job = ForeignPollerJob("a")
        outcome, took = waited(service, job=job, connect=lambda _: FunctionPoller(poll))
        why = "it could not be asked at the end: no answer within 15 s"
        assert outcome == Outcome(JobStatus(Phase.ACTIVE, message=why), timed_out=True)
        assert took == 45

    def test_one_that_comes_late_is(self, service):
        async def poll(jobs):
            await asyncio.sleep(12.0 if clock.now() >= START + 30 else 0.0)
            return dict.fromkeys(jobs, DONE if clock.now() >= START + 30 else RUNNING)

        job = ForeignPollerJob("a")
        outcome, took = waited(service, job=job, connect=lambda _: FunctionPoller(poll))
        assert outcome == Outcome(DONE)
        assert took == 42

    def test_a_connection_that_died_in_that_moment_ends_it(self, service, caplog):
        connects = []

        def connect(_):
            connects.append(clock.now() - START)
            if len(connects) > 1:
                raise RuntimeError("no such connection")
            return FunctionPoller(poll)

        async def poll(jobs):
            if clock.now() >= START + 30:
                raise CredentialsRejected("expired")
            return dict.fromkeys(jobs, RUNNING)

        outcome, took = waited(service, job=ForeignPollerJob("a"), connect=connect)
        assert outcome.timed_out
        assert "could not be asked at the end: RuntimeError: no such connection" in outcome.status.message
        assert took == 30

    def test_an_expensive_poller_looks_all_the_same(self, service):
        async def poll(jobs):
            return dict.fromkeys(jobs, DONE if clock.now() >= START + 30 else RUNNING)

        def connect(_):
            poller = FunctionPoller(poll)
            poller.least_interval = 600.0
            return poller

        outcome, took = waited(service, job=ForeignPollerJob("a"), connect=connect)
        assert (outcome, took) == (Outcome(DONE), 30)

    def test_other_waits_on_the_connection_are_not_disturbed(self, service):
        service.start("a", runs_for=1e6)
        service.start("b", runs_for=100)

        async def both():
            hub = Hub(pacing=STEADY)
            return await asyncio.gather(
                watch(JOB, hub=hub, deadline=START + 30, poll_interval=20.0),
                watch(ForeignJob("b"), hub=hub, poll_interval=20.0),
            )

        (first, second), _ = timed(both)
        assert (first.timed_out, second.status.phase) == (True, Phase.SUCCEEDED)
        assert service.logins == 1


class TestBefore:
    def test_patience_ends_in_lost_as_for_any_job(self, service):
        service.start("a", runs_for=1e6)
        service.weather = [Transient("503")] * 100
        outcome, took = waited(service, deadline=1000.0, outage_tolerance=100.0)
        assert (outcome.status.phase, outcome.timed_out) == (Phase.LOST, False)
        assert outcome.status.message == (
            "No answer about scripted job a for 100 s: 503. It may still be running."
        )
        assert took == pytest.approx(100, abs=1)

    def test_so_does_a_login_that_is_refused_for_good(self, service):
        service.start("a", runs_for=1e6)
        service.weather = [CredentialsRejected("locked")] * 3
        outcome, _ = waited(service, deadline=1000.0)
        assert (outcome.status.phase, outcome.timed_out) == (Phase.LOST, False)


class TestQuiet:
    """The worker has told the first state: the wait tells what changes."""

    def told(self, messages, *states):
        answers = iter(states)

        async def poll(jobs):
            return dict.fromkeys(jobs, next(answers))

        hub = Hub(lambda _: FunctionPoller(poll), STEADY)
        timed(lambda: watch(ForeignPollerJob("a"), hub=hub, log=LOG))
        return messages()

    def test_the_first_state_is_no_line(self, messages):
        assert self.told(messages, RUNNING, RUNNING, RUNNING, DONE) == [
            "scripted job a has succeeded (SUCCEEDED)"
        ]

    def test_a_change_is(self, messages):
        assert self.told(messages, RUNNING, JobStatus(Phase.ACTIVE, "QUEUED"), RUNNING, DONE) == [
            "scripted job a is active (QUEUED)",
            "scripted job a is active (RUNNING)",
            "scripted job a has succeeded (SUCCEEDED)",
        ]

    def test_an_end_that_comes_first_is(self, messages):
        assert self.told(messages, DONE) == ["scripted job a has succeeded (SUCCEEDED)"]

    def test_an_outage_in_the_beginning_does_not_make_the_first_state_news(self, service, messages):
        service.start("a", runs_for=100)
        service.weather = [Transient("503")] * 3
        timed(lambda: watch(JOB, log=LOG))
        assert messages() == ["scripted job a has succeeded (SUCCEEDED)"]


class TestOutagesAreToldLate:
    """There may be thousands of such waits, and a line costs a triggerer dear; the hub has told it once for all."""

    @pytest.mark.parametrize(("seconds", "lines"), [(590.0, 0), (620.0, 2)])
    def test_after_ten_minutes(self, service, messages, seconds, lines):
        service.start("a", runs_for=1000)
        service.weather = [None, Transient("503", retry_after=seconds)]
        timed(lambda: watch(JOB, hub=Hub(pacing=STEADY), log=LOG))
        about = ["scripted job a cannot be asked, waiting on: 503", "scripted job a can be asked again"]
        assert messages() == [*about[:lines], "scripted job a has succeeded (SUCCEEDED)"]


class TestTrigger:
    @pytest.mark.parametrize("cancel_on_kill", [True, False])
    def test_a_kill_cancels_nothing_and_asks_nobody(self, service, cancel_on_kill):
        service.start("a", runs_for=1e6)
        trigger = ForeignTrigger(job=JOB.to_dict(), cancel_on_kill=cancel_on_kill)
        trigger.task_instance = FakeTaskInstance()
        supervisor = FakeSupervisor(Count(0))

        async def killed():
            waiting = asyncio.ensure_future(reason_of_end(events_of(trigger)))
            await let(20)
            waiting.cancel("__airflow_user_action__")
            assert await waiting == ("__airflow_user_action__",)
            with supervisor.in_place():
                await trigger.on_kill()

        with capture_logs() as lines:
            _, took = timed(killed)
        assert service.cancels == supervisor.questions == lines == []
        assert took == 20

    def test_it_says_that_time_is_up(self, service):
        service.start("a", runs_for=1e6)
        trigger = ForeignTrigger(job=JOB.to_dict(), deadline=START + 30)
        (event,), _ = timed(lambda: events_of(trigger))
        assert event["outcome"] == {"status": {"phase": "active", "raw": "RUNNING"}, "timed_out": True}
        assert service.cancels == []


async def test_a_poller_of_foreign_jobs_has_no_cancel():
    class Bare(Poller):
        async def poll(self, jobs):
            return {}

    with pytest.raises(NotImplementedError, match="Bare has no jobs of its own to end: override cancel"):
        await Bare().cancel(JOB)


def test_a_job_is_ones_own_unless_it_says_otherwise():
    assert ForeignJob.foreign
    assert not ForeignJob.__mro__[1].foreign
