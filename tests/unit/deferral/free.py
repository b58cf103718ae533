"""Tasks that run in a triggerer: operators that count as installed, and a time line with threads in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.comms import SetXCom

from astronomer.deferral import PokeSensor, WatchSensor, clock, recipe
from astronomer.deferral.in_triggerer import InTriggerer
from astronomer.deferral.testing import ScriptedOperator, ScriptedService
from astronomer.deferral.worker_free import WorkerFree
from tests.unit.deferral.fakes import Timeline, let
from tests.unit.deferral.foreign import ForeignJob, ForeignTrigger
from tests.unit.deferral.pokes import PokedJob, ScriptedPokes
from tests.worker_free import Ended, Installation, WorkerFreeTask

T = TypeVar("T")


class FreeOperator(ScriptedOperator):
    """Runs a scripted job, and returns what it was told to."""

    template_fields = ("what",)
    template_ext = (".sql",)

    def __init__(self, *, what: Any = "done", more: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.what = what
        self.more = more

    def finish(self, context: Mapping[str, Any], job: Any, status: Any) -> Any:
        return self.what


class ClaimingOperator(FreeOperator):
    """Its vendor would start the same submit twice."""

    claims_submits = True


class ShortOperator(WorkerFree):
    """Starts nothing that has to be found again."""

    template_fields = ("what",)

    def __init__(self, *, what: Any = "done", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.what = what

    def execute(self, context: Any) -> Any:
        return self.what


class JobLink(BaseOperatorLink):
    name = "Job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return f"https://jobs/{operator.task_id}"


class BrokenLink(BaseOperatorLink):
    name = "Broken"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        raise ValueError("nowhere")


class NoLink(BaseOperatorLink):
    name = "None"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return ""


class LinkedOperator(FreeOperator):
    operator_extra_links = (JobLink(), NoLink(), BrokenLink())


class WatchOperator(WatchSensor):
    """Waits for the job ``a``, which is not its own."""

    trigger_type = ForeignTrigger

    def job(self, context: Mapping[str, Any]) -> ForeignJob:
        return ForeignJob("a")


class PokeOperator(PokeSensor):
    """Pokes a service; ``reason`` is why it does so in a worker."""

    trigger_type = ScriptedPokes

    def __init__(self, *, service: str, reason: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.reason = reason

    def anchor(self) -> PokedJob:
        return PokedJob("", self.service)

    def trigger_arguments(self, context: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def why_in_worker(self) -> str | None:
        return self.reason


class FreeTimeline(Timeline):
    """A time that only waiting on the loop moves, for the threads of the steps, too."""

    _loop: Any = None

    def time(self) -> float:
        return self.now if self._loop is None else float(self._loop.epoch())

    monotonic = time

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def main() -> T:
            self._loop = asyncio.get_running_loop()
            return await call()

        try:
            return super().run(main)
        finally:
            self._loop = None

    @contextmanager
    def in_place(self) -> Iterator[FreeTimeline]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "time", self)
            patch.setattr(InTriggerer, "run", _run_and_let_time_pass)
            yield self


def _run_and_let_time_pass(self: InTriggerer, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """A thread that waits for the loop does not hold up its time."""
    loop: Any = self._loop

    async def main() -> T:
        loop.in_threads -= 1
        try:
            return await call()
        finally:
            loop.in_threads += 1

    return asyncio.run_coroutine_threadsafe(main(), loop).result()


class Gate:
    """Holds up a step until it is opened; meanwhile time passes."""

    def __init__(self) -> None:
        self._reached: Future[None] = Future()
        self._opened = threading.Event()
        self._loop: Any = None

    def before(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def held(*given: Any, **more: Any) -> Any:
            if not self._reached.done():
                self._reached.set_result(None)
            assert self._opened.wait(20)
            return step(*given, **more)

        return held

    def opened_by(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def opening(*given: Any) -> Any:
            try:
                return step(*given)
            finally:
                self.open()

        return opening

    async def reached(self) -> None:
        await asyncio.wrap_future(self._reached)
        self._loop = asyncio.get_running_loop()
        self._count(-1)

    def open(self) -> None:
        if self._loop is not None and not self._opened.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._count, 1)
        self._opened.set()

    def _count(self, threads: int) -> None:
        self._loop.in_threads += threads


def shut_down(free: FreeWorld, task: WorkerFreeTask, after: float) -> None:
    """The triggerer of a task ends after some seconds; its trigger does not."""

    async def main() -> None:
        running = asyncio.ensure_future(task.wait())
        await let(after)
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()

    free.timeline.run(main)


def raises(error: Exception) -> Callable[..., Any]:
    """A step of an operator that does not go well."""

    def step(self: Any, context: Any, *more: Any) -> Any:
        raise error

    return step


class FreeWorld:
    """One installation of Airflow, its remote service, and their time."""

    here: ClassVar[str] = str(Path(__file__).parent)

    def __init__(self, service: ScriptedService, timeline: FreeTimeline) -> None:
        self.service = service
        self.timeline = timeline
        self.airflow = Installation()
        self.script: dict[str, Any] = {"runs_for": 100.0}

    def given(self, kind: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
        scripted = {"service": self.service.name, "script": self.script}
        return {
            "task_id": "task",
            "start_from_trigger": True,
            **(scripted if issubclass(kind, ScriptedOperator) else {}),
            **arguments,
        }

    def task(
        self, kind: Any = FreeOperator, *, dag: Mapping[str, Any] | None = None, **arguments: Any
    ) -> WorkerFreeTask:
        """A task of a Dag that has no other."""
        return self.dag(lambda: kind(**self.given(kind, arguments)), **(dag or {}))

    def mapped(
        self,
        expand: Any,
        map_index: int = 0,
        kind: Any = FreeOperator,
        *,
        dag: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> WorkerFreeTask:
        """One instance of a mapped task."""

        def make() -> Any:
            partial = kind.partial(**self.given(kind, arguments))
            return partial.expand(**expand) if isinstance(expand, dict) else partial.expand_kwargs(expand)

        return self.dag(make, map_index=map_index, **(dag or {}))

    def dag(self, make: Callable[[], Any], **more: Any) -> WorkerFreeTask:
        return WorkerFreeTask(self.airflow, make, **more)

    def run(self, task: WorkerFreeTask) -> Ended:
        """The next try, up to its event."""
        task.schedule()
        return self.timeline.run(task.wait)

    def result(self, task: WorkerFreeTask) -> Any:
        """What a task returns; it has to succeed."""
        ended = self.run(task)
        assert ended.state == "success", ended
        return self.airflow.pull("task", map_index=task.map_index)

    def pushed(self, key: str) -> list[Any]:
        """The values that were pushed under a key."""
        return [one.value for one in self.airflow.of(SetXCom) if one.key == key]

    @contextmanager
    def in_place(self) -> Iterator[FreeWorld]:
        with pytest.MonkeyPatch.context() as patch, self.airflow.in_place(), self.timeline.in_place():
            places = recipe._places()
            patch.setattr(recipe, "_places", lambda: (*places, self.here))
            yield self
