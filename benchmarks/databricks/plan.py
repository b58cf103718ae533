"""What is run: the sides, and when their runs end."""

from __future__ import annotations

import math

from benchmarks.plan import Plan
from benchmarks.sides import OURS, STOCK, Side

__all__ = ["CONN_ID", "OWN_INTERVAL", "SIDES", "many", "restart", "steady"]

SIDES = {
    OURS: Side(
        "astronomer.providers.databricks.triggers.databricks.DatabricksRunTrigger",
        later=(
            "astronomer.providers.databricks.hooks.client",
            "astronomer.providers.databricks.jobs.poller",
        ),
    ),
    STOCK: Side("airflow.providers.databricks.triggers.databricks.DatabricksExecutionTrigger"),
}
CONN_ID = "databricks_bench"
OWN_INTERVAL = 5.0
"""What this package's operators poll at, unless told otherwise."""

_LIFE = 20  # poll intervals; at 30 s, ten minutes
_LONG_LIFE = 120


def steady(waits: int, others: int, interval: float, own: float | None = None) -> Plan:
    """The waits come within one interval; then two without an end; then two in which runs end as they began.

    :param own: an interval that the triggers are given instead.
    """
    return _plan(
        waits,
        others,
        interval,
        own,
        arriving=interval,
        quiet=2 * interval,
        per_sync=math.ceil(waits / interval),
    )


def restart(waits: int, others: int, interval: float) -> Plan:
    """All waits come at once, as after the restart of a triggerer."""
    return _plan(waits, others, interval, None, arriving=0.0, quiet=2 * interval, per_sync=waits)


def many(waits: int, others: int, interval: float) -> Plan:
    """More waits than Airflow gives to one triggerer by default; it gets 50 a second, and the runs take an hour."""
    return Plan(
        waits,
        first=waits / 50 * 1.5 + 8 * interval,
        spread=_LONG_LIFE * interval,
        poll_interval=interval,
        watched=waits / 50 * 1.5 + 12 * interval,
        others=others,
        patience=8 * interval,
    )


def _plan(
    waits: int,
    others: int,
    interval: float,
    own: float | None,
    *,
    arriving: float,
    quiet: float,
    per_sync: int,
) -> Plan:
    first = arriving + interval + quiet
    return Plan(
        waits,
        first=first,
        spread=_LIFE * interval,
        poll_interval=own or interval,
        watched=first + 2 * interval,
        per_sync=per_sync,
        others=others,
        patience=2 * interval,
    )
