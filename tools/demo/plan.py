"""What is run, and how each task should end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Plan:
    """One Dag of examples/.

    :param tasks: how many task instances it has.
    :param short: its parameters in the short form of the demo.
    :param conf: its parameters otherwise.
    :param mapped: tasks that are mapped, and how often.
    :param failed: tasks that should fail.
    :param cancel: the task that is cancelled while it waits.
    """

    tasks: int
    short: Mapping[str, int]
    conf: Mapping[str, int]
    mapped: Mapping[str, int] = field(default_factory=lambda: NONE)
    failed: tuple[str, ...] = ()
    cancel: str | None = None

    def expected(self, task_id: str) -> str:
        """Return the state in which a task should end."""
        return "failed" if task_id in self.failed or task_id == self.cancel else "success"


PLANS: dict[str, Plan] = {
    "databricks_cancel": Plan(1, {"seconds": 1800}, {"seconds": 1800}, cancel="long_run"),
    "databricks_job": Plan(2, {"seconds": 6}, {"seconds": 20}),
    "databricks_failure": Plan(2, {"seconds": 5}, {"seconds": 20}, failed=("convert",)),
    "databricks_sql": Plan(3, {"rows": 1000}, {"rows": 100_000}),
    "snowflake_cancel": Plan(1, {"seconds": 1800}, {"seconds": 1800}, cancel="long_query"),
    "snowflake_sensor": Plan(4, {"seconds": 20}, {"seconds": 60}),
    "snowflake_failure": Plan(4, {"seconds": 5}, {"seconds": 20}, failed=("load",)),
    "snowflake_transaction": Plan(3, {"seconds": 10}, {"seconds": 45}),
    "snowflake_fan_out": Plan(
        25, {"shortest": 15, "longest": 40}, {"shortest": 30, "longest": 120}, mapped={"query": 24}
    ),
}
"""In the order in which they are triggered: what takes several steps first."""

CANCEL_AFTER = 6.0
"""Seconds that the job to be cancelled has been waited for, so that the cancel comes in mid-wait."""
