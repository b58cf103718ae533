"""The numbers of the Databricks triggers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.measures import Judge, delays, end_to_event, quiet_time, right, rounded, triggerer
from benchmarks.phase import Seen
from benchmarks.shapes import Remote
from benchmarks.sides import OURS

__all__ = ["dead", "numbers", "per_tick", "tells", "unanswered"]

_LIST = "/jobs/runs/list"
_GET = "/jobs/runs/get"
_TOKEN = "/oidc/v1/token"
_REASONS = 3


def tells(side: str, payload: Any, run: Remote) -> bool:
    """Whether an event says how the run ended."""
    said: Mapping[str, Any] = payload if isinstance(payload, dict) else {}
    if side == OURS:
        phase = ((said.get("outcome") or {}).get("status") or {}).get("phase")
        return bool(phase == ("succeeded" if run["error"] is None else "failed"))
    try:
        result = json.loads(said.get("run_state") or "{}").get("result_state")
    except ValueError:
        return False
    return bool(result == (run["error"] or "SUCCESS"))


def _judge(side: str) -> Judge:
    return lambda payload, run: tells(side, payload, run)


def dead(side: str, seen: Seen) -> set[int]:
    """The waits whose trigger failed, or whose event is not true."""
    told = {event["wait"] for event in seen.report["events"]}
    return set(seen.failures) | (told - set(right(seen, _judge(side))))


def _due(seen: Seen) -> set[int]:
    """The waits whose run ended in time to be told of."""
    horizon = seen.start + seen.plan.last
    ends = {number: run["ended_at"] for number, run in enumerate(seen.remotes, 1)}
    return {number for number, end in ends.items() if end is not None and end <= horizon}


def unanswered(side: str, seen: Seen) -> set[int]:
    """The waits whose run has ended, and whose trigger still waits."""
    return _due(seen) - set(right(seen, _judge(side))) - dead(side, seen)


def numbers(side: str, seen: Seen) -> dict[str, Any]:
    """All numbers of one side of a phase."""
    due, events = _due(seen), right(seen, _judge(side))
    times = delays(seen, {wait: event for wait, event in events.items() if wait in due})
    found = {
        **per_tick(seen),
        "throttled": sum(one["status"] == 429 for one in seen.requests),
        "dead": len(dead(side, seen)),
        "unanswered": len(unanswered(side, seen)),
        "ended": len(due),
        "gets_per_end": rounded(_gets_per_end(seen), 2),
        "tokens": sum(one["path"] == _TOKEN and one["status"] == 200 for one in seen.requests),
        "end_to_event_s": end_to_event(times),
        **triggerer(seen),
    }
    if seen.failures:
        found["deaths"] = dict(Counter(seen.failures.values()).most_common(_REASONS))
    return found


def per_tick(seen: Seen) -> dict[str, Any]:
    """Requests from one poll to the next while every trigger waits and no run of theirs ends.

    Where runs are listed, a poll begins with the first page; else it is the poll interval.
    """
    begin, end = quiet_time(seen)
    polls = [
        one["at"]
        for one in seen.requests
        if one["path"].endswith(_LIST) and "page_token" not in one["query"] and begin <= one["at"] < end
    ]
    ticks = int((end - begin) / seen.plan.poll_interval)
    if len(polls) > 1:
        begin, end, ticks = polls[0], polls[-1], len(polls) - 1
    elif ticks > 0:
        end = begin + ticks * seen.plan.poll_interval
    else:
        return dict.fromkeys(("requests_per_tick", "lists_per_tick", "gets_per_tick", "tick_s"))
    paths = [one["path"] for one in seen.requests if begin <= one["at"] < end]
    return {
        "requests_per_tick": rounded(len(paths) / ticks, 2),
        "lists_per_tick": rounded(sum(path.endswith(_LIST) for path in paths) / ticks, 2),
        "gets_per_tick": rounded(sum(path.endswith(_GET) for path in paths) / ticks, 2),
        "tick_s": rounded((end - begin) / ticks, 1),
    }


def _gets_per_end(seen: Seen) -> float | None:
    """``runs/get`` per run that ended, from the first end on."""
    ends = [end for run in seen.remotes if (end := run["ended_at"]) is not None and end < seen.stopped_at]
    if not ends:
        return None
    first = min(ends)
    asked = [one for one in seen.requests if one["path"].endswith(_GET) and one["at"] >= first]
    return len(asked) / len(ends)
