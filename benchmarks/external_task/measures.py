"""From what was seen to the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.external_task.phase import Ended, Quiet, Seen
from benchmarks.external_task.plan import OURS_API
from benchmarks.external_task.questions import questions
from benchmarks.measures import end_to_event, rounded
from benchmarks.sides import OURS, STOCK

__all__ = ["idle", "numbers", "tells"]

_PER_STOCK_POLL = 2  # for the failed states, and for the allowed ones
_EVENT = "event"


def idle(seen: Seen) -> dict[str, Any]:
    """The triggerer itself."""
    quiet = seen.quiet
    return {
        "sql_per_s": rounded(quiet.statements.total() / quiet.seconds, 1),
        "cpu_supervisor": _cores(quiet.cpu.supervisor, seen),
        "cpu_runner": _cores(quiet.cpu.runner, seen),
        "cpu_database": _cores(quiet.cpu.database, seen),
        "cpu_api_server": _cores(quiet.cpu.api_server, seen),
    }


def _cores(used: float | None, seen: Seen) -> float | None:
    return None if used is None else rounded(used / seen.quiet.seconds, 3)


def numbers(side: str, seen: Seen, bare: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of one side.

    :param bare: those of the idle triggerer.
    """
    asked, own = _asked(seen.quiet) / seen.quiet.seconds, idle(seen)
    due = {n: seen.ends[target] for n, target in enumerate(seen.crowd.waits) if target in seen.ends}
    told = {number: _payload(one.next_kwargs) for number, one in seen.resumed.items()}
    right = {n: end for n, end in due.items() if _right(side, seen, n, end, told)}
    poll_to_poll = seen.crowd.sensors * _PER_STOCK_POLL / asked if side == STOCK and asked else None
    return {
        "calls_per_tick": rounded(asked * seen.crowd.interval, 1),
        "poll_to_poll_s": rounded(poll_to_poll, 1),
        **own,
        "sql_times_idle": rounded(own["sql_per_s"] / bare["sql_per_s"], 2),
        "end_to_event_s": end_to_event([seen.resumed[n].at - end.at for n, end in right.items()]),
        "lost": sum(told.get(number) is None for number in due),
        "wrong": sum(payload is not None and n not in right for n, payload in told.items()),
        "ended": len(due),
        "all_started_s": rounded(seen.started_seconds, 1),
    }


def _asked(quiet: Quiet) -> int:
    """Questions to the supervisor, or requests to the API."""
    return questions(quiet.statements) if quiet.requests is None else quiet.requests


def _payload(next_kwargs: Any) -> Any:
    """The event, ``None`` if the trigger died without one."""
    return next_kwargs.get(_EVENT) if isinstance(next_kwargs, Mapping) else None


def _right(side: str, seen: Seen, number: int, end: Ended, told: Mapping[int, Any]) -> bool:
    """Whether the sensor was told after the end, and how it was."""
    payload = told.get(number)
    return payload is not None and seen.resumed[number].at >= end.at and tells(side, payload, end.state)


def tells(side: str, payload: Any, state: str) -> bool:
    """Whether an event says that the target has ended in that state."""
    said: Mapping[str, Any] = payload if isinstance(payload, Mapping) else {}
    if side in (OURS, OURS_API):
        outcome = said.get("outcome") or {}
        phase = (outcome.get("status") or {}).get("phase")
        return phase == {"success": "succeeded"}.get(state, state) and not outcome.get("timed_out")
    return said.get("status") == state
