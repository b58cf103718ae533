"""The operator that the package ships for tests of Dags, in memory and on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from astronomer.deferral import JobOperator, JobStatus, Phase, Transient
from astronomer.deferral.testing import ScriptedService
from tests.contract.world import Family, World
from tests.unit.deferral.fakes import Timeline, TimelineOperator

__all__ = ["ScriptedFamily", "ScriptedWorld"]

T = TypeVar("T")


class _Scripted(ScriptedService):
    """Notes when a poll was told to stay away."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.odd: set[str] = set()
        self.deaf = 0

    def cancel(self, job_id: str) -> None:
        if self.deaf:
            self.deaf -= 1
        else:
            super().cancel(job_id)

    def status(self, job_id: str) -> JobStatus:
        found = super().status(job_id)
        return JobStatus(Phase.ACTIVE, raw="WOBBLING") if job_id in self.odd else found


class ScriptedWorld(World):
    """In memory and on virtual time."""

    beat = 30.0
    operator_type = TimelineOperator

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.service = _Scripted("contract")
        self._throttled_poll = 0
        self.forget()

    def make(self, **arguments: Any) -> JobOperator:
        return TimelineOperator(service="contract", timeline=self.timeline, quick_wait=0, **arguments)

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        ends = Phase.FAILED if fails else Phase.SUCCEEDED
        return {"script": {"runs_for": runs_for * self.beat, "ends": ends, "message": "told to"}}

    def triggerer(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.timeline.run(call)

    def now(self) -> float:
        return self.timeline.now

    @property
    def started(self) -> list[str]:
        return self.service.jobs

    def phase(self, job_id: str) -> Phase:
        return self.service.status(job_id).phase

    def finish(self, job_id: str) -> None:
        self.service._jobs[job_id].runs_for = 0.0

    def weather(self, *kinds: str, times: int | None = 1) -> None:
        troubles = {"throttled": Transient("429", retry_after=0.1 * self.beat)}
        many = 10_000 if times is None else times
        self.service.weather = [troubles.get(kind, Transient(kind)) for kind in kinds for _ in range(many)]

    def throttle(self, beats: float) -> None:
        self._throttled_poll = len(self.service.polls)
        self.service.weather = [Transient("429", retry_after=beats * self.beat)]

    def clear_up(self) -> None:
        self.service.weather = []

    def ignore_a_cancel(self) -> None:
        self.service.deaf = 1

    def report_unknown_state(self, job_id: str) -> Callable[[], None]:
        self.service.odd.add(job_id)
        return self.service.odd.clear

    @property
    def logins(self) -> int:
        return self.service.logins - self._logins

    @property
    def polls(self) -> list[float]:
        return self.service.polls[self._polls :]

    @property
    def rounds(self) -> int:
        return len(self.polls)

    @property
    def throttled_at(self) -> float:
        return self.service.polls[self._throttled_poll]

    def forget(self) -> None:
        self._logins, self._polls = self.service.logins, len(self.service.polls)


class ScriptedFamily(Family):
    """The operator that the package ships for tests of Dags."""

    name = "scripted"

    @contextmanager
    def world(self) -> Iterator[World]:
        with Timeline().in_place() as timeline:
            yield ScriptedWorld(timeline)
