"""What is run: the sides and their queries."""

from __future__ import annotations

from benchmarks.sides import OURS, STOCK, Side

__all__ = ["CONN_ID", "POLL_INTERVAL", "SIDES", "sql"]

SIDES = {
    OURS: Side(
        "astronomer.providers.snowflake.triggers.snowflake_trigger.SnowflakeTrigger",
        later=("astronomer.providers.snowflake.hooks.session",),
    ),
    STOCK: Side("airflow.providers.snowflake.triggers.snowflake_trigger.SnowflakeSqlApiTrigger"),
}
CONN_ID = "snowflake_bench"
POLL_INTERVAL = 5.0
_EVERY_NTH_FAILS = 10


def sql(number: int, running: float) -> str:
    """The text of a query that runs for so many seconds; every tenth fails then, with an error of its own."""
    hint = f"/* lab: running={max(0.0, running):.3f} */"
    if number % _EVERY_NTH_FAILS == _EVERY_NTH_FAILS - 1:
        return f"SELECT * FROM no_such_table_{number} {hint}"
    return f"SELECT {number} AS n {hint}"
