from dataclasses import replace
from types import SimpleNamespace

import pytest

from astronomer.deferral import Attempt, JobError, TaskIdentity, memory
from astronomer.deferral.memory import LastWord, Memory
from tests.unit.deferral.fakes import MemoryStore

IDENTITY = TaskIdentity("dag", "run", "task", -1, 3)


def test_what_is_saved_is_found_by_the_next_process():
    store = MemoryStore()
    memory = Memory(store, IDENTITY)
    first = memory.save(memory.first(12.5), notes={"marker": "m"})
    saved = memory.save(first, job={"job_id": "a"})
    assert saved == Attempt(3, 0, IDENTITY.submit_key(0), 12.5, {"job_id": "a"}, {"marker": "m"})
    assert Memory(store, IDENTITY).last() == saved
    assert memory.lasting


def test_the_next_attempt_has_another_key_and_no_past():
    memory = Memory(MemoryStore(), IDENTITY)
    ended = memory.save(memory.first(1.0), job={"job_id": "a"}, ended=True)
    assert memory.next(ended, 2.0) == Attempt(3, 1, IDENTITY.submit_key(1), 2.0)


def test_without_a_store_nothing_is_remembered():
    memory = Memory(None, IDENTITY)
    assert memory.save(memory.first(None), ended=True).ended
    assert memory.last() is None
    assert not memory.lasting


def test_what_somebody_else_wrote_is_not_taken_for_an_attempt():
    store = MemoryStore()
    store.set("astronomer.deferral", "scribble")
    assert Memory(store, IDENTITY).last() is None


def test_fields_of_a_newer_release_are_ignored():
    store = MemoryStore()
    store.set("astronomer.deferral", {"generation": 3, "sequence": 1, "submit_key": "k", "mood": "good"})
    assert Memory(store, IDENTITY).last() == Attempt(3, 1, "k")


LOOKS = pytest.mark.parametrize("look", [Memory.hold, Memory.check])


@LOOKS
class TestTheLastLook:
    """A process may have been paused since it wrote down what it is about to submit."""

    @pytest.fixture
    def clock(self, monkeypatch):
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: clock.now))
        return clock

    @pytest.fixture
    def store(self):
        class Counting(MemoryStore):
            reads = 0

            def get(self, key, default=None):
                self.reads += 1
                return super().get(key, default)

        return Counting()

    @pytest.fixture
    def word(self, store):
        return LastWord()

    @pytest.fixture
    def attempt(self, clock, store, word):
        mine = Memory(store, IDENTITY, word)
        return mine.save(mine.first(None), job={"job_id": "a", "earlier": ("b",)})

    def test_asks_nothing_right_after_the_write(self, look, clock, store, word, attempt):
        clock.now += 10.0
        look(Memory(store, IDENTITY, word))
        assert store.reads == 0

    def test_asks_later_on_and_then_no_more_for_a_while(self, look, clock, store, word, attempt):
        clock.now += 10.1
        for _ in range(2):
            look(Memory(store, IDENTITY, word))
            clock.now += 10.0
        assert store.reads == 1

    def test_refuses_what_airflow_does_not_know_any_more(self, look, clock, store, word, attempt):
        """A retry has a task instance of its own, and with it the store."""
        clock.now += 10.1
        store.values.clear()
        with pytest.raises(JobError, match="another try of the task may have taken its place"):
            look(Memory(store, IDENTITY, word))

    @pytest.mark.parametrize("changes", [{"submit_key": "k"}, {"job": {"job_id": "c"}}, {"job": None}])
    def test_refuses_what_somebody_else_has_written_over(self, look, clock, store, word, attempt, changes):
        Memory(store, IDENTITY).save(replace(attempt, **changes))
        clock.now += 10.1
        with pytest.raises(JobError, match="It starts nothing more"):
            look(Memory(store, IDENTITY, word))

    def test_needs_a_write_of_this_process(self, look, clock, store, attempt):
        look(Memory(store, IDENTITY))
        assert store.reads == 0

    def test_needs_a_store(self, look, clock):
        nowhere = Memory(None, IDENTITY)
        nowhere.save(nowhere.first(None))
        clock.now += 100.0
        look(nowhere)
