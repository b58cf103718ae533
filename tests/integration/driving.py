"""One task instance, driven as Airflow's worker and triggerer drive it.

Each step has an operator of its own, as each process parses the Dag anew, and what crosses is JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.serde import deserialize, serialize

from astronomer.deferral import Hub, JobOperator
from astronomer.deferral._compat import TaskDeferred
from astronomer.deferral.pacing import Pacing
from tests.unit.deferral.fakes import FakeSupervisor, FakeTaskInstance, MemoryStore, revived

BRISK = Pacing(spacing=0.05, gather=0.02, backoff=0.05, max_backoff=0.5, rejection=0.1)
"""The triggerer's pace, twenty times as fast."""


forgetting: list[Callable[[], object]] = []
"""What a process keeps in memory, emptied: each step runs in a process of its own."""

_runs = itertools.count(1)


@dataclass
class Push:
    at: float
    key: str
    value: Any


@dataclass
class TaskInstance(FakeTaskInstance):
    pushes: list[Push] = field(default_factory=list)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushes.append(Push(time.time(), key, json.loads(json.dumps(value))))

    @property
    def xcoms(self) -> dict[str, Any]:
        return {push.key: push.value for push in self.pushes}


class Killed(BaseException):
    """The end of a process, in the middle of whatever it did."""


class DyingStore(MemoryStore):
    """A store whose process is killed at its ``dies_at``-th write, before it is written."""

    dies_at: int | None = None

    def set(self, key: str, value: Any) -> None:
        if self.dies_at == self.writes + 1:
            self.dies_at = None
            raise Killed
        super().set(key, value)


class Task:
    """A task of this operator class with these arguments.

    :param store: the task state store; ``None`` is an Airflow without one.
    :param dag: makes the Dag, as each process does.
    """

    def __init__(
        self, operator_class: type[Any], *, store: Any = ..., dag: Any = None, **arguments: Any
    ) -> None:
        defaults: dict[str, Any] = {"task_id": "task"}
        if not operator_class.__module__.startswith("airflow."):
            defaults["poll_interval"] = 0.1
        if issubclass(operator_class, JobOperator):
            defaults["quick_wait"] = 0
        self._class = operator_class
        self._arguments = {**defaults, **arguments}
        self._dag = dag
        self.store = MemoryStore() if store is ... else store
        self.ti = TaskInstance(task_id=self._arguments["task_id"], run_id=f"run-{next(_runs)}")
        self.op: Any = None
        self.trigger: Any = None
        self.method = ""
        self.events: list[dict[str, Any]] = []

    @property
    def context(self) -> dict[str, Any]:
        context: dict[str, Any] = {"ti": self.ti, "task_instance": self.ti}
        return context if self.store is None else context | {"task_state_store": self.store}

    def run(self) -> Any:
        """From the first step to the last; what the task returns."""
        deferred, result = self.start()
        while deferred:
            self.wait()
            deferred, result = self.resume()
        return result

    def start(self) -> tuple[bool, Any]:
        """The first step: whether the task has deferred, and what it returned if not."""
        return self._step(lambda op: op.execute(self.context))

    def deferred(self) -> Any:
        """The first step of a task that has to defer; its trigger."""
        assert self.start()[0], "the task did not defer"
        return self.trigger

    def resume(self) -> tuple[bool, Any]:
        """The step after an event."""
        kwargs = {"event": self.events[-1]}
        return self._step(lambda op: op.resume_execution(self.method, kwargs, self.context))

    def wait(self, meanwhile: Callable[[Any], Awaitable[None]] | None = None) -> dict[str, Any]:
        """The triggerer: run the trigger to its one event, and ``meanwhile`` something else."""

        async def main() -> list[Any]:
            async with triggerer():
                running = asyncio.ensure_future(collected(self.trigger))
                if meanwhile is not None:
                    await meanwhile(self.trigger)
                return await asyncio.wait_for(running, 100)

        (event,) = asyncio.run(main())
        self.events.append(event)
        return event

    def next_try(self) -> None:
        """As after a failure: Airflow tries again."""
        self.ti.try_number += 1

    def clear(self) -> None:
        """As after a clear: Airflow raises ``max_tries``."""
        self.ti.try_number += 1
        self.ti.max_tries += 1

    def _step(self, step: Callable[[Any], Any]) -> tuple[bool, Any]:
        _forget()
        self.op = self._class(**self._arguments, **({"dag": self._dag()} if self._dag else {}))
        self.op.resolve_template_files()
        self.op.render_template_fields(self.context)
        try:
            with _in_a_worker():
                return False, step(self.op)
        except TaskDeferred as deferred:
            if deferred.kwargs:
                raise AssertionError(f"{deferred.kwargs} would be lost") from None
            self.method = deferred.method_name
            self.trigger = revived(deferred.trigger)
            self.trigger.not_before = 0.0
            self.trigger.task_instance = self.ti
            return True, None


async def collected(trigger: Any) -> list[dict[str, Any]]:
    """The events of a trigger, after a trip through Airflow's database."""
    return [json.loads(json.dumps(event.payload, allow_nan=False)) async for event in trigger.run()]


@contextmanager
def _in_a_worker() -> Iterator[None]:
    """The supervisor of a triggerer, which a test has put in place, is not that of a worker."""
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), FakeSupervisor):
            patch.delattr(task_runner, "SUPERVISOR_COMMS")
        yield


def _forget() -> None:
    for forget in forgetting:
        forget()


@asynccontextmanager
async def triggerer(pacing: Pacing = BRISK):
    """The running loop is that of a triggerer, with a hub for all its triggers."""
    _forget()
    async with Hub(pacing=pacing) as hub:
        Hub._of_loop[asyncio.get_running_loop()] = hub
        yield hub


def as_xcom(value: Any) -> Any:
    """What another task reads of it."""
    return deserialize(json.loads(json.dumps(serialize(value))))


def in_enough_time(attempt: Callable[[float], Any], *timeouts: float) -> None:
    """Attempt it with more and more time, until enough has happened before the timeout."""
    assert any(attempt(timeout) for timeout in timeouts or (0.6, 5.0, 20.0)), "never enough"


async def for_a_while(tasks: Sequence[Task], meanwhile: Awaitable[Any]) -> None:
    """Tasks that have deferred wait until something else is over; then their triggerer goes."""
    async with triggerer():
        waiting = [asyncio.ensure_future(collected(task.trigger)) for task in tasks]
        await meanwhile
        assert not any(one.done() for one in waiting)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of the condition, while the loop goes on."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, "waited too long"
        await asyncio.sleep(0.01)
    return value


def until_now(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The same without a loop."""
    return asyncio.run(until(condition, seconds))
