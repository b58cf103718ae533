"""One life of a task, scene by scene; test_exactly_once.py has the random ones."""

import asyncio
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from astronomer.deferral import (
    Attempt,
    JobCancelled,
    JobFailed,
    JobLost,
    JobOperator,
    JobStatus,
    JobTimedOut,
    Outcome,
    Phase,
    TaskIdentity,
    Transient,
    _compat,
)
from astronomer.deferral._compat import AirflowFailException, AirflowTaskTimeout, settling_time
from astronomer.deferral.testing import ScriptedJob, ScriptedOperator, ScriptedTrigger
from tests.unit.deferral.fakes import (
    START,
    FakeAirflow,
    FakeTaskInstance,
    MemoryStore,
    TimelineOperator,
    context_of,
    deferred,
    events_of,
)

KEY = "astronomer.deferral"


class World:
    """One task of one Dag run: its tries, what it remembers, and the remote side."""

    def __init__(self, service, timeline, *, lasting=True):
        self.service = service
        self.timeline = timeline
        self.store = MemoryStore() if lasting else None
        self.ti = FakeTaskInstance()
        self.script = {"runs_for": 100.0}
        self.operator = None

    @property
    def context(self):
        return context_of(self.ti, self.store)

    def make(self, cls=TimelineOperator, **kwargs):
        self.operator = cls(
            task_id="task", service=self.service.name, script=self.script, timeline=self.timeline, **kwargs
        )
        return self.operator

    def execute(self, **kwargs):
        return self.make(**kwargs).execute(self.context)

    def deferred(self, **kwargs):
        return deferred(lambda: self.execute(**kwargs))

    def retry(self):
        self.ti = FakeTaskInstance(try_number=self.ti.try_number + 1, max_tries=self.ti.max_tries)

    def clear(self):
        tries = self.ti.try_number
        self.ti = FakeTaskInstance(try_number=tries + 1, max_tries=tries)

    def wait(self, trigger):
        (event,) = self.timeline.run(lambda: events_of(trigger))
        return event

    def complete(self, trigger):
        return self.operator.execute_complete(self.context, self.wait(trigger))

    @property
    def remembered(self):
        return Attempt(**self.store.get(KEY))

    def end(self, job_id, phase):
        """Let a job end at this moment."""
        self.service.status(job_id)
        entry = self.service._jobs[job_id]
        entry.ends, entry.runs_for = phase, self.timeline.now - entry.started_at


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Airflow's answer is waited for, however late it comes."""
    monkeypatch.setattr("astronomer.deferral.in_process._ASKING", 60.0)


@pytest.fixture
def world(service, timeline):
    return World(service, timeline)


@pytest.fixture
def forgetful(service, timeline):
    """Airflow before 3.3."""
    return World(service, timeline, lasting=False)


class TestOneLife:
    def test_a_quick_job_never_defers(self, world):
        world.script = {"runs_for": 0.8}
        assert world.execute() == "job-1"
        assert world.timeline.now < START + 2

    def test_a_longer_one_waits_in_the_triggerer(self, world):
        assert world.complete(world.deferred()) == "job-1"
        assert 100 <= world.timeline.now - START <= 110

    def test_in_worker_mode_it_never_defers(self, world):
        assert world.execute(deferrable=False) == "job-1"
        assert 100 <= world.timeline.now - START <= 110

    def test_the_trigger_gets_what_the_operator_was_given(self, world):
        trigger = world.deferred(
            poll_interval=timedelta(seconds=7),
            outage_tolerance=70,
            quick_wait=0,
            cancel_on_kill=False,
            execution_timeout=timedelta(hours=1),
        )
        assert trigger.serialize()[1] == {
            "job": {"job_id": "job-1", "service": "scripted"},
            "deadline": START + 3600,
            "poll_interval": 7.0,
            "outage_tolerance": 70.0,
            "cancel_confirm_timeout": 60.0,
            "not_before": pytest.approx(world.timeline.now + settling_time()),
            "cancel_on_kill": False,
        }

    def test_the_job_is_remembered_before_and_after_the_submit(self, world):
        class Watchful(TimelineOperator):
            def prepare(self, context, attempt):
                return {"marker": attempt.submit_key[:4]}

            def submit(self, context, attempt):
                seen.append(world.remembered)
                return super().submit(context, attempt)

            def announce(self, context, job):
                seen.append(world.remembered)

        seen = []
        world.deferred(cls=Watchful, execution_timeout=timedelta(seconds=600))
        key = TaskIdentity.of(world.ti).submit_key(0)
        before = Attempt(0, 0, key, START + 600, None, {"marker": key[:4]})
        assert seen == [
            before,
            Attempt(0, 0, key, START + 600, {"job_id": "job-1", "service": "scripted"}, before.notes),
        ]
        assert world.service.submits == [key]

    def test_bad_input_is_rejected_before_anything_starts(self, world):
        class Fussy(TimelineOperator):
            def prepare(self, context, attempt):
                raise ValueError("empty")

        with pytest.raises(ValueError, match="empty"):
            world.execute(cls=Fussy)
        assert world.service.jobs == []
        assert world.store.writes == 0

    def test_the_defaults_of_a_family(self, world):
        class Bare(JobOperator):
            trigger_type = ScriptedTrigger

        bare = Bare(task_id="bare")
        attempt = Attempt(0, 0, "key")
        job = world.service.start("a")
        assert bare.prepare({}, attempt) == {}
        assert bare.find({}, attempt) is None
        assert bare.finish({}, job, JobStatus(Phase.SUCCEEDED)) is None
        assert bare.announce({}, job) is None
        with pytest.raises(NotImplementedError, match=r"Bare\.submit"):
            bare.submit({}, attempt)


class TestRetry:
    def test_it_re_attaches_to_a_job_that_still_runs(self, world):
        first = world.deferred()
        world.retry()
        second = world.deferred()
        assert second.job == first.job
        assert world.complete(second) == "job-1"
        assert len(world.service.submits) == 1

    def test_it_shows_the_job_again(self, world):
        class Shown(TimelineOperator):
            def announce(self, context, job):
                shown.append(job)

        shown = []
        world.deferred(cls=Shown)
        world.retry()
        with capture_logs() as lines:
            world.deferred(cls=Shown)
        assert shown == [ScriptedJob("job-1")] * 2
        assert "Re-attaching to scripted job job-1 of an earlier try" in [line["event"] for line in lines]

    def test_it_returns_the_result_of_a_job_that_succeeded(self, world):
        world.deferred()
        world.end("job-1", Phase.SUCCEEDED)
        world.retry()
        assert world.execute() == "job-1"
        assert len(world.service.submits) == 1

    def test_it_finishes_again_when_finishing_failed(self, world):
        class Clumsy(TimelineOperator):
            def finish(self, context, job, status):
                raise ValueError("handler")

        world.script = {}
        with pytest.raises(ValueError, match="handler"):
            world.execute(cls=Clumsy)
        world.retry()
        assert world.execute() == "job-1"

    @pytest.mark.parametrize("phase", [Phase.FAILED, Phase.CANCELLED])
    def test_it_starts_the_next_job_after_one_that_failed_unseen(self, world, phase):
        world.deferred()
        world.end("job-1", phase)
        world.retry()
        assert world.deferred().job["job_id"] == "job-2"
        assert world.remembered.sequence == 1
        assert len(set(world.service.submits)) == 2

    def test_it_starts_the_next_job_after_one_whose_failure_was_reported(self, world):
        world.script = {"ends": Phase.FAILED}
        with pytest.raises(JobFailed):
            world.execute()
        assert world.remembered.ended
        asked = len(world.service.asked)
        world.retry()
        world.script = {}
        assert world.execute() == "job-2"
        assert "job-1" not in world.service.asked[asked:]

    def test_a_lost_job_is_looked_for_and_not_replaced(self, world):
        trigger = world.deferred(outage_tolerance=50)
        world.service.weather = [Transient("503")] * 100
        with pytest.raises(JobLost, match="looks for scripted job job-1 again"):
            world.complete(trigger)
        assert not world.remembered.ended
        world.retry()
        world.service.weather = []
        assert world.complete(world.deferred()) == "job-1"

    def test_a_job_whose_id_was_never_heard_is_found(self, world):
        class Deaf(TimelineOperator):
            def submit(self, context, attempt):
                super().submit(context, attempt)
                raise ConnectionError("reset by peer")

        with pytest.raises(ConnectionError):
            world.execute(cls=Deaf, execution_timeout=timedelta(seconds=600))
        deadline = world.remembered.deadline
        world.retry()
        world.timeline.now += 50
        trigger = world.deferred()
        assert (trigger.job["job_id"], trigger.deadline) == ("job-1", deadline)
        assert world.remembered.job == trigger.job
        assert len(world.service.submits) == 1

    def test_a_submit_that_never_happened_starts_its_time_anew(self, world):
        class Unlucky(TimelineOperator):
            def submit(self, context, attempt):
                raise ConnectionError("no route")

        timeout = timedelta(seconds=60)
        with pytest.raises(ConnectionError):
            world.execute(cls=Unlucky, execution_timeout=timeout)
        key = world.remembered.submit_key
        world.retry()
        world.timeline.now += 300
        trigger = world.deferred(execution_timeout=timeout)
        assert trigger.deadline == START + 360
        assert world.service.submits == [key]

    def test_it_does_not_renew_the_deadline_of_a_running_job(self, world):
        world.script = {"runs_for": 1e6}
        timeout = timedelta(seconds=60)
        world.deferred(execution_timeout=timeout)
        world.retry()
        world.timeline.now += 30
        assert world.deferred(execution_timeout=timeout).deadline == START + 60

    def test_a_job_that_timed_out_unseen_is_ended_and_replaced(self, world):
        world.script = {"runs_for": 1e6}
        timeout = timedelta(seconds=60)
        world.deferred(execution_timeout=timeout)
        world.retry()
        world.timeline.now += 100
        trigger = world.deferred(execution_timeout=timeout)
        assert world.service.cancels == ["job-1"]
        assert trigger.job["job_id"] == "job-2"
        assert trigger.deadline > START + 100


class TestClear:
    def test_it_ends_the_running_job_and_starts_anew(self, world):
        world.deferred()
        world.clear()
        with capture_logs() as lines:
            assert world.deferred().job["job_id"] == "job-2"
        assert world.service.cancels == ["job-1"]
        assert "The task was cleared: scripted job job-1 of the earlier run is cancelled" in [
            line["event"] for line in lines
        ]

    def test_it_leaves_a_job_alone_that_has_ended(self, world):
        world.complete(world.deferred())
        world.clear()
        assert world.deferred().job["job_id"] == "job-2"
        assert world.service.cancels == []

    def test_a_failure_that_was_reported_is_not_even_asked_about(self, world):
        world.script = {"ends": Phase.FAILED}
        with pytest.raises(JobFailed):
            world.execute()
        asked = len(world.service.asked)
        world.clear()
        world.deferred(quick_wait=0)
        assert world.service.asked[asked:] == []

    def test_it_ends_a_job_whose_id_was_never_heard(self, world):
        class Deaf(TimelineOperator):
            def submit(self, context, attempt):
                super().submit(context, attempt)
                raise ConnectionError("reset by peer")

        with pytest.raises(ConnectionError):
            world.execute(cls=Deaf)
        world.clear()
        assert world.deferred().job["job_id"] == "job-2"
        assert world.service.cancels == ["job-1"]

    def test_nothing_is_ended_when_nothing_had_started(self, world):
        class Unlucky(TimelineOperator):
            def submit(self, context, attempt):
                raise ConnectionError("no route")

        with pytest.raises(ConnectionError):
            world.execute(cls=Unlucky)
        world.clear()
        assert world.deferred().job["job_id"] == "job-1"
        assert world.service.cancels == []

    def test_nothing_starts_beside_a_job_that_does_not_obey(self, world):
        world.script = {"runs_for": 5000.0, "obeys_cancel": False}
        world.deferred()
        world.clear()
        with pytest.raises(
            JobLost,
            match=r"has not confirmed it within 3600 s\. It may still be running\. Nothing was started",
        ):
            world.execute()
        assert world.service.jobs == ["job-1"]
        world.retry()
        assert world.deferred().job["job_id"] == "job-2"

    def test_nor_during_an_outage(self, world):
        world.deferred()
        world.service.weather = [Transient("503")] * 15
        world.clear()
        assert world.deferred().job["job_id"] == "job-2"
        assert world.service.cancels == ["job-1"]

    def test_a_job_that_the_remote_side_has_forgotten_is_told_of(self, world):
        world.deferred()
        world.service._jobs.clear()
        world.clear()
        with capture_logs() as lines:
            assert world.deferred()
        assert "no job job-1. " in [line["event"] for line in lines if line["log_level"] == "warning"]

    def test_a_task_that_goes_on_without_the_engine_ends_it_once(self, world):
        """Such as one whose SQL was changed to some that needs a session."""
        world.deferred()
        world.operator.end_earlier(world.context)
        assert world.service.cancels == []
        world.clear()
        for _ in range(2):
            world.make().end_earlier(world.context)
        assert world.service.cancels == ["job-1"]
        assert world.remembered.ended

    def test_an_event_about_the_earlier_job_does_not_end_the_new_wait(self, world):
        old = world.deferred()
        world.clear()
        event = world.wait(old)  # its trigger lives on, and Airflow gave its id to the new one
        world.deferred()
        again = deferred(lambda: world.operator.execute_complete(world.context, event))
        assert again.job["job_id"] == "job-2"
        assert world.complete(again) == "job-2"

    def test_nor_does_it_hide_that_the_new_job_has_ended(self, world):
        old = world.deferred()
        world.clear()
        event = world.wait(old)
        world.deferred()
        world.end("job-2", Phase.SUCCEEDED)
        assert world.operator.execute_complete(world.context, event) == "job-2"


class TestWithoutAStore:
    def test_a_first_try_looks_for_nothing(self, forgetful):
        forgetful.service.submit(TaskIdentity.of(forgetful.ti).submit_key(0), runs_for=5.0)
        assert forgetful.deferred().job["job_id"] == "job-1"
        assert len(forgetful.service.submits) == 2

    def test_a_retry_finds_the_running_job_by_its_key(self, forgetful):
        forgetful.deferred()
        forgetful.retry()
        assert forgetful.complete(forgetful.deferred()) == "job-1"
        assert len(forgetful.service.submits) == 1

    def test_a_retry_passes_the_jobs_that_failed(self, forgetful):
        forgetful.script = {"ends": Phase.FAILED}
        for _ in range(2):
            with pytest.raises(JobFailed):
                forgetful.execute()
            forgetful.retry()
        forgetful.script = {}
        assert forgetful.execute() == "job-3"
        assert len(set(forgetful.service.submits)) == 3

    def test_bad_weather_does_not_make_a_reported_failure_run_again(self, forgetful):
        forgetful.script = {"ends": Phase.FAILED}
        with pytest.raises(JobFailed):
            forgetful.execute()
        forgetful.retry()
        forgetful.script = {"runs_for": 100.0}
        forgetful.service.weather = [Transient("503")] * 3
        assert forgetful.deferred(quick_wait=0).job["job_id"] == "job-2"

    def test_a_retry_goes_on_with_the_newest_job(self, forgetful):
        forgetful.script = {"ends": Phase.FAILED}
        with pytest.raises(JobFailed):
            forgetful.execute()
        forgetful.retry()
        forgetful.script = {"runs_for": 100.0}
        forgetful.deferred()
        forgetful.retry()
        forgetful.service.weather = [Transient("503")] * 100
        assert forgetful.deferred().job["job_id"] == "job-2"

    def test_a_cleared_task_starts_anew(self, forgetful):
        forgetful.deferred()
        forgetful.clear()
        assert forgetful.deferred().job["job_id"] == "job-2"


class TestSettle:
    def outcome(self, phase, timed_out=False, **status):
        return Outcome(JobStatus(phase, **status), timed_out)

    @pytest.mark.parametrize(
        ("outcome", "error", "message"),
        [
            (
                Outcome(JobStatus(Phase.FAILED, "FAILED", "no such table", "https://x/1", code="2003")),
                JobFailed,
                "scripted job a failed (2003: no such table). See https://x/1",
            ),
            (Outcome(JobStatus(Phase.FAILED)), JobFailed, "scripted job a failed (failed)."),
            (
                Outcome(JobStatus(Phase.CANCELLED, "ABORTED")),
                JobCancelled,
                "scripted job a was cancelled outside Airflow (ABORTED).",
            ),
            (
                Outcome(JobStatus(Phase.LOST, message="gone.")),
                JobLost,
                "gone. A retry looks for scripted job a again; clear the task to start a new one.",
            ),
            (
                Outcome(JobStatus(Phase.CANCELLED, "ABORTED"), timed_out=True),
                JobTimedOut,
                "scripted job a did not end before the task's execution_timeout; it was cancelled (ABORTED).",
            ),
            (
                Outcome(JobStatus(Phase.LOST, message="silence"), timed_out=True),
                JobTimedOut,
                "scripted job a did not end before the task's execution_timeout; its end is NOT confirmed (silence).",
            ),
        ],
    )
    def test_every_end_has_its_error(self, world, outcome, error, message):
        with pytest.raises(error) as caught:
            world.make().settle(world.context, ScriptedJob("a"), outcome)
        assert str(caught.value) == message
        assert type(caught.value) is error

    @pytest.mark.parametrize("way", ["worker", "triggerer", "re-attached"])
    def test_every_way_ends_in_the_same_error(self, world, way):
        def live():
            if way == "worker":
                return world.execute(deferrable=False)
            trigger = world.deferred()
            if way == "re-attached":
                world.retry()
                trigger = world.deferred()
            return world.complete(trigger)

        world.script = {"runs_for": 100.0, "ends": Phase.FAILED, "message": "why"}
        with pytest.raises(JobFailed, match=r"scripted job job-1 failed \(why\)"):
            live()

    def test_a_deadline_is_a_timeout_of_the_task(self, world):
        world.script = {"runs_for": 1e6}
        with pytest.raises(JobTimedOut, match="it was cancelled"):
            world.complete(world.deferred(execution_timeout=timedelta(seconds=60)))
        assert world.service.cancels == ["job-1"]
        assert world.remembered.ended

    def test_a_cancelled_job_is_retried_or_not_as_told(self, world):
        job, outcome = ScriptedJob("a"), Outcome(JobStatus(Phase.CANCELLED))
        with pytest.raises(JobCancelled):
            world.make().settle(world.context, job, outcome)
        with pytest.raises(AirflowFailException, match="cancelled outside Airflow"):
            world.make(retry_cancelled=False).settle(world.context, job, outcome)


class TestOnKill:
    """The killer runs on a thread and a loop of its own, so these jobs live in real time, but briefly."""

    def test_before_the_submit_there_is_nothing_to_end(self, service):
        operator = ScriptedOperator(task_id="task", service="scripted")
        operator.on_kill()
        assert service.cancels == []

    def test_it_ends_the_job_that_the_worker_waits_for(self, service):
        operator = ScriptedOperator(task_id="task", service="scripted")
        operator._job = service.start("a", runs_for=1e6)
        with capture_logs() as lines:
            operator.on_kill()
        assert service.cancels == ["a"]
        assert service.status("a").phase is Phase.CANCELLED
        assert "Task ended: scripted job a is" in lines[-1]["event"]

    def test_not_if_the_user_chose_so(self, service):
        operator = ScriptedOperator(task_id="task", service="scripted", cancel_on_kill=False)
        operator._job = service.start("a", runs_for=1e6)
        operator.on_kill()
        assert service.cancels == []

    def test_it_is_said_when_the_end_is_not_known(self, service, monkeypatch):
        class Stuck(ScriptedOperator):
            async def _end(self, job, timeout=0.0):
                await asyncio.to_thread(held.wait)
                gone.set()

        held, gone = threading.Event(), threading.Event()
        monkeypatch.setattr("astronomer.deferral.in_process._KILL_BUDGET", -5.0)
        operator = Stuck(task_id="task", service="scripted")
        operator._job = service.start("a", runs_for=1e6)
        with capture_logs() as lines:
            operator.on_kill()
        assert lines[-1]["event"] == "Task ended: scripted job a is not known to have ended"
        held.set()
        assert gone.wait(30)

    def test_a_kill_during_the_submit_ends_the_job_as_soon_as_it_has_an_id(self, world):
        class Killed(TimelineOperator):
            def submit(self, context, attempt):
                self.on_kill()
                return super().submit(context, attempt)

        world.script = {"runs_for": 1e6}
        with pytest.raises(JobCancelled, match="before scripted job job-1 could be waited for"):
            world.execute(cls=Killed)
        assert world.service.cancels == ["job-1"]
        assert world.remembered.job == {"job_id": "job-1", "service": "scripted"}

    @pytest.mark.parametrize(("state", "cancels"), [("running", []), ("failed", ["job-1"])])
    def test_a_kill_before_a_save_that_fails_asks_what_became_of_the_task(
        self, world, monkeypatch, state, cancels
    ):
        """A process that was paused until a retry had found its job may not write any more; nor may a task's that was ended."""

        class Killed(TimelineOperator):
            def submit(self, context, attempt):
                monkeypatch.setattr(world.store, "set", refused)
                self.on_kill()
                return super().submit(context, attempt)

        def refused(key, value):
            raise RuntimeError("410")

        world.script = {"runs_for": 1e6}
        with FakeAirflow(states={"task": state}).in_place(), pytest.raises(RuntimeError, match="410"):
            world.execute(cls=Killed)
        assert world.service.cancels == cancels

    def test_a_timeout_during_a_save_ends_the_job(self, world, monkeypatch):
        class Late(TimelineOperator):
            def submit(self, context, attempt):
                monkeypatch.setattr(world.store, "set", too_late)
                return super().submit(context, attempt)

        def too_late(key, value):
            raise AirflowTaskTimeout

        world.script = {"runs_for": 1e6}
        with FakeAirflow(states={"task": "running"}).in_place():
            try:
                world.execute(cls=Late)
            except AirflowTaskTimeout:  # as Airflow does
                world.operator.on_kill()
        assert world.service.cancels == ["job-1"]

    def test_a_deferred_task_leaves_the_job_to_its_trigger(self, world):
        world.deferred()
        world.operator.on_kill()
        assert world.service.cancels == []


class TestWhoIsKilled:
    """Airflow ends the process of a task also when no user wants anything to end. What Airflow says decides."""

    @pytest.fixture
    def airflow(self):
        with FakeAirflow().in_place() as airflow:
            yield airflow

    @pytest.fixture
    def killed(self, world, airflow):
        """The task waits in its worker; its process is asked to end when Airflow has it in some state."""

        class Signalled(TimelineOperator):
            def announce(self, context, job):
                airflow.states = {"task": self.state} if self.state else {}
                if self.timed_out:
                    try:
                        raise AirflowTaskTimeout  # noqa: TRY301  # as Airflow does
                    except AirflowTaskTimeout:
                        self.on_kill()
                else:
                    self.on_kill()

        def killed(state, *, timed_out=False):
            Signalled.state, Signalled.timed_out = state, timed_out
            world.script = {"runs_for": 100.0}
            return world.execute(cls=Signalled, deferrable=False, quick_wait=0)

        return killed

    @pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed", "restarting", "null", None])
    def test_a_user_ends_the_job(self, world, killed, state):
        """By a mark, by a clear while it runs, or with the Dag run."""
        with pytest.raises(JobCancelled):
            killed(state)
        assert world.service.cancels == ["job-1"]

    @pytest.mark.parametrize("state", ["running", "deferred", "up_for_retry", "scheduled", "queued"])
    def test_nobody_else_does(self, world, killed, state):
        """A pod that is stopped, or a node that was frozen until a retry had begun elsewhere."""
        with capture_logs() as lines:
            assert killed(state) == "job-1"
        assert world.service.cancels == []
        told = "still deferred" if state == "deferred" else "not over"
        assert f"scripted job job-1 goes on: the task is {told}" in [line["event"] for line in lines]

    def test_an_api_that_does_not_answer_does_not(self, world, killed, airflow):
        airflow.answer = RuntimeError("503")
        assert killed("running") == "job-1"
        assert world.service.cancels == []

    def test_what_the_task_has_succeeded_by_elsewhere_is_left_alone(self, world, airflow):
        """The run of a workflow that another process has seen begin, while this one was frozen, is its members'."""

        class Thaws(TimelineOperator):
            def announce(self, context, job):
                airflow.states = {"task": "success"}
                self.on_kill()

        world.script = {"runs_for": 0.0}
        assert world.execute(cls=Thaws, deferrable=False, quick_wait=0) == "job-1"
        assert world.service.cancels == []

    def test_nor_is_it_ended_while_that_is_not_known(self, world, airflow, monkeypatch):
        async def silent(task, ask):
            return None

        class Thaws(TimelineOperator):
            def announce(self, context, job):
                airflow.states = {"task": "success"}
                self.on_kill()

        monkeypatch.setattr(_compat, "has_succeeded", silent)
        world.script = {"runs_for": 100.0}
        with capture_logs() as lines:
            world.execute(cls=Thaws, deferrable=False, quick_wait=0)
        assert world.service.cancels == []
        assert "scripted job job-1 goes on: it is not known whether the task has succeeded by it" in [
            line["event"] for line in lines
        ]

    def test_the_tasks_own_timeout_ends_it_without_a_question(self, world, killed, airflow):
        with pytest.raises(JobCancelled):
            killed("running", timed_out=True)
        assert world.service.cancels == ["job-1"]
        assert airflow.questions == []

    def test_the_next_try_goes_on_with_what_was_left(self, world, airflow):
        class Dies(TimelineOperator):
            def announce(self, context, job):
                self.on_kill()
                raise RuntimeError("SIGKILL")

        world.script = {"runs_for": 100.0}
        airflow.states = {"task": "running"}
        with pytest.raises(RuntimeError, match="SIGKILL"):
            world.execute(cls=Dies)
        world.retry()
        assert world.execute(deferrable=False) == "job-1"
        assert world.service.jobs == ["job-1"]
        assert world.service.cancels == []

    @pytest.mark.parametrize(("state", "cancels"), [("running", []), ("failed", ["job-1"])])
    def test_a_signal_during_the_submit_is_answered_once_the_job_is_remembered(
        self, world, airflow, state, cancels
    ):
        class Signalled(TimelineOperator):
            def submit(self, context, attempt):
                self.on_kill()
                assert not airflow.questions
                return super().submit(context, attempt)

        world.script = {"runs_for": 1e6}
        airflow.states = {"task": state}
        if cancels:
            with pytest.raises(JobCancelled, match="before scripted job job-1 could be waited for"):
                world.execute(cls=Signalled)
        else:
            world.deferred(cls=Signalled)
        assert world.service.cancels == cancels
        assert world.remembered.job == {"job_id": "job-1", "service": "scripted"}

    @pytest.mark.parametrize("place", ["read", "find"])
    def test_a_signal_before_the_job_of_an_earlier_try_is_known_ends_it(
        self, world, airflow, monkeypatch, place
    ):
        class Dies(TimelineOperator):
            def submit(self, context, attempt):
                job = super().submit(context, attempt)
                if place == "read":
                    self._keep(self._memory(context), attempt, job)
                raise RuntimeError("SIGKILL")

        class Signalled(TimelineOperator):
            def find(self, context, attempt):
                self.on_kill()
                return ScriptedJob("job-1", self.service)

        def read(key, default=None):
            world.operator.on_kill()
            return known(key, default)

        world.script = {"runs_for": 1e6}
        with pytest.raises(RuntimeError, match="SIGKILL"):
            world.execute(cls=Dies)
        world.retry()
        airflow.states, known = {"task": "failed"}, world.store.get
        if place == "read":
            monkeypatch.setattr(world.store, "get", read)
        with pytest.raises(JobCancelled, match="before scripted job job-1 could be waited for"):
            world.execute(cls=Signalled, deferrable=False)
        assert world.service.jobs == world.service.cancels == ["job-1"]

    @pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed", "restarting", "null", None])
    def test_an_end_that_the_worker_was_not_told_of_ends_the_job_before_it_defers(
        self, world, airflow, state
    ):
        """A worker is told at its next heartbeat, and most defer before; Airflow refuses that, and calls no callback."""
        airflow.states = {"task": state} if state else {}
        world.script = {"runs_for": 1e6}
        world.deferred()
        assert world.service.cancels == ["job-1"]

    @pytest.mark.parametrize("lasting", [True, False])
    @pytest.mark.parametrize("state", ["running", "deferred", "up_for_retry", "queued", "error"])
    def test_where_nobody_has_ended_the_task_it_defers(self, service, timeline, airflow, state, lasting):
        """A worker that was frozen until a retry had found its job is not the one to end it."""
        world = World(service, timeline, lasting=lasting)
        airflow.states = {"task": state}
        airflow.answer = RuntimeError("503") if state == "error" else None
        world.deferred()
        assert world.service.cancels == []

    @pytest.mark.parametrize(("state", "jobs"), [("failed", []), ("running", ["job-1"])])
    def test_a_signal_while_nothing_is_found_starts_nothing_for_a_task_that_was_ended(
        self, world, airflow, state, jobs
    ):
        class Dies(TimelineOperator):
            def submit(self, context, attempt):
                raise RuntimeError("SIGKILL")

        class Signalled(TimelineOperator):
            def find(self, context, attempt):
                self.on_kill()

        airflow.states = {"task": "running"}
        with pytest.raises(RuntimeError, match="SIGKILL"):
            world.execute(cls=Dies)
        world.retry()
        airflow.states = {"task": state}
        if jobs:
            world.deferred(cls=Signalled)
        else:
            with pytest.raises(JobCancelled, match="Nothing was started"):
                world.execute(cls=Signalled)
        assert world.service.jobs == jobs
        assert world.service.cancels == []

    def test_without_a_store_the_job_is_ended(self, service, airflow):
        """Before Airflow 3.3 a retry might not find it."""

        class Signalled(ScriptedOperator):
            def announce(self, context, job):
                self.on_kill()

        operator = Signalled(task_id="task", service="scripted", script={"runs_for": 1e6}, deferrable=False)
        airflow.states = {"task": "running"}
        with pytest.raises(JobCancelled):
            operator.execute(context_of(FakeTaskInstance()))
        assert service.cancels == ["job-1"]
        assert airflow.questions == []

    def test_a_late_answer_of_a_user_still_ends_the_job(self, service, monkeypatch):
        """The handler may have interrupted a question to Airflow, and so hold up its own."""
        held, cancelled = threading.Event(), threading.Event()
        monkeypatch.setattr("astronomer.deferral.in_process._ASKING", 0.01)
        cancel = service.cancel

        def seen(job_id):
            cancel(job_id)
            cancelled.set()

        monkeypatch.setattr(service, "cancel", seen)

        class Held(FakeAirflow):
            def send(self, question):
                assert held.wait(20)
                return super().send(question)

        operator = ScriptedOperator(task_id="task", service="scripted")
        operator._memory(context_of(FakeTaskInstance(), MemoryStore()))
        operator._job = service.start("a", runs_for=1e6)
        with Held(states={"task": "failed"}).in_place(), capture_logs() as lines:
            operator.on_kill()
            assert service.cancels == []
            assert lines[-1]["event"] == "scripted job a goes on: the task is in an unknown state"
            held.set()
            assert cancelled.wait(20)
        assert service.cancels == ["a"]


def test_a_real_worker_waits_in_real_time(service, timeline):
    operator = ScriptedOperator(task_id="task", service="scripted")
    assert operator.execute(context_of(FakeTaskInstance(), MemoryStore())) == "job-1"
    assert timeline.now == START


class TestHiddenClear:
    """``max_tries`` stays as it was when a clear meets fewer ``retries`` than before."""

    class Counted(World):
        clears = 0

        @property
        def context(self):
            return {**super().context, "dag_run": SimpleNamespace(clear_number=self.clears)}

    @pytest.fixture
    def world(self, service, timeline):
        return self.Counted(service, timeline)

    def test_starts_a_new_job(self, world):
        assert world.complete(world.deferred()) == "job-1"
        world.retry()
        world.clears += 1
        assert world.deferred().job["job_id"] == "job-2"

    def test_is_not_seen_in_a_crash_after_the_end(self, world):
        assert world.complete(world.deferred()) == "job-1"
        world.retry()
        assert world.execute() == "job-1"
        assert world.service.submits == world.service.submits[:1]

    def test_of_another_task_changes_nothing(self, world):
        job = world.deferred().job
        world.retry()
        world.clears += 1
        assert world.deferred().job == job
