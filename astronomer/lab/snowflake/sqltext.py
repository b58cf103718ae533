"""Reading a statement's text without parsing it: comments, hints, splitting, and which kind of statement it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Hints", "bare", "hints", "kind", "split", "words"]

_QUOTED = r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"]|\"\")*\"|\$\$.*?\$\$"
_COMMENT = r"--[^\n]*|//[^\n]*|/\*.*?\*/"
_QUOTED_OR_COMMENT = re.compile(f"({_QUOTED})|({_COMMENT})", re.DOTALL)
_QUOTED_OR_COMMENT_OR_END = re.compile(f"(?:{_QUOTED}|{_COMMENT})|(;)", re.DOTALL)
_HINT = re.compile(r"/\*\s*lab:(.*?)\*/", re.DOTALL)


@dataclass(frozen=True)
class Hints:
    """What a comment such as ``/* lab: queued=0.5 resuming=1 running=3 */`` scripts for its statement.

    :param queued: lab seconds in QUEUED first; then ``resuming`` in RESUMING_WAREHOUSE, ``blocked`` in BLOCKED,
        ``restarted`` in RESTARTED, and ``running`` in RUNNING before the statement is executed.
    :param status: the word reported instead of RUNNING.
    :param end: the final status word instead of SUCCESS: FAILED_WITH_ERROR, FAILED_WITH_INCIDENT, ABORTED, DISCONNECTED.
    """

    queued: float = 0.0
    resuming: float = 0.0
    blocked: float = 0.0
    restarted: float = 0.0
    running: float = 0.0
    status: str = "RUNNING"
    end: str = "SUCCESS"


def hints(sql: str) -> Hints:
    """Return what the ``/* lab: ... */`` comments of a statement ask for; unknown words are ignored."""
    found: dict[str, str] = {}
    for comment in _HINT.findall(sql):
        found |= dict(re.findall(r"(\w+)\s*=\s*([\w.]+)", comment))
    values: dict[str, float | str] = {}
    for name in ("queued", "resuming", "blocked", "restarted", "running"):
        if name in found:
            values[name] = float(found[name])
    for name in ("status", "end"):
        if name in found:
            values[name] = found[name].upper()
    return Hints(**values)  # type: ignore[arg-type]


def bare(sql: str) -> str:
    """Return a statement without comments and surrounding space, quoted text untouched."""
    return _QUOTED_OR_COMMENT.sub(lambda m: m[1] if m[1] is not None else " ", sql).strip(" \t\r\n;")


def split(sql: str) -> list[str]:
    """Return the statements of a text, each with its comments; empty and comment-only ones are left out."""
    parts, start = [], 0
    for found in _QUOTED_OR_COMMENT_OR_END.finditer(sql):
        if found[1] is not None:
            parts.append(sql[start : found.start()])
            start = found.end()
    parts.append(sql[start:])
    return [part.strip() for part in parts if bare(part)]


def words(sql: str, count: int) -> list[str]:
    """Return the first words of a statement, upper-cased, without comments."""
    return re.findall(r"[A-Za-z_$][\w$]*", bare(sql)[:400].upper())[:count]


_TYPES = {
    "WITH": "SELECT",
    "BEGIN": "BEGIN_TRANSACTION",
    "START": "BEGIN_TRANSACTION",
    "TRUNCATE": "TRUNCATE_TABLE",
    "DESC": "DESCRIBE",
    "PUT": "PUT_FILES",
    "GET": "GET_FILES",
    "EXECUTE": "EXECUTE_IMMEDIATE",
}


def kind(sql: str) -> str:
    """Return Snowflake's QUERY_TYPE of a statement, such as SELECT, INSERT, CREATE_TABLE or ALTER_SESSION."""
    first, second, third = ([*words(sql, 3), "", "", ""])[:3]
    if first in ("CREATE", "ALTER", "DROP"):
        if second == "OR":
            second, third = (words(sql, 5) + [""] * 5)[3:5]
        if second in ("TEMP", "TEMPORARY", "TRANSIENT"):
            second = third
        return f"{first}_{second}" if second else first
    return _TYPES.get(first, first) or "UNKNOWN"
