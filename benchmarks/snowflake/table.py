"""The numbers for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.snowflake.plan import OURS, STOCK

__all__ = ["render", "with_numbers"]

_WIDTH, _CELL = 42, 16
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
    """Both sides, with the ratio of ours to stock, as a Markdown table: it goes into the README as it is."""
    ours, stock = found.get(OURS), found.get(STOCK)
    scale = _at(ours, "scale")
    heads = [OURS, STOCK, "ours / stock", *([f"ours, {scale['waits']} waits"] if scale else [])]
    lines = [
        _line("", heads),
        f"|{'-' * (_WIDTH + 2)}|" + "|".join(f"{'-' * (_CELL + 1)}:" for _ in heads) + "|",
    ]
    for path, words in _ROWS.items():
        left, right, more = (_at(side, path) for side in (ours, stock, scale))
        if left is not None or right is not None:
            cells = [_show(left), _show(right), _ratio(left, right), *([_show(more)] if scale else [])]
            lines.append(_line(words, cells))
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    about = (
        f"{found['waits']} waits on one connection, a poll every {found['poll_interval_s']:g} s; {machine}."
    )
    return "\n".join([*lines, "", about])


def with_numbers(page: str, numbers: str) -> str:
    """The page with other numbers between its two marks."""
    head, begin, rest = page.partition("<!-- numbers:")
    mark, end_of_mark, _ = rest.partition("-->")
    _, end, tail = rest.partition("<!-- end of numbers -->")
    return f"{head}{begin}{mark}{end_of_mark}\n\n{numbers}\n\n{end}{tail}"


def _line(words: str, cells: Sequence[str]) -> str:
    return f"| {words:{_WIDTH}} | " + " | ".join(f"{cell:>{_CELL}}" for cell in cells) + " |"


def _at(side: Any, path: str) -> Any:
    for name in path.split("."):
        side = side.get(name) if isinstance(side, Mapping) else None
    return side


def _show(value: Any) -> str:
    return "-" if value is None else f"{value:g}"


def _ratio(ours: Any, stock: Any) -> str:
    return "-" if ours is None or not stock else f"{ours / stock:.3g}"
