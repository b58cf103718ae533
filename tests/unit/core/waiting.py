"""A task that waits for another Dag, in memory: its worker, its triggerer, and what it pushes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from astronomer.deferral._compat import TaskDeferred
from astronomer.providers.core.sensors import waits
from tests.unit.core.airflow_side import DAY, AirflowSide
from tests.unit.deferral.fakes import FakeTaskInstance, Timeline, events_of, revived

__all__ = ["Waiting", "WaitingTask"]


@dataclass
class WaitingTask(FakeTaskInstance):
    """With XComs, and with the bundle that its file is in."""

    bundle_instance: Any = None
    xcoms: dict[str, Any] = field(default_factory=dict)
    pushes: int = 0

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushes += 1
        self.xcoms[key] = value


@dataclass
class Waiting:
    """One task instance with a sensor, driven as Airflow's processes drive it.

    :param make: a fresh sensor, as each process has it.
    """

    make: Callable[..., Any]
    airflow: AirflowSide = field(default_factory=AirflowSide)
    timeline: Timeline = field(default_factory=Timeline)
    ti: WaitingTask = field(default_factory=WaitingTask)
    date: datetime | None = DAY
    sensor: Any = None
    trigger: Any = None
    event: Any = None

    @contextmanager
    def in_place(self) -> Iterator[Waiting]:
        def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
            return self.timeline.run(lambda: coroutine)

        with self.airflow.in_place(), self.timeline.in_place(), pytest.MonkeyPatch.context() as patch:
            # What the worker insists on sleeps between its questions.
            patch.setattr(waits, "asyncio", SimpleNamespace(**vars(asyncio) | {"run": run}))
            yield self

    @property
    def context(self) -> dict[str, Any]:
        return {
            "ti": self.ti,
            "task_instance": self.ti,
            "logical_date": self.date,
            "dag_run": SimpleNamespace(run_after=DAY),
        }

    def execute(self, **arguments: Any) -> Any:
        """The worker's part; :attr:`trigger` is set if it defers."""
        self.sensor, self.trigger = self.make(**arguments), None
        try:
            return self.sensor.execute(self.context)
        except TaskDeferred as deferral:
            self.trigger = revived(deferral.trigger)
            return None

    def wait(self) -> dict[str, Any]:
        """The triggerer's part."""
        assert self.trigger is not None, "the task did not defer"
        trigger = revived(self.trigger)
        (self.event,) = self.timeline.run(lambda: events_of(trigger))
        return self.event

    def resume(self, **arguments: Any) -> Any:
        """The worker's part after the event, in a process of its own."""
        self.sensor = self.make(**arguments)
        return self.sensor.resume_execution("execute_complete", {"event": self.event}, self.context)

    def live(self, **arguments: Any) -> Any:
        """From the first step to the last."""
        result = self.execute(**arguments)
        if self.trigger is None:
            return result
        self.wait()
        return self.resume(**arguments)
