"""What a family of waits for what is not one's own brings to be put under the laws, and a task that waits."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from astronomer.deferral import JobTrigger, clock
from astronomer.deferral._compat import AirflowException, TaskDeferred
from tests.unit.deferral.fakes import FakeTaskInstance, Timeline, events_of, revived

__all__ = ["WAYS", "WaitFamily", "WaitTask", "WaitWorld"]

T = TypeVar("T")
WAYS = ("in a worker", "deferred", "restarted")
"""How a wait may reach its end, apart from the first look."""


class WaitWorld(ABC):
    """Things that others do, each with a number, and all that is asked about them.

    :cvar beat: the family's second. Laws count in beats.
    :ivar touched: what somebody has tried to do to them; stays empty.
    """

    beat: float = 30.0
    questions_per_look: int = 1
    touched: list[Any]

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.touched = []
        self._later: list[tuple[float, Callable[[], object]]] = []
        timeline.slept = self._happen

    # Airflow's side.

    @abstractmethod
    def make(self, thing: int, **arguments: Any) -> Any:
        """The sensor that waits for a thing, as each process makes it anew from the Dag."""

    def make_stock(self, thing: int, **arguments: Any) -> Any:
        """The stock sensor for the same, where it can live in this world."""
        pytest.skip("has no stock sensor that could live here")

    def context(self, ti: Any) -> dict[str, Any]:
        """What Airflow hands to the sensor."""
        dag_run = SimpleNamespace(run_after=datetime(2026, 1, 1, tzinfo=timezone.utc))
        return {"ti": ti, "task_instance": ti, "dag_run": dag_run, "logical_date": dag_run.run_after}

    def triggerer(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in a new triggerer."""

        async def main() -> T:
            for at, _ in self._later:
                asyncio.get_running_loop().call_later(max(0.0, at - clock.now()), self._happen)
            return await call()

        return self.timeline.run(main)

    def now(self) -> float:
        """Epoch seconds."""
        return clock.now()

    def later(self, beats: float, change: Callable[[], object]) -> None:
        """Something that happens to things after some beats."""
        self._later.append((self.now() + beats * self.beat, change))
        self._later.sort(key=lambda one: one[0])

    def _happen(self) -> None:
        while self._later and self._later[0][0] <= self.now():
            self._later.pop(0)[1]()

    # The things.

    @abstractmethod
    def begin(self, thing: int) -> None:
        """It is under way."""

    @abstractmethod
    def come_true(self, thing: int) -> None:
        """It is as was waited for."""

    def go_wrong(self, thing: int) -> None:
        """It has ended in a way in which nobody would wait any longer."""
        raise NotImplementedError("no law asks for it where the family's can_go_wrong is false")

    @property
    def fragile(self) -> dict[str, Any]:
        """Arguments with which a thing that goes wrong ends the wait."""
        return {}

    @abstractmethod
    def vanish(self, thing: int) -> None:
        """It is there no more."""

    def report_unknown_state(self, thing: int) -> None:
        """Say of it a word that no release knows."""
        raise NotImplementedError("no law asks for it where the family's has_states is false")

    @abstractmethod
    def weather(self, *kinds: str, times: int | None = 1) -> None:
        """The next questions meet each of these, so many times (``None``: until it clears up)."""

    @abstractmethod
    def clear_up(self) -> None:
        """Let the weather be fine."""

    # What is counted.

    @property
    @abstractmethod
    def questions(self) -> list[float]:
        """The moments (epoch seconds) of all questions since the last :meth:`forget`."""

    @abstractmethod
    def forget(self) -> None:
        """Count from here."""


class WaitFamily(ABC):
    """A sensor, its trigger, and what it waits for.

    :cvar kinds: the kinds of bad weather that its questions may meet; the first one stands for any of them.
    :cvar pairs: our sensors, each with the stock sensor it replaces.
    :cvar can_go_wrong: whether what is waited for can end in another way.
    :cvar has_states: whether words are said of it.
    """

    can_go_wrong: bool = True
    has_states: bool = True
    name: str
    kinds: tuple[str, ...] = ()
    pairs: tuple[tuple[type[Any], type[Any]], ...] = ()

    @abstractmethod
    def world(self) -> Any:
        """A context manager that yields a fresh :class:`WaitWorld`."""

    def __repr__(self) -> str:
        return self.name


@dataclass
class TaskInstance(FakeTaskInstance):
    """With XComs, through a trip to the database."""

    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value, allow_nan=False))


class WaitTask:
    """One task of one Dag run that waits for a thing, driven as Airflow's processes drive it.

    :param arguments: more arguments of the sensor.
    """

    def __init__(self, world: WaitWorld, thing: int = 0, **arguments: Any) -> None:
        self.world = world
        self.thing = thing
        self.arguments = {"poke_interval": world.beat / 4} | arguments
        self.ti = TaskInstance()
        self.trigger: JobTrigger | None = None
        self.event: dict[str, Any] | None = None

    @property
    def context(self) -> dict[str, Any]:
        return self.world.context(self.ti)

    def make(self, **more: Any) -> Any:
        """The sensor, as a new process has it."""
        return self.world.make(self.thing, task_id="wait", **self.arguments | more)

    def execute(self) -> Any:
        """The worker's part: its result, unless it defers, and then :attr:`trigger` is set."""
        self.trigger = None
        try:
            return self.make().execute(self.context)
        except TaskDeferred as deferral:
            deferred = deferral
        self.trigger = revived(deferred.trigger)
        limit = self.world.now() + deferred.timeout.total_seconds()
        assert limit >= self.trigger.deadline + 60, "Airflow's own timeout would not allow a last look"
        self.trigger.task_instance = self.ti
        self.trigger.not_before = 0.0
        return None

    def defer(self) -> JobTrigger:
        """The worker's part of a task that has to defer."""
        result = self.execute()
        assert self.trigger is not None, f"the task did not defer, but returned {result!r}"
        return self.trigger

    def wait(self) -> dict[str, Any]:
        """The triggerer's part: the one event."""
        (self.event,) = self.world.triggerer(lambda: events_of(self.trigger))
        return self.event

    def resume(self) -> Any:
        """The worker's part after the event, in a process of its own, as Airflow's task runner does it."""
        event = {"event": self.event}
        return self.make().resume_execution("execute_complete", event, self.context)

    def interrupted(self, after: float, message: str | None = None) -> None:
        """The triggerer cancels the trigger after some beats, and calls ``on_kill`` when it has a message for it."""
        trigger = self.trigger
        assert trigger is not None

        async def main() -> None:
            waiting = asyncio.ensure_future(events_of(trigger))
            await asyncio.sleep(after * self.world.beat)
            assert not waiting.done()
            waiting.cancel(*([] if message is None else [message]))
            await asyncio.wait({waiting})
            assert waiting.cancelled()
            if message is not None:
                await trigger.on_kill()

        self.world.triggerer(main)
        self.trigger = revived(trigger)
        self.trigger.task_instance = self.ti

    def end(self, way: str) -> Any:
        """From the first step to the last, in one of the ways."""
        if way == "in a worker":
            return self.make(deferrable=False).execute(self.context)
        self.defer()
        if way == "restarted":
            self.interrupted(after=0.5)
        self.wait()
        return self.resume()

    def ended(self, way: str) -> tuple[Any, ...]:
        """How it ends: what it returns and pushes, or its error."""
        try:
            return "returned", self.end(way), self.ti.xcoms
        except AirflowException as error:
            return type(error), str(error), self.ti.xcoms
