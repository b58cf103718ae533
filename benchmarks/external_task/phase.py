"""One side: start a triggerer on a fresh database, let it wait, end what it waits for, and see what it says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.external_task import api_server, triggerer
from benchmarks.external_task.api_server import ApiServer
from benchmarks.external_task.database import Database, Moments, Resumed
from benchmarks.external_task.plan import OURS_API, Crowd, Target
from benchmarks.external_task.questions import questions
from benchmarks.external_task.triggerer import Cpu, Triggerer

__all__ = ["Ended", "Quiet", "Seen", "run"]

_LOOK_EVERY = 1.0
_SETTLING = 2  # poll intervals, and questions about each Dag
_PER_LOOK = 2  # requests to the API, for all Dags
_SETTLED = 600.0  # if not yet, then that is what the numbers have to show


@dataclass(frozen=True)
class Quiet:
    """A while in which nothing ends.

    :param statements: what the triggerer and the API server had the database execute, and how often.
    :param cpu: seconds.
    :param requests: to the API server, ``None`` if there is none.
    """

    seconds: float
    statements: Counter[str]
    cpu: Cpu
    requests: int | None = None


@dataclass(frozen=True)
class Ended:
    """How and when a target has ended, in epoch seconds."""

    at: float
    state: str


@dataclass(frozen=True)
class Seen:
    """What one phase has shown.

    :param started_seconds: from the triggerer's start until all its triggers had begun.
    """

    crowd: Crowd
    started_seconds: float
    quiet: Quiet
    ends: dict[Target, Ended] = field(default_factory=dict)
    resumed: dict[int, Resumed] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stage:
    """What runs during a phase."""

    database: Database
    triggerer: Triggerer
    api_server: ApiServer | None

    def check(self) -> None:
        """:raises RuntimeError: something has died."""
        self.triggerer.check()
        if self.api_server:
            self.api_server.check()

    def requests(self) -> int | None:
        """To the API, so far."""
        return self.api_server.requests() if self.api_server else None

    def cpu(self) -> Cpu:
        """Used so far."""
        found = self.triggerer.cpu(self.database.pid)
        return replace(found, api_server=self.api_server.cpu()) if self.api_server else found


def run(
    crowd: Crowd, side: str, database: Database, env: Mapping[str, str], directory: Path, *, waits: bool
) -> Seen:
    """One phase.

    :param side: whose triggers.
    :param waits: whether there are any; without, only the triggerer itself is seen.
    """
    database.renew(side)
    with _staged(side, database, env, directory, crowd.sensors if waits else 0) as stage:
        started = stage.triggerer.await_triggers(crowd.sensors if waits else 0)
        if waits:
            _await_questions(crowd, stage)
        time.sleep(_SETTLING * crowd.interval)
        quiet = _quiet(crowd, stage)
        if not waits:
            return Seen(crowd, started, quiet)
        with database.moments() as moments:
            ends = _end_all(crowd, moments)
            _await_events(crowd, ends, moments, stage)
            resumed = moments.resumed()
        stage.check()
    return Seen(crowd, started, quiet, ends, _by_number(crowd, resumed))


@contextmanager
def _staged(
    side: str, database: Database, env: Mapping[str, str], directory: Path, triggers: int
) -> Iterator[_Stage]:
    """A triggerer, and before it the API server, for the side that asks one."""
    asked = api_server.running(env, directory / "api_server") if side == OURS_API else nullcontext()
    with asked as server:
        given = server.for_triggerer if server else {}
        with triggerer.running({**env, **given}, directory / side, triggers) as running:
            yield _Stage(database, running, server)


def _await_questions(crowd: Crowd, stage: _Stage) -> None:
    """Until some have been answered: all triggers first log that they have begun, which keeps the supervisor busy."""
    database, requests, deadline = stage.database, stage.requests(), time.monotonic() + _SETTLED
    before = database.statements()

    def few() -> bool:
        if requests is None:
            return questions(database.statements() - before) < _SETTLING * crowd.dags
        return (stage.requests() or 0) - requests < _SETTLING * _PER_LOOK

    while few() and time.monotonic() < deadline:
        stage.check()
        time.sleep(_LOOK_EVERY)


def _quiet(crowd: Crowd, stage: _Stage) -> Quiet:
    database, requests = stage.database, stage.requests()
    begun, statements, cpu = time.monotonic(), database.statements(), stage.cpu()
    time.sleep(crowd.quiet)
    used = stage.cpu().since(cpu)
    executed = database.statements() - statements
    asked = None if requests is None else (stage.requests() or 0) - requests
    return Quiet(time.monotonic() - begun, executed, used, asked)


def _end_all(crowd: Crowd, moments: Moments) -> dict[Target, Ended]:
    begun, ends = time.monotonic(), {}
    for after, target, failed in crowd.ends():
        time.sleep(max(0.0, begun + after - time.monotonic()))
        state = "failed" if failed else "success"
        ends[target] = Ended(moments.end(target, state), state)
    return ends


def _await_events(crowd: Crowd, ends: Mapping[Target, Ended], moments: Moments, stage: _Stage) -> None:
    """Until all whose target has ended have been told, or patience is over."""
    going_on = sum(target not in ends for target in crowd.waits)
    deadline = time.monotonic() + crowd.patience
    while moments.still_waiting() > going_on and time.monotonic() < deadline:
        stage.check()
        time.sleep(_LOOK_EVERY)


def _by_number(crowd: Crowd, resumed: list[Resumed]) -> dict[int, Resumed]:
    numbers = {crowd.sensor(number): number for number in range(crowd.sensors)}
    return {numbers[one.run_id, one.task_id]: one for one in resumed}
