"""What the triggers have logged: each event of each, wherever Airflow has put the line.

A trigger has a log of its own. Airflow closes it when it hears that the trigger has ended, and that may be before it
hears what the trigger has logged last: those lines go to the triggerer's own output.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from tools.soak.ledger import Ledger, Wait

__all__ = ["Logs"]

_FIRED = "Trigger fired event"
_LOGGED_WITHIN = 30.0  # seconds; what a trigger logs takes another way than its event
_WHOSE = re.compile(r"\bti_id=([0-9a-f-]{36})")
_BLOCKED = re.compile(r"async thread was blocked for ([\d.]+) seconds")
_ERROR = re.compile(
    r"\[(error|critical) *\] (?!XCom not found)"
)  # which Airflow says of every question for a new one


@dataclass
class Logs:
    """The logs of one triggerer.

    :param folder: of those of triggers.
    :param output: what the triggerer itself has said.
    :param errors: lines of it that tell of an error.
    :param stalls: of the triggers' loop, as Airflow's watchdog has seen them, in seconds.
    """

    folder: Path
    output: Path
    errors: list[str] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    _read: int = 0
    _elsewhere: Counter[str] = field(default_factory=Counter)
    _due: deque[tuple[float, Wait]] = field(default_factory=deque)

    def has_begun(self, wait: Wait) -> bool:
        """Whether its trigger runs: its first line makes the file."""
        return any(self._of(wait))

    def told(self, wait: Wait) -> None:
        """Its events are counted when they must have been logged."""
        self._due.append((time.monotonic() + _LOGGED_WITHIN, wait))

    def count(self, ledger: Ledger, *, all_of_them: bool = False) -> None:
        """Count the events of those told a while ago; their logs are not kept."""
        self._read_output()
        now = time.monotonic()
        while self._due and (all_of_them or self._due[0][0] <= now):
            _, wait = self._due.popleft()
            logs = self._of(wait)
            own = sum(one.read_text(encoding="utf-8", errors="replace").count(_FIRED) for one in logs)
            ledger.logged(wait, own + self._elsewhere.pop(wait.key, 0))
            for one in logs:
                one.unlink(missing_ok=True)

    def _of(self, wait: Wait) -> list[Path]:
        return list((self.folder / wait.folder).glob("*.trigger.*.log"))

    def _read_output(self) -> None:
        with self.output.open("rb") as written:
            written.seek(self._read)
            text = written.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        for line in text.decode(errors="replace").splitlines():
            if _FIRED in line and (whose := _WHOSE.search(line)):
                self._elsewhere[whose[1]] += 1
            elif blocked := _BLOCKED.search(line):
                self.stalls.append(float(blocked[1]))
            elif _ERROR.search(line):
                self.errors.append(line)
