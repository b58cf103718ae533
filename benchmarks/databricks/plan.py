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

_QUIET = 2.5  # poll intervals without an end, once all have been asked for
_ENDING = 2  # poll intervals in which runs end
_LIFE = 20  # poll intervals; at 30 s, ten minutes
_LONG_LIFE = 120


def steady(waits: int, others: int, interval: float, own: float | None = None) -> Plan:
    """The waits come within one interval.

    :param own: an interval that the triggers are given instead.
    """
    return _plan(waits, others, interval, own or interval, arriving=interval)


def restart(waits: int, others: int, interval: float) -> Plan:
    """All waits come at once, as after the restart of a triggerer."""
    return _plan(waits, others, interval, interval, arriving=1.0)


def many(waits: int, others: int, interval: float) -> Plan:
    """More waits than Airflow gives to one triggerer by default. They come at 50 a second, and the runs take an hour."""
    first = waits / 50 * 1.5 + 8 * interval
    return Plan(
        waits,
        first=first,
        spread=_LONG_LIFE * interval,
        poll_interval=interval,
        watched=first + 2 * _ENDING * interval,
        others=others,
        patience=8 * interval,
    )


def _plan(waits: int, others: int, interval: float, polled: float, *, arriving: float) -> Plan:
    """Runs of ten minutes that began evenly, so that of a thousand one ends every 0.6 s."""
    first = arriving + (1 + _QUIET) * interval
    return Plan(
        waits,
        first=first,
        spread=_LIFE * interval,
        poll_interval=polled,
        watched=first + _ENDING * interval,
        per_sync=math.ceil(waits / arriving),
        others=others,
        patience=2 * interval,
    )
