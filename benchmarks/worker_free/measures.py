"""From what was seen to the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.measures import end_to_event, rounded
from benchmarks.sides import OURS
from benchmarks.table import at
from benchmarks.worker_free.phase import Seen
from benchmarks.worker_free.plan import DEFERRABLE

__all__ = ["TIMES_LESS_CPU", "WITHIN_SECONDS", "numbers", "targets"]

TIMES_LESS_CPU = 5.0
WITHIN_SECONDS = 2.0


def numbers(seen: Seen) -> dict[str, Any]:
    """All numbers of one side."""
    used, idle, tasks = seen.used, seen.idle, len(seen.pairs)
    net = used.total - idle.total / idle.seconds * used.seconds
    delays = [
        pair.next_at - pair.ended_at
        for pair in seen.pairs
        if pair.state == "success" and pair.next_at is not None and pair.ended_at is not None
    ]
    return {
        "worker_starts": seen.worked.starts,
        "worker_seconds": rounded(seen.worked.seconds, 1),
        "cpu_s_per_task": rounded(used.total / tasks, 3),
        "cpu_s_per_task_net": rounded(net / tasks, 3),
        "end_to_next_s": end_to_event(delays),
        "seconds": rounded(used.seconds, 1),
        "cpu_cores": rounded(used.total / used.seconds, 3),
        "cpu_cores_idle": rounded(idle.total / idle.seconds, 3),
        "cpu_s_per_task_by_part": {name: rounded(cpu / tasks, 3) for name, cpu in used.cpu.items()},
        "cpu_cores_idle_by_part": {name: rounded(cpu / idle.seconds, 3) for name, cpu in idle.cpu.items()},
        "submitted": seen.submitted,
        "succeeded": len(delays),
    }


def targets(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be reached, and what is: nothing depends on it."""
    stock, ours = (at(found, f"{side}.cpu_s_per_task") for side in (DEFERRABLE, OURS))
    less = rounded(stock / ours, 2) if stock and ours else None
    starts, delay = at(found, f"{OURS}.worker_starts"), at(found, f"{OURS}.end_to_next_s.p99")
    return {
        "worker_starts": _target(0, starts, starts == 0),
        "times_less_cpu_than_stock_deferrable": _target(
            TIMES_LESS_CPU, less, (less or 0.0) >= TIMES_LESS_CPU
        ),
        "end_to_next_s_p99": _target(WITHIN_SECONDS, delay, delay is not None and delay < WITHIN_SECONDS),
    }


def _target(wanted: float, measured: float | None, reached: bool) -> dict[str, Any]:
    return {"wanted": wanted, "measured": measured, "reached": None if measured is None else reached}
