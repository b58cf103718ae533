"""One task instance through random kills, retries, clears and ends of its jobs.

Airflow is a state machine here, with the engine's real operator and trigger in it. A process may be killed before
and after every step that leaves a trace: reading and writing the store, submitting, finding, announcing, waiting,
deferring, finishing.
"""

import math
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from structlog.testing import capture_logs

from astronomer.deferral import JobError, JobStatus, Outcome, Phase, Transient
from astronomer.deferral._compat import TaskDeferred
from astronomer.deferral.testing import ScriptedJob, ScriptedService
from tests.effort import examples
from tests.unit.deferral.fakes import (
    Count,
    FakeSupervisor,
    FakeTaskInstance,
    MemoryStore,
    Timeline,
    TimelineOperator,
    context_of,
    events_of,
    revived,
)

RETRIES = 2


class Killed(BaseException):
    """The process ends here, without any handler."""


class Fate:
    """Kills a process at its n-th step, before or after the step takes effect."""

    def __init__(self, step=math.inf, after=False):
        self.left, self.after = step, after

    def around(self, effect):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        result = effect()
        if self.left == 0:
            raise Killed
        return result


class MortalStore(MemoryStore):
    """A store whose user may be killed."""

    fate = Fate()

    def get(self, key, default=None):
        return self.fate.around(lambda: super(MortalStore, self).get(key, default))

    def set(self, key, value):
        return self.fate.around(lambda: super(MortalStore, self).set(key, value))


class MortalOperator(TimelineOperator):
    """An operator whose process may be killed."""

    def __init__(self, *, fate, **kwargs):
        super().__init__(**kwargs)
        self.fate = fate

    def prepare(self, context, attempt):
        return self.fate.around(lambda: {"key": attempt.submit_key})

    def submit(self, context, attempt):
        return self.fate.around(lambda: super(MortalOperator, self).submit(context, attempt))

    def find(self, context, attempt):
        return self.fate.around(lambda: super(MortalOperator, self).find(context, attempt))

    def announce(self, context, job):
        self.fate.around(lambda: None)

    def finish(self, context, job, status):
        return self.fate.around(lambda: job.job_id)

    def _run(self, call):
        return self.fate.around(lambda: super(MortalOperator, self)._run(call))

    def _defer(self, context, job, deadline):
        self.fate.around(lambda: None)
        super()._defer(context, job, deadline)


class Service(ScriptedService):
    """Runs every job until it is told how it ends; keeps a history."""

    dedups = True

    def __post_init__(self):
        super().__post_init__()
        self.history = []

    def submit(self, submit_key, **job):
        if not self.dedups and submit_key in self._keys:
            self.submits.append(submit_key)
            self._keys[submit_key] = f"job-{len(self._jobs) + 1}"
            self.start(self._keys[submit_key], **job)
        started = super().submit(submit_key, **job)
        self.status(started.job_id)
        return started

    def start(self, job_id, **job):
        self.history.append((job_id, self.active, self.succeeded))
        return super().start(job_id, **job)

    def end(self, job_id, phase):
        entry = self._jobs[job_id]
        entry.ends, entry.runs_for = phase, 0.0

    @property
    def active(self):
        return [job_id for job_id in self.jobs if self.status(job_id).phase is Phase.ACTIVE]

    @property
    def succeeded(self):
        return [job_id for job_id in self.jobs if self.status(job_id).phase is Phase.SUCCEEDED]


class OneTask(RuleBasedStateMachine):
    """The life of one task instance. States are Airflow's: scheduled, deferred, success, failed, up for retry."""

    service_type = Service
    lasting = True

    def __init__(self):
        super().__init__()
        self.timeline = Timeline()
        self.placed = self.timeline.in_place()
        self.placed.__enter__()
        self.quiet = capture_logs()
        self.quiet.__enter__()
        self.service = self.service_type("scripted")
        self.store = MortalStore() if self.lasting else None
        self.ti = FakeTaskInstance(max_tries=RETRIES)
        self.state = "scheduled"
        self.settled = self.reported = False
        self.trigger = None
        self.started_before_clear = set()
        self.quick_wait = 1.5
        self.clears = 0

    @initialize(quick_wait=st.sampled_from([0.0, 1.5]))
    def defers_at_once_or_not(self, quick_wait):
        self.quick_wait = quick_wait

    def teardown(self):
        self.quiet.__exit__(None, None, None)
        self.placed.__exit__(None, None, None)

    # What Airflow does.

    @property
    def context(self):
        return context_of(self.ti, self.store) | {"dag_run": SimpleNamespace(clear_number=self.clears)}

    def process(self, call, fate):
        """One worker process; returns how it ended."""
        if self.store is not None:
            self.store.fate = fate
        operator = MortalOperator(
            task_id="task",
            service="scripted",
            script={"runs_for": 1e9},
            timeline=self.timeline,
            fate=fate,
            poll_interval=60.0,
            quick_wait=self.quick_wait,
        )
        self.settled = self.reported = False
        try:
            self.result = call(operator, self.context)
        except TaskDeferred as deferral:
            self.state, self.trigger = "deferred", revived(deferral.trigger)
        except JobError:
            self.settled = self.reported = True
            self.failed()
        except Killed:
            self.failed()
        else:
            self.settled = True
            self.state = "success"
        finally:
            if self.store is not None:
                self.store.fate = Fate()

    def failed(self):
        self.trigger = None
        self.state = "up_for_retry" if self.ti.try_number <= self.ti.max_tries else "failed"

    # What happens to it.

    @precondition(lambda self: self.state in {"scheduled", "up_for_retry"})
    @rule(step=st.integers(1, 25), after=st.booleans(), storm=st.integers(0, 3))
    def work_and_maybe_die(self, step, after, storm):
        self.work(Fate(step, after), storm)

    @precondition(lambda self: self.state in {"scheduled", "up_for_retry"})
    @rule(storm=st.integers(0, 3))
    def work_undisturbed(self, storm):
        reported, before = self.reported, len(self.service.jobs)
        self.work(Fate(), storm)
        if reported and not storm:
            assert len(self.service.jobs) == before + 1, "a failure that was reported is reported again"

    def work(self, fate, storm):
        if self.state == "up_for_retry":
            self.ti.try_number += 1
        self.service.weather = [Transient("503")] * storm
        self.timeline.now += 5.0
        self.process(lambda operator, context: operator.execute(context), fate)
        self.service.weather = []

    @precondition(lambda self: self.service.active)
    @rule(phase=st.sampled_from([Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED]), data=st.data())
    def a_job_ends(self, phase, data):
        self.service.end(data.draw(st.sampled_from(self.service.active)), phase)

    @precondition(lambda self: self.state == "deferred" and not self.service.active)
    @rule(step=st.none() | st.integers(1, 5), after=st.booleans())
    def the_trigger_fires(self, step, after):
        trigger = revived(self.trigger)
        (event,) = self.timeline.run(lambda: events_of(trigger))
        fate = Fate() if step is None else Fate(step, after)
        self.trigger = None
        self.process(lambda operator, context: operator.execute_complete(context, event), fate)

    @precondition(lambda self: self.state == "deferred" and self.lasting and len(self.service.jobs) > 1)
    @rule(phase=st.sampled_from([Phase.SUCCEEDED, Phase.FAILED]), data=st.data())
    def an_event_of_an_earlier_trigger_arrives(self, phase, data):
        """SQLite gives the id of a trigger that was removed to the next one."""
        job = ScriptedJob(data.draw(st.sampled_from(self.service.jobs[:-1])), "scripted")
        event = {"job": job.to_dict(), "outcome": Outcome(JobStatus(phase)).to_dict()}
        self.trigger = None
        self.process(lambda operator, context: operator.execute_complete(context, event), Fate())

    @precondition(lambda self: self.state != "scheduled")
    @rule(told=st.booleans())
    def a_user_clears(self, told):
        """Also while it is deferred; ``on_kill`` may or may not get through."""
        self.clear(told)

    def clear(self, told):
        if self.state == "deferred" and told:
            self.kill_trigger()
        self.ti.max_tries = self.ti.try_number + RETRIES
        self.ti.try_number += 1
        self.clears += 1
        self.state, self.settled, self.trigger = "scheduled", False, None
        self.started_before_clear = set(self.service.jobs)

    @precondition(lambda self: self.state == "success" and self.lasting)
    @rule()
    def a_user_clears_after_the_retries_were_edited(self):
        """Then ``max_tries`` may be what it was before."""
        tries = self.ti.max_tries
        self.clear(told=False)
        self.ti.max_tries = tries

    @precondition(lambda self: self.state == "deferred")
    @rule()
    def a_user_marks_it_failed(self):
        self.kill_trigger()
        assert self.service.active == []
        self.state, self.trigger, self.settled = "failed", None, True

    @precondition(lambda self: self.state == "deferred")
    @rule()
    def the_trigger_moves(self):
        """To another triggerer; Airflow 3.3 calls on_kill for that, too."""
        before = list(self.service.cancels)
        self.kill_trigger(Count(1))
        assert self.service.cancels == before
        self.trigger = revived(self.trigger)

    def kill_trigger(self, deferred=None):
        trigger = revived(self.trigger)
        trigger.task_instance = self.ti
        with FakeSupervisor(deferred or Count(0)).in_place(), suppress(AssertionError):
            self.timeline.run(trigger.on_kill)

    # What must hold, whatever happened.

    @invariant()
    def every_job_started_alone(self):
        for job_id, active, succeeded in self.service.history:
            assert active == [], f"{job_id} was started beside {active}"
            if job_id not in self.started_before_clear:
                again = set(succeeded) - self.started_before_clear
                assert not again, f"{job_id} was started after {again} had succeeded"

    @invariant()
    def what_runs_is_watched(self):
        if self.state == "deferred":
            held = self.trigger.job["job_id"]
            assert set(self.service.active) <= {held}
            assert held == self.service.jobs[-1]
        elif self.settled:
            assert self.service.active == []

    @invariant()
    def success_is_the_success_of_the_newest_job(self):
        if self.state == "success":
            assert self.result == self.service.jobs[-1]
            assert self.service.succeeded[-1:] == [self.result]
            assert self.result not in self.started_before_clear

    @invariant()
    def one_key_per_job(self):
        if self.service.dedups:
            assert len(set(self.service.submits)) == len(self.service.jobs)
        else:
            assert len(self.service.submits) == len(self.service.jobs)


class WithoutDedup(Service):
    """A vendor that starts a second job when it is asked twice."""

    dedups = False


class OneTaskWithoutDedup(OneTask):
    """Only ``find`` makes it once."""

    service_type = WithoutDedup


class OneTaskBefore33(OneTask):
    """No store: nothing but the submit key is known after a kill. Clears cannot end the job of before."""

    lasting = False

    @precondition(lambda self: self.state != "scheduled" and not self.service.active)
    @rule(told=st.booleans())
    def a_user_clears(self, told):
        self.clear(told)


MANY = settings(max_examples=examples(70), stateful_step_count=20)


@pytest.mark.parametrize("machine", [OneTask, OneTaskWithoutDedup, OneTaskBefore33])
def test_one_attempt_starts_one_job(machine):
    run_state_machine_as_test(machine, settings=MANY)


def test_a_kill_at_every_step_of_a_first_try_starts_one_job():
    """Exhaustive where the machine is random: every step, before and after, then an undisturbed retry."""
    for step in range(1, 12):
        for after in (False, True):
            task = OneTask()
            task.work(Fate(step, after), storm=0)
            if task.state == "up_for_retry":
                task.work(Fate(), storm=0)
            assert task.state == "deferred"
            assert task.service.jobs == ["job-1"]
            assert task.trigger.remote_job == ScriptedJob("job-1")
            task.teardown()
