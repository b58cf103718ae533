"""What a task in a triggerer remembers, and two triggerers that write it at once."""

import json
from datetime import timedelta
from types import SimpleNamespace

import pytest

from astronomer.deferral import xcom_memory
from astronomer.deferral.xcom_memory import SUBMITTED_BY, Contested, Tries, XComMemory
from tests.unit.deferral.fakes import FakeTaskInstance, Timeline

JOB = {"job_id": "a"}


class Box:
    """One XCom."""

    def __init__(self):
        self.value = None
        self.reads = self.writes = 0

    def read(self):
        self.reads += 1
        return None if self.value is None else json.loads(json.dumps(self.value))

    def write(self, value):
        self.writes += 1
        self.value = json.loads(json.dumps(value))

    def event(self, value):
        """What an event pushes is encoded twice."""
        self.value = json.dumps(value)


@pytest.fixture
def box():
    return Box()


@pytest.fixture
def watch(monkeypatch):
    """The clock of the machine."""
    line = Timeline()
    monkeypatch.setattr(xcom_memory, "time", line)
    return line


def memory(box, owner="one", *, try_number=1, retries=0, claims=False, began_at=0.0):
    ti = FakeTaskInstance(try_number=try_number)
    tries = Tries(retries, began_at)
    return XComMemory(ti, tries=tries, read=box.read, write=box.write, owner=owner, claims=claims)


def claimed(box, owner="one", **more):
    """A memory that is about to submit."""
    found = memory(box, owner, claims=True, **more)
    attempt = found.save(found.last() or found.first(None))
    found.confirm(attempt)
    return found, attempt


class TestGenerations:
    def test_the_first_is_the_try_that_began_it(self, box):
        for number in (1, 3):
            assert memory(box, try_number=number).identity.generation == -number

    def test_its_keys_are_not_those_of_the_worker_path(self, box):
        found = memory(box)
        assert found.identity.generation < 0
        assert found.first(None).submit_key == found.identity.submit_key(0)

    def test_a_restart_in_the_same_try_goes_on(self, box):
        saved = memory(box).save(memory(box).first(5.0))
        again = memory(box, "two")
        assert again.last() == saved
        assert again.identity.generation == -1
        assert not again.is_new_try(saved)
        assert not again.has_old_results

    @pytest.mark.parametrize("end", [{"ended": True}, {"lost": True}])
    def test_a_retry_that_was_announced_goes_on(self, box, end):
        first = memory(box, retries=1)
        first.save(first.first(None), job=JOB)
        first.save(first.last(), **end)
        retry = memory(box, try_number=2, retries=1)
        assert retry.identity.generation == -1
        assert retry.is_new_try(retry.last())

    @pytest.mark.parametrize("end", [{"ended": True}, {"lost": True}])
    def test_a_try_after_the_last_retry_begins_anew(self, box, end):
        only = memory(box)
        only.save(only.first(None), job=JOB)
        only.save(only.last(), **end)
        assert memory(box, try_number=2).identity.generation == -2

    def test_the_retries_of_a_later_generation_are_counted_from_its_begin(self, box):
        began = memory(box, try_number=3, retries=1)
        began.save(began.first(None), ended=True)
        again = memory(box, try_number=4, retries=1)
        assert again.identity.generation == -3
        again.save(again.next(again.last(), None), ended=True)
        assert memory(box, try_number=5, retries=1).identity.generation == -5

    def test_a_try_that_nothing_has_announced_begins_anew(self, box):
        killed = memory(box, retries=3)
        killed.save(killed.first(None), job=JOB)
        killed.save(killed.last())
        assert memory(box, try_number=2, retries=3).identity.generation == -2

    @pytest.mark.parametrize(("began_at", "generation"), [(59.0, -2), (60.0, -1), (960.0, -1), (961.0, -2)])
    def test_nothing_announces_the_retry_of_one_that_had_no_time_left(self, box, began_at, generation):
        overdue = memory(box, retries=1)
        overdue.save(overdue.first(60.0), job=JOB)
        overdue.save(overdue.last())
        retry = memory(box, try_number=2, retries=1, began_at=began_at)
        assert retry.identity.generation == generation

    def test_without_a_retry_it_has_been_cleared(self, box):
        overdue = memory(box)
        overdue.save(overdue.first(60.0), job=JOB)
        assert memory(box, try_number=2, began_at=100.0).identity.generation == -2

    def test_tries_without_a_word_count_as_well(self, box):
        overdue = memory(box, retries=1)
        overdue.save(overdue.first(60.0), job=JOB)
        assert memory(box, try_number=3, retries=1, began_at=100.0).identity.generation == -3

    def test_after_a_success_it_is_known_that_old_results_are_there(self, box):
        done = memory(box)
        done.save(done.first(None), job=JOB)
        box.event(done.after_success())
        assert memory(box, try_number=2, retries=0).has_old_results
        assert not memory(Box(), try_number=2).has_old_results

    def test_what_an_event_has_pushed_is_understood(self, box):
        done = memory(box)
        saved = done.save(done.first(None), job=JOB)
        box.event(done.after_success())
        found = memory(box).last()
        assert (found.job, found.ended, found.submit_key) == (JOB, True, saved.submit_key)

    @pytest.mark.parametrize("scribble", [[1], '"text"', 5])
    def test_what_somebody_else_wrote_is_not_taken_for_an_attempt(self, box, scribble):
        box.value = scribble
        assert memory(box).last() is None

    def test_an_attempt_without_a_try_is_of_an_earlier_one(self, box):
        box.value = {"generation": -1, "sequence": 0, "submit_key": "k", "lost": True}
        found = memory(box, try_number=2, retries=1)
        assert found.identity.generation == -1
        assert found.is_new_try(found.last())

    def test_nothing_is_noted_where_nothing_was_started(self, box):
        assert memory(box).after_success() is None
        assert memory(box).lasting


class TestWrites:
    @pytest.mark.parametrize("claims", [True, False])
    def test_the_id_is_known_to_the_next_triggerer(self, box, claims):
        found = memory(box, claims=claims)
        attempt = found.save(found.first(None))
        found.save(attempt, job=JOB)
        assert box.writes == 2
        assert memory(box, "other", claims=claims).last().job == JOB

    def test_any_other_change_is(self, box):
        found = memory(box)
        attempt = found.save(found.save(found.first(None)), job=JOB)
        found.save(attempt, ended=True)
        assert (box.writes, box.value["ended"], box.value["job"]) == (3, True, JOB)

    def test_one_says_who_and_in_which_try(self, box):
        found = memory(box, "me", try_number=4)
        found.save(found.first(None))
        assert (box.value["owner"], box.value["try_number"]) == ("me", 4)


class TestClaims:
    def test_one_that_was_taken_over_does_not_stand(self, box):
        one, first = claimed(box)
        two = memory(box, "two", claims=True)
        two.take_over()
        with pytest.raises(Contested, match="another triggerer"):
            one.confirm(first)

    def test_nobody_writes_over_one_that_was_not_there_before(self, box):
        one, two = (memory(box, name, claims=True) for name in ("one", "two"))
        first = one.save(one.first(None))
        with pytest.raises(Contested, match="another triggerer"):
            two.save(two.first(None))
        one.confirm(first)

    def test_no_claim_is_confirmed_that_is_not_there(self, box):
        one = memory(box, claims=True)
        with pytest.raises(Contested, match="another triggerer"):
            one.confirm(one.first(None))

    def test_nor_is_one_on_another_attempt(self, box):
        one, attempt = claimed(box)
        with pytest.raises(Contested, match="another triggerer"):
            one.confirm(one.next(attempt, None))

    def test_where_a_submit_can_be_repeated_nobody_is_asked(self, box):
        one = memory(box, "one")
        attempt = one.save(one.first(None))
        two = memory(box, "two")
        two.save(two.first(None))
        reads = box.reads
        one.confirm(attempt)
        one.hold()
        one.check()
        assert box.reads == reads
        assert two.take_over() == 0

    def test_a_fresh_claim_is_not_asked_for_again(self, box, watch):
        one, _ = claimed(box)
        reads = box.reads
        watch.sleep(9)
        one.hold()
        one.check()
        assert box.reads == reads

    def test_one_that_is_old_is_confirmed_again(self, box, watch):
        one, _ = claimed(box)
        watch.sleep(11)
        with pytest.raises(Contested, match="old"):
            one.check()
        one.hold()
        one.check()

    def test_the_time_of_a_confirmation_is_that_of_its_question(self, box, watch):
        one, attempt = claimed(box)
        read = box.read
        one._read = lambda: (watch.sleep(11), read())[1]
        one.confirm(attempt)
        with pytest.raises(Contested, match="old"):
            one.check()

    def test_a_process_that_was_paused_notices_who_has_taken_over(self, box, watch):
        one, _ = claimed(box)
        two = memory(box, "two", claims=True)
        assert two.take_over() == SUBMITTED_BY
        watch.sleep(11)
        with pytest.raises(Contested, match="another triggerer"):
            one.hold()
        assert box.value["owner"] == "two"

    def test_a_claim_is_outlived_by_the_time_that_who_takes_over_waits(self):
        assert xcom_memory._CLAIM_LASTS < SUBMITTED_BY

    def test_there_is_nothing_to_take_over_from_oneself_or_nobody(self, box):
        one, _ = claimed(box)
        assert one.take_over() == 0
        assert memory(Box(), claims=True).take_over() == 0

    @pytest.mark.parametrize("end", [{"job": JOB}, {"ended": True}])
    def test_nor_from_somebody_who_is_done(self, box, end):
        one, attempt = claimed(box)
        one.save(attempt, **end)
        assert memory(box, "two", claims=True).take_over() == 0


class TestPaused:
    """A process that was paused finds that time has passed, and looks again before it writes."""

    @pytest.mark.parametrize("claims", [True, False])
    def test_it_writes_over_nothing_that_it_has_not_seen(self, box, watch, claims):
        one = memory(box, "one", claims=claims)
        attempt = one.save(one.save(one.first(None)), job=JOB)
        two = memory(box, "two", claims=claims)
        two.save(two.last(), ended=True)
        watch.sleep(11)
        with pytest.raises(Contested, match="another triggerer goes on"):
            one.save(attempt, lost=True)
        assert (box.value["owner"], box.value["ended"], box.value["lost"]) == ("two", True, False)
        with pytest.raises(Contested, match="another triggerer goes on"):
            one.save(attempt, lost=True)

    def test_it_writes_where_nothing_has_changed(self, box, watch):
        one = memory(box)
        attempt = one.save(one.first(None))
        watch.sleep(11)
        one.save(attempt, ended=True)
        reads = box.reads
        one.save(attempt, ended=True)
        assert (box.value["ended"], box.reads) == (True, reads)

    def test_it_submits_nothing_that_another_has(self, box, watch):
        one = memory(box)
        attempt = one.save(one.first(None))
        box.value = {**box.value, "owner": "two", "ended": True}
        one.confirm(attempt)
        watch.sleep(11)
        with pytest.raises(Contested, match="old"):
            one.check()
        for call in (lambda: one.confirm(attempt), one.hold):
            with pytest.raises(Contested, match="another triggerer goes on"):
                call()

    def test_it_deletes_no_result_that_may_be_a_new_one(self, box, watch):
        done = memory(box)
        done.save(done.first(None))
        box.event(done.after_success())
        one = memory(box, try_number=2)
        box.value = {**json.loads(box.value), "try_number": 2}
        watch.sleep(11)
        assert not one.has_old_results

    def test_a_claim_that_took_long_is_not_trusted(self, box, watch):
        one = memory(box, claims=True)
        watch.sleep(11)
        with pytest.raises(Contested, match="it took long"):
            one.save(one.first(None))
        assert memory(box, "one", claims=True).take_over() == 0
        assert memory(box, "two", claims=True).take_over() == SUBMITTED_BY

    def test_nor_is_one_whose_writing_did(self, box, watch):
        one = memory(box, claims=True)
        write = box.write
        one._write = lambda value: (write(value), watch.sleep(11))
        with pytest.raises(Contested, match="it took long"):
            one.save(one.first(None))

    def test_a_claim_is_renewed_on_what_is_there(self, box, watch):
        one, attempt = claimed(box)
        watch.sleep(11)
        one.save(attempt, notes={"a": 1})
        assert box.value["notes"] == {"a": 1}

    def test_the_late_word_of_an_earlier_try_is_written_over(self, box, watch):
        box.value = {"generation": -1, "sequence": 0, "submit_key": "k", "try_number": 1, "lost": True}
        late = dict(box.value)
        one = memory(box, try_number=2, retries=1, claims=True)
        attempt = one.save(one.last())
        box.value = late
        one.confirm(attempt)
        assert (box.value["owner"], box.value["try_number"]) == ("one", 2)
        box.value = late
        watch.sleep(11)
        assert one.save(attempt, ended=True).ended
        assert box.value["try_number"] == 2

    @pytest.mark.parametrize(
        ("number", "end"),
        [(1, {"settled": 0}), (2, {}), (2, {"ended": True})],
        ids=["success", "retry", "both"],
    )
    def test_a_task_that_has_gone_on_is_left_alone(self, box, number, end):
        box.value = {"generation": -1, "sequence": 0, "submit_key": "k", "try_number": number, **end}
        one = memory(box)
        with pytest.raises(Contested, match="has gone on"):
            one.take_over()
        assert not one.has_old_results
        assert box.writes == 0


class TestAbandoned:
    @pytest.mark.parametrize("claims", [True, False])
    def test_nothing_is_submitted_any_more(self, box, claims):
        one = memory(box, claims=claims)
        attempt = one.save(one.first(None))
        one.abandoned = True
        for call in (lambda: one.confirm(attempt), one.hold, one.check, lambda: one.save(attempt)):
            with pytest.raises(Contested, match="the trigger has ended"):
                call()
        assert box.writes == 1


@pytest.mark.parametrize(
    ("more", "pause"),
    [
        ({}, 300.0),
        ({"retry_exponential_backoff": 2.0}, 2400.0),
        ({"retry_exponential_backoff": 2.0, "max_retry_delay": timedelta(seconds=1000)}, 1000.0),
        ({"retry_delay": None}, 0.0),
    ],
)
def test_the_pause_between_two_tries_is_the_longest_there_may_be(more, pause):
    task = SimpleNamespace(**{"retries": 2, "retry_delay": timedelta(seconds=300), **more})
    assert Tries.of(task, 5.0) == Tries(2, 5.0, pause)
