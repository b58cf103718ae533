"""What several laws look at: log lines, plain JSON, and whether an operator takes the place of a stock one."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from structlog.testing import capture_logs

from astronomer.deferral._compat import BaseOperator

__all__ = ["all_lines", "arguments_of", "assert_drop_in", "assert_plain"]


@contextmanager
def all_lines() -> Iterator[Callable[[], list[str]]]:
    """Every log record at INFO or above, of whichever of Airflow's two ways to log."""
    records: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with capture_logs() as lines:
            yield lambda: records + [line["event"] for line in lines if line["log_level"] != "debug"]
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def assert_plain(value: Any) -> None:
    """It is plain JSON through and through."""
    _assert_plain_inside(value)
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def _assert_plain_inside(value: Any) -> None:
    if type(value) is dict:
        assert all(type(key) is str for key in value)
        for one in value.values():
            _assert_plain_inside(one)
    elif type(value) is list:
        for one in value:
            _assert_plain_inside(one)
    else:
        assert value is None or type(value) in {str, int, float, bool}


def arguments_of(cls: type[Any]) -> set[str]:
    """What a constructor takes by name, up to what every operator takes."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base is BaseOperator:
            break
        if "__init__" in vars(base):
            names |= set(inspect.signature(base.__init__).parameters)
    return names - {"self", "args", "kwargs"}


def assert_drop_in(ours: type[Any], stock: type[Any]) -> None:
    """A Dag works after changing one import: same arguments, same templates, and it is one."""
    assert issubclass(ours, stock)
    assert arguments_of(stock) <= arguments_of(ours)
    assert set(stock.template_fields) <= set(ours.template_fields)
    assert set(stock.template_ext) <= set(ours.template_ext)
    for name, renderer in stock.template_fields_renderers.items():
        assert ours.template_fields_renderers[name] == renderer
