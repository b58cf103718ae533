"""What Airflow is to the engine, in memory: a task instance, a store, a supervisor, and a time line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

import pytest
from airflow.sdk.bases import sensor as base_sensor
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.execution_time import task_runner

from astronomer.deferral import JobStatus, JobTrigger, Phase, Poller, RemoteJob, clock
from astronomer.deferral._compat import TaskDeferred
from astronomer.deferral.testing import FakeClock, ScriptedJob, ScriptedOperator

T = TypeVar("T")
START = 1_800_000_000.0


@dataclass
class FakeTaskInstance:
    """The fields that the engine reads of ``context["ti"]``."""

    dag_id: str = "dag"
    run_id: str = "run"
    task_id: str = "task"
    map_index: int | None = -1
    try_number: int = 1
    max_tries: int = 0


@dataclass
class MemoryStore:
    """Airflow's task state store: JSON values that survive retries and clears."""

    values: dict[str, str] = field(default_factory=dict)
    writes: int = 0

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        self.writes += 1
        self.values[key] = json.dumps(value, allow_nan=False)


@dataclass
class Count:
    count: int


@dataclass
class FakeSupervisor:
    """Has one answer to every question, such as whether a task instance is deferred; an exception is raised."""

    answer: Any = None
    questions: list[Any] = field(default_factory=list)

    async def asend(self, question: Any) -> Any:
        return self.send(question)

    def send(self, question: Any) -> Any:
        self.questions.append(question)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @contextmanager
    def in_place(self) -> Iterator[FakeSupervisor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task_runner, "SUPERVISOR_COMMS", self, raising=False)
            yield self


@dataclass
class FakeAirflow(FakeSupervisor):
    """Knows the state of each task, ``null`` for none; what it does not know has been deleted."""

    states: dict[str, str] = field(default_factory=dict)

    def send(self, question: Any) -> Any:
        answer = super().send(question)
        if answer is not None:
            return answer
        known = [self.states[one] for one in question.task_ids if one in self.states]
        return Count(sum(question.states is None or one in question.states for one in known))


class Timeline:
    """A time that only waiting moves; several runs on a :class:`FakeClock` follow one another on it."""

    def __init__(self, start: float = START) -> None:
        self.now = start
        self.slept: Callable[[], object] = lambda: None

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept()

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def main() -> T:
            try:
                return await call()
            finally:
                self.now = clock.now()

        return FakeClock(self.now).run(main)

    @contextmanager
    def in_place(self) -> Iterator[Timeline]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "time", self)
            patch.setattr(base_sensor, "time", self)  # pokes in a worker sleep on it, too
            patch.setattr(ExecutorSafeguard, "test_mode", True)
            yield self


class TimelineOperator(ScriptedOperator):
    """Waits in its worker on a time line."""

    def __init__(self, *, timeline: Timeline, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.timeline = timeline

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.timeline.run(call)


@dataclass(frozen=True)
class PollerJob(ScriptedJob):
    """A job that is asked about with whatever poller a test has made."""

    def poller(self) -> Poller[Any]:
        raise AssertionError("the test passes its own connect to the hub")


class FunctionPoller(Poller[Any]):
    """A poller whose every answer is the test's."""

    def __init__(
        self,
        poll: Callable[[Sequence[Any]], Coroutine[Any, Any, Mapping[Any, JobStatus]]],
        cancel: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._poll = poll
        self._cancel = cancel
        self.closed = 0

    async def poll(self, jobs: Sequence[Any]) -> Mapping[Any, JobStatus]:
        return await self._poll(jobs)

    async def cancel(self, job: Any) -> None:
        if self._cancel is not None:
            await self._cancel(job)

    async def close(self) -> None:
        self.closed += 1


RUNNING = JobStatus(Phase.ACTIVE, raw="RUNNING")
DONE = JobStatus(Phase.SUCCEEDED, raw="SUCCEEDED")


def context_of(ti: FakeTaskInstance, store: MemoryStore | None = None) -> dict[str, Any]:
    """What Airflow hands to an operator; without a store, what Airflow 3.1 hands to it."""
    return {"ti": ti} | ({} if store is None else {"task_state_store": store})


def deferred(call: Callable[[], Any]) -> JobTrigger:
    """The trigger that a task defers with, after a trip through Airflow's database."""
    with pytest.raises(TaskDeferred) as caught:
        call()
    assert caught.value.method_name == "execute_complete"
    return revived(caught.value.trigger)


def revived(trigger: JobTrigger) -> JobTrigger:
    """The trigger as another process makes it from what Airflow stored."""
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)(**json.loads(json.dumps(kwargs, allow_nan=False)))


async def events_of(trigger: JobTrigger) -> list[dict[str, Any]]:
    """All that a trigger yields, after a trip through Airflow's database."""
    return [json.loads(json.dumps(event.payload, allow_nan=False)) async for event in trigger.run()]


async def reason_of_end(call: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
    """What a coroutine that is cancelled gets to know; Python 3.10 tells it to nobody who awaits the task."""
    try:
        await call
    except asyncio.CancelledError as cancelled:
        return cancelled.args
    raise AssertionError("it was not cancelled")


async def let(*seconds: float) -> None:
    """Pass time on a virtual loop."""
    for pause in seconds:
        await asyncio.sleep(pause)


def job_of(trigger: JobTrigger) -> RemoteJob:
    return trigger.remote_job
