"""What Airflow is to an operator of runs, in memory: one task instance, tried again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

from astronomer.deferral import JobTrigger
from astronomer.deferral._compat import TaskDeferred
from tests.unit.databricks.workspace import Workspace
from tests.unit.deferral.fakes import FakeTaskInstance, MemoryStore, Timeline, context_of, events_of, revived

__all__ = ["Task", "TaskInstance"]


@dataclass
class TaskInstance(FakeTaskInstance):
    """With XComs."""

    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


@dataclass
class Task:
    """One task instance, its workspace and its time.

    :param make: a fresh operator, as each process has it.
    """

    make: Callable[[], Any]
    workspace: Workspace = field(default_factory=Workspace)
    timeline: Timeline = field(default_factory=Timeline)
    store: MemoryStore | None = field(default_factory=MemoryStore)
    ti: TaskInstance = field(default_factory=TaskInstance)
    clears: int = 0
    operator: Any = None
    trigger: JobTrigger | None = None

    def __post_init__(self) -> None:
        self.dag_run_started = self.timeline.now

    @contextmanager
    def in_place(self) -> Iterator[Task]:
        with self.timeline.in_place(), self.workspace.in_place():
            yield self

    @property
    def context(self) -> dict[str, Any]:
        started = datetime.fromtimestamp(self.dag_run_started, timezone.utc)
        dag_run = SimpleNamespace(clear_number=self.clears, start_date=started)
        return context_of(self.ti, self.store) | {"dag_run": dag_run}

    def process(self, step: Callable[[Any, dict[str, Any]], Any]) -> Any:
        """One worker process; the trigger it defers with is kept in :attr:`trigger`."""
        self.operator, self.trigger = self.make(), None
        self.operator._run = self.timeline.run
        try:
            return step(self.operator, self.context)
        except TaskDeferred as deferral:
            self.trigger = revived(deferral.trigger)
            return None

    def execute(self) -> Any:
        """One try, up to its end or its deferral."""
        return self.process(lambda operator, context: operator.execute(context))

    def resume(self) -> Any:
        """The trigger fires, and a worker settles what it says."""
        assert self.trigger is not None
        trigger = revived(self.trigger)
        (event,) = self.timeline.run(lambda: events_of(trigger))
        return self.process(lambda operator, context: operator.execute_complete(context, event))

    def live(self) -> Any:
        """One try, to its end."""
        result = self.execute()
        while self.trigger is not None:
            result = self.resume()
        return result

    def retry(self, seconds: float = 300.0) -> None:
        self.timeline.now += seconds
        self.ti.try_number += 1

    def clear(self, retries: int = 0, seconds: float = 300.0) -> None:
        """What Airflow does to a task instance that a user clears."""
        self.timeline.now += seconds
        self.ti.max_tries = self.ti.try_number + retries
        self.ti.try_number += 1
        self.clears += 1
