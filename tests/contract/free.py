"""The families without a worker: one task instance from the scheduler's first word to the event of its trigger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from astronomer.deferral import JobOperator, Phase, recipe
from astronomer.deferral.xcom_memory import XCOM_KEY
from tests.contract.families import FAMILIES
from tests.contract.scripted import ScriptedFamily, ScriptedWorld
from tests.contract.world import Family, World
from tests.integration.without_worker import logged, new_run
from tests.unit.deferral.free import FreeOperator, FreeTimeline, FreeWorld
from tests.worker_free import Ended, Installation, WorkerFreeTask

__all__ = ["FREE_FAMILIES", "FreeTask"]


class _FreeScriptedWorld(ScriptedWorld):
    """In memory, and on a virtual time that the threads of steps do not move."""

    operator_type = FreeOperator

    def make(self, **arguments: Any) -> JobOperator:
        return FreeOperator(service="contract", quick_wait=0, **arguments)

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        ends = Phase.FAILED if fails else Phase.SUCCEEDED
        return {
            "script": {"runs_for": runs_for * self.beat, "ends": ends.value, "message": "told to"},
            "what": None,
        }


class FreeScriptedFamily(ScriptedFamily):
    """The scripted operator, as one of an installed package."""

    @contextmanager
    def world(self) -> Iterator[World]:
        with pytest.MonkeyPatch.context() as patch, FreeTimeline().in_place() as timeline:
            places = recipe._places()
            patch.setattr(recipe, "_places", lambda: (*places, FreeWorld.here))
            yield _FreeScriptedWorld(timeline)


FREE_FAMILIES: tuple[Family, ...] = (FreeScriptedFamily(), *FAMILIES[1:])


class FreeTask:
    """One task of one Dag run, in an Airflow of its own.

    :param runs_for: beats that its job takes.
    """

    def __init__(self, world: World, runs_for: float = 3.0, *, fails: bool = False, **arguments: Any) -> None:
        self.world = world
        self.airflow = Installation(run_id=new_run())
        self.log: list[str] = []
        given = {
            "task_id": "task",
            "start_from_trigger": True,
            **world.job(runs_for, fails=fails),
            **arguments,
        }
        self.task = WorkerFreeTask(self.airflow, lambda: world.make(**given))

    def live(self) -> Ended:
        """The next try, from the scheduler to the event."""
        self.task.schedule()
        return self.go_on()

    def go_on(self) -> Ended:
        """A triggerer that finds the try begun."""
        with self.airflow.in_place(), logged(self.log):
            return self.world.triggerer(self.task.wait)

    def stopped(self, condition: Callable[[], bool], deferred: int | None = None) -> None:
        """Cancel the trigger once something is true; with what Airflow says of the task, for a user.

        :param deferred: how many such tasks are deferred.
        """
        if self.task.state is None:
            self.task.schedule()
        trigger = self.task.trigger()

        async def main() -> None:
            async def run() -> None:
                async for _ in trigger.run():
                    pytest.fail("it has ended")

            running = asyncio.ensure_future(run())
            while not condition():  # what is waited for happens in another thread
                assert not running.done(), running.exception()
                await asyncio.sleep(self.world.beat / 4)
            running.cancel()
            await asyncio.wait({running})
            if deferred is not None:
                self.airflow.count = lambda message: deferred
                await trigger.on_kill()

        with self.airflow.in_place(), logged(self.log):
            self.world.triggerer(main)

    def knows_its_job(self) -> bool:
        """Whether the next triggerer will know which job it is."""
        return bool(self.memory.get("job"))

    @property
    def memory(self) -> dict[str, Any]:
        """What it remembers from one life to the next."""
        found = [one for (*_, key), one in self.airflow.xcoms.items() if key == XCOM_KEY]
        return found[0] if found else {}

    @property
    def result(self) -> Any:
        """What the task has returned."""
        return self.airflow.pull("task")

    @property
    def said(self) -> str:
        """The log as one text."""
        return "\n".join(self.log)
