"""The numbers for a person: Markdown tables that go into the README as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["about", "at", "markdown", "ratio", "show", "with_numbers"]

_WIDTH, _CELL = 42, 16


def markdown(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table whose first column names the rows."""
    ruler = f"|{'-' * (_WIDTH + 2)}|" + "|".join(f"{'-' * (_CELL + 1)}:" for _ in heads) + "|"
    return "\n".join([_line("", heads), ruler, *(_line(words, cells) for words, cells in rows)])


def with_numbers(page: str, name: str, numbers: str) -> str:
    """The page with other numbers between the two marks of that name.

    :raises ValueError: it has no such marks.
    """
    begin, end = f"<!-- {name} numbers:", f"<!-- end of {name} numbers -->"
    head, found, rest = page.partition(begin)
    mark, end_of_mark, body = rest.partition("-->")
    _, closed, tail = body.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no marks for the numbers of {name}")
    return f"{head}{begin}{mark}{end_of_mark}\n\n{numbers}\n\n{end}{tail}"


def about(machine: Mapping[str, Any]) -> str:
    """The machine, in one line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def at(side: Any, path: str) -> Any:
    """What stands at ``a.b``, or ``None``."""
    for name in path.split("."):
        side = side.get(name) if isinstance(side, Mapping) else None
    return side


def show(value: Any) -> str:
    """One cell."""
    return "-" if value is None else f"{value:g}"


def ratio(ours: Any, stock: Any) -> str:
    """One cell, ours by stock."""
    return "-" if ours is None or not stock else f"{ours / stock:.3g}"


def _line(words: str, cells: Sequence[str]) -> str:
    return f"| {words:{_WIDTH}} | " + " | ".join(f"{cell:>{_CELL}}" for cell in cells) + " |"
