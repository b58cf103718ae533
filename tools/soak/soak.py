"""One soak: fill a triggerer, keep it full for the time asked for, and note what it holds and tells."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from tools.demo.processes import ProcessEndedError, Processes, Program
from tools.soak.ledger import Ledger, Told, Wait
from tools.soak.logs import Logs
from tools.soak.place import ROOT, Lab
from tools.soak.plan import Plan
from tools.soak.samples import Sample, Sampler

__all__ = ["Soak"]

_TICK = 1.0
_SAY_EVERY = 30.0
_SPARE = 1000  # a triggerer that is full looks for no more triggers
_STARTING, _STARTING_EACH = 180.0, 0.5
_LAST_LINES = 5.0
_ENDING = 60.0


class Rows(Protocol):
    """What is asked of the database."""

    def begin(self, family: str, started: Any) -> list[Wait]:
        """Defer a task for each."""

    def told(self) -> list[Told]:
        """Who has been told since the last time."""


class Work(Protocol):
    """What is asked of the families."""

    def begin(self, family: str, waits: Any) -> Any:
        """Begin the work of so many waits."""

    def end_due(self) -> None:
        """End what is due."""

    def renew(self) -> None:
        """Open sessions anew."""


@dataclass
class Soak:
    """Everything that takes part.

    :param env: the variables of Airflow's processes.
    :param ports: those to which connections are counted.
    """

    plan: Plan
    lab: Lab
    rows: Rows
    work: Work
    processes: Processes
    directory: Path
    env: Mapping[str, str]
    ports: Mapping[str, int]
    console: Console
    ledger: Ledger = field(default_factory=Ledger)
    samples: list[Sample] = field(default_factory=list)
    weather: list[str] = field(default_factory=list)
    filled_seconds: float = 0.0
    cancelled: int = 0
    _dice: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - a soak shall repeat
    _numbers: Counter[str] = field(default_factory=Counter)
    _not_begun: dict[str, Wait] = field(default_factory=dict)
    _said: float = 0.0
    _triggerer: Program = field(init=False)
    _sampler: Sampler = field(init=False)
    _logs: Logs = field(init=False)

    def run(self) -> None:
        """Return when the time is over and the last one has been told who should be."""
        self._say(f"Beginning the work of {self.plan.waits} waits …")
        ahead = 10.0 + 0.03 * self.plan.waits  # nothing is to end before it is waited for
        for family, number in self.plan.numbers.items():
            self._begin(family, [ahead + self.plan.rest(self._dice) for _ in range(number)])
        self._say("Starting the triggerer …")
        self._start_triggerer()
        began = time.monotonic()
        while (begun := self._begun()) < self.plan.waits:
            self._turn()
            if time.monotonic() > began + _STARTING + _STARTING_EACH * self.plan.waits:
                raise ProcessEndedError(f"Only {begun} of {self.plan.waits} waits have begun.")
        self.filled_seconds = time.monotonic() - began
        self._say(f"All have begun, {self.filled_seconds:.0f} s after its start. The time begins.")
        self._hold()
        self._finish()

    @property
    def errors(self) -> list[str]:
        """What the triggerer itself calls an error."""
        return self._logs.errors

    @property
    def stalls(self) -> list[float]:
        """For how many seconds the triggers' loop stood still, each time that Airflow noticed."""
        return self._logs.stalls

    def release(self) -> None:
        """A triggerer that is stopped would not hear that it shall end."""
        if hasattr(self, "_sampler"):
            self._sampler.signal(signal.SIGCONT)

    # Its parts.

    def _start_triggerer(self) -> None:
        command = [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs", "--capacity"]
        capacity = str(self.plan.waits + _SPARE)
        self._triggerer = program = self.processes.start("triggerer", [*command, capacity], self.env, ROOT)
        self._logs = Logs(self.directory / "logs", program.log)
        self._not_begun = dict(self.ledger.waiting)
        self._sampler = Sampler(program.process.pid, self.ports, self.directory / "logs")

    def _hold(self) -> None:
        begin = time.monotonic()
        self.ledger.calm_from = time.time() + self.plan.settled
        self.lab.counted()
        due = deque(sorted(self._weather(), key=lambda one: one[0]))
        next_sample = 0.0
        while (now := time.monotonic() - begin) < self.plan.seconds:
            while due and due[0][0] <= now:
                _, what, act = due.popleft()
                self.weather.append(f"{now:.0f} s: {what}")
                self._say(f"{what} …")
                act()
            self._turn()
            if now >= next_sample:
                self._sample(now)
                next_sample = now + self.plan.sample_every

    def _weather(self) -> list[tuple[float, str, Callable[[], None]]]:
        storm, storm_seconds = self.plan.storm
        pause, pause_seconds = self.plan.pause
        return [
            (storm, f"a storm of {storm_seconds:.0f} s", lambda: self.lab.storm(storm_seconds)),
            (self.plan.expiry, "every session and token expires", self._expire),
            (pause, "the triggerer is stopped", lambda: self._sampler.signal(signal.SIGSTOP)),
            (
                pause + pause_seconds,
                f"it goes on, {pause_seconds:.0f} s later",
                lambda: self._sampler.signal(signal.SIGCONT),
            ),
        ]

    def _expire(self) -> None:
        self.lab.expire()
        self.work.renew()

    def _finish(self) -> None:
        """Nothing new begins; who is overdue still has a while."""
        self._say("The time is over. Waiting for those whose work has ended …")
        over = time.time()
        while time.time() < over + self.plan.patience:
            self._turn(refill=False)
            if not self.ledger.unheard(min(over, time.time())):
                break
        self.ledger.close(over + self.plan.patience, self.plan.patience)
        time.sleep(_LAST_LINES)
        self._logs.count(self.ledger, all_of_them=True)
        self._say("Ending the triggerer …")
        self._triggerer.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._triggerer.process.wait(_ENDING)
        self.cancelled = self.lab.cancelled()

    def _turn(self, *, refill: bool = True) -> None:
        began = time.monotonic()
        self.work.end_due()
        over: Counter[str] = Counter()
        for told in self.rows.told():
            if wait := self.ledger.tell(told):
                over[wait.family] += 1
                self._logs.told(wait)
        if refill:
            for family, number in over.items():
                self._begin(family, [self.plan.whole(self._dice) for _ in range(number)])
        self._logs.count(self.ledger)
        self.processes.check()
        if began > self._said + _SAY_EVERY:
            overdue = ", ".join(
                f"{number} {family}" for family, number in self.ledger.unheard(time.time()).most_common(3)
            )
            ended = f"{len(self.ledger.waiting)} wait, {self.ledger.ended} have been told"
            self._say(f"{ended}; not yet, though their work has ended: {overdue or 'none'}")
        time.sleep(max(0.0, _TICK - (time.monotonic() - began)))

    def _begin(self, family: str, seconds: list[float]) -> None:
        waits = []
        for one in seconds:
            waits.append((one, self.plan.fails(self._numbers[family])))
            self._numbers[family] += 1
        for wait in self.rows.begin(family, self.work.begin(family, waits)):
            self.ledger.begin(wait)

    def _sample(self, at: float) -> None:
        supervisor, runner = self._sampler.processes()
        requests, logins = self.lab.counted()
        connections = self._sampler.connections()
        waiting = len(self.ledger.waiting)
        self.samples.append(Sample(round(at, 1), waiting, supervisor, runner, connections, requests, logins))

    def _begun(self) -> int:
        """How many triggers have ever begun."""
        for key, wait in list(self._not_begun.items()):
            if key not in self.ledger.waiting or self._logs.has_begun(wait):
                del self._not_begun[key]
        return self.plan.waits - len(self._not_begun)

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self.console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False)
