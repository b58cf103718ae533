"""What is run: the sides, their queries, and when each query ends."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["CONN_ID", "LATER", "POLL_INTERVAL", "SIDES", "Plan", "sql"]

OURS, STOCK = "ours", "stock"
SIDES = {
    OURS: "astronomer.providers.snowflake.triggers.snowflake_trigger.SnowflakeTrigger",
    STOCK: "airflow.providers.snowflake.triggers.snowflake_trigger.SnowflakeSqlApiTrigger",
}
"""The trigger class of each side, as Airflow's database names it."""

LATER = {OURS: ["astronomer.providers.snowflake.hooks.session"], STOCK: []}
"""What a side imports at its first wait, besides the trigger class."""

CONN_ID = "snowflake_bench"
POLL_INTERVAL = 5.0
_EVERY_NTH_FAILS = 10


@dataclass(frozen=True)
class Plan:
    """When the queries of one phase end. All durations are seconds, counted from the start of the waits.

    :param waits: how many queries, and so triggers, each side has.
    :param first: the first query ends then.
    :param spread: the others end evenly over so long after it.
    :param storm_at: when the storm begins, if there is one.
    :param storm: how long it lasts.
    :param patience: how long after the last query's end the events are waited for.
    """

    waits: int
    first: float
    spread: float
    storm_at: float = 0.0
    storm: float = 0.0
    patience: float = 30.0

    def ends(self) -> list[float]:
        """When each query ends; neighbours in the list do not end together."""
        step = self.spread / max(1, self.waits - 1)
        found = [self.first + step * position for position in range(self.waits)]
        random.Random(self.waits).shuffle(found)
        return found

    @property
    def over(self) -> float:
        """When nothing more is waited for."""
        return max(self.first + self.spread, self.storm_at + self.storm) + self.patience


def sql(number: int, running: float) -> str:
    """The text of a query that runs for so many seconds; every tenth fails then, with an error of its own."""
    hint = f"/* lab: running={max(0.0, running):.3f} */"
    if number % _EVERY_NTH_FAILS == _EVERY_NTH_FAILS - 1:
        return f"SELECT * FROM no_such_table_{number} {hint}"
    return f"SELECT {number} AS n {hint}"
