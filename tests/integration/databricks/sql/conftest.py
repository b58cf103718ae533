"""The SQL side of the workspace: one warehouse, nothing running, tables of a test's own."""

from __future__ import annotations

import pytest

from astronomer.deferral import poke
from astronomer.providers.databricks.jobs import statement
from astronomer.providers.databricks.sql import submit
from tests.integration.driving import until_now

_KNOBS = (
    "rows_per_chunk",
    "link_seconds",
    "result_seconds",
    "known_seconds",
    "history_latency",
    "consume_inline",
)


@pytest.fixture(autouse=True)
def quiet(lab, monkeypatch):
    """Small waits instead of long ones, and nothing left of another test."""
    monkeypatch.setattr(submit, "ARRIVES_WITHIN", 0.0)
    monkeypatch.setattr(submit, "HISTORY_LAGS", 0.0)
    monkeypatch.setattr(submit, "_LOOK_AGAIN", 0.05)
    monkeypatch.setattr(submit, "_PAUSE", 0.05)
    monkeypatch.setattr(poke, "_PAUSE_IN_TROUBLE", 0.1)
    monkeypatch.setattr(statement, "_unknown_seen", set())
    for knob in _KNOBS:
        monkeypatch.setattr(lab.sql, knob, getattr(lab.sql, knob))
    yield
    lab.faults.clear()
    running = [one for one in lab.statements.values() if not one.ended]
    for one in running:
        lab.cancel_statement_by_user(one.id)
    until_now(lambda: all(one.ended for one in running))


@pytest.fixture
def path(lab):
    """The HTTP path of the warehouse."""
    return lab.warehouses.default.path


@pytest.fixture
def started(lab):
    """The statements that were started over REST since the beginning of the test, by text."""
    before = set(lab.statements)

    def found(text=""):
        return [
            one
            for key, one in lab.statements.items()
            if key not in before and text in one.text and one.principal
        ]

    return found


@pytest.fixture
def stock(lab, connect_as):
    """The Airflow connection over which the connector finds the lab."""
    return connect_as("stock", **lab.connector_extra())
