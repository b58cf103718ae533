"""The numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.sides import OURS, STOCK
from benchmarks.table import about, at, markdown, ratio, show

__all__ = ["render"]

_ROWS = {
    "logins": "logins, or tokens signed",
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
    "import_ms": "importing what a wait needs, ms",
    "cold.loop_stall_ms": "longest stall at the very first wait, ms",
    "storm.lost": "waits lost in the storm",
    "lost": "waits lost in both phases",
}


def render(found: Mapping[str, Any]) -> str:
    """Both sides, with the ratio of ours to stock."""
    ours, stock = found.get(OURS), found.get(STOCK)
    scale = at(ours, "scale")
    heads = [OURS, STOCK, "ours / stock", *([f"ours, {scale['waits']} waits"] if scale else [])]
    rows = []
    for path, words in _ROWS.items():
        left, right, more = (at(side, path) for side in (ours, stock, scale))
        if left is not None or right is not None:
            rows.append(
                (words, [show(left), show(right), ratio(left, right), *([show(more)] if scale else [])])
            )
    setting = f"{found['waits']} waits on one connection, a poll every {found['poll_interval_s']:g} s"
    return "\n".join([markdown(heads, rows), "", f"{setting}; {about(found['machine'])}."])
