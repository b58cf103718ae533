"""The numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.snowflake.plan import OURS, STOCK

__all__ = ["render"]

_ROWS = {
    "logins": "logins or tokens signed",
    "connections": "TCP connections",
    "requests_per_tick": "requests per poll interval, nothing ends",
    "requests_per_wait": "requests per wait, all in all",
    "loop_stall_ms": "longest stall of the event loop, ms",
    "loop_late_s": "all stalls together, s",
    "all_started_s": "until all waits have started, s",
    "cpu_ms_per_wait": "CPU of the triggerer per wait, ms",
    "end_to_event_s.p50": "query end to event, median, s",
    "end_to_event_s.p99": "query end to event, 99th percentile, s",
    "supervisor_messages_per_wait": "messages to the supervisor per wait",
    "log_lines_per_wait": "log lines per wait",
    "import_ms": "loading the trigger class, ms",
    "storm.lost": "waits lost in the storm",
    "lost": "waits lost in both phases",
}


def render(found: Mapping[str, Any]) -> str:
    """A table of both sides, with the ratio of ours to stock."""
    lines = [f"{'':42} {OURS:>10} {STOCK:>10} {'ratio':>8}"]
    for path, words in _ROWS.items():
        ours, stock = (_at(found.get(side), path) for side in (OURS, STOCK))
        if ours is not None or stock is not None:
            lines.append(f"{words:42} {_show(ours):>10} {_show(stock):>10} {_ratio(ours, stock):>8}")
    scale = _at(found.get(OURS), "scale")
    if scale:
        lines += ["", f"ours with {scale['waits']} waits:"]
        lines += [
            f"{words:42} {_show(_at(scale, path)):>10}"
            for path, words in _ROWS.items()
            if _at(scale, path) is not None
        ]
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"{found['waits']} waits on one connection, a poll every {found['poll_interval_s']:g} s",
            machine,
        ]
    )


def _at(side: Any, path: str) -> Any:
    for name in path.split("."):
        side = side.get(name) if isinstance(side, Mapping) else None
    return side


def _show(value: Any) -> str:
    return "-" if value is None else f"{value:g}"


def _ratio(ours: Any, stock: Any) -> str:
    return "-" if ours is None or not stock else f"{ours / stock:.3g}"
