"""How often a fault was injected, and whom it hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

SIDES = ("ours", "stock")
BOTH, UNKNOWN = "both", "unknown"


@dataclass
class Hits:
    """What was hit: tasks of ours or of the stock operators, the Airflow of ``both``, or it is ``unknown``.

    A task's process is told by its id, which Airflow may know only later.
    """

    sides: Counter[str] = field(default_factory=Counter)
    tasks: dict[int, str] = field(default_factory=dict)
    _processes: list[int] = field(default_factory=list)

    def add(self, side: str, number: int = 1) -> None:
        """Count what hit one side."""
        self.sides[side] += number

    def all(self, going: Collection[str], number: int = 1) -> None:
        """Count what hit whatever went on.

        :param going: the sides of which tasks did.
        """
        for one in (BOTH,) if set(SIDES) <= set(going) else going or (UNKNOWN,):
            self.sides[one] += number

    def process(self, pid: int) -> None:
        """Count what hit the process of a task."""
        self._processes.append(pid)

    def total(self) -> Counter[str]:
        """Return how often each was hit."""
        return self.sides + Counter(self.tasks.get(pid, UNKNOWN) for pid in self._processes)
