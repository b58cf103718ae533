"""Whose lineage the collector of a triggerer has, and the job of a try that Airflow has ended by itself."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from airflow.listeners import hookimpl
from airflow.sdk import lineage, plugins_manager
from airflow.sdk import listener as sdk_listener
from airflow.sdk.lineage import HookLineageReader, NoOpCollector

from astronomer.deferral import _compat_collector
from astronomer.deferral._compat_triggerer import tell_listeners
from astronomer.deferral.in_triggerer import lineage_sender
from astronomer.deferral.lineage import REMOTE_JOB
from astronomer.deferral.xcom_memory import XCOM_KEY
from tests.unit.deferral.fakes import FakeTaskInstance, MemoryStore
from tests.unit.deferral.free import FreeOperator


@pytest.fixture
def collector(monkeypatch):
    """The process has one, because somebody reads it."""
    monkeypatch.setattr(plugins_manager, "get_hook_lineage_readers_plugins", lambda: [HookLineageReader])
    lineage.get_hook_lineage_collector.cache_clear()
    yield lineage.get_hook_lineage_collector()
    lineage.get_hook_lineage_collector.cache_clear()


class Listener:
    """Hears of the ends of tasks."""

    def __init__(self):
        self.hear = lambda task_instance: None

    @hookimpl
    def on_task_instance_success(self, previous_state, task_instance):
        self.hear(task_instance)


@pytest.fixture
def listener():
    found = Listener()
    manager = sdk_listener.get_listener_manager()
    manager.add_listener(found)
    yield found
    manager.pm.unregister(found)


def collected():
    return [extra.value for extra in lineage.get_hook_lineage_collector().collected_assets.extra]


def says(collector, what):
    """What a hook says of a task."""
    return lambda: collector.add_extra(context=says, key="sql", value=what)


class InThread:
    """What the provider does: a thread tells of a task, and may be given up before it has come to that."""

    def __init__(self, task, patience=20.0):
        self.go_on = threading.Event()
        self.found = None
        self._task = task
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()
        if patience:
            self.go_on.set()
            self._thread.join(patience)

    def late(self):
        self.go_on.set()
        self._thread.join(20)
        return self.found

    def _tell(self):
        self._task.get_openlineage_facets_on_complete(None)
        assert self.go_on.wait(20)
        self.found = collected()


def sending(self, context, job, status):
    """The end of a task whose hook says what it has done."""
    collector = lineage.get_hook_lineage_collector()
    lineage_sender(self.in_triggerer, collector.add_extra)(context=self, key="sql", value=self.what)
    assert not collector.has_collected


class TestCollector:
    def test_has_the_lineage_of_one_task_only(self, free, listener, collector, monkeypatch):
        told = []
        monkeypatch.setattr(FreeOperator, "finish", sending)
        listener.hear = lambda ti: told.append(collected())
        for index, what in enumerate(("first", "second")):
            assert free.run(free.mapped({"more": [1, 2]}, index, what=what)).state == "success"
        assert told == [["first"], ["second"]]
        assert not collector.has_collected

    def test_has_it_in_the_thread_that_tells_of_the_task(self, free, listener, collector, monkeypatch):
        pytest.importorskip("airflow.providers.openlineage")
        told = []
        monkeypatch.setattr(FreeOperator, "finish", sending)
        listener.hear = lambda ti: told.append(InThread(ti.task).found)
        free.result(free.task(what="mine"))
        assert told == [["mine"]]

    def test_has_it_also_when_that_thread_is_late(self, free, listener, collector, monkeypatch):
        pytest.importorskip("airflow.providers.openlineage")
        told = []
        monkeypatch.setattr(FreeOperator, "finish", sending)
        listener.hear = lambda ti: told.append(InThread(ti.task, patience=0))
        for index, what in enumerate(("first", "second")):
            free.run(free.mapped({"more": [1, 2]}, index, what=what))
        assert [one.late() for one in told] == [["first"], ["second"]]

    def test_is_what_it_was_elsewhere(self, collector):
        says(collector, "a hook's own")()
        with _compat_collector.bound([says(collector, "the task's")]):
            assert collected() == ["the task's"]
        assert collected() == ["a hook's own"]

    def test_of_nobody_collects_nothing(self, monkeypatch):
        monkeypatch.setattr(plugins_manager, "get_hook_lineage_readers_plugins", list)
        lineage.get_hook_lineage_collector.cache_clear()
        with _compat_collector.bound([]):
            assert type(lineage.get_hook_lineage_collector()) is NoOpCollector
        lineage.get_hook_lineage_collector.cache_clear()

    def test_lets_tasks_tell_at_the_same_time(self, listener, collector):
        """Each waits for the other: a server that hangs must hold up its own task only."""
        both, told = threading.Barrier(2), []

        def hear(ti):
            both.wait(20)
            told.append((ti.name, collected()))

        listener.hear = hear
        tasks = [
            threading.Thread(
                target=tell_listeners, args=("success", SimpleNamespace(name=name), [says(collector, name)])
            )
            for name in "ab"
        ]
        for one in tasks:
            one.start()
        for one in tasks:
            one.join(30)
        assert sorted(told) == [("a", ["a"]), ("b", ["b"])]


class Instance(FakeTaskInstance):
    """The task instance of a fresh worker, in which nothing but the end of the task has happened."""

    def __init__(self, store=None, xcom=None, **more):
        super().__init__(**more)
        self._store = store
        self._xcom = xcom

    def get_template_context(self):
        return {"ti": self, "task_state_store": self._store}

    def xcom_pull(self, *, task_ids, key, map_indexes):
        assert (task_ids, key, map_indexes) == ("task", XCOM_KEY, -1)
        return self._xcom


class TestJobThatIsRemembered:
    """Airflow's own end of a trigger comes with no event, to a worker that knows nothing."""

    @pytest.fixture(autouse=True)
    def openlineage(self):
        pytest.importorskip("airflow.providers.openlineage")

    @staticmethod
    def told(free, instance, when="failure"):
        task = FreeOperator(**free.given(FreeOperator, {}))
        facets = getattr(task, f"get_openlineage_facets_on_{when}")(instance).run_facets
        return facets[REMOTE_JOB].name if REMOTE_JOB in facets else None

    @pytest.fixture
    def left(self, free):
        """The XCom of a trigger whose job runs."""
        free.run(free.task())
        found = free.pushed(XCOM_KEY)[-1]
        assert found["job"]["job_id"] == "job-1"
        return found

    def test_by_the_trigger_of_this_try(self, free, left):
        assert "job-1" in self.told(free, Instance(xcom=left))

    def test_but_not_by_that_of_an_earlier_try(self, free, left):
        assert self.told(free, Instance(xcom=left, try_number=2)) is None

    def test_by_nobody(self, free):
        assert self.told(free, Instance()) is None

    def test_by_the_store(self, free, left):
        store = MemoryStore()
        store.set("astronomer.deferral", left | {"generation": 0, "job": left["job"]})
        assert "job-1" in self.told(free, Instance(store=store))

    @pytest.mark.parametrize("over", [{"ended": True}, {"settled": 0}])
    def test_not_by_a_store_that_tells_of_another_try(self, free, left, over):
        store = MemoryStore()
        store.set("astronomer.deferral", left | {"generation": 0} | over)
        assert self.told(free, Instance(store=store)) is None

    def test_is_asked_for_after_a_failure_only(self, free, left):
        assert self.told(free, Instance(xcom=left), "complete") is None
