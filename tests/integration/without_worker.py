"""A task that never starts a worker, against real remote sides, beside the same task on the worker path."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import traceback
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from astronomer.deferral import JobOperator, PokeSensor
from astronomer.deferral._compat import TaskDeferred
from tests.integration.driving import Task, TaskInstance, triggerer
from tests.unit.deferral.fakes import MemoryStore
from tests.worker_free import Ended, Installation, WorkerFreeTask

__all__ = ["Free", "Lag", "failure_in_worker", "logged", "triggerer_in_place"]


class Lag:
    """The longest time for which the running loop did nothing else.

    It is told in the ticks of a thread beside it, which a busy machine holds up as well.
    """

    TICK = 0.01

    def __init__(self) -> None:
        self.longest = 0.0
        self.ticks = 0
        self._beside = 0

    async def measure(self) -> None:
        """Until it is cancelled."""
        done = threading.Event()
        threading.Thread(target=self._count, args=(done,), daemon=True).start()
        before = self._beside
        try:
            while True:
                await asyncio.sleep(self.TICK)
                now = self._beside
                self.longest = max(self.longest, (now - before) * self.TICK)
                self.ticks, before = self.ticks + 1, now
        finally:
            done.set()

    def _count(self, done: threading.Event) -> None:
        while not done.wait(self.TICK):
            self._beside += 1


@contextmanager
def triggerer_in_place(**installation: Any) -> Iterator[Free]:
    """A triggerer, and a Dag run of which the remote sides have never heard."""
    with Installation(run_id=new_run(), **installation).in_place() as airflow:
        yield Free(airflow)


def new_run() -> str:
    """The id of a Dag run."""
    return f"run-{uuid.uuid4()}"


@dataclass
class Free:
    """Tasks in one triggerer that is about twenty times as fast as a real one.

    :ivar log: everything that was logged by them.
    """

    airflow: Installation
    log: list[str] = field(default_factory=list)
    lag: Lag = field(default_factory=Lag)

    def task(self, kind: type[Any], *, dag: dict[str, Any] | None = None, **arguments: Any) -> WorkerFreeTask:
        """A task as a Dag file has it."""
        given = {"task_id": "task", "start_from_trigger": True, **_brisk(kind), **arguments}
        return WorkerFreeTask(self.airflow, lambda: kind(**given), **(dag or {}))

    def mapped(
        self, kind: type[Any], expand: dict[str, Any] | list[Any], index: int, **partial: Any
    ) -> WorkerFreeTask:
        """One instance of a mapped task: of ``expand``, or of ``expand_kwargs`` for a list."""

        def make() -> Any:
            task = kind.partial(task_id="task", start_from_trigger=True, **_brisk(kind), **partial)
            return task.expand(**expand) if isinstance(expand, dict) else task.expand_kwargs(expand)

        return WorkerFreeTask(self.airflow, make, map_index=index)

    def anew(self) -> None:
        """Begin another Dag run, and other measurements."""
        self.airflow.run_id, self.lag = new_run(), Lag()
        self.airflow.messages.clear()
        self.log.clear()

    def run(
        self, *tasks: WorkerFreeTask, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> list[Ended]:
        """One try of each, all at once."""

        async def together() -> list[Ended]:
            running = asyncio.gather(*(task.wait() for task in tasks))
            if meanwhile is not None:
                await meanwhile()
            return await running

        for task in tasks:
            task.schedule()
        return self._in_triggerer(together)

    def retried(self, task: WorkerFreeTask, between: Callable[[], object]) -> list[Ended]:
        """Two tries in one triggerer."""

        async def one_by_one() -> list[Ended]:
            task.schedule()
            first = await task.wait()
            between()
            task.schedule()
            return [first, await task.wait()]

        return self._in_triggerer(one_by_one)

    def _in_triggerer(self, work: Callable[[], Coroutine[Any, Any, list[Ended]]]) -> list[Ended]:
        async def main() -> list[Ended]:
            async with triggerer():
                measuring = asyncio.ensure_future(self.lag.measure())
                try:
                    return await asyncio.wait_for(work(), 100)
                finally:
                    measuring.cancel()

        with logged(self.log):
            return asyncio.run(main())

    def end(self, kind: type[Any], **arguments: Any) -> str:
        """The state in which one try of a task ends, in a Dag run of its own."""
        self.anew()
        (ended,) = self.run(self.task(kind, **arguments))
        return ended.state

    def failure(self, kind: type[Any], **arguments: Any) -> str:
        """What is logged of the failure of a task, on one line."""
        assert self.end(kind, **arguments) == "failed"
        found = next(line for line in self.log if line.startswith("Task failed: "))
        return _comparable(found.removeprefix("Task failed: "))

    def in_worker(self, task: WorkerFreeTask, ended: Ended) -> Any:
        """What a worker returns that goes on with it."""
        assert ended.state == "scheduled"
        ti = TaskInstance(task_id=task.parsed.task_id, run_id=self.airflow.run_id)
        context = {"ti": ti, "task_instance": ti, "task_state_store": MemoryStore()}
        event = json.loads(json.dumps(ended.resume))
        task.parsed.render_template_fields(context)
        try:
            return task.parsed.resume_execution("resume_in_worker", {"event": event}, context)
        except TaskDeferred:
            raise AssertionError("it defers again") from None

    @property
    def result(self) -> Any:
        """What the task has returned, as others read it."""
        return self.airflow.pull("task")

    def xcoms(self, *but: str) -> dict[str, Any]:
        """The XComs of the task, other than its memory, its result, and these."""
        hidden = {"astronomer_deferral", "return_value", *but}
        keys = [key for run_id, *_, key in self.airflow.xcoms if run_id == self.airflow.run_id]
        return {key: self.airflow.pull("task", key) for key in keys if key not in hidden}

    def kinds(self) -> Counter[str]:
        """How many messages of each kind were sent to the supervisor."""
        return Counter(type(message).__name__ for message in self.airflow.messages)

    def said(self) -> str:
        """The log as one text."""
        return "\n".join(self.log)

    def everything(self, *tasks: WorkerFreeTask, ended: list[Ended]) -> str:
        """All that could be read by others: XComs, recipes, events, messages and logs."""
        recipes = [json.dumps(task._data) for task in tasks]
        events = [f"{one.event!r} {vars(one.event)}" for one in ended]
        messages = [repr(one) for one in self.airflow.messages if type(one).__name__ != "MaskSecret"]
        return "\n".join([*recipes, *events, *messages, repr(self.airflow.xcoms), *self.log])


def failure_in_worker(task: Task) -> str:
    """What a worker logs of the failure of a task, as :meth:`Free.failure` has it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it is, the other one has to say the same
        task.run()
    return _comparable(f"{caught.type.__name__}: {caught.value}")


def _brisk(kind: type[Any]) -> dict[str, float]:
    return {"poll_interval": 0.1} if issubclass(kind, (JobOperator, PokeSensor)) else {}


def _comparable(text: str) -> str:
    """Without what differs between two runs of the same."""
    return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+|(?<![0-9.])[0-9]{9,}", "ID", text)


@contextmanager
def logged(lines: list[str]) -> Iterator[None]:
    """Append all that is logged, with the traces of errors."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logging.Formatter().format(record))

    keep, root = Keep(), logging.getLogger()
    root.addHandler(keep)
    try:
        with capture_logs() as entries:
            yield
    finally:
        root.removeHandler(keep)
        for entry in entries:
            arguments, error = entry.get("positional_args") or (), entry.get("exc_info")
            lines.append(str(entry["event"]) % arguments if arguments else str(entry["event"]))
            if isinstance(error, BaseException):
                lines.append("".join(traceback.format_exception(error)))
