"""Each way in which a wait for a run can go wrong, and what becomes of the task and of the run."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from dataclasses import replace
from datetime import timedelta
from importlib import import_module

import pytest

from astronomer.deferral import JobCancelled, JobFailed, JobLost, JobTimedOut, killing
from astronomer.lab.databricks import DatabricksLab
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.operators import running
from astronomer.providers.databricks.operators.databricks import DatabricksSubmitRunOperator
from astronomer.providers.databricks.triggers.databricks import DatabricksRunTrigger
from tests.integration.databricks.runs import CANCEL, POLLS, RUN_NOW, SUBMIT, Workspace, phase
from tests.integration.driving import DyingStore, Killed, TaskInstance, collected, triggerer, until, until_now
from tests.unit.deferral.fakes import Count

LONG = 300
WEATHER = [503, 408, 429, "reset", "cut", "lose_answer"]


def strike(lab, weather, path, **match):
    if isinstance(weather, int):
        return lab.faults.status(weather, path, **match)
    return getattr(lab.faults, weather)(path, **match)


def polls(lab):
    return lab.requests.select(POLLS)


def is_cancelled(run):
    return run.ended and run.state.code == "USER_CANCELED"


class TestWeather:
    @pytest.mark.parametrize("weather", WEATHER)
    def test_costs_patience_but_not_the_task(self, lab, workspace, weather):
        task = workspace.submits(0.5)
        task.deferred()
        fault = strike(lab, weather, POLLS, times=2)
        assert phase(task.wait()) == "succeeded"
        assert task.resume() == (False, None)
        assert fault.hits == 2
        assert workspace.run.ended

    @pytest.mark.parametrize(
        ("weather", "by_job"),
        [(503, False), (429, False), ("cut", False), ("lose_answer", False), ("lose_answer", True)],
    )
    def test_at_the_submit_starts_one_run(self, lab, workspace, weather, by_job, capsys):
        task = workspace.runs_job(workspace.job()) if by_job else workspace.submits()
        times = 2 if weather == 503 else 1
        fault = strike(lab, weather, RUN_NOW if by_job else SUBMIT, times=times)
        assert task.run() is None
        assert fault.hits == times
        assert len(workspace.runs) == 1
        assert capsys.readouterr().out.count("cannot be asked just now") == 1

    def test_is_told_once_however_long_it_lasts(self, lab, workspace, monkeypatch, capsys, caplog):
        monkeypatch.setattr(import_module("astronomer.deferral.watch"), "_OUTAGE_WORTH_A_LINE", 0.3)
        task = workspace.submits(0.5)
        task.deferred()
        capsys.readouterr()
        fault = lab.faults.status(503, POLLS)
        said = ""

        def told():
            nonlocal said
            said += capsys.readouterr().out
            return said

        async def clear(trigger):
            await until(lambda: fault.hits > 5 and "waiting on" in told())
            lab.faults.clear()

        assert phase(task.wait(clear)) == "succeeded"
        assert told().count("cannot be asked, waiting on") == said.count("can be asked again") == 1
        assert [one.levelname for one in caplog.records if "cannot be polled" in one.message] == ["WARNING"]

    def test_a_storm_of_too_many_requests_is_waited_out(self, lab, workspace):
        tasks = [workspace.submits(0.5) for _ in range(5)]
        for task in tasks:
            task.deferred()
        lab.requests.clear()
        storm = lab.faults.status(429, POLLS, retry_after=1, seconds=1.5)

        async def wait():
            async with triggerer():
                return await asyncio.gather(*(collected(task.trigger) for task in tasks))

        assert [phase(event) for (event,) in asyncio.run(wait())] == ["succeeded"] * 5
        assert storm.hits <= 5, "it was asked while it wanted to be left alone"

    def test_of_every_kind_at_once(self, lab, workspace, connect_as):
        connect_as(auth="oauth")
        task = workspace.submits(0.5)
        lab.faults.storm(1.5, rate=0.6, seed=7)
        assert task.run() is None
        assert len(workspace.runs) == 1

    def test_longer_than_the_tolerance_loses_sight_but_does_not_cancel(self, lab, workspace):
        task = workspace.submits(LONG, outage_tolerance=0.5)
        task.deferred()
        lab.faults.status(503, POLLS)
        task.wait()
        with pytest.raises(
            JobLost, match=f"about Databricks run {task.run_id} for 0.5 s: .*503.*may still be running"
        ):
            task.resume()
        assert not workspace.run.ended
        lab.faults.clear()
        task.next_try()
        task.deferred()
        workspace.finish(workspace.run)
        assert phase(task.wait()) == "succeeded"
        assert task.resume() == (False, None)


class TestLogins:
    def test_a_token_that_expires_is_fetched_anew(self, lab, workspace, connect_as):
        connect_as(auth="oauth")
        task = workspace.submits(LONG)
        task.deferred()
        lab.requests.clear()

        async def expire(trigger):
            await until(lambda: polls(lab))
            lab.expire_tokens()
            await until(lambda: lab.requests.logins == 2)
            workspace.finish(workspace.run)

        assert phase(task.wait(expire)) == "succeeded"
        assert task.resume() == (False, None)
        assert lab.requests.logins == 2

    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    def test_a_secret_that_is_rotated_is_read_from_the_connection(self, lab, workspace, connect_as, auth):
        connect_as(auth=auth)
        task = workspace.submits(LONG)
        task.deferred()
        lab.requests.clear()

        async def rotate(trigger):
            await until(lambda: polls(lab))
            self.rotate(lab)
            await until(lambda: lab.requests.count(status=403) or lab.requests.count(status=401))
            connect_as(auth=auth)
            await until(lambda: polls(lab)[-1].status == 200)
            workspace.finish(workspace.run)

        assert phase(task.wait(rotate)) == "succeeded"
        assert task.resume() == (False, None)

    def test_a_connection_that_points_elsewhere_loses_sight_and_not_the_run(self, lab, workspace, connect_as):
        task = workspace.submits(LONG)
        task.deferred()
        with DatabricksLab(directory=lab.directory) as other:
            connect_as(fields={"port": other.port, "password": other.token})
            task.wait()
            with pytest.raises(
                JobLost, match=f"'databricks_default' now points to {other.url}, but .* started in {lab.url}"
            ):
                task.resume()
            connect_as()
            task.next_try()
            task.deferred()
            workspace.finish(workspace.run)
            task.wait()
            assert task.resume() == (False, None)
            assert other.runs == {}

    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    def test_a_secret_that_stays_wrong_loses_sight_after_three_tries(self, lab, workspace, connect_as, auth):
        connect_as(auth=auth)
        secrets = lab.token, lab.client_secret
        task = workspace.submits(LONG)
        task.deferred()
        self.rotate(lab)
        lab.requests.clear()
        task.wait()
        refused = lab.requests.count("^/oidc/" if auth == "oauth" else POLLS)
        assert refused == 3, "the user would be locked out"
        with pytest.raises(JobLost) as caught:
            task.resume()
        for said in ("Cannot log in", str(task.run_id), "'databricks_default' was refused", "may still be"):
            assert said in str(caught.value)
        assert not any(secret in str(caught.value) for secret in secrets)
        assert not workspace.run.ended

    def rotate(self, lab):
        lab.rotate_token()
        lab.rotate_secret()
        lab.expire_tokens()


class TestStates:
    def test_that_are_new_are_running_and_told_once(self, lab, workspace, caplog):
        tasks = [workspace.submits(LONG) for _ in range(3)]
        for task in tasks:
            task.deferred()
        known = workspace.runs[0].state
        odd = replace(known, phase="PONDERING", life_cycle="PONDERING")
        for run in workspace.runs:
            workspace.change(run, lambda run: setattr(run, "state", odd))

        async def wait():
            async with triggerer():
                waiting = [asyncio.ensure_future(collected(task.trigger)) for task in tasks]
                await until(lambda: [one for one in caplog.records if "PONDERING" in one.message])
                seen = len(polls(lab))
                await until(lambda: len(polls(lab)) > seen + 5)
                for run in workspace.runs:
                    lab.cancel_by_user(run.run_id)
                return await asyncio.gather(*waiting)

        assert [phase(event) for (event,) in asyncio.run(wait())] == ["cancelled"] * 3
        assert len([one for one in caplog.records if "unknown run state 'PONDERING'" in one.message]) == 1

    def test_of_waiting_are_running(self, lab, workspace, capsys):
        """A run that waits in the queue of its job."""
        job_id = workspace.job(max_concurrent_runs=1, queue={"enabled": True})
        first = workspace.runs_job(job_id, notebook_params={"seconds": str(LONG)})
        second = workspace.runs_job(job_id, notebook_params={"seconds": str(LONG)})
        first.deferred()
        second.deferred()
        assert workspace.runs[1].state.phase == "QUEUED"
        capsys.readouterr()
        said = []

        def told():
            said.extend(re.findall(r"is active \((\w+)\)", capsys.readouterr().out))
            return said

        async def wait():
            async with triggerer():
                waiting = asyncio.ensure_future(collected(second.trigger))
                await until(told)
                lab.cancel_by_user(first.run_id)
                await until(lambda: "RUNNING" in told())
                workspace.finish(workspace.runs[1])
                return await waiting

        [event] = asyncio.run(wait())
        assert phase(event) == "succeeded"
        assert told() == ["QUEUED", "RUNNING"]


class TestClocks:
    """Databricks' clock and Airflow's need not agree."""

    @pytest.fixture(params=[3600, -3600], ids=["ahead", "behind"])
    def workspace(self, request, monkeypatch):
        with DatabricksLab() as lab:
            lab.advance(request.param)
            for name, value in (lab.client_env() | lab.connection_env()).items():
                monkeypatch.setenv(name, value)
            yield Workspace(lab)

    def test_that_differ_by_an_hour_start_one_run(self, workspace):
        workspace.lab.faults.lose_answer(SUBMIT, times=1)
        task = workspace.submits()
        assert task.run() is None
        assert len(workspace.runs) == 1

    @pytest.mark.parametrize("lasting", [True, False])
    def test_that_differ_by_an_hour_hide_no_run_from_a_retry(self, workspace, lasting):
        task = workspace.submits(LONG, **({} if lasting else {"store": None}))
        task.deferred()
        task.next_try()
        task.deferred()
        assert len(workspace.runs) == 1
        task.clear()
        task.deferred()
        first, second = workspace.runs
        assert is_cancelled(first) is lasting, "before Airflow 3.3 nobody remembers it"
        assert not second.ended

    @pytest.mark.parametrize("lasting", [True, False])
    def test_that_differ_by_an_hour_pass_no_failure_for_a_run(self, workspace, lasting):
        task = workspace.submits(fail="told to", **({} if lasting else {"store": None}))
        for tries in (1, 2):
            with pytest.raises(JobFailed, match="told to"):
                task.run()
            assert len(workspace.runs) == tries
            task.next_try()

    def test_that_differ_by_an_hour_do_not_move_the_deadline(self, workspace):
        task = workspace.submits(LONG, execution_timeout=timedelta(seconds=1))
        with pytest.raises(JobTimedOut):
            task.run()
        assert is_cancelled(workspace.run)


class TestDeadline:
    def task(self, workspace, seconds=60.0, **arguments):
        task = workspace.submits(LONG, execution_timeout=timedelta(seconds=seconds), **arguments)
        task.deferred()
        return task

    @pytest.mark.parametrize("weather", [None, 429, 503, "lose_answer"])
    def test_ends_the_run_and_sees_it_end(self, lab, workspace, weather):
        task = self.task(workspace)
        task.trigger.deadline = time.time() + 0.3
        fault = weather and strike(lab, weather, CANCEL, times=1)
        task.wait()
        assert is_cancelled(workspace.run)
        assert fault is None or fault.hits == 1
        with pytest.raises(JobTimedOut, match="did not end before the task's execution_timeout; it was"):
            task.resume()

    def test_is_databricks_too_half_a_minute_later(self, workspace):
        task = self.task(workspace)
        limit = workspace.run.settings["timeout_seconds"]
        assert math.ceil(task.trigger.deadline - time.time()) + 30 <= limit <= 90

    def test_is_databricks_alone_when_no_triggerer_is_there(self, workspace, monkeypatch):
        monkeypatch.setattr(running, "_SERVER_IS_LATER", 0)
        task = self.task(workspace, 1.5)
        task.trigger.deadline = None
        task.wait()
        with pytest.raises(JobTimedOut, match=r"TIMEDOUT: Run timed out after [12] seconds"):
            task.resume()

    def test_that_a_run_meets_is_no_timeout(self, lab, workspace):
        """It has ended while no triggerer was there, and so has the time."""
        task = workspace.submits(0.3, execution_timeout=timedelta(seconds=60))
        task.deferred()
        until_now(lambda: workspace.run.ended)
        task.trigger.deadline = time.time() - 1
        task.wait()
        assert task.resume() == (False, None)
        assert lab.requests.count(CANCEL) <= 1


class TestKills:
    @pytest.fixture(autouse=True)
    def deferred(self, supervisor):
        """A user has ended the task."""
        supervisor.answer = Count(0)

    def test_a_hundred_at_once_leave_no_run_behind(self, lab, monkeypatch):
        """At Databricks' own quota, in the time that Airflow gives to a kill, beside waits that go on."""
        monkeypatch.setattr(killing, "_KILL_BUDGET", 120.0)
        doomed, others = lab.seed(100, seconds=LONG), lab.seed(20, seconds=LONG)
        triggers = [self.trigger(run_id) for run_id in [*doomed, *others]]
        took, over = 0.0, threading.Event()

        def measure():  # in time that this process was given
            nonlocal took
            while not over.wait(0.05):
                took += 0.05

        async def kill():
            async with triggerer() as hub:
                waiting = [asyncio.ensure_future(collected(one)) for one in triggers]
                await until(lambda: hub.connections and polls(lab))
                threading.Thread(target=measure, daemon=True).start()
                await asyncio.gather(*(one.on_kill() for one in triggers[:100]))
                over.set()
                for one in waiting:
                    one.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

        asyncio.run(kill())
        assert [run_id for run_id in doomed if not is_cancelled(lab.runs[run_id])] == []
        assert [run_id for run_id in others if lab.runs[run_id].ended] == []
        assert lab.requests.count(CANCEL) == 100
        assert lab.requests.count(status=429) == 0
        assert took < 25, "Airflow gives up after 30 s"

    def trigger(self, run_id):
        job = DatabricksRun(run_id, "databricks_default")
        trigger = DatabricksRunTrigger(job.to_dict(), poll_interval=0.5)
        trigger.task_instance = TaskInstance(task_id=str(run_id))
        return trigger

    @pytest.mark.parametrize("weather", ["lose_answer", 429])
    def test_in_bad_weather(self, lab, workspace, weather):
        task = workspace.submits(LONG)
        task.deferred()
        strike(lab, weather, CANCEL, times=1)

        async def kill(trigger):
            await until(lambda: polls(lab))
            await trigger.on_kill()
            assert is_cancelled(workspace.run)

        assert phase(task.wait(kill)) == "cancelled"

    @pytest.mark.parametrize("answer", [Count(1), OSError("gone")])
    def test_a_move_to_another_triggerer_is_none(self, lab, workspace, supervisor, answer):
        task = workspace.submits(0.5)
        task.deferred()
        supervisor.answer = answer

        async def move(trigger):
            await until(lambda: polls(lab))
            await trigger.on_kill()

        task.wait(move)
        assert task.resume() == (False, None)
        assert lab.requests.count(CANCEL) == 0

    def test_a_restart_of_the_triggerer_is_none(self, lab, workspace):
        task = workspace.submits(1)
        task.deferred()

        async def stop():
            async with triggerer():
                waiting = asyncio.ensure_future(collected(task.trigger))
                await until(lambda: polls(lab))
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

        asyncio.run(stop())
        task.wait()
        assert task.resume() == (False, None)
        assert lab.requests.count(CANCEL) == 0

    def test_in_the_worker(self, workspace):
        task = workspace.submits(LONG, deferrable=False)

        class Impatient(DatabricksSubmitRunOperator):
            def announce(self, context, job):
                self.on_kill()

        task._class = Impatient
        with pytest.raises(JobCancelled):
            task.run()
        assert is_cancelled(workspace.run)

    @pytest.mark.parametrize("seconds", [LONG, 0.1])
    def test_a_clear_ends_the_run_before_the_next_one_starts(self, workspace, seconds):
        task = workspace.submits(seconds)
        task.deferred()
        first = workspace.run
        task.clear()
        task.deferred()
        _, second = workspace.runs
        assert first.ended
        assert first.end_time <= second.start_time
        assert not second.ended or seconds < LONG

    def test_a_clear_ends_a_run_that_nobody_has_heard_of(self, lab, workspace):
        store = DyingStore()
        store.dies_at = 2
        task = workspace.submits(LONG, store=store)
        with pytest.raises(Killed):
            task.start()
        task.clear()
        task.deferred()
        first, second = workspace.runs
        assert is_cancelled(first)
        assert not second.ended
