"""A property that asks Airflow for a connection holds up its own operator only."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from astronomer.deferral._compat import PlainConnection
from astronomer.deferral.lazy import lazy_property
from astronomer.providers.core.sensors.filesystem import FileSensor
from astronomer.providers.databricks.operators.databricks import DatabricksSQLStatementsOperator
from astronomer.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator

OPERATORS = [
    (SnowflakeSqlApiOperator, {"sql": "select 1", "statement_count": 1}, "_hook"),
    (DatabricksSQLStatementsOperator, {"statement": "select 1", "warehouse_id": "w"}, "_hook"),
    (FileSensor, {"filepath": "a"}, "path"),
]


class Thing:
    def __init__(self, number):
        self.number = number
        self.computed = 0

    @lazy_property
    def value(self):
        """What it is."""
        self.computed += 1
        return self.number


def test_it_is_computed_once_for_each_instance():
    one, two = Thing(1), Thing(2)
    assert [one.value, one.value, two.value] == [1, 1, 2]
    assert (one.computed, two.computed) == (1, 1)
    assert Thing.value.__doc__ == "What it is."


def test_an_error_is_not_kept():
    thing = Thing(1)
    del thing.computed
    with pytest.raises(AttributeError):
        _ = thing.value
    thing.computed = 0
    assert thing.value == 1


@pytest.mark.parametrize(
    ("cls", "arguments", "name"), OPERATORS, ids=lambda one: getattr(one, "__name__", None)
)
def test_one_whose_connection_is_late_does_not_hold_up_another(cls, arguments, name):
    asked, answer = threading.Event(), threading.Event()

    def late(conn_id):
        asked.set()
        assert answer.wait(60)
        return at_once(conn_id)

    def at_once(conn_id):
        return PlainConnection(conn_id, "me", "secret", "host", None, None, {"account": "a"})

    first, second = (cls(task_id=task_id, **arguments) for task_id in ("first", "second"))
    first.in_triggerer, second.in_triggerer = (SimpleNamespace(connection=one) for one in (late, at_once))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(getattr, first, name)
        assert asked.wait(60)
        try:
            assert pool.submit(getattr, second, name).result(20) is not None
        finally:
            answer.set()
        assert waiting.result(60) is not None
