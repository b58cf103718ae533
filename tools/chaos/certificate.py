"""What was found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from tools.chaos.books import MEASURES, Finding

SIDES = ("ours", "stock")
ENOUGH = 0.8


@dataclass
class Row:
    """One fault.

    :param injected: how often it was injected; ``kills`` of that ended processes.
    :param tasks: how many tasks lived through it, by side; ``jobs`` is how many remote jobs they started.
    :param seconds: how long that took.
    """

    group: str
    fault: str
    injected: int = 0
    kills: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, side: str, measure: str) -> int:
        return sum((one.side, one.measure) == (side, measure) for one in self.findings)

    def add(self, other: Row) -> None:
        """Take in what was found when the same fault was tried once more."""
        self.injected += other.injected
        self.kills += other.kills
        self.tasks += other.tasks
        self.jobs += other.jobs
        self.findings += other.findings
        self.seconds += other.seconds


@dataclass
class Certificate:
    """All rows of one campaign, and where it was run.

    :param wanted: how many kills were asked for.
    :param complete: whether all that was planned has been tried.
    """

    wanted: int = 0
    complete: bool = False
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Add one row, or to the row of the same fault."""
        key = (row.group, row.fault)
        if key in self.rows:
            self.rows[key].add(row)
        else:
            self.rows[key] = row

    @property
    def kills(self) -> int:
        return sum(row.kills for row in self.rows.values())

    def findings(self, side: str) -> list[Finding]:
        return [one for row in self.rows.values() for one in row.findings if one.side == side]

    @property
    def good(self) -> bool:
        """Whether nothing of ours went wrong, and all was tried that was to be tried."""
        tried = all(row.injected and row.tasks["ours"] for row in self.rows.values())
        return self.complete and self.enough and bool(self.rows) and tried and not self.findings("ours")

    @property
    def enough(self) -> bool:
        """Whether there were about as many kills as were asked for; some find nothing to kill in time."""
        return self.kills >= ENOUGH * self.wanted

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "facts": self.facts,
            "kills": self.kills,
            "wanted": self.wanted,
            "complete": self.complete,
            "good": self.good,
            "rows": [_json(row) for row in self.rows.values()],
        }

    def write(self, path: Path) -> None:
        """Write it for programs."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n")


def _json(row: Row) -> dict[str, Any]:
    sides = {
        side: {
            "tasks": row.tasks[side],
            "jobs": row.jobs[side],
            **{measure: row.count(side, measure) for measure in MEASURES},
            "findings": [asdict(one) for one in row.findings if one.side == side],
        }
        for side in SIDES
    }
    return {
        "group": row.group,
        "fault": row.fault,
        "injected": row.injected,
        "kills": row.kills,
        "seconds": round(row.seconds, 1),
        **sides,
    }


def render(certificate: Certificate) -> Table:
    """Return it as a table: ours / stock in each cell."""
    found = Table(title="Fault certificate: ours / stock", title_justify="left", pad_edge=False)
    found.add_column("Fault", no_wrap=True)
    for name in ("injected", "tasks", "jobs", *(one.replace("_", " ") for one in MEASURES)):
        found.add_column(name, justify="right", no_wrap=True)
    group = ""
    for row in certificate.rows.values():
        if row.group != group:
            group = row.group
            found.add_section()
            found.add_row(Text(group, style="bold"))
        cells = [_pair([row.count(side, measure) for side in SIDES]) for measure in MEASURES]
        counts = [_pair([counter[side] for side in SIDES]) for counter in (row.tasks, row.jobs)]
        found.add_row(row.fault, str(row.injected), *counts, *cells)
    found.add_section()
    found.add_row(*_total(list(certificate.rows.values())))
    return found


def _total(rows: Sequence[Row]) -> list[str]:
    tasks = [sum(row.tasks[side] for row in rows) for side in SIDES]
    jobs = [sum(row.jobs[side] for row in rows) for side in SIDES]
    cells = [_pair([sum(row.count(side, measure) for row in rows) for side in SIDES]) for measure in MEASURES]
    return ["all", str(sum(row.injected for row in rows)), _pair(tasks), _pair(jobs), *cells]


def _pair(values: Sequence[int]) -> str:
    return " / ".join(map(str, values))
