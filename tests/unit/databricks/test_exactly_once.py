"""One task instance and its runs through random kills, lost answers, outages, retries, clears and deletions.

Airflow is a state machine here, with the real operators and their trigger in it; the workspace knows tokens as
Databricks does. A worker may be killed before and after every step that leaves a trace: reading and writing the
store, each request before its effect and after it, announcing, deferring.
"""

from __future__ import annotations

import asyncio
import copy
import math
from contextlib import ExitStack, suppress
from random import Random

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

from astronomer.deferral import CredentialsRejected, Hub, JobError, Pacing, Transient, in_process
from astronomer.providers.databricks.operators.databricks import (
    DatabricksRunNowOperator,
    DatabricksSubmitRunOperator,
)
from tests.effort import examples
from tests.unit.databricks.airflow_side import Task
from tests.unit.databricks.workspace import CANCEL, GET, LIST, RUN_NOW, SUBMIT, Lost
from tests.unit.deferral.fakes import Count, FakeSupervisor, MemoryStore, events_of, revived

RETRIES = 2
CODES = st.sampled_from(
    ["SUCCESS", "SUCCESS_WITH_FAILURES", "RUN_EXECUTION_ERROR", "USER_CANCELED", "SKIPPED"]
)
GOOD = ("SUCCESS", "SUCCESS_WITH_FAILURES")
TROUBLES = st.sampled_from(
    [
        Transient("503"),
        Transient("429", retry_after=7.0),
        Lost(),
        Lost(Transient("504")),
        CredentialsRejected("HTTP 401"),
        Lost(CredentialsRejected("HTTP 401")),
    ]
)
STORMS = st.dictionaries(
    st.sampled_from([RUN_NOW, SUBMIT, GET, LIST, CANCEL]), st.lists(TROUBLES, max_size=3), max_size=2
)


class Killed(BaseException):
    """The process ends here, without any handler."""


class Fate:
    """Kills a process at its n-th step, before or after the step takes effect; nothing has an effect from then on."""

    def __init__(self, step=math.inf, after=False):
        self.left, self.after = step, after
        self.dead = False

    def around(self, effect):
        if self.dead:
            raise Killed
        self.left -= 1
        self.dead = self.left == 0
        if self.dead and not self.after:
            raise Killed
        result = effect()
        if self.dead:
            raise Killed
        return result


class MortalStore(MemoryStore):
    """A store whose user may be killed."""

    fate = Fate()

    def get(self, key, default=None):
        return self.fate.around(lambda: super(MortalStore, self).get(key, default))

    def set(self, key, value):
        return self.fate.around(lambda: super(MortalStore, self).set(key, value))


class RunNow(DatabricksRunNowOperator):
    """An operator whose process may be killed."""

    def announce(self, context, job):
        self.fate.around(lambda: super(RunNow, self).announce(context, job))

    def _defer(self, context, job, deadline):
        self.fate.around(lambda: None)
        super()._defer(context, job, deadline)


class SubmitRun(DatabricksSubmitRunOperator):
    """The same, without a job."""

    def announce(self, context, job):
        self.fate.around(lambda: super(SubmitRun, self).announce(context, job))

    def _defer(self, context, job, deadline):
        self.fate.around(lambda: None)
        super()._defer(context, job, deadline)


def steady(patch):
    """Let the engine draw the same numbers every time; hypothesis sees to those of the `random` module."""
    in_process._IN_WORKER.random.seed(0)

    def current(cls):
        return cls._of_loop.setdefault(asyncio.get_running_loop(), cls(pacing=Pacing(random=Random(0))))

    patch.setattr(Hub, "current", classmethod(current))


OPERATORS = {
    RunNow: RunNow(task_id="task", job_id=7, poll_interval=60.0),
    SubmitRun: SubmitRun(
        task_id="task", notebook_task={"notebook_path": "/it"}, existing_cluster_id="c", poll_interval=60.0
    ),
}


class OneTask(RuleBasedStateMachine):
    """The life of one task instance. States are Airflow's: scheduled, deferred, success, failed, up for retry.

    ``since_clear`` has the runs that were started since the task was cleared, or its Dag run was made, last.
    ``left_alone`` has those of Dag runs that were deleted: nobody is left to know of them.
    """

    lasting = True
    kind = RunNow

    def __init__(self):
        super().__init__()
        self.task = Task(self.operator, store=MortalStore() if self.lasting else None)
        self.workspace, self.ti = self.task.workspace, self.task.ti
        self.workspace.jobs[7] = "nightly"
        self.ti.max_tries = RETRIES
        self.fate = Fate()
        self.state = "scheduled"
        self.settled = self.reported = False
        self.before_clear, self.left_alone = set(), set()
        self.token, self.quick_wait = None, 1.5
        self.open = ExitStack()
        self.open.enter_context(self.task.in_place())
        steady(self.open.enter_context(pytest.MonkeyPatch.context()))
        self.open.enter_context(capture_logs())

    @initialize(
        token=st.sampled_from([None, None, "mine"]),
        quick_wait=st.sampled_from([0.0, 1.5]),
        cancel_takes=st.sampled_from([0.0, 0.0, 15.0]),
        skew=st.sampled_from([-3600.0, 0.0, 3600.0]),
    )
    def in_one_of_these_worlds(self, token, quick_wait, cancel_takes, skew):
        self.token, self.quick_wait = token, quick_wait
        self.workspace.cancel_takes, self.workspace.skew = cancel_takes, skew

    def teardown(self):
        self.open.close()

    def operator(self):
        made = copy.copy(OPERATORS[self.kind])
        made.idempotency_token, made.quick_wait, made.fate = self.token, self.quick_wait, self.fate
        return made

    # What Airflow does.

    def process(self, step, fate=None, weather=None):
        """One worker process, and what Airflow makes of its end."""
        self.fate = fate or Fate()
        self.workspace.around = self.fate.around
        if self.lasting:
            self.task.store.fate = self.fate
        self.workspace.weather.update({path: list(troubles) for path, troubles in (weather or {}).items()})
        self.settled = self.reported = False
        try:
            self.task.process(step)
            ended = "deferred" if self.task.trigger is not None else "success"
        except JobError:
            ended = "failed"
        except Killed:
            ended = "killed"
        self.workspace.weather.clear()
        self.workspace.around = lambda effect: effect()
        if self.lasting:
            self.task.store.fate = Fate()
        if self.fate.dead:
            ended, self.task.trigger = "killed", None
        self.state = ended
        if ended in {"failed", "killed"}:
            self.state = "up_for_retry" if self.ti.try_number <= self.ti.max_tries else "failed"
        self.settled = ended == "success" or (ended == "failed" and not weather)
        self.reported = self.settled and ended == "failed"

    @property
    def active(self):
        return [run_id for run_id in self.workspace.active if run_id not in self.left_alone]

    @property
    def since_clear(self):
        return [run_id for run_id in self.workspace.runs if run_id not in self.before_clear]

    @property
    def held(self):
        return self.task.trigger.job["run_id"]

    def succeeded(self, run_id):
        run, now = self.workspace.runs[run_id], self.workspace.now
        return not run.active(now) and run.state(now)[1] in GOOD

    # What happens to it.

    @precondition(lambda self: self.state in {"scheduled", "up_for_retry"})
    @rule(step=st.integers(1, 30), after=st.booleans(), weather=STORMS)
    def work_and_maybe_die(self, step, after, weather):
        self.work(Fate(step, after), weather)

    @precondition(lambda self: self.state in {"scheduled", "up_for_retry"})
    @rule(weather=STORMS)
    def work_undisturbed(self, weather):
        reported, before = self.reported, len(self.workspace.runs)
        self.work(Fate(), weather)
        if reported and not weather:
            assert len(self.workspace.runs) == before + 1, "a failure that was reported is reported again"

    def work(self, fate, weather):
        if self.state == "up_for_retry":
            self.ti.try_number += 1
        self.task.timeline.now += 20.0
        self.process(lambda operator, context: operator.execute(context), fate, weather)

    @precondition(lambda self: self.workspace.active)
    @rule(code=CODES, data=st.data())
    def a_run_ends(self, code, data):
        self.workspace.end(data.draw(st.sampled_from(self.workspace.active)), code)

    @precondition(lambda self: self.state == "deferred" and self.held not in self.workspace.active)
    @rule(step=st.none() | st.integers(1, 6), after=st.booleans())
    def the_trigger_fires(self, step, after):
        trigger = revived(self.task.trigger)
        (event,) = self.task.timeline.run(lambda: events_of(trigger))
        fate = None if step is None else Fate(step, after)
        self.process(lambda operator, context: operator.execute_complete(context, event), fate)

    @precondition(lambda self: self.state != "scheduled" and self.may_be_cleared())
    @rule(told=st.booleans())
    def a_user_clears(self, told):
        """Also while it is deferred; ``on_kill`` may or may not get through."""
        if self.state == "deferred" and told:
            self.kill_trigger()
        if self.state in {"success", "failed"}:
            self.task.dag_run_started = self.task.timeline.now + 60.0
        self.task.clear(RETRIES, 60.0)
        self.start_anew()

    def may_be_cleared(self):
        return True

    @precondition(lambda self: self.state != "scheduled")
    @rule(told=st.booleans())
    def its_dag_run_is_deleted_and_made_again(self, told):
        """Under the same id, so that everything has the names of before; Airflow deletes what was stored with it."""
        if self.state == "deferred" and told:
            self.kill_trigger()
        self.left_alone |= set(self.workspace.active)
        if self.lasting:
            self.task.store.values.clear()
        self.task.timeline.now += 60.0
        self.task.dag_run_started = self.task.timeline.now
        self.ti.try_number, self.ti.max_tries, self.task.clears = 1, RETRIES, 0
        self.start_anew()

    def start_anew(self):
        self.state, self.settled, self.reported, self.task.trigger = "scheduled", False, False, None
        self.before_clear = set(self.workspace.runs)

    @precondition(lambda self: self.state == "deferred")
    @rule()
    def a_user_marks_it_failed(self):
        self.kill_trigger()
        assert self.active == []
        self.state, self.task.trigger, self.settled = "failed", None, True

    @precondition(lambda self: self.state == "deferred")
    @rule()
    def the_trigger_moves(self):
        """To another triggerer; Airflow 3.3 calls on_kill for that, too."""
        before = len(self.workspace.asked(CANCEL))
        self.kill_trigger(Count(1))
        assert len(self.workspace.asked(CANCEL)) == before

    @precondition(lambda self: self.since_clear and not self.active)
    @rule(data=st.data())
    def a_run_that_failed_is_deleted_in_databricks(self, data):
        failed = [run_id for run_id in self.since_clear if not self.succeeded(run_id)]
        if failed and self.state != "deferred":
            self.workspace.runs[data.draw(st.sampled_from(failed))].deleted = True

    @rule(minutes=st.sampled_from([1, 60, 60 * 24]))
    def time_passes(self, minutes):
        self.task.timeline.now += 60.0 * minutes

    def kill_trigger(self, deferred=None):
        trigger = revived(self.task.trigger)
        trigger.task_instance = self.ti
        with FakeSupervisor(deferred or Count(0)).in_place(), suppress(AssertionError):
            self.task.timeline.run(trigger.on_kill)

    # What must hold, whatever happened.

    @invariant()
    def every_run_started_alone(self):
        for run_id, active in self.workspace.history:
            beside = set(active) - self.left_alone
            assert not beside, f"{run_id} was started beside {beside}"

    @invariant()
    def none_was_started_after_a_success(self):
        """A run that failed is followed by another one; nothing else is, until the task is cleared."""
        for run_id in self.since_clear[:-1]:
            assert not self.succeeded(run_id), f"a run was started after {run_id} had succeeded"

    @invariant()
    def what_runs_is_watched(self):
        if self.state == "deferred":
            assert set(self.active) <= {self.held}
            assert self.held in {list(self.workspace.runs)[-1]} | self.shared()
        elif self.settled:
            assert self.active == []

    @invariant()
    def success_is_that_of_a_run_of_its_own(self):
        if self.state == "success":
            run_id = self.task.operator.run_id
            assert self.succeeded(run_id)
            assert run_id in set(self.since_clear[-1:]) | self.shared()

    @invariant()
    def one_token_per_run(self):
        path = self.kind.path
        tokens = {content["idempotency_token"] for content in self.workspace.asked(path)}
        assert len(self.workspace.runs) <= len(tokens)
        assert all(len(token) <= 64 for token in tokens)

    def shared(self):
        """Runs under a user's token count though another Dag run has started them, while they go on."""
        return set() if self.token is None else self.left_alone


class OneTaskWithoutJob(OneTask):
    """The same for a run that belongs to no job."""

    kind = SubmitRun


class OneTaskBefore33(OneTask):
    """No store: nothing but the token is known after a kill.

    So a clear cannot end the run of before: it is only made here when that has ended. Nor can it be told from a retry
    under a user's token while the Dag run goes on, so that a run of before the clear that succeeded passes for the new
    one; it is only made here when the Dag run is over, too.
    """

    lasting = False

    def may_be_cleared(self):
        return not self.workspace.active and (self.token is None or self.state in {"success", "failed"})


class OneTaskWithoutJobBefore33(OneTaskBefore33):
    """Neither."""

    kind = SubmitRun


MANY = settings(max_examples=examples(260), stateful_step_count=16)


@pytest.mark.parametrize("machine", [OneTask, OneTaskWithoutJob, OneTaskBefore33, OneTaskWithoutJobBefore33])
def test_one_attempt_starts_one_run(machine):
    run_state_machine_as_test(machine, settings=MANY)


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("kind", [RunNow, SubmitRun])
@pytest.mark.parametrize("token", [None, "mine"])
def test_a_kill_at_every_step_of_a_first_try_starts_one_run(kind, lasting, token):
    """Exhaustive where the machine is random: every step, before and after, then an undisturbed retry."""
    machine = {True: OneTask, False: OneTaskBefore33}[lasting]
    for step in range(1, 16):
        for after in (False, True):
            task = machine()
            task.kind, task.token = kind, token
            task.work(Fate(step, after), {})
            if task.state == "up_for_retry":
                task.work(Fate(), {})
            assert task.state == "deferred"
            assert len(task.workspace.runs) == 1
            assert task.task.trigger.job["run_id"] == next(iter(task.workspace.runs))
            task.teardown()
