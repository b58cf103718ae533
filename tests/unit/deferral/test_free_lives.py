"""Tries, clears and restarts of a task that runs in the triggerer: one submit for each that has to be."""

import asyncio
import json
from datetime import timedelta

import pytest
from airflow.sdk.execution_time.comms import DeleteXCom, SetXCom

from astronomer.deferral import Phase, Transient, _compat_triggerer, xcom_memory
from astronomer.deferral.xcom_memory import SUBMITTED_BY, XCOM_KEY, Contested, XComMemory
from tests.unit.deferral.fakes import START
from tests.unit.deferral.free import ClaimingOperator, FreeOperator, Gate, WatchOperator, raises, shut_down
from tests.worker_free import RUN

PLACE = (RUN, "task", -1, XCOM_KEY)


def memory_of(free):
    found = free.airflow.xcoms[PLACE]
    return json.loads(found) if isinstance(found, str) else found


def restarted(free, task):
    """The same try goes on in another triggerer."""
    return free.timeline.run(task.wait)


KINDS = pytest.mark.parametrize("kind", [FreeOperator, ClaimingOperator])


class TestRestart:
    @KINDS
    def test_goes_on_with_the_job(self, free, kind):
        task = free.task(kind)
        task.schedule()
        shut_down(free, task, 50)
        assert not free.service.cancels
        assert restarted(free, task).state == "success"
        assert len(free.service.jobs) == 1
        assert 100 <= free.timeline.now - START <= 110

    @KINDS
    def test_many_of_them_submit_nothing(self, free, kind):
        task = free.task(kind)
        task.schedule()
        for _ in range(4):
            shut_down(free, task, 15)
        assert restarted(free, task).state == "success"
        assert len(free.service.jobs) == 1

    @KINDS
    @pytest.mark.parametrize("runs_for", [60.0, 500.0], ids=["it ended meanwhile", "it still runs"])
    def test_whose_fields_cannot_be_rendered_leaves_the_job_to_the_retry(
        self, free, monkeypatch, kind, runs_for
    ):
        free.script["runs_for"] = runs_for
        task = free.task(kind, retries=1)
        task.schedule()
        shut_down(free, task, 50)
        with monkeypatch.context() as patch:
            patch.setattr(kind, "render_template_fields", raises(RuntimeError("no such variable")))
            assert restarted(free, task).state == "up_for_retry"
        free.timeline.sleep(60)
        assert free.run(task).state == "success"
        assert free.service.jobs == ["job-1"]
        assert not free.service.cancels

    @KINDS
    def test_whose_operator_cannot_be_imported_leaves_the_job_to_the_retry(self, free, monkeypatch, kind):
        task = free.task(kind, retries=1)
        task.schedule()
        shut_down(free, task, 50)

        def half_deployed(path):
            raise TypeError("half a package")

        with monkeypatch.context() as patch:
            patch.setattr("astronomer.deferral.making.loaded", half_deployed)
            assert restarted(free, task).state == "up_for_retry"
        assert free.run(task).state == "success"
        assert free.service.jobs == ["job-1"]
        assert not free.service.cancels

    @KINDS
    def test_waits_for_an_airflow_that_does_not_tell_what_is_remembered(self, free, monkeypatch, kind):
        task = free.task(kind)
        task.schedule()
        shut_down(free, task, 50)
        until = free.timeline.now + 200
        read = _compat_triggerer.read_xcom

        def silent(ti, key):
            if free.timeline.time() < until:
                raise RuntimeError("503")
            return read(ti, key)

        monkeypatch.setattr(_compat_triggerer, "read_xcom", silent)
        assert restarted(free, task).state == "success"
        assert free.service.jobs == ["job-1"]

    def test_renews_no_deadline(self, free):
        free.script["runs_for"] = 10_000
        task = free.task(execution_timeout=timedelta(seconds=1000))
        task.schedule()
        shut_down(free, task, 600)
        assert restarted(free, task).state == "failed"
        assert free.timeline.now < task.timeout_after.timestamp()
        deadlines = {one.value["deadline"] for one in free.airflow.of(SetXCom) if one.key == XCOM_KEY}
        assert pytest.approx(list(deadlines)) == [START + 990]
        assert free.service.cancels == ["job-1"]

    def test_renews_no_timeout_of_a_sensor(self, free):
        free.service.start("a", runs_for=1000)
        task = free.task(WatchOperator, timeout=100)
        task.schedule()
        shut_down(free, task, 60)
        assert restarted(free, task).state == "failed"
        assert 100 <= free.timeline.now - START <= 120

    def test_before_the_submit_gives_all_the_time_that_is_left(self, free, monkeypatch):
        monkeypatch.setattr(FreeOperator, "submit", _fails_once(FreeOperator.submit))
        task = free.task(execution_timeout=timedelta(seconds=1000), retries=1)
        assert free.run(task).state == "up_for_retry"
        free.timeline.sleep(300)
        free.run(task)
        assert memory_of(free)["deadline"] == pytest.approx(START + 300 + 990, abs=1)


@KINDS
class TestOverdue:
    """Airflow ends a try by itself when nobody was there to do so in time; nothing of ours has announced the retry."""

    @staticmethod
    def next_try(free, kind, after):
        """A try begins so many seconds after its predecessor, of 1000 s, was left alone; returns how it ended."""
        task = free.task(kind, execution_timeout=timedelta(seconds=1000), retries=1)
        task.schedule()
        shut_down(free, task, 50)
        free.timeline.sleep(after)
        return free.run(task).state

    def test_what_has_succeeded_meanwhile_is_returned_by_the_retry(self, free, kind):
        assert self.next_try(free, kind, 2000) == "success"
        assert len(free.service.jobs) == 1

    def test_what_still_runs_is_cancelled_before_the_next(self, free, kind):
        free.script["runs_for"] = 10_000
        assert self.next_try(free, kind, 2000) == "failed"
        assert (len(free.service.jobs), free.service.cancels) == (2, ["job-1", "job-2"])

    def test_long_afterwards_it_is_a_clear(self, free, kind):
        assert self.next_try(free, kind, 20_000) == "success"
        assert len(free.service.jobs) == 2

    def test_a_clear_starts_anew(self, free, kind):
        assert self.next_try(free, kind, 200) == "success"
        assert len(free.service.jobs) == 2


def _fails_once(step):
    calls = []

    def failing(*given):
        calls.append(given)
        if len(calls) == 1:
            raise ValueError("refused")
        return step(*given)

    return failing


def _loses_the_answer(submit):
    calls = []

    def step(self, context, attempt):
        calls.append(attempt)
        found = submit(self, context, attempt)
        if len(calls) == 1:
            raise ValueError("the answer was lost")
        return found

    return step


class TestRetry:
    def test_of_a_lost_job_goes_on_with_it(self, free):
        free.script["ends"] = "lost"
        task = free.task(retries=1)
        assert free.run(task).state == "up_for_retry"
        free.service._jobs["job-1"].ends = Phase.SUCCEEDED
        assert free.run(task).state == "success"
        assert len(free.service.jobs) == 1

    def test_of_one_that_still_runs_waits_for_it(self, free):
        free.script |= {"ends": "lost", "runs_for": 5.0}
        task = free.task(retries=1)
        assert free.run(task).state == "up_for_retry"
        entry = free.service._jobs["job-1"]
        entry.runs_for, entry.ends = 200.0, Phase.SUCCEEDED
        assert free.run(task).state == "success"
        assert free.service.jobs == ["job-1"]
        assert 200 <= free.timeline.now - START <= 210

    def test_of_one_that_has_failed_meanwhile_starts_another(self, free):
        free.script |= {"ends": "lost", "runs_for": 5.0}
        task = free.task(retries=1)
        assert free.run(task).state == "up_for_retry"
        free.service._jobs["job-1"].ends = Phase.FAILED
        free.run(task)
        assert free.service.jobs == ["job-1", "job-2"]

    @KINDS
    def test_of_a_submit_whose_answer_was_lost_finds_the_job(self, free, monkeypatch, kind):
        monkeypatch.setattr(FreeOperator, "submit", _loses_the_answer(FreeOperator.submit))
        task = free.task(kind, retries=1)
        assert [free.run(task).state, free.run(task).state] == ["up_for_retry", "success"]
        assert free.service.jobs == ["job-1"]
        assert not free.service.cancels

    def test_of_a_result_that_could_not_be_read_starts_nothing(self, free, monkeypatch):
        monkeypatch.setattr(FreeOperator, "finish", _fails_once(FreeOperator.finish))
        task = free.task(retries=1)
        assert [free.run(task).state, free.run(task).state] == ["up_for_retry", "success"]
        assert free.service.jobs == ["job-1"]
        assert free.airflow.pull("task") == "done"

    @KINDS
    def test_of_a_result_that_no_xcom_can_hold_starts_nothing(self, free, kind):
        task = free.task(kind, what="no dictionary", multiple_outputs=True, retries=2)
        states = [free.run(task).state for _ in range(3)]
        assert states == ["up_for_retry", "up_for_retry", "failed"]
        assert free.service.jobs == ["job-1"]
        assert not free.service.cancels

    def test_of_a_result_that_was_not_pushed_pushes_it(self, free, monkeypatch):
        monkeypatch.setattr(_compat_triggerer, "push_result", _fails_once(_compat_triggerer.push_result))
        task = free.task(retries=1)
        assert [free.run(task).state, free.run(task).state] == ["up_for_retry", "success"]
        assert free.service.jobs == ["job-1"]
        assert free.airflow.pull("task") == "done"

    @pytest.mark.parametrize(
        ("troubles", "states"),
        [
            ([RuntimeError("503")] * 3, ["up_for_retry", "success"]),
            ([Contested("another has it")], ["success"]),
        ],
        ids=["Airflow does not answer", "another trigger has it"],
    )
    def test_of_one_that_could_not_be_noted_starts_nothing(self, free, monkeypatch, troubles, states):
        monkeypatch.setattr(_compat_triggerer, "push_result", _fails_once(_compat_triggerer.push_result))
        leave_open = XComMemory.leave_open

        def left(memory):
            if troubles:
                raise troubles.pop()
            leave_open(memory)

        monkeypatch.setattr(XComMemory, "leave_open", left)
        task = free.task(retries=1)
        assert [free.run(task).state for _ in states] == states
        assert free.service.jobs == ["job-1"]
        assert not free.service.cancels

    def test_of_one_that_can_never_be_noted_comes_in_the_end(self, free, monkeypatch):
        def never(memory):
            raise RuntimeError("503")

        monkeypatch.setattr(XComMemory, "leave_open", never)
        monkeypatch.setattr(FreeOperator, "finish", _fails_once(FreeOperator.finish))
        assert free.run(free.task(retries=1)).state == "up_for_retry"

    def test_after_a_success_is_nothing_that_a_listener_can_cause(self, free, monkeypatch):
        def exits(what, *rest, **more):
            raise SystemExit(what)

        monkeypatch.setattr(_compat_triggerer, "tell_listeners", exits)
        assert free.result(free.task()) == "done"

    def test_after_a_clear_of_it_starts_another(self, free):
        task = free.task(what="no dictionary", multiple_outputs=True)
        assert [free.run(task).state for _ in range(2)] == ["failed", "failed"]
        assert free.service.jobs == ["job-1", "job-2"]

    def test_of_a_failure_starts_another_of_the_same_generation(self, free):
        free.script["ends"] = "failed"
        task = free.task(retries=1)
        free.run(task)
        first = memory_of(free)
        free.run(task)
        assert (first["generation"], first["sequence"]) == (-1, 0)
        assert (memory_of(free)["generation"], memory_of(free)["sequence"]) == (-1, 1)


class TestClear:
    def test_after_a_success_starts_anew(self, free):
        task = free.task()
        assert free.run(task).state == "success"
        assert (memory_of(free)["ended"], memory_of(free)["settled"]) == (True, 0)
        assert free.run(task).state == "success"
        assert free.service.jobs == ["job-1", "job-2"]
        assert [one.key for one in free.airflow.of(DeleteXCom)] == ["return_value"]

    def test_after_a_success_with_retries_left_starts_anew(self, free):
        task = free.task(retries=5)
        assert [free.run(task).state, free.run(task).state] == ["success", "success"]
        assert free.service.jobs == ["job-1", "job-2"]

    def test_after_a_loss_ends_the_job_and_starts_anew(self, free):
        free.script |= {"ends": "lost", "runs_for": 5.0}
        task = free.task()
        assert free.run(task).state == "failed"
        entry = free.service._jobs["job-1"]
        entry.runs_for = 10_000.0
        assert free.run(task).state == "failed"
        assert free.service.jobs == ["job-1", "job-2"]
        assert free.service.cancels == ["job-1"]

    @KINDS
    def test_during_the_wait_ends_the_job_and_starts_anew(self, free, kind):
        task = free.task(kind, retries=3)
        task.schedule()
        shut_down(free, task, 30)  # and whoever cleared it was not heard
        assert free.run(task).state == "success"
        assert free.service.jobs == ["job-1", "job-2"]
        assert free.service.cancels == ["job-1"]

    @pytest.mark.parametrize("polls", [8, 40])
    @KINDS
    def test_during_an_outage_starts_anew_when_the_end_of_the_job_is_seen(
        self, free, monkeypatch, kind, polls
    ):
        submit, bad_weather = kind.submit, []

        def seen(*given):
            bad_weather.append(bool(free.service.weather))
            return submit(*given)

        monkeypatch.setattr(kind, "submit", seen)
        free.script["runs_for"] = 100_000.0
        task = free.task(kind, retries=3)
        task.schedule()
        shut_down(free, task, 30)
        free.service.weather = [Transient("503")] * polls
        task.schedule()
        shut_down(free, task, 4000)
        assert free.service.jobs == ["job-1", "job-2"]
        assert set(free.service.cancels) == {"job-1"}
        assert bad_weather == [False, False]

    def test_twice_starts_two(self, free):
        task = free.task()
        assert [free.run(task).state for _ in range(3)] == ["success"] * 3
        assert len(free.service.jobs) == 3


class TestTwoTriggerers:
    def test_who_finds_a_claim_takes_it_over_and_lets_the_submit_arrive(self, free, monkeypatch):
        task = free.task(ClaimingOperator)
        task.schedule()
        monkeypatch.setattr(ClaimingOperator, "submit", _killed)
        with pytest.raises(asyncio.CancelledError):
            free.timeline.run(lambda: _one_step(task))
        monkeypatch.setattr(ClaimingOperator, "submit", FreeOperator.submit)
        before = free.timeline.now
        assert restarted(free, task).state == "success"
        assert free.timeline.now - before >= SUBMITTED_BY + 100
        assert len(free.service.jobs) == 1

    def test_after_a_clear_a_claim_costs_no_more_time(self, free, monkeypatch):
        monkeypatch.setattr(xcom_memory, "time", free.timeline)
        task = free.task(ClaimingOperator)
        task.schedule()
        monkeypatch.setattr(ClaimingOperator, "submit", _killed)
        with pytest.raises(asyncio.CancelledError):
            free.timeline.run(lambda: _one_step(task))
        monkeypatch.setattr(ClaimingOperator, "submit", FreeOperator.submit)
        before = free.timeline.now
        assert free.run(task).state == "success"
        assert SUBMITTED_BY + 100 <= free.timeline.now - before < 1.5 * SUBMITTED_BY + 100
        assert len(free.service.jobs) == 1

    def test_who_is_contested_waits_and_goes_on_with_the_job_of_the_other(self, free, monkeypatch):
        task = free.task(ClaimingOperator)
        task.schedule()
        prepare, others = ClaimingOperator.prepare, []

        def slow(self, context, attempt):
            if not others:  # meanwhile, another triggerer does it all
                found = free.service.submit(attempt.submit_key, **free.script)
                others.append(found)
                free.airflow.xcoms[PLACE] = {
                    "generation": attempt.generation,
                    "sequence": attempt.sequence,
                    "submit_key": attempt.submit_key,
                    "job": found.to_dict(),
                    "try_number": 1,
                    "owner": "another",
                }
            return prepare(self, context, attempt)

        monkeypatch.setattr(ClaimingOperator, "prepare", slow)
        assert restarted(free, task).state == "success"
        assert len(free.service.submits) == 1
        assert free.timeline.now - START >= SUBMITTED_BY

    def test_an_abandoned_trigger_submits_nothing(self, free, monkeypatch):
        for kind in (FreeOperator, ClaimingOperator):
            task = free.task(kind)
            task.schedule()
            prepare = kind.prepare

            async def main(task=task, kind=kind, prepare=prepare):
                gate = Gate()
                monkeypatch.setattr(kind, "prepare", gate.before(prepare))
                trigger = task.trigger()
                running = asyncio.ensure_future(anext(trigger.run()))
                await gate.reached()
                running.cancel()
                await asyncio.wait({running})
                gate.open()
                await asyncio.wait({trigger._step})

            free.timeline.run(main)
            monkeypatch.setattr(kind, "prepare", prepare)
        assert not free.service.submits


def _killed(self, context, attempt):
    raise asyncio.CancelledError  # the process ends here


async def _one_step(task):
    return await anext(task.trigger().run())
