"""The arithmetic that all families share: from what was seen to the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.phase import Seen
from benchmarks.shapes import Fired, Remote, Report, Stall

__all__ = [
    "Judge",
    "delays",
    "end_to_event",
    "percentile",
    "quiet_time",
    "right",
    "rounded",
    "triggerer",
    "worst",
]

_NONE = Stall(seconds=0.0, collecting=0.0, cpu=0.0, after=0.0)
_STALL = 0.1

Judge = Callable[[Any, Remote], bool]
"""Whether the payload of an event says how the remote work ended."""


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so large a share of the values does not exceed (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def right(seen: Seen, judge: Judge) -> dict[int, Fired]:
    """The first event of each wait, where it came after the end and says how it was."""
    first: dict[int, Fired] = {}
    for event in seen.report["events"]:
        first.setdefault(event["wait"], event)
    return {wait: event for wait, event in first.items() if _true(event, seen.remotes[wait - 1], judge)}


def _true(event: Fired, remote: Remote, judge: Judge) -> bool:
    ended = remote["ended_at"]
    return ended is not None and event["at"] >= ended and judge(event["payload"], remote)


def delays(seen: Seen, events: Mapping[int, Fired]) -> list[float]:
    """Seconds from the end of the remote work to its event."""
    ends = {wait: seen.remotes[wait - 1]["ended_at"] for wait in events}
    return [event["at"] - end for wait, event in events.items() if (end := ends[wait]) is not None]


def end_to_event(values: Sequence[float]) -> dict[str, float | None]:
    """The two numbers that stand for all."""
    return {"p50": rounded(percentile(values, 0.50), 2), "p99": rounded(percentile(values, 0.99), 2)}


def quiet_time(seen: Seen) -> tuple[float, float]:
    """From when to when every trigger waits and nothing ends."""
    ended = [one["ended_at"] for one in seen.remotes if one["ended_at"] is not None]
    return seen.started_at + seen.plan.poll_interval, min([seen.stopped_at, *ended])


def triggerer(seen: Seen) -> dict[str, Any]:
    """What the triggerer's process had to do, whatever it asked."""
    report, waits = seen.report, len(seen.remotes)
    return {
        "connections": len({one["client_port"] for one in seen.requests}),
        "requests_per_wait": rounded(len(seen.requests) / waits, 2),
        "cpu_ms_per_wait": rounded(1000 * report["cpu_seconds"] / waits, 2),
        **worst(report),
        "loop_late_s": rounded(report["late_seconds"], 2),
        "stalls_over_100_ms": _count(one["seconds"] > _STALL for one in report["stalls"]),
        "import_ms": rounded(1000 * report["import_seconds"], 0),
        "all_started_s": rounded(report["started_seconds"], 1),
        "supervisor_messages_per_wait": rounded(seen.questions / waits, 2),
        "log_lines_per_wait": rounded(seen.log_lines / waits, 1),
    }


def worst(report: Report) -> dict[str, Any]:
    """The longest stall, and what may explain it."""
    stall = report["stalls"][0] if report["stalls"] else _NONE
    return {
        "loop_stall_ms": rounded(1000 * stall["seconds"], 1),
        "loop_stall_cpu_ms": rounded(1000 * stall["cpu"], 1),
        "loop_stall_but_gc_ms": rounded(1000 * report["stall_between_collections"], 1),
        "longest_gc_ms": rounded(1000 * report["longest_collection"], 1),
    }


def rounded(value: float | None, digits: int) -> float | None:
    """For people."""
    return None if value is None else round(value, digits)


def _count(those: Iterable[bool]) -> int:
    return sum(those)
