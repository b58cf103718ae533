"""The laws, for tasks that no worker runs. Each is proved over every family."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from airflow.sdk.serde import deserialize, serialize

from astronomer.deferral import Phase
from tests.contract.driving import Task
from tests.contract.free import FREE_FAMILIES, FreeTask
from tests.contract.scripted import ScriptedWorld
from tests.contract.test_laws import without_ids
from tests.contract.world import FOREVER, WEATHER
from tests.worker_free import Killed


@pytest.fixture(params=FREE_FAMILIES, ids=repr)
def family(request):
    """Each family in turn."""
    return request.param


def as_xcom(result):
    """What another task pulls of it."""
    return deserialize(json.loads(json.dumps(serialize(result))))


class TestOnce:
    """1. One attempt starts one job, whatever is killed when."""

    def test_a_triggerer_dies_and_another_goes_on(self, world):
        task = FreeTask(world, FOREVER)
        task.stopped(lambda: bool(world.started))
        task.stopped(lambda: bool(world.polls))
        world.finish(*world.started)
        assert task.go_on().state == "success"
        assert len(world.started) == 1

    def test_it_dies_when_the_job_has_just_been_started(self, world, monkeypatch):
        monkeypatch.setattr("astronomer.deferral.operator_trigger.SUBMITTED_BY", 2.0 * world.beat)
        monkeypatch.setattr("astronomer.deferral.xcom_memory.SUBMITTED_BY", 2.0 * world.beat)
        task = FreeTask(world, 3.0)

        def dies(message):
            if world.started:
                raise Killed

        task.airflow.before = dies
        with pytest.raises(Killed):
            task.live()
        task.airflow.before = lambda message: None
        assert task.go_on().state == "success"
        assert len(world.started) == 1

    def test_a_retry_starts_the_next_job_after_a_failure(self, world):
        task = FreeTask(world, 1.0, fails=True, retries=1)
        assert [task.live().state, task.live().state] == ["up_for_retry", "failed"]
        assert len(world.started) == 2

    def test_a_clear_after_a_success_starts_another(self, world):
        task = FreeTask(world, 1.0)
        assert [task.live().state, task.live().state] == ["success", "success"]
        assert len(world.started) == 2

    def test_a_clear_of_a_wait_ends_the_job_and_starts_another(self, world):
        task = FreeTask(world, FOREVER)
        task.stopped(lambda: bool(world.started), deferred=0)
        (first,) = world.started
        task.task.schedule()
        task.stopped(lambda: len(world.started) == 2)
        assert world.phase(first) is Phase.CANCELLED
        assert world.running == world.started[1:]


class TestOneOutcome:
    """2. Every way ends in the same settle."""

    def test_the_result_is_that_of_a_worker(self, world):
        task = FreeTask(world, 1.0)
        assert task.live().state == "success"
        in_worker = Task(world, 1.0).live()
        assert without_ids(task.result, world) == without_ids(as_xcom(in_worker), world)

    def test_so_is_the_error(self, world):
        task, in_worker = FreeTask(world, 1.0, fails=True), Task(world, 1.0, fails=True)
        assert task.live().state == "failed"
        with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it is
            in_worker.live()
        assert f"Task failed: {caught.type.__name__}: " in task.said


class TestWeather:
    """3. Bad weather costs patience, not the task."""

    @pytest.mark.parametrize("kind", WEATHER)
    def test_while_it_waits(self, world, kind):
        task = FreeTask(world, FOREVER)
        task.stopped(task.knows_its_job)
        world.weather(kind, times=3)
        world.finish(*world.started)
        assert task.go_on().state == "success", task.said
        assert len(world.started) == 1

    def test_an_outage_that_lasts_fails_the_task_and_a_retry_finds_the_job(self, world):
        task = FreeTask(world, FOREVER, outage_tolerance=4.0 * world.beat, retries=1)
        task.stopped(task.knows_its_job)
        world.weather("unavailable", times=None)
        assert task.go_on().state == "up_for_retry"
        world.clear_up()
        (job_id,) = world.started
        assert job_id in task.said
        task.task.schedule()
        world.forget()
        task.stopped(lambda: bool(world.polls))
        world.finish(job_id)
        assert task.go_on().state == "success"
        assert world.started == [job_id]

    def test_the_answer_to_a_submit_is_lost(self, world):
        task = FreeTask(world, 2.0)
        world.lose_the_answer()
        assert task.live().state == "success"
        assert len(world.started) == 1


class TestDeadline:
    """4. At the deadline, which no restart renews, the job is cancelled, and the task fails with a timeout."""

    def test_the_job_ends_and_the_task_times_out(self, world):
        virtual = isinstance(world, ScriptedWorld)
        beats = 8 if virtual else 1000
        task = FreeTask(world, FOREVER, execution_timeout=timedelta(seconds=beats * world.beat))
        task.stopped(task.knows_its_job)
        ends_at = task.task.timeout_after.timestamp()
        assert task.memory["deadline"] < ends_at
        if not virtual:
            task.memory["deadline"] = world.now() + world.beat
        ended = task.go_on()
        assert ended.state == "failed"
        assert "did not end before the task's execution_timeout; it was cancelled" in task.said
        assert [world.phase(job_id) for job_id in world.started] == [Phase.CANCELLED]
        assert world.now() <= ends_at


class TestCancelOnlyYourOwn:
    """5. A user's action cancels; a shutdown or a reassignment never does."""

    @pytest.mark.parametrize(("deferred", "phase"), [(None, "active"), (1, "active"), (0, "cancelled")])
    def test_who_ends_it(self, world, deferred, phase):
        task = FreeTask(world, FOREVER)
        task.stopped(lambda: bool(world.started), deferred=deferred)
        assert [world.phase(job_id) for job_id in world.started] == [Phase(phase)]


class TestQuiet:
    """7. A line when the state changes, and none per poll."""

    def test_a_life_of_many_polls_says_little(self, world):
        task = FreeTask(world, 12.0)
        assert task.live().state == "success"
        own = [line for line in task.log if line]
        assert len(own) <= 12, own


class TestPlainJson:
    """8. Only plain JSON crosses, and no secret."""

    def test_all_that_is_stored_or_sent(self, world):
        task = FreeTask(world, 1.0)
        ended = task.live()
        stored = json.dumps([task.task._data, ended.event.model_dump(mode="json")], allow_nan=False)
        xcoms = json.dumps(list(task.airflow.xcoms.values()), allow_nan=False)
        for secret in world.secrets:
            assert secret not in stored + xcoms + task.said


class TestUnknownStates:
    """10. A state that no release knows is active."""

    def test_the_wait_goes_on(self, world):
        task = FreeTask(world, FOREVER)
        task.stopped(task.knows_its_job)
        known_again = world.report_unknown_state(world.started[0])
        world.forget()
        task.stopped(lambda: bool(world.polls))
        known_again()
        world.finish(*world.started)
        assert task.go_on().state == "success"
