"""The numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.sides import OURS, STOCK
from benchmarks.table import about, at, markdown, show

__all__ = ["render"]

_ROWS = {
    "requests_per_tick": "requests from poll to poll, nothing ends",
    "lists_per_tick": "- of these runs/list",
    "gets_per_tick": "- of these runs/get",
    "tick_s": "seconds from poll to poll",
    "gets_per_end": "runs/get per run that ends",
    "throttled": "requests answered with 429",
    "dead": "triggers that died",
    "unanswered": "ends not noticed",
    "connections": "TCP connections",
    "tokens": "OAuth tokens",
    "cpu_ms_per_wait": "CPU of the triggerer per wait, ms",
    "loop_stall_ms": "longest stall of the event loop, ms",
    "loop_stall_but_gc_ms": "- garbage collections taken off, ms",
    "longest_gc_ms": "longest garbage collection, ms",
    "loop_late_s": "all stalls together, s",
    "all_started_s": "until all waits have started, s",
    "end_to_event_s.p50": "run end to event, median, s",
    "end_to_event_s.p99": "run end to event, 99th percentile, s",
    "supervisor_messages_per_wait": "messages to the supervisor per wait",
    "log_lines_per_wait": "log lines per wait",
}


def render(found: Mapping[str, Any]) -> str:
    """A column for each phase that was measured."""
    columns = {
        "ours": at(found, OURS),
        "stock": at(found, STOCK),
        "ours, restart": at(found, f"{OURS}.restart"),
        "stock, restart": at(found, f"{STOCK}.restart"),
        "ours, default": at(found, f"{OURS}.default"),
    }
    if scale := at(found, f"{OURS}.scale"):
        columns[f"ours, {scale['waits']}"] = scale
    columns = {head: column for head, column in columns.items() if column}
    rows = [(words, [show(at(one, path)) for one in columns.values()]) for path, words in _ROWS.items()]
    setting = (
        f"{found['waits']} waits and {found['foreign']} foreign runs, a poll every "
        f"{found['poll_interval_s']:g} s ({found['own_interval_s']:g} s in the column `default`)"
    )
    return "\n".join([markdown(list(columns), rows), "", f"{setting}; {about(found['machine'])}."])
