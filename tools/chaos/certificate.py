"""What was found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from tools.chaos.books import MEASURES, Finding
from tools.chaos.hits import BOTH, SIDES, UNKNOWN

ENOUGH = 0.8
COUNTED = ("tasks", "jobs", "retries")
COLUMNS = ("injected", *COUNTED, *(one.replace("_", " ") for one in MEASURES))
SAME = ("executor", "airflow", "astronomer-providers")
"""The facts that all rows of a certificate share."""


class OtherCampaignError(Exception):
    """What was written is about something else, and cannot be gone on with."""


@dataclass
class Row:
    """One fault.

    :param injected: how often it was injected, by whom it hit (:class:`tools.chaos.hits.Hits`).
    :param kills: how many processes it ended.
    :param tasks: how many tasks lived through it, by side; ``jobs`` is how many remote jobs they started, and
        ``retries`` how often they were tried again.
    :param brief: whether all jobs were too short to outlive their tasks by as much as an orphan does.
    :param seconds: how long that took.
    """

    group: str
    fault: str
    injected: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    brief: bool = False
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, side: str, measure: str) -> int:
        return sum((one.side, one.measure) == (side, measure) for one in self.findings)

    def hits(self, side: str) -> int:
        """Return how often it has hit one side for certain."""
        return self.injected[side] + self.injected[BOTH]

    def add(self, other: Row) -> None:
        """Take in what was found when the same fault was tried once more."""
        self.injected += other.injected
        self.kills += other.kills
        self.tasks += other.tasks
        self.jobs += other.jobs
        self.retries += other.retries
        self.findings += other.findings
        self.seconds += other.seconds


@dataclass
class Certificate:
    """All rows of one campaign, and where it was run.

    :param wanted: how many kills were asked for.
    :param complete: whether all that was planned has been tried.
    :param leaks: where a credential stands in what Airflow has written; ``None`` until it has been looked for.
    """

    wanted: int = 0
    complete: bool = False
    leaks: list[str] | None = None
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
        tried = all(row.hits("ours") and row.tasks["ours"] for row in self.rows.values())
        clean = self.leaks == [] and not self.findings("ours")
        return self.complete and self.enough and bool(self.rows) and tried and clean

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
            "leaks": self.leaks,
            "rows": [_json(row) for row in self.rows.values()],
        }

    def write(self, path: Path) -> None:
        """Write it for programs."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path, facts: Mapping[str, Any]) -> Certificate:
        """Return what was written, to go on with it; what was begun and not ended is not in it.

        :param facts: of what goes on.
        :raises OtherCampaignError: they are not those of what was written.
        """
        found = json.loads(path.read_text())
        certificate = cls(found.get("wanted", 0), facts=found["facts"], leaks=found.get("leaks") or None)
        if other := [name for name in SAME if certificate.facts.get(name) != facts.get(name)]:
            told = ", ".join(f"{name} {certificate.facts.get(name)}, not {facts.get(name)}" for name in other)
            raise OtherCampaignError(f"{path} is of another campaign: {told}. It cannot be resumed here.")
        for row in found["rows"]:
            certificate.add(_row(row))
        return certificate

    def kills_left(self, group: str, fault: str, kills: int) -> int:
        """Return how many of so many kills are still to be done for a fault."""
        row = self.rows.get((group, fault))
        return kills if row is None else max(0, kills - row.kills)


def _json(row: Row) -> dict[str, Any]:
    sides = {
        side: {
            "tasks": row.tasks[side],
            "jobs": row.jobs[side],
            "retries": row.retries[side],
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
        "brief": row.brief,
        "seconds": round(row.seconds, 1),
        **sides,
    }


def _row(found: dict[str, Any]) -> Row:
    def counts(name: str) -> Counter[str]:
        return Counter({side: found[side].get(name, 0) for side in SIDES})

    findings = [Finding(**one) for side in SIDES for one in found[side]["findings"]]
    return Row(
        found["group"],
        found["fault"],
        _injected(found["injected"]),
        found["kills"],
        tasks=counts("tasks"),
        jobs=counts("jobs"),
        retries=counts("retries"),
        brief=found.get("brief", False),
        findings=findings,
        seconds=found["seconds"],
    )


def _injected(found: int | dict[str, int]) -> Counter[str]:
    """A number alone is of a campaign that did not know whom it hit."""
    return Counter(found if isinstance(found, dict) else {UNKNOWN: found})


def markdown(certificate: Certificate) -> str:
    """Return it as a table for a page."""
    lines = [f"| fault | {' | '.join(COLUMNS)} |", f"|---|{'--:|' * len(COLUMNS)}"]
    rows = list(certificate.rows.values())
    lines += [f"| {row.group.lower()}: {row.fault} | {' | '.join(_cells([row]))} |" for row in rows]
    return "\n".join([*lines, f"| **all** | {' | '.join(_cells(rows))} |"])


def render(certificate: Certificate) -> Table:
    """Return it as a table: ours / stock in each cell."""
    found = Table(title="Fault certificate: ours / stock", title_justify="left", pad_edge=False)
    found.add_column("Fault", no_wrap=True)
    for name in COLUMNS:
        found.add_column(name, justify="right", no_wrap=True)
    group = ""
    for row in certificate.rows.values():
        if row.group != group:
            group = row.group
            found.add_section()
            found.add_row(Text(group, style="bold"))
        found.add_row(row.fault, *_cells([row]))
    found.add_section()
    found.add_row("all", *_cells(list(certificate.rows.values())))
    return found


def _cells(rows: Sequence[Row]) -> list[str]:
    """Ours / stock of each count."""
    injected = [sum(row.hits(side) for row in rows) for side in SIDES]
    counted = [[sum(getattr(row, name)[side] for row in rows) for side in SIDES] for name in COUNTED]
    wrong = {
        measure: [sum(row.count(side, measure) for row in rows) for side in SIDES] for measure in MEASURES
    }
    cells = {one: _pair(values) for one, values in wrong.items()}
    if all(row.brief for row in rows) and not any(wrong["orphans"]):
        cells["orphans"] = "–"
    return [*map(_pair, [injected, *counted]), *cells.values()]


def _pair(values: Sequence[int]) -> str:
    return " / ".join(map(str, values))
