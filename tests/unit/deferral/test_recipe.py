"""Arguments as plain JSON, and back."""

import functools
import json
import logging
import operator
from bisect import bisect_left
from collections import namedtuple
from datetime import datetime, timedelta, timezone
from enum import Enum

import pytest
from airflow.models.trigger import Trigger
from airflow.sdk import DAG, BaseOperator, XComArg, task_group
from hypothesis import given
from hypothesis import strategies as st

from astronomer.deferral import Phase, recipe
from astronomer.deferral.recipe import Unwritable, decode, encode
from astronomer.deferral.testing import ScriptedOperator


def nothing_to_pull(task_id, key):
    raise AssertionError((task_id, key))


def there_and_back(value, pull=nothing_to_pull):
    return decode(json.loads(recipe.written({"it": encode(value, "it")}))["it"], pull)


def refused(value):
    with pytest.raises(Unwritable) as caught:
        encode(value, "it")
    return str(caught.value)


def same(one, other):
    """Equal, and of the same types; ``True`` is no ``1`` here."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in one)
    return not isinstance(one, (list, tuple)) or all(map(same, one, other))


ZONES = st.sampled_from([None, timezone.utc, timezone(timedelta(hours=5, minutes=30))])
SPANS = st.timedeltas(timedelta(days=-36_500), timedelta(days=36_500))
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.datetimes(timezones=ZONES)
    | st.dates()
    | SPANS
)
KEYS = st.sampled_from(["__astronomer", "value", "a", "b"]) | st.text(max_size=3)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(st.integers() | st.dates() | st.tuples(st.text(), st.booleans()), max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=20,
)


class TestRoundTrip:
    @given(VALUES)
    def test_gives_the_same_value(self, value):
        assert same(there_and_back(value), value)

    @pytest.mark.parametrize(
        "value",
        [
            {"__astronomer": "xcom", "value": ["task", "key"]},
            {"__astronomer": "dict", "value": []},
            {"a": {"__astronomer": "function", "value": "os:remove"}},
        ],
    )
    def test_a_dictionary_that_looks_like_ours_is_none(self, value):
        assert there_and_back(value) == value

    def test_a_frozen_set_is_a_set(self):
        assert there_and_back(frozenset({1, 2})) == {1, 2}

    def test_an_enumeration_of_texts_is_its_text(self):
        class Colour(str, Enum):
            RED = "red"

        assert there_and_back([Colour.RED, {"a": Colour.RED}]) == ["red", {"a": "red"}]


class TestWhatCannotTravel:
    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
    def test_numbers_that_json_has_not(self, number):
        with pytest.raises(Unwritable, match="cannot be written as JSON"):
            there_and_back({"a": [number]})

    def test_keys_that_are_no_texts(self):
        assert refused({"a": {1: "b"}}) == "`it` holds a mapping whose keys are no texts"

    def test_secrets(self):
        said = refused({"headers": [{"password": "hush"}]})
        assert "'password'" in said
        assert "looks like a secret" in said
        assert "hush" not in said

    def test_a_secret_that_is_not_there_is_none(self):
        assert there_and_back({"password": None, "api_key": ""}) == {"password": None, "api_key": ""}

    def test_an_object_of_the_dag_file(self):
        assert "which only the Dag file knows" in refused([logging.getLogger("a")])

    def test_a_named_tuple(self):
        assert "which only the Dag file knows" in refused(namedtuple("Pair", "a b")(1, 2))

    def test_an_enumeration_that_is_no_plain_value(self):
        class Mood(Enum):
            GOOD = 1

        assert "which only the Dag file knows" in refused(Mood.GOOD)


class TestLength:
    @pytest.mark.parametrize("text", ["a", '"', "\n", "\u00e4", "\\"])
    def test_of_what_a_trigger_can_hold(self, text):
        """As the scheduler writes it, into a column of MySQL's type TEXT."""
        most = bisect_left(range(46_000), True, key=lambda n: not _fits(text * n)) - 1
        row = Trigger(classpath="a.b", kwargs={"recipe": recipe.written({"it": text * most})})
        assert 50_000 < len(row.encrypted_kwargs) <= 65_535

    def test_of_too_much_needs_a_worker(self):
        with pytest.raises(Unwritable, match=r"take 4501\d characters, and a trigger has room for 45000"):
            recipe.written({"it": "a" * 45_000})


def _fits(text):
    try:
        recipe.written({"it": text})
    except Unwritable:
        return False
    return True


class TestFunctions:
    @pytest.mark.parametrize("found", [json.dumps, DAG, ScriptedOperator.submit, Phase])
    def test_of_installed_packages_travel(self, found):
        assert there_and_back([found]) == [found]

    @pytest.mark.parametrize(
        "found",
        [lambda: 1, refused, len, TestRoundTrip],
        ids=["lambda", "of this file", "of no file", "a class of this file"],
    )
    def test_others_do_not(self, found):
        assert refused(found) == "`it` is a function that only the Dag file knows"

    @pytest.mark.parametrize(
        "found",
        [functools.partial(json.dumps, indent=2), operator.itemgetter("a"), json.JSONEncoder().encode],
        ids=["partial", "callable object", "bound method"],
    )
    def test_nor_do_those_that_have_no_name(self, found):
        assert "which cannot be named" in refused(found)

    def test_a_function_that_has_taken_the_name_of_another_does_not(self):
        @functools.wraps(json.dumps)
        def dumps():
            """Not the one it says it is."""

        assert "which cannot be named" in refused(dumps)

    def test_a_function_whose_module_is_gone_does_not(self):
        def lost():
            """Says that it is of a module that is not there."""

        lost.__module__, lost.__qualname__ = "astronomer.gone", "lost"
        assert "which cannot be named" in refused(lost)


class TestXComs:
    def test_a_plain_one_travels(self):
        with DAG("dag", schedule=None):
            upstream = BaseOperator(task_id="up")
            value = {"a": [upstream.output, XComArg(upstream, "other")]}
        pulled = there_and_back(value, lambda task_id, key: f"{task_id}/{key}")
        assert pulled == {"a": ["up/return_value", "up/other"]}

    def test_what_is_done_to_one_does_not(self):
        with DAG("dag", schedule=None):
            output = BaseOperator(task_id="up").output
            changed = [output.map(str), output.zip(output), output.concat(output)]
        assert all("which only the Dag file knows" in refused(one) for one in changed)

    def test_one_of_a_mapped_task_group_does_not(self):
        made = []

        @task_group
        def group(given):
            made.append(BaseOperator(task_id="up"))

        with DAG("dag", schedule=None):
            group.expand(given=[1, 2])
        assert "which only the Dag file knows" in refused(made[0].output)


def test_the_recipe_is_one_text_that_keeps_the_order():
    assert recipe.written({"b": 1, "a": [2]}) == '{"b": 1, "a": [2]}'


def test_the_order_of_a_set_does_not_depend_on_the_process():
    orders = [encode(set(one), "it") for one in ("abcdefgh", "hgfedcba")]
    assert orders[0] == orders[1] == {"__astronomer": "set", "value": list("abcdefgh")}


@pytest.mark.parametrize("kind", [datetime, ScriptedOperator, ScriptedOperator.submit])
def test_what_a_path_names_is_found(kind):
    assert recipe.load(recipe.path_of(kind)) is kind
