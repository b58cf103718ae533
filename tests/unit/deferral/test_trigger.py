import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from astronomer.deferral import JobTrigger, Outcome, Phase, RemoteJob, Transient, clock
from astronomer.deferral.testing import FakeClock, ScriptedJob, ScriptedTrigger
from tests.unit.deferral.fakes import (
    START,
    Count,
    FakeAirflow,
    FakeSupervisor,
    FakeTaskInstance,
    events_of,
    let,
    reason_of_end,
    revived,
)


def run(main):
    return FakeClock(START).run(main)


def trigger_for(service, **options):
    job = service.start("a", **options)
    return ScriptedTrigger(job=job.to_dict())


def test_its_arguments_survive_airflows_database():
    trigger = ScriptedTrigger(
        job={"job_id": "a", "service": "s"},
        deadline=START + 5,
        poll_interval=1.5,
        outage_tolerance=2.5,
        cancel_confirm_timeout=3.5,
        not_before=START,
        cancel_on_kill=False,
    )
    assert revived(trigger).serialize() == trigger.serialize()
    assert trigger.serialize()[0] == "astronomer.deferral.testing.ScriptedTrigger"
    assert revived(trigger).remote_job == ScriptedJob("a", "s")


def test_a_family_adds_a_field_by_declaring_it():
    @dataclass(eq=False, repr=False)
    class WithMood(JobTrigger):
        mood: str = "good"

        job_type: ClassVar[type[RemoteJob]] = ScriptedJob

    assert WithMood(job={}, mood="bad").serialize()[1]["mood"] == "bad"


def test_it_yields_one_event_and_returns(service):
    trigger = trigger_for(service, runs_for=100)
    (event,) = run(lambda: events_of(trigger))
    assert event["job"] == {"job_id": "a", "service": "scripted"}
    assert Outcome.from_dict(event["outcome"]).status.phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("named", "held"), [(5, 5), (1200, 60)], ids=["by our clock", "by one that is ahead"]
)
def test_no_event_comes_in_the_first_moments(service, named, held):
    trigger = trigger_for(service)
    trigger.not_before = START + named

    async def main():
        await events_of(trigger)
        return clock.now() - START

    assert run(main) == pytest.approx(held, abs=1)


def test_a_defect_is_an_event_too():
    class Broken(ScriptedTrigger):
        async def wait(self) -> Outcome:
            raise KeyError("odd")

    (event,) = run(lambda: events_of(Broken(job={"job_id": "a"})))
    status = Outcome.from_dict(event["outcome"]).status
    assert status.phase is Phase.LOST
    assert status.message == "the wait failed: KeyError: 'odd'. The job may still be running."


def test_arguments_that_no_job_can_be_made_of_are_an_event_too():
    (event,) = run(lambda: events_of(ScriptedTrigger(job={"service": "s"})))
    assert Outcome.from_dict(event["outcome"]).status.phase is Phase.LOST


async def _killed_by(trigger: JobTrigger, supervisor: FakeSupervisor) -> None:
    """What Airflow's triggerer does with a trigger that a user's action ends."""
    trigger.task_instance = FakeTaskInstance()
    waiting = asyncio.ensure_future(reason_of_end(events_of(trigger)))
    await let(20)
    waiting.cancel("__airflow_user_action__")
    assert await waiting == ("__airflow_user_action__",)
    with supervisor.in_place():
        await trigger.on_kill()


class Succeeded(FakeSupervisor):
    """The task has succeeded."""

    def send(self, question):
        return Count(int("success" in question.states))


class TestOnKill:
    def test_a_user_ends_the_job(self, service):
        trigger = trigger_for(service, runs_for=1e6)
        run(lambda: _killed_by(trigger, FakeSupervisor(Count(0))))
        assert service.cancels == ["a"]

    @pytest.mark.parametrize("answer", [Count(1), None, RuntimeError("no answer")])
    def test_a_move_to_another_triggerer_does_not(self, service, answer):
        trigger = trigger_for(service, runs_for=1e6)
        run(lambda: _killed_by(trigger, FakeSupervisor(answer)))
        assert service.cancels == []

    @pytest.mark.parametrize("state", ["scheduled", "queued", "running", "up_for_retry"])
    def test_a_task_that_went_on_while_its_trigger_slept_has_the_job_in_hand(self, service, state):
        """Another triggerer has sent the event; or the task was cleared, and its next try ends the job."""
        trigger = trigger_for(service, runs_for=1e6)
        run(lambda: _killed_by(trigger, FakeAirflow(states={"task": state})))
        assert service.cancels == []

    @pytest.mark.parametrize("state", ["failed", "skipped", "removed", "restarting", "null", None])
    def test_a_task_that_nobody_goes_on_with_leaves_none(self, service, state):
        """Such as one that was cleared while it ran, or whose run was deleted."""
        trigger = trigger_for(service, runs_for=1e6)
        run(lambda: _killed_by(trigger, FakeAirflow(states={"task": state} if state else {})))
        assert service.cancels == ["a"]

    def test_a_task_that_ended_while_its_trigger_slept_has_nothing_to_end(self, service):
        """Another triggerer saw the end of the wait; the job may be of use to others, as a workflow's run is."""
        trigger = trigger_for(service, runs_for=100)

        async def main():
            await trigger.wait()
            with Succeeded().in_place():
                trigger.task_instance = FakeTaskInstance()
                await trigger.on_kill()

        with capture_logs() as lines:
            run(main)
        assert service.cancels == []
        assert "scripted job a is succeeded: there is nothing to end" in [line["event"] for line in lines]

    def test_a_user_who_marks_a_waiting_task_as_success_ends_the_job(self, service):
        trigger = trigger_for(service, runs_for=1e6)
        run(lambda: _killed_by(trigger, Succeeded()))
        assert service.cancels == ["a"]

    def test_it_is_asked_through_bad_weather_what_the_task_has_succeeded_by(self, service):
        """All waits of a triggerer that wakes up ask at once, and some are refused."""
        trigger = trigger_for(service, runs_for=100)

        async def main():
            await trigger.wait()
            service.weather = [Transient("429"), Transient("503"), Transient("reset")]
            with Succeeded().in_place():
                trigger.task_instance = FakeTaskInstance()
                await trigger.on_kill()

        run(main)
        assert service.cancels == []
        assert not service.weather

    def test_without_airflows_word_on_success_the_job_is_left_alone(self, service):
        class Silent(FakeSupervisor):
            def send(self, question):
                if question.states == ["success"]:
                    raise RuntimeError("no answer")
                return Count(0)

        trigger = trigger_for(service, runs_for=1e6)
        with capture_logs() as lines:
            run(lambda: _killed_by(trigger, Silent()))
        assert service.cancels == []
        assert "scripted job a goes on: it is not known whether the task has succeeded by it" in [
            line["event"] for line in lines
        ]

    def test_nor_does_a_user_who_chose_so(self, service):
        trigger = trigger_for(service, runs_for=1e6)
        trigger.cancel_on_kill = False
        supervisor = FakeSupervisor(Count(0))
        run(lambda: _killed_by(trigger, supervisor))
        assert service.cancels == supervisor.questions == []

    def test_being_cancelled_again_does_not_cut_it_short(self, service):
        """Airflow 3.3 cancels a trigger at each sync until it has ended."""
        trigger = trigger_for(service, runs_for=1e6)
        trigger.task_instance = FakeTaskInstance()

        async def main():
            with FakeSupervisor(Count(0)).in_place():
                for _ in range(3):
                    killing = asyncio.ensure_future(trigger.on_kill())
                    await asyncio.sleep(0)
                    killing.cancel()
                    await asyncio.wait({killing})
                await let(5)
            return (await trigger.remote_job.status()).phase

        assert run(main) is Phase.CANCELLED
        assert "a" in service.cancels

    def test_it_ends_within_airflows_patience(self, service):
        trigger = trigger_for(service, runs_for=1e6, obeys_cancel=False)
        trigger.task_instance = FakeTaskInstance()

        async def main():
            with FakeSupervisor(Count(0)).in_place():
                await trigger.on_kill()
            return clock.now() - START

        assert run(main) < 30

    def test_and_goes_on_after_it(self, service, monkeypatch):
        """As when so many are killed at once that the vendor's limit of cancels makes them wait."""
        trigger = trigger_for(service, runs_for=1e6)
        trigger.task_instance = FakeTaskInstance()
        cancel = service.cancel

        def late(job_id):
            if clock.now() - START < 60:
                raise Transient("too many cancels")
            cancel(job_id)

        monkeypatch.setattr(service, "cancel", late)

        async def main():
            with FakeSupervisor(Count(0)).in_place():
                await trigger.on_kill()
                took = clock.now() - START
                await let(60)
            return took, (await trigger.remote_job.status()).phase

        with capture_logs() as lines:
            took, phase = run(main)
        assert took < 30
        assert phase is Phase.CANCELLED
        told = [line["event"] for line in lines if line["log_level"] in ("warning", "info")]
        assert told == [
            "scripted job a has not ended yet; its end is still being asked for",
            "Task ended by a user: scripted job a is cancelled",
        ]

    def test_it_goes_on_when_airflow_repeats_the_cancel(self, service):
        class Slow(FakeSupervisor):
            async def asend(self, question):
                await asyncio.sleep(5)
                return await super().asend(question)

        trigger = trigger_for(service, runs_for=1e6)
        trigger.task_instance = FakeTaskInstance()

        async def main():
            with Slow(Count(0)).in_place():
                killing = asyncio.ensure_future(trigger.on_kill())
                await asyncio.sleep(1)
                killing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await killing
                await asyncio.sleep(30)

        run(main)
        assert service.cancels == ["a"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Count(0), "Task ended by a user: scripted job a is cancelled"),
        (Count(1), "scripted job a goes on: the task is still deferred"),
        (None, "scripted job a goes on: the task is in an unknown state"),
        (FakeAirflow(states={"task": "queued"}), "scripted job a goes on: the task is not over"),
    ],
)
def test_what_happened_can_be_read_in_the_log(service, answer, said):
    trigger = trigger_for(service, runs_for=1e6)
    with capture_logs() as lines:
        run(lambda: _killed_by(trigger, supervisor_of(answer)))
    assert [line["event"] for line in lines] == ["scripted job a is active (RUNNING)", said]


def supervisor_of(answer):
    return answer if isinstance(answer, FakeSupervisor) else FakeSupervisor(answer)


def test_a_trigger_names_its_arguments():
    shown: Any = repr(ScriptedTrigger(job={"job_id": "a"}))
    assert "job={'job_id': 'a'}" in shown
