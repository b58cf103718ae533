"""A sensor that waits for what others do: one look in the worker, then the triggerer, and one end."""

from datetime import datetime, timedelta, timezone

import pytest

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:  # Airflow 3.1
    from airflow.exceptions import AirflowRescheduleException
from structlog.testing import capture_logs

from astronomer.deferral import (
    DeferrableSensor,
    JobFailed,
    JobLost,
    JobStatus,
    JobTimedOut,
    Outcome,
    Phase,
    Transient,
    WatchSensor,
)
from astronomer.deferral._compat import (
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
    settling_time,
)
from tests.unit.deferral.fakes import (
    DONE,
    RUNNING,
    START,
    FakeTaskInstance,
    FunctionPoller,
    deferred,
    events_of,
)
from tests.unit.deferral.foreign import ForeignJob, ForeignSensor


class World:
    """One task that waits for the job ``a`` of a service."""

    def __init__(self, timeline, service):
        self.timeline = timeline
        self.service = service
        self.sensor = self.trigger = self.event = None

    def make(self, **arguments):
        self.sensor = ForeignSensor(**{"task_id": "task", "poke_interval": 20} | arguments)
        return self.sensor

    def defer(self, **arguments):
        sensor = self.make(**arguments)
        self.trigger = deferred(lambda: sensor.execute({}))
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
def world(timeline, service):
    return World(timeline, service)


@pytest.fixture
def lines():
    """What the sensor says, at INFO or above."""
    with capture_logs() as found:
        yield lambda: [line["event"] for line in found if line["log_level"] != "debug"]


class TestArguments:
    def test_have_defaults_that_depend_on_where_it_waits(self):
        assert ForeignSensor(task_id="task").poke_interval == 5.0
        assert ForeignSensor(task_id="task", deferrable=False).poke_interval == 60.0
        assert ForeignSensor(task_id="task").outage_tolerance == 3600.0

    def test_can_be_configured(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__POLL_INTERVAL", "2.5")
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__OUTAGE_TOLERANCE", "7")
        assert ForeignSensor(task_id="task").poke_interval == 2.5
        assert ForeignSensor(task_id="task", deferrable=False).poke_interval == 60.0
        assert ForeignSensor(task_id="task").outage_tolerance == 7.0

    @pytest.mark.parametrize("value", [90, 90.0, timedelta(seconds=90)])
    def test_take_seconds_or_a_timedelta(self, value):
        sensor = ForeignSensor(task_id="task", poke_interval=value, outage_tolerance=value)
        assert (sensor.poke_interval, sensor.outage_tolerance) == (90.0, 90.0)

    @pytest.mark.parametrize("name", ["poke_interval", "outage_tolerance"])
    def test_are_not_negative(self, name):
        with pytest.raises(ValueError, match=f"{name} must not be negative"):
            ForeignSensor(task_id="task", **{name: -1})


class TestTheLimit:
    """Of the sensor, or of the task: the sooner one counts, and names the error."""

    @pytest.mark.parametrize(
        ("limits", "seconds", "error"),
        [
            ({"timeout": 100}, 100, AirflowSensorTimeout),
            ({"timeout": 100, "execution_timeout": timedelta(seconds=99)}, 99, JobTimedOut),
            ({"timeout": 100, "execution_timeout": timedelta(seconds=100)}, 100, AirflowSensorTimeout),
            ({"timeout": 100, "execution_timeout": timedelta(hours=1)}, 100, AirflowSensorTimeout),
        ],
    )
    def test_of_any_deferrable_sensor(self, timeline, limits, seconds, error):
        sensor = DeferrableSensor(task_id="task", **limits)
        assert sensor.deferrable
        assert sensor.deadline() == START + seconds
        assert type(sensor.timed_out("over")) is error
        assert str(sensor.timed_out("over")) == "over"


class TestInTheWorker:
    def test_what_is_true_already_needs_no_trigger(self, world, lines):
        world.service.start("a")
        sensor = world.make()
        assert sensor.execute({}) is None
        assert sensor.shown == ["SUCCEEDED"]
        assert lines() == ["scripted job a: SUCCEEDED"]
        assert len(world.service.polls) == world.service.closed == 1

    def test_one_look_then_it_defers(self, world, lines):
        world.service.start("a", runs_for=1e6)
        trigger = world.defer(
            poke_interval=30, timeout=500, outage_tolerance=timedelta(minutes=2), never_fail=True
        )
        assert trigger.serialize() == (
            "tests.unit.deferral.foreign.ForeignTrigger",
            {
                "job": {"job_id": "a", "service": "scripted"},
                "deadline": START + 500,
                "poll_interval": 30.0,
                "outage_tolerance": 120.0,
                "cancel_confirm_timeout": 60.0,
                "not_before": START + settling_time(),
                "cancel_on_kill": False,
            },
        )
        assert world.sensor.shown == ["RUNNING"]
        assert lines() == ["Waiting for scripted job a (RUNNING)"]
        assert len(world.service.polls) == world.service.closed == 1

    def test_bad_weather_defers(self, world, lines):
        world.service.start("a")
        world.service.weather = [Transient("503")]
        world.defer()
        assert world.sensor.shown == []
        assert lines() == ["scripted job a cannot be asked just now: 503"]
        assert world.service.closed == 1

    def test_an_answer_without_words_defers(self, world, lines):
        async def poll(jobs):
            return dict.fromkeys(jobs, JobStatus(Phase.ACTIVE))

        world.defer(made=[FunctionPoller(poll)])
        assert lines() == ["Waiting for scripted job a (nothing known of it yet)"]

    def test_no_answer_about_it_defers(self, world, lines):
        async def poll(jobs):
            return {}

        poller = FunctionPoller(poll)
        world.defer(made=[poller])
        assert (world.sensor.shown, lines(), poller.closed) == ([], [], 1)

    def test_a_defect_is_raised_and_the_session_closed(self, world):
        world.service.weather = [KeyError("odd")]
        with pytest.raises(KeyError, match="odd"):
            world.make().execute({})
        assert world.service.closed == 1

    def test_bad_input_is_an_error_before_anything_is_asked(self, world):
        with pytest.raises(ValueError, match="names no job"):
            world.make(wrong=True).execute({})
        assert world.service.polls == []

    def test_the_deadline_counts_from_before_the_look(self, world):
        async def slow(jobs):
            world.timeline.sleep(40)
            return dict.fromkeys(jobs, RUNNING)

        assert world.defer(made=[FunctionPoller(slow)], timeout=100).deadline == START + 100

    @pytest.mark.parametrize(("looked_for", "limit"), [(0, 220), (40, 180), (500, 120)])
    def test_airflow_keeps_the_time_too_but_leaves_it_to_the_trigger_where_there_is_one(
        self, world, looked_for, limit
    ):
        async def slow(jobs):
            world.timeline.sleep(looked_for)
            return dict.fromkeys(jobs, RUNNING)

        sensor = world.make(made=[FunctionPoller(slow)], timeout=100)
        with pytest.raises(TaskDeferred) as caught:
            sensor.execute({})
        assert caught.value.timeout == timedelta(seconds=limit)
        assert world.timeline.now + limit >= caught.value.trigger.deadline + 120

    def test_a_failure_ends_it(self, world):
        world.service.start("a", ends=Phase.FAILED, message="why")
        with pytest.raises(JobFailed, match=r"^scripted job a why$"):
            world.make().execute({})
        assert world.sensor.shown == ["FAILED"]


class TestPokes:
    """With ``deferrable=False``."""

    def test_go_on_until_it_is_true(self, world):
        world.service.start("a", runs_for=50)
        sensor = world.make(deferrable=False)
        assert sensor.execute({}) is None
        assert [at - START for at in world.service.polls] == [0, 20, 40, 60]
        assert sensor.shown == ["SUCCEEDED"]
        assert world.service.closed == 4

    def test_outlast_bad_weather(self, world):
        world.service.start("a")
        world.service.weather = [Transient("503")] * 3
        world.make(deferrable=False).execute({})
        assert len(world.service.polls) == 4

    def test_time_out_as_any_sensor(self, world):
        world.service.start("a", runs_for=1e6)
        with pytest.raises(AirflowSensorTimeout):
            world.make(deferrable=False, timeout=50).execute({})

    def test_may_be_far_apart_and_in_processes_of_their_own(self, world):
        class Rescheduled(FakeTaskInstance):
            def get_first_reschedule_date(self, context):
                return datetime.now(timezone.utc)

        world.service.start("a", runs_for=1e6)
        sensor = world.make(deferrable=False, mode="reschedule", poke_interval=300)
        with pytest.raises(AirflowRescheduleException):
            sensor.execute({"ti": Rescheduled()})

    def test_fail_with_the_same_error(self, world):
        world.service.start("a", runs_for=50, ends=Phase.FAILED, message="why")
        with pytest.raises(JobFailed, match=r"^scripted job a why$"):
            world.make(deferrable=False).execute({})


class TestTheEnd:
    def test_is_the_trigger_s(self, world, lines):
        world.service.start("a", runs_for=100)
        assert world.run() is None
        assert world.sensor.shown == ["RUNNING", "SUCCEEDED"]
        assert lines()[-1] == "scripted job a: SUCCEEDED"

    def test_returns_what_the_family_says(self, world):
        class Telling(ForeignSensor):
            def success(self, context, job, status):
                return job.job_id, status.raw

        world.service.start("a")
        assert Telling(task_id="task").execute({}) == ("a", "SUCCEEDED")

    @pytest.mark.parametrize("message", ["why", None])
    def test_of_a_failure_says_why(self, world, message):
        world.service.start("a", runs_for=100, ends=Phase.FAILED, message=message)
        with pytest.raises(JobFailed) as caught:
            world.run()
        assert str(caught.value) == f"scripted job a {message or 'FAILED'}"

    @pytest.mark.parametrize("message", ["It was not seen.", None])
    def test_of_what_is_lost_says_that_a_retry_is_harmless(self, world, message):
        world.service.start("a", runs_for=100, ends=Phase.LOST, message=message)
        with pytest.raises(JobLost) as caught:
            world.run()
        said = message or "LOST"
        assert str(caught.value) == f"{said} The task can be retried: it starts nothing."
        assert world.sensor.shown == ["RUNNING"]

    def test_of_what_is_lost_is_said_even_if_it_is_soft(self, world, lines):
        world.service.start("a", runs_for=100, ends=Phase.LOST, message="It was not seen.")
        with pytest.raises(AirflowSkipException):
            world.run(soft_fail=True)
        assert lines()[-1] == "It was not seen."

    def test_of_an_outage_is_lost(self, world):
        world.service.start("a", runs_for=1e6)
        world.defer(outage_tolerance=100)
        world.service.weather = [Transient("503")] * 100
        world.wait()
        with pytest.raises(JobLost, match="No answer about scripted job a for 100 s: 503"):
            world.resume()

    @pytest.mark.parametrize(
        ("outcome", "said"),
        [
            (Outcome(RUNNING, timed_out=True), " (RUNNING)."),
            (Outcome(JobStatus(Phase.ACTIVE, message="why"), timed_out=True), ". why."),
            (Outcome(JobStatus(Phase.ACTIVE), timed_out=True), "."),
        ],
    )
    def test_of_its_time_says_what_was_seen_last(self, world, outcome, said):
        sensor = world.make()
        with pytest.raises(AirflowSensorTimeout) as caught:
            sensor.settle({}, ForeignJob("a"), outcome)
        assert str(caught.value) == f"task has timed out while it waited for scripted job a{said}"
        assert sensor.shown == []

    @pytest.mark.parametrize(("limit", "error"), [(50, JobTimedOut), (100, AirflowSensorTimeout)])
    def test_of_its_time_is_the_sooner_limit_s(self, world, limit, error):
        world.service.start("a", runs_for=1e6)
        with pytest.raises(error):
            world.run(timeout=100, execution_timeout=timedelta(seconds=limit))
        assert START + limit <= world.timeline.now <= START + limit + 2

    def test_is_the_same_whatever_the_trigger_has_been_through(self, world):
        world.service.start("a", runs_for=28)
        world.defer(timeout=29)
        world.timeline.now += 1000
        world.wait()
        assert world.resume() is None


class TestFlags:
    """``soft_fail`` and ``never_fail`` skip, in the worker's first look, in its pokes and after the trigger."""

    WAYS = ("at once", "in a worker", "deferred")

    def ended(self, world, way, *, runs_for=0.0, ends=Phase.FAILED, **arguments):
        if way == "at once":
            world.service.start("a", ends=ends)
            return world.make(**arguments).execute({})
        world.service.start("a", runs_for=runs_for or 50, ends=ends)
        if way == "in a worker":
            return world.make(deferrable=False, **arguments).execute({})
        return world.run(**arguments)

    @pytest.mark.parametrize("way", WAYS)
    def test_a_failure_that_never_is_one(self, world, way):
        with pytest.raises(AirflowSkipException):
            self.ended(world, way, never_fail=True)

    @pytest.mark.parametrize("way", ["at once", "deferred"])
    def test_a_failure_softly(self, world, way):
        """A poke's own error is the family's to skip, as in Airflow; see ``DagWaitSensor.failure``."""
        with pytest.raises(AirflowSkipException):
            self.ended(world, way, soft_fail=True)

    @pytest.mark.parametrize("way", ["in a worker", "deferred"])
    def test_a_timeout(self, world, way):
        with pytest.raises(AirflowSkipException):
            self.ended(world, way, runs_for=1e6, timeout=100, soft_fail=True)

    @pytest.mark.parametrize("way", WAYS)
    def test_without_them_it_fails(self, world, way):
        with pytest.raises(JobFailed):
            self.ended(world, way)

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_the_reason_is_given_and_kept(self, world, flag):
        with pytest.raises(
            AirflowSkipException, match=f"^Skipping because {flag} is set: scripted"
        ) as caught:
            self.ended(world, "at once", **{flag: True})
        assert isinstance(caught.value.__cause__, JobFailed)

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("flags", [{}, {"soft_fail": True}, {"never_fail": True}])
    def test_a_skip_of_the_family_s_own_stays_as_it_is(self, world, way, flags, monkeypatch):
        own = AirflowSkipException("as told")
        monkeypatch.setattr(ForeignSensor, "failure", lambda *_: own)
        with pytest.raises(AirflowSkipException) as caught:
            self.ended(world, way, **flags)
        assert own in ((caught.value,) if way == "at once" else (caught.value, caught.value.__cause__))

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_bad_input_is_never_soft(self, world, flag):
        with pytest.raises(ValueError, match="names no job"):
            world.make(wrong=True, **{flag: True}).execute({})

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_a_deferral_is_no_failure(self, world, flag):
        world.service.start("a", runs_for=1e6)
        world.defer(**{flag: True})


class TestAFamily:
    def test_may_leave_everything_but_the_job_to_the_engine(self, world):
        class Bare(WatchSensor):
            trigger_type = ForeignSensor.trigger_type

            def job(self, context):
                return ForeignJob("a")

        world.service.start("a")
        sensor = Bare(task_id="task")
        assert sensor.execute({}) is None
        assert sensor.seen({}, None, DONE) is None

    def test_has_to_say_what_it_waits_for(self):
        class Idle(WatchSensor):
            def job(self, context):
                return super().job(context)

        assert WatchSensor.job.__isabstractmethod__
        assert Idle(task_id="task").job({}) is None
