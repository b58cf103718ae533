"""One side: start a triggerer on a fresh database, let it wait, end what it waits for, and see what it says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.external_task.database import Database, Moments, Resumed
from benchmarks.external_task.plan import Crowd, Target
from benchmarks.external_task.questions import questions
from benchmarks.external_task.triggerer import Cpu, Triggerer, running

__all__ = ["Ended", "Quiet", "Seen", "run"]

_LOOK_EVERY = 1.0
_SETTLING = 2  # poll intervals, and questions about each Dag
_SETTLED = 600.0  # if not yet, then that is what the numbers have to show


@dataclass(frozen=True)
class Quiet:
    """A while in which nothing ends.

    :param statements: what the triggerer had the database execute, and how often.
    :param cpu: seconds.
    """

    seconds: float
    statements: Counter[str]
    cpu: Cpu


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


def run(
    crowd: Crowd, side: str, database: Database, env: Mapping[str, str], directory: Path, *, waits: bool
) -> Seen:
    """One phase.

    :param side: whose triggers.
    :param waits: whether there are any; without, only the triggerer itself is seen.
    """
    database.renew(side)
    with running(env, directory / side, crowd.sensors if waits else 0) as triggerer:
        started = triggerer.await_triggers(crowd.sensors if waits else 0)
        if waits:
            _await_questions(_SETTLING * crowd.dags, database, triggerer)
        time.sleep(_SETTLING * crowd.interval)
        quiet = _quiet(crowd, database, triggerer)
        if not waits:
            return Seen(crowd, started, quiet)
        with database.moments() as moments:
            ends = _end_all(crowd, moments)
            _await_events(crowd, ends, moments, triggerer)
            resumed = moments.resumed()
        triggerer.check()
    return Seen(crowd, started, quiet, ends, _by_number(crowd, resumed))


def _await_questions(number: int, database: Database, triggerer: Triggerer) -> None:
    """Until so many have been answered: all triggers first log that they have begun, which keeps the supervisor busy."""
    before, deadline = database.statements(), time.monotonic() + _SETTLED
    while questions(database.statements() - before) < number and time.monotonic() < deadline:
        triggerer.check()
        time.sleep(_LOOK_EVERY)


def _quiet(crowd: Crowd, database: Database, triggerer: Triggerer) -> Quiet:
    begun, statements, cpu = time.monotonic(), database.statements(), triggerer.cpu(database.pid)
    time.sleep(crowd.quiet)
    used = triggerer.cpu(database.pid).since(cpu)
    executed = database.statements() - statements
    return Quiet(time.monotonic() - begun, executed, used)


def _end_all(crowd: Crowd, moments: Moments) -> dict[Target, Ended]:
    begun, ends = time.monotonic(), {}
    for after, target, failed in crowd.ends():
        time.sleep(max(0.0, begun + after - time.monotonic()))
        state = "failed" if failed else "success"
        ends[target] = Ended(moments.end(target, state), state)
    return ends


def _await_events(crowd: Crowd, ends: Mapping[Target, Ended], moments: Moments, triggerer: Triggerer) -> None:
    """Until all whose target has ended have been told, or patience is over."""
    going_on = sum(target not in ends for target in crowd.waits)
    deadline = time.monotonic() + crowd.patience
    while moments.still_waiting() > going_on and time.monotonic() < deadline:
        triggerer.check()
        time.sleep(_LOOK_EVERY)


def _by_number(crowd: Crowd, resumed: list[Resumed]) -> dict[int, Resumed]:
    numbers = {crowd.sensor(number): number for number in range(crowd.sensors)}
    return {numbers[one.run_id, one.task_id]: one for one in resumed}
