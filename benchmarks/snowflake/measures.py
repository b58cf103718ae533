"""The numbers of the Snowflake triggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.measures import Judge, delays, end_to_event, quiet_time, right, rounded, triggerer, worst
from benchmarks.phase import Seen
from benchmarks.shapes import Remote
from benchmarks.sides import OURS

__all__ = ["cold", "lost", "requests_per_tick", "steady", "storm", "tells"]

_LOGIN = "/session/v1/login-request"


def tells(side: str, payload: Any, query: Remote) -> bool:
    """Whether an event says how the query ended, for a failure with Snowflake's number."""
    error = query["error"]
    said: Mapping[str, Any] = payload if isinstance(payload, dict) else {}
    if side == OURS:
        status = (said.get("outcome") or {}).get("status") or {}
        wanted = ("succeeded", None) if error is None else ("failed", error)
        return (status.get("phase"), status.get("code")) == wanted
    if error is None:
        return said.get("status") == "success"
    return said.get("status") == "error" and f"Code: {error}" in str(said.get("message"))


def _judge(side: str) -> Judge:
    return lambda payload, query: tells(side, payload, query)


def lost(side: str, seen: Seen) -> int:
    """How many waits did not end with their query's true outcome."""
    return len(seen.remotes) - len(right(seen, _judge(side)))


def requests_per_tick(seen: Seen) -> float | None:
    """Requests per poll interval while every trigger waits and no query ends; ``None`` without such a time."""
    (begin, end), interval = quiet_time(seen), seen.plan.poll_interval
    ticks = int((end - begin) / interval)
    if ticks < 1:
        return None
    until = begin + ticks * interval
    return len([one for one in seen.requests if begin <= one["at"] < until]) / ticks


def steady(side: str, seen: Seen) -> dict[str, Any]:
    """The numbers of one side of the steady phase."""
    events = right(seen, _judge(side))
    logins = sum(one["path"] == _LOGIN for one in seen.requests)
    return {
        "logins": logins or seen.report["counted"],
        "requests_per_tick": rounded(requests_per_tick(seen), 2),
        "end_to_event_s": end_to_event(delays(seen, events)),
        "lost": len(seen.remotes) - len(events),
        **triggerer(seen),
    }


def cold(seen: Seen) -> dict[str, Any]:
    """The longest stall of a triggerer that imports the side's code because its first wait needs it."""
    return {**worst(seen.report), "cpu_ms": rounded(1000 * seen.report["cpu_seconds"], 0)}


def storm(side: str, seen: Seen) -> dict[str, Any]:
    """The numbers of one side of the storm."""
    begin, end = seen.start + seen.plan.storm_at, seen.start + seen.plan.storm_at + seen.plan.storm
    inside = [one for one in seen.requests if begin <= one["at"] < end]
    events = [event["at"] for event in right(seen, _judge(side)).values()]
    return {
        "lost": lost(side, seen),
        "requests": len(inside),
        "disturbed": sum(one["fault"] is not None for one in inside),
        "last_event_after_storm_s": rounded(max(events) - end, 1) if events else None,
    }
