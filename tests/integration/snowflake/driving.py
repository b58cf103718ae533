"""What is Snowflake's in driving a task."""

from __future__ import annotations

from typing import Any

from tests.integration import driving
from tests.integration.driving import (
    BRISK,
    DyingStore,
    Killed,
    as_xcom,
    collected,
    for_a_while,
    in_enough_time,
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
    "for_a_while",
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


def polls(lab: Any) -> list[Any]:
    """The requests for the state of queries so far."""
    return lab.requests.select("^/monitoring/queries")
