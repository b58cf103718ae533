"""A job is not forgotten with its trigger: what one triggerer leaves behind, the next one ends when its task is over."""

import asyncio
import json
import os
import stat
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from astronomer.deferral import Transient, _compat, clock
from astronomer.deferral import ledger as ledgers
from astronomer.deferral.ledger import ALIVE, FIRST_LOOK, FORGOTTEN, Line
from astronomer.deferral.testing import FakeClock, ScriptedJob, ScriptedTrigger
from tests.unit.deferral.fakes import START, FakeAirflow, FakeTaskInstance, events_of, let
from tests.unit.deferral.pokes import PokedService, ScriptedPokes

MINUTES = 600.0


@dataclass(frozen=True)
class Beginning(ScriptedJob):
    """Of a job only its start is waited for, as of a workflow's run."""

    @property
    def whole(self):
        return ScriptedJob(self.job_id.removeprefix("start-of-"), self.service)


@pytest.fixture
def airflow():
    with FakeAirflow().in_place() as found:
        yield found


class Pages:
    """What is on the disk, once all that was to be written is."""

    @property
    def folder(self):
        done = threading.Event()
        ledgers._disk.do(done.set)
        done.wait(60)
        return _compat.waits_folder()

    def add(self, line, at=START):
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / line.file
        path.write_text(json.dumps(vars(line)))
        os.utime(path, (at, at))

    def lines(self):
        return [Line(**json.loads(path.read_text())) for path in self.folder.glob("*.json")]


@pytest.fixture
def ledger(airflow):
    return Pages()


def task(task_id="a"):
    found = FakeTaskInstance()
    found.task_id = task_id
    return found


def trigger(service, task_id="a", **options):
    found = ScriptedTrigger(job=service.start(f"job-{task_id}", **{"runs_for": 1e6, **options}).to_dict())
    found.task_instance = task(task_id)
    return found


def lines(ledger):
    return sorted(one.task_id for one in ledger.lines())


async def killed(found):
    """What SIGKILL leaves of a trigger: nobody has been told anything."""
    waiting = asyncio.ensure_future(events_of(found))
    await asyncio.sleep(5)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def after(seconds, *killed_before, beside, then=lambda: None):
    """Kill some triggers, do something, and let another one wait for a while."""

    async def main():
        for one in killed_before:
            await killed(one)
        then()
        waiting = asyncio.ensure_future(events_of(beside))
        await asyncio.sleep(seconds)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    FakeClock(START).run(main)


class TestNotes:
    def test_a_wait_leaves_a_line_as_long_as_it_lasts(self, service, ledger, airflow):
        async def main():
            waiting = asyncio.ensure_future(events_of(trigger(service, runs_for=20)))
            await asyncio.sleep(1)
            during = ledger.lines()
            await waiting
            return during

        [line] = FakeClock(START).run(main)
        assert line.remote_job() == ScriptedJob("job-a")
        assert (line.dag_id, line.task_id) == (task().dag_id, "a")
        assert lines(ledger) == []

    def test_a_defect_leaves_none(self, service, ledger, airflow):
        """Its task is told that the job may still be running, and its retry finds it."""

        class Broken(ScriptedTrigger):
            async def wait(self):
                raise KeyError("odd")

        found = Broken(job=service.start("job-a", runs_for=1e6).to_dict())
        found.task_instance = task()
        after(1, found, beside=trigger(service, "b"))
        assert lines(ledger) == ["b"]

    def test_a_disk_that_hangs_holds_up_no_wait(self, service, ledger, airflow, monkeypatch):
        monkeypatch.setattr(ledgers, "HANGS", 0.01)
        hangs = threading.Event()
        ledgers._disk.do(lambda: hangs.wait(20))
        try:
            assert len(FakeClock(START).run(lambda: events_of(trigger(service, runs_for=500)))) == 1
        finally:
            hangs.set()

    def test_only_its_owner_can_read_it(self, service, ledger, airflow):
        after(1, trigger(service), beside=trigger(service, "b"))
        [path] = [path for path in ledger.folder.iterdir() if "job-a" in path.read_text()]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(ledger.folder.stat().st_mode) == 0o700

    def test_a_trigger_that_moves_leaves_it(self, service, ledger, airflow):
        after(1, trigger(service), beside=trigger(service, "b"))
        assert lines(ledger) == ["a", "b"]

    def test_a_user_who_ends_the_task_takes_it_out(self, service, ledger, airflow):
        found = trigger(service)

        async def main():
            await killed(found)
            airflow.states["a"] = "failed"
            await found.on_kill()

        FakeClock(START).run(main)
        assert service.cancels == ["job-a"]
        assert lines(ledger) == []

    def test_it_stays_when_the_end_of_the_job_is_not_confirmed(self, service, ledger, airflow):
        found = trigger(service, obeys_cancel=False)

        async def main():
            await killed(found)
            airflow.states["a"] = "failed"
            await found.on_kill()
            await asyncio.sleep(MINUTES + 60)

        FakeClock(START).run(main)
        assert set(service.cancels) == {"job-a"}
        assert lines(ledger) == ["a"]

    def test_it_stays_when_the_end_was_not_confirmed_at_the_deadline(self, service, ledger, airflow):
        """A thousand deadlines at once are more than a vendor lets cancel in a minute."""
        found = trigger(service, obeys_cancel=False)
        found.deadline, airflow.states["a"] = START + 10, "up_for_retry"
        FakeClock(START).run(lambda: events_of(found))
        assert lines(ledger) == ["a"]

    def test_it_stays_as_long_as_one_of_two_waits_for_the_job(self, service, ledger, airflow):
        """As when a trigger comes back before its predecessor has gone."""

        async def main():
            old, new = trigger(service), trigger(service)
            waiting = [asyncio.ensure_future(events_of(one)) for one in (old, new)]
            await asyncio.sleep(1)
            waiting[0].cancel()
            await asyncio.gather(waiting[0], return_exceptions=True)
            airflow.states["a"] = "failed"
            await asyncio.sleep(MINUTES)
            return list(service.cancels)

        assert FakeClock(START).run(main) == []

    def test_two_triggerers_write_the_same_line(self, service):
        job = ScriptedJob("job-a")
        first = Line.of(job, task())
        assert first.file == Line.of(job, task()).file
        assert Line.of(ScriptedJob("job-b"), task()).file != first.file
        assert Line.of(job, task("b")).file != first.file

    @pytest.mark.parametrize("without", ["task_instance", "cancel_on_kill"])
    def test_what_no_user_can_end_is_not_noted(self, service, ledger, airflow, without):
        found = trigger(service)
        setattr(found, without, None)
        after(1, found, beside=trigger(service, "b"))
        assert lines(ledger) == ["b"]

    def test_a_wait_in_a_worker_is_not_noted(self, service, monkeypatch):
        assert _compat.waits_folder() is None
        after(1, beside=trigger(service, runs_for=0.5))

    def test_a_folder_that_cannot_be_written_is_named_once_and_costs_no_wait(
        self, service, airflow, monkeypatch, tmp_path, caplog
    ):
        (tmp_path / "file").touch()
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WAITS_FOLDER", str(tmp_path / "file" / "waits"))

        async def main():
            return [await events_of(trigger(service, name, runs_for=50)) for name in "ab"]

        assert [len(events) for events in FakeClock(START).run(main)] == [1, 1]
        said = [one.getMessage() for one in caplog.records if "cannot be kept" in one.getMessage()]
        assert len(said) == 1
        assert "waits_folder" in said[0]


class TestForgotten:
    @pytest.mark.parametrize("state", ["failed", "success", "skipped", None])
    def test_the_job_of_a_task_that_is_over_is_ended(self, service, ledger, airflow, state, caplog):
        airflow.states |= {"a": "deferred", "b": "deferred"}

        def user():
            del airflow.states["a"]
            if state:
                airflow.states["a"] = state

        after(MINUTES, trigger(service), beside=trigger(service, "b"), then=user)
        assert service.cancels == ["job-a"]
        assert lines(ledger) == ["b"]
        assert (
            "scripted job job-a was left behind when dag.a of run was ended, and is cancelled" in caplog.text
        )

    @pytest.mark.parametrize("state", ["deferred", "running", "queued", "up_for_retry"])
    def test_the_job_of_a_task_that_goes_on_is_left_alone(self, service, ledger, airflow, state):
        airflow.states |= {"a": state, "b": "deferred"}
        after(MINUTES, trigger(service), beside=trigger(service, "b"))
        assert service.cancels == []
        assert lines(ledger) == ["a", "b"]

    def test_of_one_that_goes_on_elsewhere_airflow_is_asked_ever_more_rarely(self, service, ledger, airflow):
        """A triggerer that comes back may find a thousand lines of tasks that another one has taken over."""
        airflow.states |= {"a": "deferred", "b": "deferred"}
        after(FORGOTTEN, trigger(service), beside=trigger(service, "b"))
        assert 4 <= len([one for one in airflow.questions if one.states is not None]) <= 12

    def test_the_poke_of_a_sensor_too(self, service, ledger, airflow):
        poked = PokedService("poked", script=[{"runs_for": 1e6}])
        poke = ScriptedPokes(job={"job_id": "", "service": "poked"}, next_poke=START)
        poke.task_instance = task()
        airflow.states |= {"a": "failed", "b": "deferred"}
        after(MINUTES, poke, beside=trigger(service, "b"))
        assert poked.cancels == ["poke-1"]
        assert lines(ledger) == ["b"]

    def test_an_airflow_that_does_not_answer_is_asked_as_often_as_ever(
        self, service, ledger, airflow, monkeypatch
    ):
        send, silent_until = airflow.send, START + 400

        def silent(question):
            if clock.now() < silent_until:
                raise RuntimeError("no answer")
            return send(question)

        monkeypatch.setattr(airflow, "send", silent)
        airflow.states |= {"a": "failed", "b": "deferred"}
        after(MINUTES, trigger(service), beside=trigger(service, "b"))
        assert service.cancels == ["job-a"]
        assert service.status("job-a").ended_at < silent_until + 70

    @pytest.mark.parametrize("answer", [RuntimeError("no"), SimpleNamespace()])
    def test_without_airflows_word_nothing_is_ended(self, service, ledger, airflow, answer):
        airflow.answer = answer
        after(MINUTES, trigger(service), beside=trigger(service, "b"))
        assert service.cancels == []
        assert lines(ledger) == ["a", "b"]

    def test_a_trigger_that_comes_back_is_not_a_stranger(self, service, ledger, airflow):
        """Its task may have ended a moment ago, with the event on its way."""
        airflow.states["a"] = "success"
        after(MINUTES, trigger(service), beside=trigger(service))
        assert service.cancels == []

    def test_nothing_is_ended_before_the_triggers_can_have_come_back(self, service, ledger, airflow):
        airflow.states |= {"a": "failed", "b": "deferred"}
        after(FIRST_LOOK - 1, trigger(service), beside=trigger(service, "b"))
        assert service.cancels == []
        assert airflow.questions == []

    def test_a_job_that_has_ended_by_itself_takes_its_line_out(self, service, ledger, airflow, caplog):
        airflow.states |= {"a": "success", "b": "deferred"}
        after(MINUTES, trigger(service, runs_for=10), beside=trigger(service, "b"))
        assert lines(ledger) == ["b"]
        assert service.cancels == []
        assert "left behind" not in caplog.text

    @pytest.mark.parametrize(
        ("state", "cancels"),
        [("failed", ["job-x"]), (None, ["job-x"]), ("skipped", ["job-x"]), ("success", [])],
    )
    def test_what_has_begun_meanwhile_is_ended_unless_its_task_succeeded_by_it(
        self, service, ledger, airflow, state, cancels
    ):
        """A launch was marked as failed while its run was in a queue, and nobody told it that it must not begin."""
        service.start("start-of-job-x")
        service.start("job-x", runs_for=1e6)
        ledger.add(Line.of(Beginning("start-of-job-x"), task("x")))
        airflow.states |= {"b": "deferred"} | ({"x": state} if state else {})
        after(MINUTES, beside=trigger(service, "b"))
        assert service.cancels == cancels
        assert lines(ledger) == ["b"]

    def test_without_airflows_word_on_success_it_is_looked_at_again(
        self, service, ledger, airflow, monkeypatch
    ):
        send = airflow.send

        def silent(question):
            if question.states == ["success"] and len(airflow.questions) < 10:
                airflow.questions.append(question)
                raise RuntimeError("no answer")
            return send(question)

        monkeypatch.setattr(airflow, "send", silent)
        airflow.states |= {"a": "success", "b": "deferred"}
        after(MINUTES, trigger(service, runs_for=10), beside=trigger(service, "b"))
        assert len([one for one in airflow.questions if one.states == ["success"]]) > 2
        assert service.cancels == []
        assert lines(ledger) == ["b"]

    @pytest.mark.parametrize("last", ["failed", "success"])
    def test_a_clear_whose_next_try_never_comes_to_the_job_leaves_it_to_be_ended(
        self, service, ledger, airflow, last
    ):
        """The trigger leaves the job to the next try, which is marked before it has begun."""
        found = trigger(service)
        airflow.states["b"] = "deferred"

        async def main():
            await killed(found)
            airflow.states["a"] = "queued"
            await found.on_kill()
            assert not service.cancels
            airflow.states["a"] = last
            waiting = asyncio.ensure_future(events_of(trigger(service, "b")))
            await asyncio.sleep(MINUTES)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

        FakeClock(START).run(main)
        assert service.cancels == ["job-a"]
        assert lines(ledger) == ["b"]

    def test_a_job_that_cannot_be_asked_is_looked_at_again(self, service, ledger, airflow):
        airflow.states |= {"a": "failed", "b": "deferred"}

        def storm():
            service.weather = [Transient("503")] * 6

        after(MINUTES, trigger(service), beside=trigger(service, "b"), then=storm)
        assert service.cancels == ["job-a"]
        assert lines(ledger) == ["b"]

    def test_one_whose_end_is_not_confirmed_is_asked_again(self, service, ledger, airflow):
        airflow.states |= {"a": "failed", "b": "deferred"}
        after(MINUTES, trigger(service, obeys_cancel=False), beside=trigger(service, "b"))
        assert len(service.cancels) > 1
        assert lines(ledger) == ["a", "b"]

    @pytest.mark.parametrize("job_type", ["no.module:Job", "json:JSONDecoder", "json:Missing", "nonsense"])
    def test_a_line_of_another_release_is_named_and_taken_out(
        self, service, ledger, airflow, job_type, caplog
    ):
        line = replace(Line.of(ScriptedJob("job-x"), task("x")), job_type=job_type)
        ledger.add(line)
        airflow.states |= {"x": "failed", "b": "deferred"}
        after(MINUTES, beside=trigger(service, "b"))
        assert lines(ledger) == ["b"]
        assert "A forgotten job of dag.x of run cannot be ended: " in caplog.text

    def test_what_is_no_line_is_passed_over(self, service, ledger, airflow):
        ledger.folder.mkdir(parents=True)
        (ledger.folder / "a.json").write_text("no JSON")
        (ledger.folder / "b.json").write_text('{"of": "another release"}')
        airflow.states |= {"a": "failed", "b": "deferred"}
        after(MINUTES, trigger(service), beside=trigger(service, "b"))
        assert service.cancels == ["job-a"]

    def test_a_line_that_is_too_old_is_taken_out(self, service, ledger, airflow):
        """Somebody may have taken the job up by hand since."""
        airflow.states |= {"x": "failed", "b": "deferred"}
        ledger.add(Line.of(service.start("job-x", runs_for=1e9), task("x")), START - FORGOTTEN)
        after(MINUTES, beside=trigger(service, "b"))
        assert lines(ledger) == ["b"]
        assert service.cancels == []

    def test_a_line_of_a_neighbour_that_is_alive_costs_no_question(self, service, ledger, airflow):
        airflow.states["b"] = "deferred"
        ledger.add(Line.of(service.start("job-x", runs_for=1e9), task("x")), START + MINUTES)
        after(MINUTES, beside=trigger(service, "b"))
        assert airflow.questions == []
        assert service.cancels == []

    def test_a_long_wait_stays_alive_for_its_neighbours(self, service, ledger, airflow):
        airflow.states["b"] = "deferred"
        after(4 * FORGOTTEN, beside=trigger(service, "b"))
        [path] = ledger.folder.iterdir()
        assert START + 4 * FORGOTTEN - path.stat().st_mtime < ALIVE

    def test_another_airflow_has_a_folder_of_its_own(self, service, ledger, airflow, monkeypatch):
        first = _compat.waits_folder()
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://another")
        second = _compat.waits_folder()
        assert first != second
        assert first.parent == second.parent

    def test_one_line_that_cannot_be_settled_does_not_hold_up_the_others(self, service, ledger, airflow):
        airflow.states |= dict.fromkeys("acdefghijklm", "failed") | {"b": "deferred"}
        forgotten = [trigger(service, name) for name in "cdefghijklm"]
        ledger.add(replace(Line.of(ScriptedJob("job-a"), task("a")), job_type="nonsense"))
        after(MINUTES, *forgotten, beside=trigger(service, "b"))
        assert sorted(service.cancels) == [f"job-{name}" for name in "cdefghijklm"]

    def test_nobody_looks_any_more_when_nobody_waits(self, service, ledger, airflow):
        async def main():
            await killed(trigger(service))
            airflow.states["a"] = "failed"
            await let(20)
            await asyncio.sleep(MINUTES)
            return [one for one in asyncio.all_tasks() if "_look_for_ever" in repr(one)]

        assert FakeClock(START).run(main) == []
        assert service.cancels == []
