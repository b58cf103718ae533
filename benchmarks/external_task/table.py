"""The numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.external_task.plan import IDLE
from benchmarks.sides import OURS, STOCK
from benchmarks.table import about, at, markdown, ratio, show

__all__ = ["render"]

_ROWS = {
    "calls_per_tick": "questions per poll interval, nothing ends",
    "poll_to_poll_s": "seconds from poll to poll of one wait",
    "sql_per_s": "SQL statements per second",
    "sql_times_idle": "- times an idle triggerer",
    "cpu_supervisor": "CPU of the supervisor, cores",
    "cpu_runner": "CPU of the runner, cores",
    "cpu_database": "CPU of the database, cores",
    "end_to_event_s.p50": "end to event, median, s",
    "end_to_event_s.p99": "end to event, 99th percentile, s",
    "lost": "ends not told of",
    "wrong": "events that are not true",
    "all_started_s": "until all waits have started, s",
}


def render(found: Mapping[str, Any]) -> str:
    """One column for each side that was measured, and what they come to."""
    settings, scale = found["settings"], at(found, f"{OURS}.scale")
    columns = {side: at(found, side) for side in (OURS, STOCK, IDLE)}
    rows = []
    for path, words in _ROWS.items():
        both = [at(columns[side], path) for side in (OURS, STOCK)]
        cells = [*map(show, both), ratio(*both), show(at(columns[IDLE], path))]
        rows.append((words, cells + ([show(at(scale, path))] if scale else [])))
    heads = [OURS, STOCK, "ours / stock", "idle triggerer"]
    if scale:
        heads.append(f"ours, {scale['sensors']}")
    setting = (
        f"{settings['sensors']} sensors ({settings['kind']}) on {settings['dags']} external Dags, "
        f"{settings['dates']} logical date(s) each, a poll every {settings['interval_s']:g} s, "
        f"{settings['ending']} end within {settings['spread_s']:g} s"
    )
    return "\n".join([markdown(heads, rows), "", f"{setting}; {about(found['machine'])}."])
