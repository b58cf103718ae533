"""The file sensor's life: one look in the worker, then the triggerer, and one end; on a clock that jumps."""

import asyncio
import json
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.providers.standard.sensors.filesystem import FileSensor as StockFileSensor
from airflow.sdk import DAG
from structlog.testing import capture_logs

from astronomer.deferral import Hub, JobLost, JobTimedOut, Transient, clock
from astronomer.deferral._compat import (
    AirflowException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
    AirflowSkipException,
)
from astronomer.providers.core.jobs import files
from astronomer.providers.core.jobs.files import FilePoller, FileWait
from astronomer.providers.core.sensors.filesystem import FileSensor, FileSensorAsync
from astronomer.providers.core.triggers.filesystem import FileTrigger
from tests.unit.deferral.fakes import (
    START,
    Count,
    FakeSupervisor,
    FakeTaskInstance,
    Timeline,
    deferred,
    events_of,
    let,
    reason_of_end,
    revived,
)

USER = "__airflow_user_action__"


@pytest.fixture
def timeline():
    """A time that only waiting moves, in place of the machine's."""
    with Timeline().in_place() as line:
        yield line


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The path of the connection ``fs_default``."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_FS_DEFAULT", json.dumps({"conn_type": "fs", "extra": {"path": str(tmp_path)}})
    )
    return tmp_path


@pytest.fixture
def lines():
    """What is said at INFO or above."""
    with capture_logs() as found:
        yield lambda: [line["event"] for line in found if line["log_level"] != "debug"]


class World:
    """One task, and the files it waits for."""

    def __init__(self, timeline, base):
        self.timeline = timeline
        self.base = base
        self.sensor = self.trigger = self.event = None

    def make(self, filepath="orders/*.csv", **arguments):
        self.sensor = FileSensor(task_id="wait", filepath=filepath, **arguments)
        return self.sensor

    def defer(self, *arguments, **more):
        sensor = self.make(*arguments, **more)
        self.trigger = deferred(lambda: sensor.execute({}))
        return self.trigger

    def wait(self, *happenings):
        """Wait as the triggerer does, while things happen: pairs of a moment and a call."""

        async def main():
            tasks = [asyncio.ensure_future(self._later(*one)) for one in happenings]
            try:
                return await events_of(self.trigger)
            finally:
                for task in tasks:
                    task.cancel()

        (self.event,) = self.timeline.run(main)
        return self.event

    @staticmethod
    async def _later(seconds, call):
        await asyncio.sleep(seconds)
        call()

    def resume(self):
        """As Airflow's task runner does it."""
        return self.sensor.resume_execution("execute_complete", {"event": self.event}, {})

    def touch(self, name="orders/a.csv"):
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def world(timeline, base):
    return World(timeline, base)


class TestArguments:
    def test_are_those_of_the_stock_sensor(self):
        sensor = FileSensor(
            task_id="wait",
            filepath="a",
            fs_conn_id="other",
            recursive=True,
            deferrable=False,
            start_from_trigger=True,
            trigger_kwargs={"filepath": "b"},
            poke_interval=30,
            timeout=100,
            soft_fail=True,
            mode="reschedule",
            exponential_backoff=True,
            max_wait=60,
            silent_fail=True,
        )
        assert isinstance(sensor, StockFileSensor)
        assert FileSensor.template_fields == StockFileSensor.template_fields == ("filepath", "fs_conn_id")
        assert (sensor.filepath, sensor.fs_conn_id, sensor.recursive) == ("a", "other", True)
        assert (sensor.poke_interval, sensor.timeout, sensor.mode) == (30, 100, "reschedule")

    def test_have_the_defaults_of_1_x(self):
        sensor = FileSensorAsync(task_id="wait", filepath="a")
        assert isinstance(sensor, FileSensor)
        assert (sensor.deferrable, sensor.poke_interval, sensor.fs_conn_id) == (True, 5.0, "fs_default")

    def test_come_from_the_defaults_of_a_dag(self):
        with DAG("dag", schedule=None, default_args={"fs_conn_id": "other", "start_from_trigger": True}):
            sensor = FileSensor(task_id="wait", filepath="a")
        assert (sensor.fs_conn_id, sensor.start_from_trigger) == ("other", True)

    def test_filepath_is_needed(self):
        with pytest.raises((TypeError, AirflowException), match="filepath"):
            FileSensor(task_id="wait")

    def test_parsing_a_dag_reads_no_connection(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
        monkeypatch.setattr(FileSensor, "path", property(lambda self: pytest.fail("read")))
        with DAG("dag", schedule=None):
            sensor = FileSensor(task_id="wait", filepath="a", start_from_trigger=True)
            partial = FileSensor.partial(task_id="mapped", start_from_trigger=True)
            mapped = partial.expand(filepath=["a", "b"])
        assert (sensor.start_from_trigger, mapped.start_from_trigger) == (True, True)

    def test_templates_are_rendered_before_the_connection_is_read(self, world):
        sensor = world.make(filepath="{{ name }}.csv", fs_conn_id="fs_{{ conn }}")
        sensor.render_template_fields({"name": "orders", "conn": "default"})
        assert deferred(lambda: sensor.execute({})).job["path"] == f"{world.base}/orders.csv"


class TestInTheWorker:
    def test_what_is_there_needs_no_triggerer(self, world, lines):
        world.touch()
        assert world.make().execute({}) is None
        assert [line for line in lines() if f"Found File {world.base}/orders/a.csv last modified: " in line]

    def test_what_is_not_there_defers_as_plain_json(self, world, lines):
        path, arguments = world.defer(poke_interval=30, timeout=500, outage_tolerance=60).serialize()
        assert path == "astronomer.providers.core.triggers.filesystem.FileTrigger"
        assert arguments == {
            "job": {"path": f"{world.base}/orders/*.csv", "recursive": False, "root": ""},
            "deadline": START + 500,
            "poll_interval": 30.0,
            "outage_tolerance": 60.0,
            "cancel_confirm_timeout": 60.0,
            "not_before": START + 8.0,
            "cancel_on_kill": False,
        }
        assert lines() == [f"Waiting for file {world.base}/orders/*.csv (not there yet)"]

    def test_an_absolute_path_ignores_the_connection(self, world):
        assert world.defer(filepath="/no/such").job["path"] == "/no/such"

    @pytest.mark.parametrize("path", ["a.csv", "*.csv", "**", "./a.csv"])
    def test_a_relative_path_is_one_of_the_worker(self, world, monkeypatch, path):
        monkeypatch.setenv("AIRFLOW_CONN_FS_DEFAULT", '{"conn_type": "fs"}')
        (world.base / "worker").mkdir()
        monkeypatch.chdir(world.base / "worker")
        job = world.defer(filepath=path, recursive=True).job
        assert job == {"path": path, "recursive": True, "root": f"{world.base}/worker"}
        monkeypatch.chdir("/")
        world.wait((20, lambda: world.touch("worker/a.csv")))
        assert world.resume() is None

    def test_a_path_object_is_taken(self, world):
        assert world.defer(filepath=Path("a", "b")).job["path"] == f"{world.base}/a/b"

    def test_poking_is_what_it_is_in_the_stock_sensor(self, world, monkeypatch):
        naps = []

        def nap(seconds):
            naps.append(seconds)
            if len(naps) == 3:
                world.touch()

        monkeypatch.setattr(world.timeline, "sleep", nap)
        assert world.make(deferrable=False, poke_interval=7).execute({}) is None
        assert naps == [7, 7, 7]

    def test_poking_times_out_and_skips_like_the_stock_sensor(self, world):
        with pytest.raises(AirflowSensorTimeout):
            world.make(deferrable=False, timeout=60).execute({})
        with pytest.raises(AirflowSkipException):
            world.make(deferrable=False, timeout=60, soft_fail=True).execute({})

    def test_without_a_connection_it_fails(self, timeline):
        sensor = FileSensor(task_id="wait", filepath="a", fs_conn_id="no_such")
        with pytest.raises(AirflowNotFoundException, match="no_such"):
            sensor.execute({})

    def test_a_task_that_was_to_start_in_the_triggerer_can_do_all_of_it_too(self, world):
        world.defer(start_from_trigger=True, trigger_kwargs={"filepath": "x"})
        assert world.wait((10, world.touch))["outcome"]["status"]["phase"] == "succeeded"

    def test_a_mount_that_hangs_defers(self, world, monkeypatch, lines):
        async def hangs(self, jobs):
            raise Transient("it could not be read within 60 s")

        monkeypatch.setattr(FilePoller, "poll", hangs)
        world.defer()
        assert lines() == [
            f"file {world.base}/orders/*.csv cannot be asked just now: it could not be read within 60 s"
        ]


class TestInTheTriggerer:
    def test_finds_the_file_within_a_poke_interval(self, world, lines):
        world.defer(poke_interval=20)
        event = world.wait((100, world.touch))
        assert START + 100 <= world.timeline.now <= START + 100 + 20 * 1.1 + 1
        assert event["outcome"]["status"]["raw"].startswith(
            f"Found File {world.base}/orders/a.csv last modified: "
        )
        assert world.resume() is None
        assert len(lines()) == 3  # that it waits, that it was found, and that it has succeeded

    def test_the_directory_may_come_later(self, world):
        world.defer(filepath="a/b/c/*")
        world.wait(
            (50, lambda: (world.base / "a" / "b" / "c" / "d").mkdir(parents=True)),
            (100, lambda: world.touch("a/b/c/d/e")),
        )
        assert world.timeline.now >= START + 100
        assert world.event["outcome"]["status"]["raw"] == f"Found a file in {world.base}/a/b/c/d"

    def test_a_restart_renews_nothing(self, world):
        world.defer(timeout=300, poke_interval=10)

        async def interrupted():
            waiting = asyncio.ensure_future(events_of(revived(world.trigger)))
            await asyncio.sleep(60)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting

        for _ in range(3):
            world.timeline.run(interrupted)
        world.trigger = revived(world.trigger)
        world.wait()
        assert START + 300 <= world.timeline.now <= START + 302

    @pytest.mark.parametrize("recursive", [False, True])
    def test_waits_that_1_x_has_stored_go_on(self, world, recursive):
        stored = {"filepath": f"{world.base}/**/a.csv", "recursive": recursive, "poll_interval": 7.0}
        trigger = FileTrigger(**stored)
        assert trigger.remote_job == FileWait(stored["filepath"], recursive)
        assert trigger.poll_interval == 7.0
        assert set(trigger.serialize()[1]) == set(FileTrigger(job={}).serialize()[1])
        world.sensor, world.trigger = FileSensorAsync(task_id="wait", filepath="**/a.csv"), revived(trigger)
        world.wait((40, lambda: world.touch("one/a.csv")))
        assert world.resume() is None

    def test_so_do_those_that_the_stock_trigger_has_found(self, world):
        world.make()
        world.event = True
        assert world.resume() is None
        world.event = False
        with pytest.raises(AirflowException, match=r"orders/\*\.csv not found"):
            world.resume()


class TestTheDeadline:
    def test_names_the_path(self, world):
        world.defer(timeout=60)
        world.wait()
        with pytest.raises(AirflowSensorTimeout) as caught:
            world.resume()
        assert str(caught.value) == (
            f"wait has timed out while it waited for file {world.base}/orders/*.csv (not there yet)."
        )

    def test_has_a_last_look(self, world):
        world.defer(timeout=60, poke_interval=1000)
        world.wait((59, world.touch))
        assert START + 60 <= world.timeline.now <= START + 62
        assert world.resume() is None

    def test_may_be_that_of_the_task(self, world):
        world.defer(timeout=60, execution_timeout=timedelta(seconds=30))
        world.wait()
        assert world.timeline.now <= START + 32
        with pytest.raises(JobTimedOut, match="orders"):
            world.resume()

    @pytest.mark.parametrize("how", ["soft_fail", "never_fail"])
    def test_skips_on_request(self, world, how):
        world.defer(timeout=60, **{how: True})
        world.wait()
        with pytest.raises(AirflowSkipException):
            world.resume()

    def test_a_mount_that_hangs_for_too_long_is_lost(self, world, monkeypatch):
        async def hangs(self, jobs):
            raise Transient("it could not be read within 60 s")

        world.defer(outage_tolerance=100)
        monkeypatch.setattr(FilePoller, "poll", hangs)
        world.wait()
        with pytest.raises(JobLost, match=r"orders/\*\.csv for 100 s: it could not be read within 60 s"):
            world.resume()


class TestTogether:
    """A thousand sensors on one directory."""

    WAITS = 1000

    @pytest.fixture
    def looks(self, monkeypatch, base):
        """How many waits each look was about, and how many listings of the directory it took."""
        seen, look, scandir = [], files.look, os.scandir

        def noted_look(waits):
            seen.append([len(waits), 0])
            return look(waits)

        def noted_scandir(path):
            seen[-1][1] += os.fspath(path) == str(base)
            return scandir(path)

        monkeypatch.setattr(files, "look", noted_look)
        monkeypatch.setattr(os, "scandir", noted_scandir)
        return seen

    def triggers(self, base):
        names = [f"order_{number}" + (".csv" if number % 2 else "*") for number in range(self.WAITS)]
        return [FileTrigger(job=FileWait(f"{base}/{name}").to_dict(), poll_interval=10.0) for name in names]

    def test_cost_one_listing_per_tick(self, timeline, base, looks):
        async def main():
            waiting = [asyncio.ensure_future(events_of(trigger)) for trigger in self.triggers(base)]
            await asyncio.sleep(100)
            assert Hub.current().connections == 1
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

        timeline.run(main)
        assert 9 <= len(looks) <= 12
        assert looks == [[self.WAITS, 1]] * len(looks)

    def test_each_gets_its_own_answer(self, timeline, base, looks):
        async def main():
            waiting = [asyncio.ensure_future(events_of(trigger)) for trigger in self.triggers(base)]
            await let(30)
            for number in range(0, self.WAITS, 5):
                (base / f"order_{number}.csv").touch()
            await let(30)
            return [number for number, task in enumerate(waiting) if task.done()]

        # "order_1*" matches order_10.csv, too.
        there = [str(number) for number in range(0, self.WAITS, 5)]
        expected = [
            number
            for number in range(self.WAITS)
            if (str(number) in there if number % 2 else any(one.startswith(str(number)) for one in there))
        ]
        assert timeline.run(main) == expected
        assert max(listings for _, listings in looks) == 1

    def test_equal_waits_are_one(self, timeline, base, looks):
        async def main():
            same = [FileTrigger(job=FileWait(f"{base}/a*").to_dict()) for _ in range(self.WAITS)]
            waiting = [asyncio.ensure_future(events_of(trigger)) for trigger in same]
            await let(20)
            (base / "a1").touch()
            return await asyncio.gather(*waiting)

        events = timeline.run(main)
        assert {event["outcome"]["status"]["phase"] for (event,) in events} == {"succeeded"}
        assert {waits for waits, _ in looks} == {1}

    def test_the_end_of_one_disturbs_no_other(self, timeline, base):
        async def main():
            first, second = FileTrigger(job=FileWait(f"{base}/a").to_dict()), revived(self.triggers(base)[0])
            ended, goes_on = (asyncio.ensure_future(events_of(one)) for one in (first, second))
            await let(20)
            ended.cancel(USER)
            reason = await reason_of_end(ended)
            await first.on_kill()
            await let(20)
            assert not goes_on.done()
            (base / "order_0").touch()
            return reason, await goes_on, clock.now()

        _, (event,), ended_at = timeline.run(main)
        assert event["outcome"]["status"]["phase"] == "succeeded"
        assert ended_at <= START + 55

    def test_a_user_who_ends_a_task_cancels_nothing(self, timeline, base, monkeypatch):
        cancelled = []
        monkeypatch.setattr(FilePoller, "cancel", lambda self, job: cancelled.append(job))
        trigger = FileTrigger(job=FileWait(f"{base}/a").to_dict())
        trigger.task_instance = FakeTaskInstance()
        assert trigger.cancel_on_kill  # as that of a stored one of 1.x
        with FakeSupervisor(Count(0)).in_place() as supervisor:
            timeline.run(trigger.on_kill)
        assert cancelled == supervisor.questions == []
