from astronomer.deferral import Attempt, TaskIdentity
from astronomer.deferral.memory import Memory
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
