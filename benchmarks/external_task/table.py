"""The numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.external_task.plan import IDLE, OURS_API
from benchmarks.sides import OURS, STOCK
from benchmarks.table import about, at, markdown, ratio, show

__all__ = ["render"]

_OVER_API = "ours, over the API"
_ROWS = {
    "calls_per_tick": "questions per poll interval, nothing ends",
    "poll_to_poll_s": "seconds from poll to poll of one wait",
    "sql_per_s": "SQL statements per second",
    "sql_times_idle": "- times an idle triggerer",
    "cpu_supervisor": "CPU of the supervisor, cores",
    "cpu_runner": "CPU of the runner, cores",
    "cpu_database": "CPU of the database, cores",
    "cpu_api_server": "CPU of the API server, cores",
    "end_to_event_s.p50": "end to event, median, s",
    "end_to_event_s.p99": "end to event, 99th percentile, s",
    "lost": "ends not told of",
    "wrong": "events that are not true",
    "all_started_s": "until all waits have started, s",
}


def render(found: Mapping[str, Any]) -> str:
    """One column for each side that was measured, and what they come to."""
    settings = found["settings"]
    scales = {
        f"{head}, {scale['sensors']}": scale
        for side, head in ((OURS, OURS), (OURS_API, _OVER_API))
        if (scale := at(found, f"{side}.scale"))
    }
    rows = []
    for path, words in _ROWS.items():
        ours, over_api, stock, idle = (at(found, f"{side}.{path}") for side in (OURS, OURS_API, STOCK, IDLE))
        cells = [show(ours), show(over_api), show(stock), ratio(ours, stock), show(idle)]
        rows.append((words, cells + [show(at(scale, path)) for scale in scales.values()]))
    heads = [OURS, _OVER_API, STOCK, "ours / stock", "idle triggerer", *scales]
    setting = (
        f"{settings['sensors']} sensors ({settings['kind']}) on {settings['dags']} external Dags, "
        f"{settings['dates']} logical date(s) each, a poll every {settings['interval_s']:g} s, "
        f"{settings['ending']} end within {settings['spread_s']:g} s"
    )
    return "\n".join([markdown(heads, rows), "", f"{setting}; {about(found['machine'])}."])
