"""What is run: who waits for what, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from benchmarks.plan import Plan

__all__ = [
    "DAG",
    "GROUP",
    "IDLE",
    "KINDS",
    "MIXED",
    "OURS_API",
    "PER_RUN",
    "TASK",
    "WAITING",
    "Crowd",
    "Target",
    "run_id",
]

TASK, DAG, GROUP, MIXED = "task", "dag", "group", "mixed"
KINDS = (TASK, DAG, GROUP, MIXED)
IDLE = "idle"
OURS_API = "ours_api"
"""Ours, over this Airflow's own REST API: the third side here, beside those that every benchmark has."""
WAITING = "waiting"
"""The Dag whose sensors wait."""
PER_RUN = 20
"""Sensors of that Dag, each of which waits in every run."""

_LONG_AGO = datetime(2025, 1, 1, tzinfo=timezone.utc)
_FIRST_DATE = datetime(2026, 1, 1, tzinfo=timezone.utc)
_FAILS = 10


def run_id(date: datetime) -> str:
    """The run of that logical date."""
    return f"scheduled__{date.isoformat()}"


@dataclass(frozen=True)
class Target:
    """What one wait or several are for.

    :param kind: ``task``, ``group`` or ``dag``.
    :param name: the task or the group; empty for a whole run.
    """

    kind: str
    dag_id: str
    date: datetime
    name: str

    @property
    def run_id(self) -> str:
        """The run that it belongs to."""
        return run_id(self.date)

    @property
    def task_ids(self) -> list[str]:
        """The tasks whose states decide; none for a whole run."""
        return {TASK: [self.name], GROUP: [f"{self.name}.a", f"{self.name}.b"]}.get(self.kind, [])


@dataclass(frozen=True)
class Crowd:
    """The waits of one side, and what becomes of them. Durations are seconds.

    :param sensors: how many wait.
    :param dags: how many external Dags they wait for.
    :param dates: over how many logical dates the waits of one Dag are spread.
    :param kind: what is waited for: ``task``, ``dag``, ``group``, or ``mixed``, each a third.
    :param interval: between two polls.
    :param quiet: how long nothing ends, once all wait.
    :param spread: over how long the targets end.
    :param ending: how many waits' targets end; the others are waited for to the end of the measurement.
    :param patience: how long after the last end events are waited for.
    """

    sensors: int
    dags: int
    dates: int = 1
    kind: str = TASK
    interval: float = 5.0
    quiet: float = 30.0
    spread: float = 120.0
    ending: int = 1000
    patience: float = 300.0

    @cached_property
    def waits(self) -> list[Target]:
        """What each sensor waits for; neighbours wait for different Dags."""
        return [self._target(*divmod(number, self.dags)) for number in range(self.sensors)]

    def _target(self, position: int, dag: int) -> Target:
        """:param position: among the waits for that Dag."""
        kind, place = self.kind, position
        if kind == MIXED:
            place, turn = divmod(position, 3)
            kind = (TASK, GROUP, DAG)[turn]
        place, date = divmod(place, self.dates)
        names = {TASK: f"t{place}", GROUP: f"g{place}", DAG: ""}
        return Target(kind, f"external_{dag}", _FIRST_DATE + timedelta(days=date), names[kind])

    @cached_property
    def targets(self) -> list[Target]:
        """What is waited for, each once."""
        return list(dict.fromkeys(self.waits))

    def ends(self) -> list[tuple[float, Target, bool]]:
        """When each target ends, counted from the first end, and whether it fails: every tenth does."""
        ending = list(dict.fromkeys(self.waits[: self.ending]))
        moments = Plan(len(ending), first=0.0, spread=self.spread).ends()
        found = [(at, target, fails(n)) for n, (at, target) in enumerate(zip(moments, ending, strict=True))]
        return sorted(found, key=lambda one: one[0])

    def names(self, kind: str) -> dict[str, list[str]]:
        """The tasks or groups that each external Dag has."""
        found: dict[str, dict[str, None]] = {f"external_{dag}": {} for dag in range(self.dags)}
        for target in self.targets:
            if target.kind == kind:
                found[target.dag_id][target.name] = None
        return {dag_id: list(names) for dag_id, names in found.items()}

    def sensor(self, number: int) -> tuple[str, str]:
        """Run and task of the sensor of that number."""
        run, place = divmod(number, PER_RUN)
        return run_id(_LONG_AGO + timedelta(minutes=run)), f"wait_{place}"

    @property
    def waiting_dates(self) -> list[datetime]:
        """The logical dates on which the Dag of the sensors runs."""
        return [_LONG_AGO + timedelta(minutes=number) for number in range(-(-self.sensors // PER_RUN))]

    @property
    def external_dates(self) -> list[datetime]:
        """The logical dates on which every external Dag runs."""
        return [_FIRST_DATE + timedelta(days=number) for number in range(self.dates)]

    def settings(self) -> dict[str, Any]:
        """For whom reads the numbers."""
        return {
            "sensors": self.sensors,
            "dags": self.dags,
            "dates": self.dates,
            "kind": self.kind,
            "interval_s": self.interval,
            "quiet_s": self.quiet,
            "spread_s": self.spread,
            "ending": min(self.ending, self.sensors),
        }


def fails(number: int) -> bool:
    """Whether the target of that number ends badly: every tenth does."""
    return number % _FAILS == _FAILS - 1
