"""How much goes into one question, and what must not be asked together."""

import itertools
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astronomer.providers.core.jobs.groups import by_task, chunks, instance, unambiguous
from tests.unit.core.airflow_side import day

ADDRESS = "http://in-process.invalid./task-instances/states"
IDS = st.builds(lambda letter, length: letter * length, st.sampled_from("aö+"), st.integers(1, 250))
FEW = st.lists(IDS, max_size=4)
TASKS = st.from_regex(r"[ab](_[0-9]{1,2}){0,3}", fullmatch=True)


def as_query(name, values):
    return urlencode({name: values}, doseq=True)


class TestChunks:
    @given(FEW, st.integers(1, 200))
    @settings(max_examples=50)
    def test_hold_all_in_order_and_each_fits(self, few, times):
        values = few * times
        found = list(chunks(values))
        assert [one for group in found for one in group] == values
        for group in found:
            assert 1 <= len(group) <= 400
            assert len(as_query("logical_dates", group)) <= 16_000

    @given(FEW, st.integers(1, 200))
    @settings(max_examples=50)
    def test_are_no_more_than_needed(self, few, times):
        """Two neighbours never fit into one: by number, or by length."""
        found = list(chunks(few * times))
        for one, other in itertools.pairwise(found):
            query = as_query("logical_dates", [*one, other[0]])
            assert len(one) == 400 or len(query) >= 16_000  # the first one's & is counted, too

    def test_of_tasks_and_of_runs_fit_together(self):
        """A question names a chunk of tasks and a chunk of runs."""
        wide = ["ö" * 250] * 100
        for tasks in chunks(wide):
            for runs in chunks(wide):
                httpx.URL(ADDRESS, params={"task_ids": tasks, "run_ids": runs, "dag_id": "ö" * 250})

    def test_of_nothing_are_none(self):
        assert list(chunks([])) == []

    def test_of_something_too_long_is_that_alone(self):
        assert list(chunks(["a", "b" * 20_000, "c"])) == [["a"], ["b" * 20_000], ["c"]]

    @pytest.mark.parametrize(("dates", "groups"), [(1, 1), (300, 1), (1000, 4)])
    def test_of_dates_are_few(self, dates, groups):
        assert len(list(chunks(day(number).isoformat() for number in range(dates)))) == groups

    def test_of_short_ids_are_few(self):
        assert [len(group) for group in chunks(["run"] * 1000)] == [400, 400, 200]


class TestUnambiguous:
    @given(st.lists(TASKS, max_size=20))
    @example(["a", "a_3"])
    @example(["a", "a_3", "a_3_4", "a_3_4_5"])
    def test_every_answer_is_of_one_task(self, task_ids):
        """Whatever instances they have: no key may be read in two ways."""
        found = unambiguous(task_ids)
        for group in found:
            for one in group:
                keys = {one, *(f"{one}_{index}" for index in range(100))}
                assert not keys & (set(group) - {one})

    @given(st.lists(TASKS, max_size=20))
    def test_all_are_there_once(self, task_ids):
        found = unambiguous(task_ids)
        assert sorted(one for group in found for one in group) == sorted(set(task_ids))
        assert all(found)

    @pytest.mark.parametrize(
        ("task_ids", "groups"),
        [
            ([], []),
            (["b", "a", "b"], [["a", "b"]]),
            (["a", "a_3"], [["a"], ["a_3"]]),
            (["a", "a_b", "a_", "_3", "3"], [["3", "_3", "a", "a_", "a_b"]]),
            (["a_3", "a_4"], [["a_3", "a_4"]]),
            (["a", "a_3", "a_3_4"], [["a"], ["a_3"], ["a_3_4"]]),
            (["a", "a_3_4"], [["a", "a_3_4"]]),
        ],
    )
    def test_they_are_few(self, task_ids, groups):
        assert unambiguous(task_ids) == groups


class TestByTask:
    @given(st.lists(TASKS, max_size=12), st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    def test_every_answer_goes_to_its_task(self, task_ids, indexes):
        for group in unambiguous(task_ids):
            answer = {f"{one}_{index}": (one, index) for one in group for index in indexes}
            answer |= {group[0]: (group[0], -1)}
            for task_id, states in by_task(answer, group).items():
                assert {owner for owner, _ in states.values()} == {task_id}
            assert sum(map(len, by_task(answer, group).values())) == len(answer)


class TestInstance:
    @pytest.mark.parametrize(
        ("key", "task_id", "others", "name"),
        [
            ("a", "a", ["a"], "a"),
            ("a_3", "a", ["a"], "a_3"),
            ("a_3", "a", ["a", "a_3"], "a_03"),
            ("a_3", "a_3", ["a", "a_3"], "a_3"),
            ("a_3_4", "a_3", ["a", "a_3"], "a_3_4"),
            ("a_3", "a", ["a", "a_3", "a_03"], "a_003"),
        ],
    )
    def test_is_named_like_no_other_task(self, key, task_id, others, name):
        assert instance(key, task_id, others) == name
