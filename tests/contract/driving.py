"""One task instance of a family, driven as Airflow's processes drive it, and killed where a law wants it killed."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from astronomer.deferral import JobOperator, JobTrigger
from astronomer.deferral._compat import TaskDeferred
from tests.contract.world import World
from tests.unit.deferral.fakes import FakeSupervisor, FakeTaskInstance, MemoryStore, events_of, revived

__all__ = ["Killed", "MortalStore", "Task", "TaskInstance", "until"]

_runs = itertools.count(1)


class Killed(BaseException):
    """The process ends here, without any handler."""


@dataclass
class TaskInstance(FakeTaskInstance):
    """A task instance that keeps what was pushed."""

    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value, allow_nan=False))


class MortalStore(MemoryStore):
    """A store whose process is killed before or after its n-th write."""

    dies: tuple[int, str] | None = None

    def set(self, key: str, value: Any) -> None:
        dies = self.dies is not None and self.dies[0] == self.writes + 1
        moment, self.dies = self.dies[1] if dies else "", None if dies else self.dies
        if moment != "before":
            super().set(key, value)
        if dies:
            raise Killed


class Task:
    """One task of one Dag run.

    :param runs_for: beats that its job takes.
    :param lasting: whether this Airflow has a task state store.
    :param arguments: more arguments of the operator.
    """

    def __init__(
        self,
        world: World,
        runs_for: float = 3.0,
        *,
        fails: bool = False,
        lasting: bool = True,
        **arguments: Any,
    ) -> None:
        self.world = world
        self.arguments = world.job(runs_for, fails=fails) | arguments
        self.store = MortalStore() if lasting else None
        self.ti = TaskInstance(run_id=f"run-{next(_runs)}")
        self.trigger: JobTrigger | None = None
        self.event: dict[str, Any] | None = None

    @property
    def context(self) -> dict[str, Any]:
        context: dict[str, Any] = {"ti": self.ti, "task_instance": self.ti}
        return context if self.store is None else context | {"task_state_store": self.store}

    def make(self) -> JobOperator:
        """The operator, as a new process has it."""
        return self.world.make(task_id="task", **self.arguments)

    def execute(self, change: Callable[[JobOperator], object] = lambda operator: None) -> Any:
        """The worker's part: the result, unless it defers, and then ``self.trigger`` is set."""
        operator = self.make()
        change(operator)
        self.trigger = None
        try:
            return operator.execute(self.context)
        except TaskDeferred as deferral:
            self.trigger = revived(deferral.trigger)
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

    def complete(self) -> Any:
        """The worker's part after the event, in a process of its own."""
        return self.make().execute_complete(self.context, self.event)

    def live(self) -> Any:
        """From the first step to the last."""
        result = self.execute()
        if self.trigger is None:
            return result
        self.wait()
        return self.complete()

    def retry(self) -> None:
        """Airflow's next try."""
        self.ti = TaskInstance(
            run_id=self.ti.run_id, try_number=self.ti.try_number + 1, max_tries=self.ti.max_tries
        )

    def clear(self) -> None:
        """A user clears the task: Airflow raises ``max_tries``."""
        tries = self.ti.try_number
        self.ti = TaskInstance(run_id=self.ti.run_id, try_number=tries + 1, max_tries=tries)

    def interrupted(self, after: float, message: str | None = None, deferred: Any = ...) -> None:
        """The triggerer cancels the trigger after some beats, and calls ``on_kill`` when it has a message for it.

        :param deferred: what Airflow answers when it is asked for the task's state; or Airflow itself.
        """
        trigger = self.trigger
        assert trigger is not None

        async def main() -> None:
            waiting = asyncio.ensure_future(events_of(trigger))
            await asyncio.sleep(after * self.world.beat)
            assert not waiting.done()
            waiting.cancel(*([] if message is None else [message]))
            done, _ = await asyncio.wait({waiting}, timeout=60.0)
            assert done
            assert waiting.cancelled()
            if message is not None:
                airflow = deferred if isinstance(deferred, FakeSupervisor) else FakeSupervisor(deferred)
                with airflow.in_place():
                    await trigger.on_kill()

        self.world.triggerer(main)
        self.trigger = revived(trigger)
        self.trigger.task_instance = self.ti


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Let the loop go on until the condition holds."""

    async def hold() -> None:
        while not condition():  # noqa: ASYNC110  # what is waited for happens in another thread
            await asyncio.sleep(0.01)

    await asyncio.wait_for(hold(), seconds)
