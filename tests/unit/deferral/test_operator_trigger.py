"""How a task ends that runs in the triggerer, and what it leaves behind: as if a worker had run it."""

import asyncio
import json
from datetime import timedelta

import pytest
from airflow.sdk import BaseOperator
from airflow.sdk.execution_time.comms import DeleteXCom, SetXCom
from structlog.testing import capture_logs

from astronomer.deferral import Phase, Transient, recipe
from astronomer.deferral._compat import AirflowFailException, AirflowSkipException, TaskDeferred
from astronomer.deferral.in_triggerer import NeedsWorker
from astronomer.deferral.operator_trigger import OperatorTrigger
from astronomer.deferral.xcom_memory import SUBMITTED_BY, XCOM_KEY
from tests.unit.deferral.fakes import START, FakeTaskInstance, MemoryStore
from tests.unit.deferral.free import (
    ClaimingOperator,
    FreeOperator,
    PokeOperator,
    ShortOperator,
    WatchOperator,
    raises,
    shut_down,
)
from tests.unit.deferral.pokes import PokedService
from tests.worker_free import RUN


class TestOneLife:
    def test_submits_waits_and_finishes(self, free):
        assert free.result(free.task(what={"rows": [1, 2]})) == {"rows": [1, 2]}
        assert free.service.jobs == ["job-1"]
        assert 100 <= free.timeline.now - START <= 110

    def test_waits_for_no_worker_to_exit(self, free):
        free.script["runs_for"] = 0.0
        free.result(free.task())
        assert free.timeline.now - START < 3

    def test_what_starts_nothing_remembers_nothing(self, free):
        assert free.result(free.task(ShortOperator, what="{{ ds }}")) == "2026-01-01"
        assert not [message for message in free.airflow.messages if message.key == XCOM_KEY]

    def test_the_trigger_is_what_it_was_given(self, free):
        task = free.task()
        task.schedule()
        path, arguments = task.trigger().serialize()
        assert path == "astronomer.deferral.operator_trigger.OperatorTrigger"
        assert OperatorTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)

    def test_a_context_that_nobody_has_given_is_asked_for(self, free):
        task = free.task(ShortOperator, what="{{ ds }}")
        task.schedule()
        trigger = task.trigger()
        trigger.render_template_fields({})
        (event,) = free.timeline.run(lambda: _all(trigger))
        assert task.take(event).state == "success"
        assert free.airflow.pull("task") == "2026-01-01"

    def test_only_who_is_called_by_airflow_may_execute(self, free, lines):
        free.result(free.task())
        assert not [line for line in lines() if "cannot be called outside" in line]

    def test_a_sensor_looks_in_the_triggerer_only(self, free, lines):
        free.service.start("a", runs_for=50)
        assert free.run(free.task(WatchOperator, poke_interval=5)).state == "success"
        assert not free.service.submits
        assert 50 <= free.timeline.now - START <= 60


async def _all(trigger):
    return [event async for event in trigger.run()]


class TestResult:
    def test_is_pushed_once_and_not_encoded_twice(self, free):
        free.result(free.task(what={"a": {"b": 1}}))
        assert free.pushed("return_value") == [{"a": {"b": 1}}]

    def test_of_several_outputs(self, free):
        assert free.result(free.task(what={"a": 1, "b": 2}, multiple_outputs=True)) == {"a": 1, "b": 2}
        assert (free.airflow.pull("task", "a"), free.airflow.pull("task", "b")) == (1, 2)

    @pytest.mark.parametrize("what", [[1], {"a": 1}])
    def test_of_several_outputs_has_names(self, free, monkeypatch, what, lines):
        monkeypatch.setattr(FreeOperator, "finish", lambda *given: {1: 2} if isinstance(what, dict) else what)
        assert free.run(free.task(multiple_outputs=True)).state == "failed"
        assert any("dictionary" in line for line in lines())
        assert not free.pushed("return_value")

    @pytest.mark.parametrize("arguments", [{"do_xcom_push": False}, {"what": None}])
    def test_that_nobody_wants_is_not_pushed(self, free, arguments):
        assert free.result(free.task(**arguments)) is None
        assert not free.pushed("return_value")

    def test_that_others_are_mapped_over_has_its_length(self, free):
        assert free.result(self.mapped_over(free, what={"a": 1, "b": 2})) == {"a": 1, "b": 2}
        assert [one.mapped_length for one in free.airflow.of(SetXCom) if one.key == "return_value"] == [2]

    @pytest.mark.parametrize(
        "arguments", [{"what": None}, {"do_xcom_push": False}, {"what": "text"}, {"what": 5}]
    )
    def test_that_nobody_can_map_over_fails_the_task(self, free, arguments):
        assert free.run(self.mapped_over(free, **arguments)).state == "failed"
        assert not free.pushed("return_value")

    def test_of_a_mapped_task_is_of_any_kind(self, free):
        def make():
            task = FreeOperator.partial(**free.given(FreeOperator, {})).expand(what=["a", "b"])
            BaseOperator.partial(task_id="next").expand(doc=task.output)
            return task

        assert free.result(free.dag(make, map_index=1)) == "b"

    @staticmethod
    def mapped_over(free, **arguments):
        def make():
            task = FreeOperator(**free.given(FreeOperator, arguments))
            FreeOperator.partial(task_id="next", service="scripted").expand(what=task.output)
            return task

        return free.dag(make)

    def test_that_the_dag_returns_is_marked(self, free):
        def make():
            task = FreeOperator(**free.given(FreeOperator, {}))
            task.returns_dag_result = True
            return task

        free.result(free.dag(make))
        assert [one.dag_result for one in free.airflow.of(SetXCom) if one.key == "return_value"] == [True]

    def test_of_before_a_clear_is_deleted(self, free):
        assert free.result(free.task()) == "done"
        assert not free.airflow.of(DeleteXCom)
        cleared = free.task(what=None)
        cleared.try_number = 1
        assert free.result(cleared) is None
        assert [one.key for one in free.airflow.of(DeleteXCom)] == ["return_value"]


class TestTooLarge:
    @pytest.fixture(autouse=True)
    def _limit(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WORKER_FREE_RESULT_BYTES", "50")

    def test_up_to_the_limit_it_is_pushed(self, free):
        assert free.result(free.task(what="x" * 48)) == "x" * 48

    def test_a_worker_finishes_what_is_larger(self, free):
        task = free.task(what="x" * 49)
        ended = free.run(task)
        assert ended.state == "scheduled"
        assert "the result has 51 bytes, and the triggerer reads up to 50" in ended.resume["why"]
        assert not free.pushed("return_value")
        ti = PushingTaskInstance()
        assert task.parsed.resume_in_worker({"ti": ti}, json.loads(json.dumps(ended.resume))) == "x" * 49
        assert len(free.service.submits) == 1
        assert (ti.xcoms[XCOM_KEY]["ended"], ti.xcoms[XCOM_KEY]["settled"]) == (True, 0)

    def test_what_is_not_pushed_has_no_size(self, free):
        assert free.run(free.task(what="x" * 49, do_xcom_push=False)).state == "success"

    def test_a_retry_of_that_worker_goes_on_with_the_job(self, free, monkeypatch):
        task = free.task(what="x" * 49, retries=1)
        assert free.run(task).state == "scheduled"
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WORKER_FREE_RESULT_BYTES", "500")
        assert free.result(task) == "x" * 49
        assert len(free.service.jobs) == 1

    def test_a_task_without_a_memory_begins_anew_in_the_worker(self, free):
        task = free.task(ShortOperator, what="x" * 49)
        ended = free.run(task)
        assert list(ended.resume) == ["why"]
        assert task.parsed.resume_in_worker({"ti": PushingTaskInstance()}, ended.resume) == "x" * 49


class PushingTaskInstance(FakeTaskInstance):
    """That of a worker."""

    def __init__(self):
        super().__init__()
        self.xcoms = {}

    def xcom_push(self, key, value):
        self.xcoms[key] = value


class TestWorker:
    def test_goes_on_after_the_last_wait(self, free, monkeypatch):
        monkeypatch.setattr(WatchOperator, "settle", raises(NeedsWorker("rows")))
        free.service.start("a")
        task = free.task(WatchOperator)
        ended = free.run(task)
        assert ended.resume["resume"]["method"] == "execute_complete"
        monkeypatch.undo()
        assert task.parsed.resume_in_worker({"ti": PushingTaskInstance()}, ended.resume) is None

    def test_pokes_what_the_triggerer_cannot(self, free):
        assert free.run(free.task(PokeOperator, service="scripted", reason="for the rows")).resume == {
            "why": "poking for the rows",
        }

    def test_begins_where_not_even_the_operator_could_be_made(self, free, monkeypatch, lines):
        def init(self, **kwargs):
            raise NeedsWorker("a hook")

        task = free.task(ShortOperator)
        monkeypatch.setattr(ShortOperator, "__init__", init)
        assert free.run(task).resume == {"why": "a hook"}
        assert lines()[-1] == "A worker goes on: a hook"

    def test_goes_on_where_only_workers_have_the_operator(self, free, monkeypatch):
        task = free.task()
        monkeypatch.delattr("tests.unit.deferral.free.FreeOperator")
        why = free.run(task).resume["why"]
        assert why.startswith("this triggerer does not have tests.unit.deferral.free:FreeOperator")

    def test_goes_on_with_what_another_triggerer_has_begun(self, free, monkeypatch):
        """The one that has taken the trigger over does not have the operator; the job is not started twice."""
        free.script["runs_for"] = 1000.0
        task = free.task(quick_wait=0.01)
        task.schedule()
        shut_down(free, task, 50)
        with monkeypatch.context() as patch:
            patch.delattr("tests.unit.deferral.free.FreeOperator")
            ended = free.timeline.run(task.wait)
        assert free.timeline.now < START + 60
        context = {"ti": PushingTaskInstance(), "task_state_store": MemoryStore()}
        with pytest.raises(TaskDeferred) as deferred:
            task.parsed.resume_in_worker(context, json.loads(json.dumps(ended.resume)))
        assert deferred.value.trigger.job["job_id"] == "job-1"
        assert free.service.jobs == ["job-1"]

    def test_ends_first_what_was_begun_before_a_clear(self, free, monkeypatch):
        """The one that has the trigger after the clear does not have the operator."""
        free.script["runs_for"] = 1000.0
        task = free.task(quick_wait=0.01)
        task.schedule()
        shut_down(free, task, 50)
        task.schedule()
        with monkeypatch.context() as patch:
            patch.delattr("tests.unit.deferral.free.FreeOperator")
            ended = free.timeline.run(task.wait)
        context = {"ti": PushingTaskInstance(), "task_state_store": MemoryStore()}
        with pytest.raises(TaskDeferred) as deferred:
            task.parsed.resume_in_worker(context, json.loads(json.dumps(ended.resume)))
        assert deferred.value.trigger.job["job_id"] == "job-2"
        assert free.service.cancels == ["job-1"]
        with pytest.raises(TaskDeferred) as deferred:  # handed over again: what the worker has begun is newer
            task.parsed.resume_in_worker(context, json.loads(json.dumps(ended.resume)))
        assert deferred.value.trigger.job["job_id"] == "job-2"
        context["ti"].max_tries += 1  # cleared again, and the XCom still has the first one
        with pytest.raises(TaskDeferred) as deferred:
            task.parsed.resume_in_worker(context, json.loads(json.dumps(ended.resume)))
        assert deferred.value.trigger.job["job_id"] == "job-3"
        assert set(free.service.cancels) == {"job-1", "job-2"}

    def test_lets_a_submit_of_another_triggerer_arrive_and_takes_its_claim(self, free, monkeypatch):
        task = free.task(ClaimingOperator)
        task.schedule()
        place = (RUN, "task", -1, XCOM_KEY)
        claimed = {"generation": -1, "sequence": 0, "submit_key": "key", "try_number": 1, "owner": "other"}
        free.airflow.xcoms[place] = claimed
        seen = []

        async def main():
            waiting = asyncio.ensure_future(task.wait())
            await asyncio.sleep(5)
            seen.append(free.airflow.xcoms[place]["owner"])
            free.airflow.xcoms[place] |= {"job": {"job_id": "job-9"}}
            return await waiting

        with monkeypatch.context() as patch:
            patch.delattr("tests.unit.deferral.free.ClaimingOperator")
            ended = free.timeline.run(main)
        assert seen != ["other"]
        assert free.timeline.now - START >= SUBMITTED_BY
        assert ended.resume["begun"]["attempt"]["job"] == {"job_id": "job-9"}

    def test_goes_on_where_the_triggerer_has_an_older_release(self, free, monkeypatch):
        task = free.task(what=("a",))
        monkeypatch.delitem(recipe._MAKERS, "tuple")
        assert free.run(task).resume == {
            "why": "it was written by another release of this package, which knows of `tuple`"
        }

    def test_before_the_submit_nothing_is_remembered(self, free, monkeypatch):
        monkeypatch.setattr(FreeOperator, "prepare", raises(NeedsWorker("a file")))
        ended = free.run(free.task())
        assert ended.resume == {"why": "a file"}
        assert not free.airflow.of(SetXCom)


class TestFailure:
    def test_of_the_job_fails_the_task(self, free, lines):
        free.script |= {"ends": "failed", "message": "no such table"}
        assert free.run(free.task()).state == "failed"
        (said,) = [line for line in lines() if line.startswith("Task failed")]
        assert said.startswith("Task failed: JobFailed: ")
        assert "no such table" in said

    def test_is_retried(self, free):
        free.script |= {"ends": "failed"}
        task = free.task(retries=1)
        assert [free.run(task).state, free.run(task).state] == ["up_for_retry", "failed"]
        assert len(free.service.jobs) == 2

    def test_for_good_is_left_to_a_worker_where_there_are_retries(self, free, monkeypatch):
        monkeypatch.setattr(FreeOperator, "prepare", raises(AirflowFailException("bad input")))
        task = free.task(retries=1)
        ended = free.run(task)
        assert (ended.state, ended.resume) == ("scheduled", {"fail": "bad input", "resume": None})
        with pytest.raises(AirflowFailException, match="bad input"):
            task.parsed.resume_in_worker({}, ended.resume)

    @pytest.mark.parametrize("kind", [FreeOperator, WatchOperator, PokeOperator])
    def test_for_good_is_told_with_what_was_seen(self, free, monkeypatch, kind):
        free.script["runs_for"] = 10
        free.service.start("a", runs_for=1000)
        PokedService("poked").answers = [False] * 1000
        monkeypatch.setattr(FreeOperator, "finish", raises(AirflowFailException("its result is gone")))
        given = {"service": "poked"} if kind is PokeOperator else {}
        limit = {} if kind is FreeOperator else {"timeout": 100}
        task = free.task(kind, retries=1, **given, **limit)
        ended = free.run(task)
        assert ended.state == "scheduled"
        with pytest.raises(AirflowFailException):
            task.parsed.resume_in_worker({}, json.loads(json.dumps(ended.resume)))
        job, status = task.parsed.last_seen()
        assert job.job_id
        assert status.phase is (Phase.ACTIVE if kind is WatchOperator else Phase.SUCCEEDED)

    def test_for_good_before_a_poke_has_begun_is_told_without_one(self, free):
        PokedService("poked").weather_at_start = [Transient("reset")] * 1000
        task = free.task(PokeOperator, service="poked", retries=1, timeout=100)
        ended = free.run(task)
        with pytest.raises(AirflowFailException):
            task.parsed.resume_in_worker({}, ended.resume)
        assert task.parsed.last_seen() is None

    def test_for_good_of_a_short_one_has_nothing_more_to_tell(self, free, monkeypatch):
        task = free.task(ShortOperator, retries=1)
        event = {"fail": "no", "resume": {"method": "execute_complete", "event": {}}}
        with pytest.raises(AirflowFailException, match="no"):
            task.parsed.resume_in_worker({}, event)

    def test_for_good_fails_at_once_where_there_are_none(self, free, monkeypatch):
        monkeypatch.setattr(FreeOperator, "prepare", raises(AirflowFailException("bad input")))
        assert free.run(free.task()).state == "failed"

    @pytest.mark.parametrize(("error", "trace"), [(RuntimeError("bug"), True), (ValueError("input"), False)])
    def test_that_is_a_defect_has_its_trace(self, free, monkeypatch, error, trace):
        monkeypatch.setattr(FreeOperator, "prepare", raises(error))
        with capture_logs() as found:
            assert free.run(free.task()).state == "failed"
        (said,) = [line for line in found if line["event"].startswith("Task failed")]
        assert bool(said["exc_info"]) is trace

    def test_in_a_template_fails_the_task(self, free):
        assert free.run(free.task(what="{{ nothing.at.all }}")).state == "failed"
        assert not free.service.submits

    def test_where_not_even_the_operator_can_be_made(self, free, monkeypatch):
        def init(self, **kwargs):
            raise ValueError("not so")

        task = free.task(ShortOperator)
        monkeypatch.setattr(ShortOperator, "__init__", init)
        assert free.run(task).state == "failed"


class TestSkip:
    def test_is_one(self, free, monkeypatch, lines):
        monkeypatch.setattr(FreeOperator, "finish", raises(AirflowSkipException("nothing to do")))
        assert free.run(free.task()).state == "skipped"
        assert "Skipping the task: nothing to do" in lines()

    @pytest.mark.parametrize(("soft_fail", "state"), [(True, "skipped"), (False, "failed")])
    def test_of_a_sensor_that_fails_softly(self, free, soft_fail, state):
        free.service.start("a", runs_for=10, ends=Phase.FAILED)
        assert free.run(free.task(WatchOperator, soft_fail=soft_fail)).state == state

    @pytest.mark.parametrize(("soft_fail", "state"), [(True, "skipped"), (False, "failed")])
    def test_of_a_sensor_whose_time_is_up(self, free, soft_fail, state, lines):
        free.service.start("a", runs_for=1000)
        task = free.task(WatchOperator, soft_fail=soft_fail, timeout=100)
        assert free.run(task).state == state
        assert any(("has timed out" if state == "failed" else "soft_fail") in line for line in lines())
        assert 100 <= free.timeline.now - START <= 120

    def test_the_sooner_limit_of_a_sensor_counts(self, free, lines):
        free.service.start("a", runs_for=1000)
        limit = timedelta(seconds=50)
        assert free.run(free.task(WatchOperator, timeout=100, execution_timeout=limit)).state == "failed"
        assert any("JobTimedOut" in line for line in lines())
        assert free.timeline.now - START < 50
