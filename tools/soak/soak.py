"""One soak: fill a triggerer, keep it full for the time asked for, and note what it holds and tells."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from tools.demo.processes import ProcessEndedError, Processes
from tools.soak.ledger import Ledger, Told, Wait
from tools.soak.place import ROOT, Lab
from tools.soak.plan import Plan
from tools.soak.samples import Sample, Sampler

__all__ = ["Soak"]

_TICK = 1.0
_SAY_EVERY = 30.0
_SPARE = 1000  # a triggerer that is full looks for no more triggers
_STARTING, _STARTING_EACH = 180.0, 0.5
_LOGGED_WITHIN = 30.0  # what a trigger logs takes another way than its event
_FIRED = "Trigger fired event"


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
    _to_read: deque[tuple[float, Wait]] = field(default_factory=deque)
    _said: float = 0.0
    _sampler: Sampler = field(init=False)

    def run(self) -> None:
        """Return when the time is over and the last one has been told who should be."""
        self._say(f"Beginning the work of {self.plan.waits} waits …")
        ahead = 10.0 + 0.05 * self.plan.waits  # nothing is to end before it is waited for
        for family, number in self.plan.numbers.items():
            self._begin(family, [ahead + self.plan.rest(self._dice) for _ in range(number)])
        self._say("Starting the triggerer …")
        self._start_triggerer()
        began = time.monotonic()
        while self._begun() < self.plan.waits:
            self._turn()
            if time.monotonic() > began + _STARTING + _STARTING_EACH * self.plan.waits:
                raise ProcessEndedError(f"Only {self._begun()} of {self.plan.waits} waits have begun.")
        self.filled_seconds = time.monotonic() - began
        self._say(f"All have begun, {self.filled_seconds:.0f} s after its start. The time begins.")
        self._hold()
        self._finish()

    def release(self) -> None:
        """A triggerer that is stopped would not hear that it shall end."""
        if hasattr(self, "_sampler"):
            self._sampler.signal(signal.SIGCONT)

    # Its parts.

    def _start_triggerer(self) -> None:
        command = [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs", "--capacity"]
        program = self.processes.start("triggerer", [*command, str(self.plan.waits + _SPARE)], self.env, ROOT)
        self._sampler = Sampler(program.process.pid, self.ports)

    def _hold(self) -> None:
        begin = time.monotonic()
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
            if not self.ledger.overdue(min(over, time.time())):
                break
        self.ledger.close(over + self.plan.patience, self.plan.patience)
        time.sleep(min(_LOGGED_WITHIN, self.plan.patience / 10))
        self._read_logs(float("inf"))
        self.cancelled = self.lab.cancelled()

    def _turn(self, *, refill: bool = True) -> None:
        began = time.monotonic()
        self.work.end_due()
        ended: Counter[str] = Counter()
        for told in self.rows.told():
            if wait := self.ledger.tell(told):
                ended[wait.family] += 1
                self._to_read.append((began + _LOGGED_WITHIN, wait))
        if refill:
            for family, number in ended.items():
                self._begin(family, [self.plan.whole(self._dice) for _ in range(number)])
        self._read_logs(began)
        self.processes.check()
        if began > self._said + _SAY_EVERY:
            overdue = self.ledger.overdue(time.time())
            self._say(f"{len(self.ledger.waiting)} wait, {self.ledger.ended} ended, {overdue} are overdue")
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

    # What the triggers have logged.

    @property
    def _logs(self) -> Path:
        return self.directory / "logs"

    def _begun(self) -> int:
        """How many triggers have ever begun: the first line of each makes a file."""
        return self.ledger.ended + sum(any(self._of(wait)) for wait in list(self.ledger.waiting.values()))

    def _of(self, wait: Wait) -> list[Path]:
        return list((self._logs / wait.folder).glob("*.trigger.*.log"))

    def _read_logs(self, now: float) -> None:
        """Count the events of those told a while ago; their logs are not kept."""
        while self._to_read and self._to_read[0][0] <= now:
            _, wait = self._to_read.popleft()
            logs = self._of(wait)
            text = "".join(one.read_text(encoding="utf-8", errors="replace") for one in logs)
            self.ledger.logged(wait, text.count(_FIRED))
            for one in logs:
                one.unlink(missing_ok=True)

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self.console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False)
