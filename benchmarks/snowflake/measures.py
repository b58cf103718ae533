"""The arithmetic: from what was seen to the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.snowflake.phase import Seen
from benchmarks.snowflake.plan import OURS, POLL_INTERVAL
from benchmarks.snowflake.shapes import Fired, Stall

__all__ = ["cold", "lost", "percentile", "steady", "storm", "told_the_truth"]

_NONE = Stall(seconds=0.0, cpu=0.0, after=0.0)
_LOGIN = "/session/v1/login-request"


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so large a share of the values does not exceed (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def told_the_truth(side: str, event: Fired, query: Mapping[str, Any]) -> bool:
    """Whether the event came after the query's end and says how it ended, for a failure with Snowflake's number."""
    ended, error = query["ended_at"], query["error_code"]
    if ended is None or event["at"] < ended:
        return False
    payload: Mapping[str, Any] = event["payload"] if isinstance(event["payload"], dict) else {}
    if side == OURS:
        status = (payload.get("outcome") or {}).get("status") or {}
        wanted = ("succeeded", None) if error is None else ("failed", error)
        return (status.get("phase"), status.get("code")) == wanted
    if error is None:
        return payload.get("status") == "success"
    return payload.get("status") == "error" and f"Code: {error}" in str(payload.get("message"))


def _right(side: str, seen: Seen) -> dict[int, Fired]:
    """The first event of each wait that told the truth."""
    first: dict[int, Fired] = {}
    for event in seen.report["events"]:
        first.setdefault(event["wait"], event)
    return {
        wait: event for wait, event in first.items() if told_the_truth(side, event, seen.queries[wait - 1])
    }


def lost(side: str, seen: Seen) -> int:
    """How many waits did not end with their query's true outcome."""
    return len(seen.queries) - len(_right(side, seen))


def requests_per_tick(seen: Seen) -> float | None:
    """Requests per poll interval while every trigger waits and no query ends; ``None`` without such a time."""
    begin = seen.started_at + POLL_INTERVAL
    ended: list[float] = [query["ended_at"] for query in seen.queries if query["ended_at"]]
    end = min([seen.stopped_at, *ended])
    ticks = int((end - begin) / POLL_INTERVAL)
    if ticks < 1:
        return None
    until = begin + ticks * POLL_INTERVAL
    return len([one for one in seen.requests if begin <= one["at"] < until]) / ticks


def steady(side: str, seen: Seen) -> dict[str, Any]:
    """The numbers of one side of the steady phase."""
    right, waits, report = _right(side, seen), len(seen.queries), seen.report
    delays = [event["at"] - seen.queries[wait - 1]["ended_at"] for wait, event in right.items()]
    logins = sum(one["path"] == _LOGIN for one in seen.requests)
    worst = report["stalls"][0] if report["stalls"] else _NONE
    return {
        "logins": logins or report["tokens_signed"],
        "connections": len({one["client_port"] for one in seen.requests}),
        "requests_per_tick": _rounded(requests_per_tick(seen), 2),
        "loop_stall_ms": _rounded(1000 * worst["seconds"], 1),
        "cpu_ms_per_wait": _rounded(1000 * report["cpu_seconds"] / waits, 2),
        "end_to_event_s": {
            "p50": _rounded(percentile(delays, 0.50), 2),
            "p99": _rounded(percentile(delays, 0.99), 2),
        },
        "lost": waits - len(right),
        "loop_stall_cpu_ms": _rounded(1000 * worst["cpu"], 1),
        "loop_late_s": _rounded(report["late_seconds"], 2),
        "longest_gc_ms": _rounded(1000 * report["longest_collection"], 1),
        "stalls_over_100_ms": sum(one["seconds"] > 0.1 for one in report["stalls"]),
        "import_ms": _rounded(1000 * report["import_seconds"], 0),
        "all_started_s": _rounded(report["started_seconds"], 1),
        "requests_per_wait": _rounded(len(seen.requests) / waits, 2),
        "supervisor_messages_per_wait": _rounded(seen.questions / waits, 2),
        "log_lines_per_wait": _rounded(seen.log_lines / waits, 1),
    }


def cold(seen: Seen) -> dict[str, Any]:
    """The longest stall of a triggerer that imports the side's code because its first wait needs it."""
    report = seen.report
    worst = report["stalls"][0] if report["stalls"] else _NONE
    return {
        "loop_stall_ms": _rounded(1000 * worst["seconds"], 1),
        "loop_stall_cpu_ms": _rounded(1000 * worst["cpu"], 1),
        "longest_gc_ms": _rounded(1000 * report["longest_collection"], 1),
        "cpu_ms": _rounded(1000 * report["cpu_seconds"], 0),
    }


def storm(side: str, seen: Seen) -> dict[str, Any]:
    """The numbers of one side of the storm."""
    begin, end = seen.start + seen.plan.storm_at, seen.start + seen.plan.storm_at + seen.plan.storm
    inside = [one for one in seen.requests if begin <= one["at"] < end]
    events = [event["at"] for event in _right(side, seen).values()]
    return {
        "lost": lost(side, seen),
        "requests": len(inside),
        "disturbed": sum(one["fault"] is not None for one in inside),
        "last_event_after_storm_s": _rounded(max(events) - end, 1) if events else None,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
