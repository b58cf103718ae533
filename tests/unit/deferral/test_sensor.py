from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from astronomer.deferral import (
    JobCancelled,
    JobFailed,
    JobLost,
    JobTimedOut,
    Phase,
    PokeSensor,
)
from astronomer.deferral._compat import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    settling_time,
)
from tests.unit.deferral.fakes import START, deferred, events_of
from tests.unit.deferral.pokes import PokedJob, PokedService, ScriptedPokes


class StockSensor(BaseSensorOperator):
    """Pokes in a worker."""

    def __init__(self, *, service, **kwargs):
        super().__init__(**kwargs)
        self.service = service
        self.poked = 0

    def poke(self, context):
        self.poked += 1
        return True


class ScriptedSensor(PokeSensor, StockSensor):
    """Pokes a :class:`PokedService`."""

    trigger_type = ScriptedPokes

    def __init__(self, *, answers=None, reason=None, **kwargs):
        super().__init__(**kwargs)
        self.answers = answers
        self.reason = reason

    def anchor(self):
        return PokedJob("", self.service)

    def trigger_arguments(self, context):
        return {"judge": self.answers is None}

    def judge(self, context, job):
        return self.answers.pop(0)

    def why_in_worker(self):
        return self.reason


class World:
    """One task, and the service that it pokes."""

    def __init__(self, timeline):
        self.service = PokedService("poked")
        self.timeline = timeline
        self.sensor = self.trigger = self.event = None

    def defer(self, **arguments):
        self.sensor = ScriptedSensor(task_id="task", service="poked", **arguments)
        self.trigger = deferred(lambda: self.sensor.execute({}))
        return self.trigger

    def wait(self):
        (self.event,) = self.timeline.run(lambda: events_of(self.trigger))

    def resume(self):
        """As Airflow's task runner does it."""
        return self.sensor.resume_execution("execute_complete", {"event": self.event}, {})

    def run(self, **arguments):
        self.defer(**arguments)
        self.wait()
        return self.resume()


@pytest.fixture
def world(timeline):
    return World(timeline)


class TestDeferring:
    def test_says_it_all(self, world):
        trigger = world.defer(
            poke_interval=30,
            timeout=500,
            exponential_backoff=True,
            max_wait=timedelta(seconds=90),
            poll_interval=2,
            outage_tolerance=timedelta(minutes=2),
        )
        assert trigger.serialize()[1] == {
            "job": {"job_id": "", "service": "poked"},
            "deadline": START + 500,
            "poll_interval": 2.0,
            "outage_tolerance": 120.0,
            "cancel_confirm_timeout": 60.0,
            "not_before": START + settling_time(),
            "cancel_on_kill": True,
            "next_poke": START,
            "pokes": 0,
            "poke_interval": 30.0,
            "exponential_backoff": True,
            "max_wait": 90.0,
            "judge": True,
        }

    def test_has_defaults(self, world):
        trigger = world.defer()
        assert (trigger.poll_interval, trigger.outage_tolerance) == (5.0, 3600.0)
        assert trigger.max_wait is None
        assert not trigger.exponential_backoff

    @pytest.mark.parametrize(("minutes", "deadline"), [(5, 300), (60, 1000)])
    def test_ends_at_the_sooner_limit(self, world, minutes, deadline):
        trigger = world.defer(timeout=1000, execution_timeout=timedelta(minutes=minutes))
        assert trigger.deadline == START + deadline

    def test_takes_no_negative_time(self):
        with pytest.raises(ValueError, match="poll_interval must not be negative"):
            ScriptedSensor(task_id="task", service="poked", poll_interval=-1)

    @pytest.mark.parametrize("arguments", [{"deferrable": False}, {"reason": "by hand"}])
    def test_is_left_to_who_must_poke_in_a_worker(self, arguments):
        sensor = ScriptedSensor(task_id="task", service="poked", **arguments)
        with capture_logs() as lines:
            sensor.execute({})
        assert sensor.poked == 1
        told = [line for line in lines if line["event"].startswith("Poking in the worker")]
        assert len(told) == ("reason" in arguments)


class TestAnswers:
    def test_of_yes(self, world):
        assert world.run() is None

    def test_that_the_worker_judges(self, world):
        world.defer(answers=[False, True], poke_interval=60, timeout=500)
        world.wait()
        first = world.trigger
        world.trigger = deferred(world.resume)
        assert (world.trigger.pokes, world.trigger.next_poke) == (1, START + 60)
        assert world.trigger.deadline == first.deadline
        assert world.trigger.not_before == world.timeline.now + settling_time()
        world.wait()
        assert world.resume() is None
        assert world.service.begun == pytest.approx([START, START + 60])

    def test_of_an_earlier_release_hold_the_outcome_of_success(self, world):
        world.defer(answers=[True])
        job = world.service.start("poke-1").to_dict()
        status = {"phase": "succeeded", "raw": "DONE"}
        world.event = {"job": job, "pokes": 1, "deadline": START + 9, "started_at": START}
        world.event["outcome"] = {"status": status, "timed_out": False}
        assert world.resume() is None
        assert world.sensor.answers == []

    def test_of_no_in_the_event(self, world):
        world.defer()
        world.event = {
            "job": world.trigger.job,
            "pokes": 1,
            "deadline": START + 9,
            "started_at": START,
            "met": False,
        }
        assert deferred(world.resume).pokes == 1


class TestFailures:
    @pytest.mark.parametrize(
        ("phase", "error"),
        [(Phase.FAILED, JobFailed), (Phase.CANCELLED, JobCancelled), (Phase.LOST, JobLost)],
    )
    def test_are_told_apart(self, world, phase, error):
        world.service.script = [{"ends": phase, "message": "why"}]
        with pytest.raises(error) as caught:
            world.run()
        assert type(caught.value) is error
        told = str(caught.value)
        assert told.startswith("The poke did not succeed (why")
        assert told.endswith("See https://poked/poke-1")

    def test_without_words_show_the_state(self, world):
        world.service.script = [{"ends": Phase.FAILED}]
        with pytest.raises(JobFailed, match=r"did not succeed \(FAILED\)"):
            world.run()

    def test_of_a_poke_that_never_began_have_no_page(self, world):
        world.service.weather_at_start = [JobFailed("no such table")]
        with pytest.raises(JobFailed) as caught:
            world.run()
        assert str(caught.value) == "The poke did not succeed (no such table)."

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_skip_when_they_may(self, world, flag):
        world.service.script = [{"ends": Phase.FAILED}]
        with pytest.raises(AirflowSkipException):
            world.run(**{flag: True})

    def test_are_silent_when_they_may(self, world):
        world.service.script = [{"ends": Phase.FAILED, "message": "why"}]
        world.defer(silent_fail=True, poke_interval=60)
        world.wait()
        with capture_logs() as lines:
            world.trigger = deferred(world.resume)
        assert [line["event"] for line in lines if line["log_level"] == "error"] == [
            "Sensor poke failed: The poke did not succeed (why). See https://poked/poke-1"
        ]
        world.wait()
        assert world.resume() is None
        assert world.service.begun == pytest.approx([START, START + 60])

    @pytest.mark.parametrize("phase", [Phase.CANCELLED, Phase.LOST])
    def test_of_another_kind_are_never_silent(self, world, phase):
        world.service.script = [{"ends": phase}]
        with pytest.raises((JobCancelled, JobLost)):
            world.run(silent_fail=True)


class TestTimeouts:
    def test_of_the_sensor(self, world):
        world.service.answers = [False] * 100
        with pytest.raises(AirflowSensorTimeout) as caught:
            world.run(timeout=100, poke_interval=60)
        assert not isinstance(caught.value, JobTimedOut)
        assert str(caught.value) == "task: the answer was not yes after 2 pokes, until the timeout."

    def test_say_what_kept_the_pokes_from_an_answer(self, world):
        world.service.script = [{"runs_for": 1e6}]
        world.defer(timeout=100)
        world.wait()
        world.event["message"] = "The service could not be asked: reset."
        with pytest.raises(AirflowSensorTimeout, match=r"1 pokes.*could not be asked: reset\.$"):
            world.resume()

    @pytest.mark.parametrize(("limit", "error"), [(50, JobTimedOut), (100, AirflowSensorTimeout)])
    def test_of_the_task_are_told_apart(self, world, limit, error):
        world.service.answers = [False] * 100
        with pytest.raises(error):
            world.run(timeout=100, execution_timeout=timedelta(seconds=limit))

    def test_skip_when_they_may(self, world):
        world.service.answers = [False] * 100
        with pytest.raises(AirflowSkipException):
            world.run(timeout=100, soft_fail=True)


class TestQuery:
    """Whether that of the last poke has failed, which is not what the task makes of it."""

    @pytest.mark.parametrize("flag", ["soft_fail", "retries"])
    def test_that_failed(self, world, flag):
        world.service.script = [{"ends": Phase.FAILED}]
        with pytest.raises((JobFailed, AirflowSkipException)):
            world.run(**{flag: True})
        assert world.sensor.query_failed(False)

    def test_that_was_cancelled_at_the_end_of_the_time(self, world):
        world.service.script = [{"runs_for": 1e6}]
        with pytest.raises(AirflowSensorTimeout):
            world.run(timeout=100)
        assert world.sensor.query_failed(False)

    @pytest.mark.parametrize("answers", [[False] * 100, [JobFailed("its result cannot be read")]])
    def test_that_succeeded_in_a_task_that_fails(self, world, answers):
        world.service.answers = answers
        with pytest.raises((JobFailed, AirflowSensorTimeout)):
            world.run(timeout=100)
        assert not world.sensor.query_failed(True)

    def test_of_which_an_earlier_release_tells_the_outcome_only(self, world):
        world.service.script = [{"ends": Phase.FAILED}]
        world.defer()
        world.wait()
        del world.event["status"]
        with pytest.raises(JobFailed):
            world.resume()
        assert world.sensor.query_failed(False)

    @pytest.mark.parametrize("otherwise", [True, False])
    def test_of_which_nothing_is_known(self, world, otherwise):
        world.defer()
        assert world.sensor.query_failed(otherwise) is otherwise


@pytest.mark.parametrize(
    ("name", "arguments"), [("anchor", []), ("trigger_arguments", [{}]), ("judge", [{}, None])]
)
def test_what_a_family_has_to_write_is_named(name, arguments):
    sensor = PokeSensor(task_id="task")
    assert sensor.why_in_worker() is None
    with pytest.raises(NotImplementedError, match=rf"PokeSensor\.{name}"):
        getattr(sensor, name)(*arguments)
