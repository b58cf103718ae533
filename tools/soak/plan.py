"""What is run: how many waits of which kind, how long their work takes, and the weather meanwhile."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FAMILIES", "POLL_INTERVAL", "Plan"]

SNOWFLAKE = "Snowflake queries"
SQL_API = "Snowflake SQL API"
RUNS = "Databricks runs"
STATEMENTS = "Databricks SQL statements"
TASKS = "tasks of other Dags"
DAG_RUNS = "runs of other Dags"
FILES = "files"
WORKER_FREE = "worker-free tasks"

FAMILIES: Mapping[str, float] = {
    SNOWFLAKE: 0.35,
    SQL_API: 0.06,
    RUNS: 0.25,
    STATEMENTS: 0.04,
    TASKS: 0.14,
    DAG_RUNS: 0.10,
    FILES: 0.05,
    WORKER_FREE: 0.01,
}
"""The share of each. What a vendor's API cannot tell in bulk is asked for one by one, at the pace that the vendor
allows: a thousand of those on one connection would be told late, and that would measure the vendor.
"""

POLL_INTERVAL = 5.0

_EVERY_NTH_FAILS = 10
_SHORTEST, _LONGEST = 60.0, 1200.0  # seconds, of a soak of one hour
_LEAST = 3.0
_HOUR = 3600.0
_ENDS_PER_SECOND = 6.0  # a wait is some twenty messages to Airflow's supervisor, from its start to its end


@dataclass(frozen=True)
class Plan:
    """Durations are seconds, moments count from when all waits have begun.

    :param waits: how many at once.
    :param seconds: how long that number is held.
    """

    waits: int
    seconds: float

    @property
    def numbers(self) -> dict[str, int]:
        """How many waits of each family."""
        found = {family: max(1, round(share * self.waits)) for family, share in FAMILIES.items()}
        first = next(iter(found))
        found[first] += self.waits - sum(found.values())
        return found

    @property
    def life(self) -> tuple[float, float]:
        """Of remote work: the shortest and the longest.

        As long as in a soak of one hour, in proportion; longer where more would end than a triggerer can tell.
        """
        scale = self.seconds / _HOUR
        shortest, longest = max(_LEAST, _SHORTEST * scale), max(2 * _LEAST, _LONGEST * scale)
        return shortest, max(longest, 2 * self.waits / _ENDS_PER_SECOND - shortest)

    def whole(self, dice: random.Random) -> float:
        """How long work takes that begins during the soak."""
        return dice.uniform(*self.life)

    def rest(self, dice: random.Random) -> float:
        """How long work takes on that is found running: as many end in the first minute as in any other."""
        shortest, longest = self.life
        while (life := dice.uniform(shortest, longest)) < dice.uniform(0.0, longest):
            pass  # the longer it takes, the likelier it is found
        return max(_LEAST, life * dice.random())

    @staticmethod
    def fails(number: int) -> bool:
        """Whether the work of that number fails."""
        return number % _EVERY_NTH_FAILS == _EVERY_NTH_FAILS - 1

    # The weather is over when that begins which must be flat.

    @property
    def storm(self) -> tuple[float, float]:
        """When it begins, and how long it lasts."""
        return 0.15 * self.seconds, min(60.0, 0.1 * self.seconds)

    @property
    def expiry(self) -> float:
        """When every session and token expires."""
        return 0.29 * self.seconds

    @property
    def pause(self) -> tuple[float, float]:
        """When the triggerer is stopped, and for how long."""
        return 0.33 * self.seconds, min(10.0, 0.04 * self.seconds)

    @property
    def settled(self) -> float:
        """From when on nothing may grow."""
        return 0.4 * self.seconds

    @property
    def patience(self) -> float:
        """How long after the end of its work a wait may be told; those that are not are lost."""
        return 60.0 if self.waits < 1000 else 300.0

    @property
    def sample_every(self) -> float:
        """At most a thousand samples or so."""
        return min(10.0, max(1.0, self.seconds / 120))
