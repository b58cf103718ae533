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
    :param skipped: tasks that should be skipped.
    :param worker_free: tasks that no worker should run.
    :param cancel: the task that is cancelled while it waits.
    :param elsewhere: the Dag of the other Airflow that is triggered while its task waits for it.
    :param triggered: whether the demo starts it; otherwise another Dag does.
    """

    tasks: int
    short: Mapping[str, int] = field(default_factory=lambda: NONE)
    conf: Mapping[str, int] = field(default_factory=lambda: NONE)
    mapped: Mapping[str, int] = field(default_factory=lambda: NONE)
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    worker_free: tuple[str, ...] = ()
    cancel: str | None = None
    elsewhere: str | None = None
    triggered: bool = True

    def expected(self, task_id: str) -> str:
        """Return the state in which a task should end."""
        if task_id in self.skipped:
            return "skipped"
        return "failed" if task_id in self.failed or task_id == self.cancel else "success"

    def parameters(self, *, short: bool) -> dict[str, int]:
        """Return what a run of it is given."""
        return dict(self.short if short else self.conf)


PLANS: dict[str, Plan] = {
    "external_waiters": Plan(5),
    "external_waiters_by_id": Plan(2, {"seconds": 1}, {"seconds": 5}),
    "external_producer": Plan(6, {"seconds": 1}, {"seconds": 5}, mapped={"load": 3}, triggered=False),
    "external_failure_waiters": Plan(2, failed=("fails_too",), skipped=("is_skipped",)),
    "external_failure": Plan(1, {"seconds": 1}, {"seconds": 5}, failed=("load",)),
    "external_deployment": Plan(1, elsewhere="external_producer"),
    "databricks_worker_free": Plan(2, {"seconds": 3}, {"seconds": 10}, worker_free=("extract", "count")),
    "snowflake_worker_free": Plan(
        5, {"seconds": 3}, {"seconds": 15}, mapped={"orders": 3}, worker_free=("orders", "total")
    ),
    "triggerer_queues": Plan(2, {"seconds": 3}, {"seconds": 15}),
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
"""In the order in which they are triggered: who waits comes first, then what takes several steps."""

ELSEWHERE = tuple(plan.elsewhere for plan in PLANS.values() if plan.elsewhere)
"""The Dags that the other Airflow has."""

MID_WAIT = 6.0
"""Seconds that a task has been waiting when something is done to it, or for it, in mid-wait."""
