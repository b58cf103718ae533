"""What is Snowflake's in driving a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.integration import driving
from tests.integration.driving import (
    BRISK,
    DyingStore,
    Killed,
    as_xcom,
    collected,
    triggerer,
    until,
    until_now,
)

__all__ = [
    "BRISK",
    "DyingStore",
    "Killed",
    "Task",
    "as_xcom",
    "collected",
    "in_enough_time",
    "polls",
    "triggerer",
    "until",
    "until_now",
]


class Task(driving.Task):
    """A task with one query."""

    @property
    def query_id(self) -> str:
        return self.trigger.job["query_id"]


def in_enough_time(attempt: Callable[[float], Any], *timeouts: float) -> None:
    """Attempt it with more and more time, until enough has happened before the timeout."""
    assert any(attempt(timeout) for timeout in timeouts or (0.6, 5.0, 20.0)), "never enough"


def polls(lab: Any) -> list[Any]:
    """The requests for the state of queries so far."""
    return lab.requests.select("^/monitoring/queries")
