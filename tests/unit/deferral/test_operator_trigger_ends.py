"""What a task in the triggerer tells others when it begins and ends, and by when it has to have ended."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest
from airflow.listeners import hookimpl
from airflow.sdk import listener as sdk_listener

from astronomer.deferral import JobFailed, JobTimedOut, _compat_triggerer, xcom_memory
from astronomer.deferral._compat import AirflowSkipException
from astronomer.deferral.in_triggerer import NeedsWorker, Steps
from astronomer.deferral.xcom_memory import XCOM_KEY
from tests.unit.deferral.fakes import START
from tests.unit.deferral.free import ClaimingOperator, FreeOperator, LinkedOperator, raises


class TestLinks:
    def test_are_pushed_at_the_end(self, free, monkeypatch, caplog):
        free.result(free.task(LinkedOperator))
        assert free.pushed("_link_JobLink") == ["https://jobs/task"]
        assert not free.pushed("_link_BrokenLink")
        assert not free.pushed("_link_NoLink")
        assert "The link 'Broken' could not be pushed" in caplog.text

    def test_are_pushed_when_the_task_fails_too(self, free):
        free.script |= {"ends": "failed"}
        free.run(free.task(LinkedOperator))
        assert free.pushed("_link_JobLink") == ["https://jobs/task"]

    def test_that_are_there_already_are_not(self, free, monkeypatch):
        def announce(self, context, job):
            context["ti"].xcom_push(key="_link_JobLink", value=f"https://mine/{job.job_id}")

        monkeypatch.setattr(LinkedOperator, "announce", announce)
        free.result(free.task(LinkedOperator))
        assert free.pushed("_link_JobLink") == ["https://mine/job-1"]


class Listener:
    def __init__(self):
        self.heard = []
        self.trouble = None

    def hear(self, what, previous_state, ti, error=None):
        self.heard.append((what, previous_state.value, ti.state.value, ti.task.task_id, type(error)))
        self.ti = ti
        if self.trouble:
            raise self.trouble

    @hookimpl
    def on_task_instance_running(self, previous_state, task_instance):
        self.hear("running", previous_state, task_instance)

    @hookimpl
    def on_task_instance_success(self, previous_state, task_instance):
        self.hear("success", previous_state, task_instance)

    @hookimpl
    def on_task_instance_skipped(self, previous_state, task_instance):
        self.hear("skipped", previous_state, task_instance)

    @hookimpl
    def on_task_instance_failed(self, previous_state, task_instance, error):
        self.hear("failed", previous_state, task_instance, error)


class TestListeners:
    @pytest.fixture
    def listener(self):
        listener = Listener()
        manager = sdk_listener.get_listener_manager()
        manager.add_listener(listener)
        yield listener
        manager.pm.unregister(listener)

    BEGIN = ("running", "queued", "running", "task", type(None))

    def test_hear_of_a_success(self, free, listener):
        free.result(free.task())
        assert listener.heard == [self.BEGIN, ("success", "running", "success", "task", type(None))]
        assert listener.ti.start_date.timestamp() == pytest.approx(START)
        assert listener.ti.end_date is not None

    def test_hear_of_a_failure_and_its_error(self, free, listener):
        free.script |= {"ends": "failed"}
        free.run(free.task(retries=1))
        assert listener.heard == [self.BEGIN, ("failed", "running", "failed", "task", JobFailed)]

    def test_hear_of_a_skip(self, free, listener, monkeypatch):
        monkeypatch.setattr(FreeOperator, "finish", raises(AirflowSkipException()))
        free.run(free.task())
        assert listener.heard == [self.BEGIN, ("skipped", "running", "skipped", "task", type(None))]

    def test_hear_of_the_failure_of_what_cannot_be_rendered(self, free, listener):
        assert free.run(free.task(what="{{ 1 / 0 }}")).state == "failed"
        assert listener.heard == [("failed", "running", "failed", "task", ZeroDivisionError)]
        assert isinstance(listener.ti.task, FreeOperator)
        assert listener.ti.task.in_triggerer is not None
        assert listener.ti.end_date is not None

    def test_hear_of_the_failure_of_what_cannot_be_made(self, free, listener, monkeypatch):
        def refuses(*given, **more):
            raise ValueError("no such argument")

        task = free.task()
        monkeypatch.setattr(_compat_triggerer, "make_operator", refuses)
        assert free.run(task).state == "failed"
        assert [heard[0] for heard in listener.heard] == ["failed"]

    def test_hear_nothing_of_what_airflow_has_not_given(self, free, listener, monkeypatch):
        monkeypatch.setattr(_compat_triggerer, "adopt", raises(ValueError("no task instance")))
        assert free.run(free.task()).state == "failed"
        assert not listener.heard

    def test_hear_of_no_end_where_a_worker_goes_on(self, free, listener, monkeypatch):
        monkeypatch.setattr(FreeOperator, "finish", raises(NeedsWorker("rows")))
        free.run(free.task())
        assert listener.heard == [self.BEGIN]

    def test_fail_no_task(self, free, listener, caplog):
        listener.trouble = ValueError("deaf")
        free.result(free.task())
        assert "A listener failed" in caplog.text

    @pytest.mark.parametrize("kind", [ClaimingOperator, FreeOperator])
    def test_that_are_slow_delay_no_more_than_themselves(self, free, listener, monkeypatch, lines, kind):
        """As long as a claim lasts, and longer: what was read of the task before is read again."""
        now = 0.0

        def hear(what, *about):
            nonlocal now
            now += 11.0
            listener.heard.append(what)

        monkeypatch.setattr(xcom_memory, "time", SimpleNamespace(monotonic=lambda: now))
        monkeypatch.setattr(listener, "hear", hear)
        free.script["runs_for"] = 1
        free.result(free.task(kind))
        assert listener.heard == ["running", "success"]
        assert len(free.service.jobs) == 1
        assert free.timeline.now - START < 10
        assert not [line for line in lines() if line.startswith(("Waiting", "A submit of this task"))]

    def test_hold_no_thread_of_a_step(self, free, listener, monkeypatch):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WORKER_FREE_THREADS", "1")
        told, steps = [], []

        def hear(*about):
            done = asyncio.run_coroutine_threadsafe(step(), steps[0])
            told.append(done.result(60))

        async def step():
            return await Steps.current().run(lambda: "done")

        async def wait():
            steps.append(asyncio.get_running_loop())
            return await task.wait()

        monkeypatch.setattr(listener, "hear", hear)
        task = free.task()
        task.schedule()
        assert free.timeline.run(wait).state == "success"
        assert told == ["done", "done"]

    def test_there_may_be_none(self, free, monkeypatch):
        monkeypatch.setattr(sdk_listener, "get_listener_manager", lambda: Silence)
        free.result(free.task())


class Silence:
    has_listeners = False


class TestDeadline:
    def test_is_ahead_of_airflows_own(self, free, lines):
        free.script["runs_for"] = 1000
        task = free.task(execution_timeout=timedelta(seconds=100))
        assert free.run(task).state == "failed"
        assert any(line.startswith(f"Task failed: {JobTimedOut.__name__}") for line in lines())
        assert free.timeline.now < task.timeout_after.timestamp()
        assert free.service.cancels == ["job-1"]

    @pytest.mark.parametrize(("limit", "ahead"), [(1000, 10), (20, 4)])
    def test_leaves_some_time_to_cancel(self, free, limit, ahead):
        free.run(free.task(execution_timeout=timedelta(seconds=limit)))
        (first, *_) = free.pushed(XCOM_KEY)
        assert first["deadline"] == pytest.approx(START + limit - ahead)

    def test_counts_what_a_policy_has_set(self, free):
        def make():
            made = FreeOperator(**free.given(FreeOperator, {}))
            made.execution_timeout = timedelta(seconds=1000)
            return made

        free.run(free.dag(make))
        assert free.pushed(XCOM_KEY)[0]["deadline"] == pytest.approx(START + 990)

    def test_of_a_moment_without_a_zone_is_utc(self, free):
        task = free.task(execution_timeout=timedelta(seconds=1000))
        task.schedule()
        task.timeout_after = task.timeout_after.replace(tzinfo=None)
        free.timeline.run(task.wait)
        assert free.pushed(XCOM_KEY)[0]["deadline"] == pytest.approx(START + 990)

    def test_need_not_be(self, free):
        free.run(free.task())
        assert free.pushed(XCOM_KEY)[0]["deadline"] is None
