"""The figures, for a person and for a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from tools.soak.ledger import Account, percentile
from tools.soak.samples import Sample
from tools.soak.soak import Soak
from tools.soak.verdicts import Flatness, Verdict, flatness, told

__all__ = ["Report"]

_ERRORS = 100  # of the triggerer's own; that many are enough to see
_LONG = 1.0  # seconds
_ENDED_SHARE = 10  # of the waits; fewer ends would prove little


class Report:
    """What one soak has shown."""

    def __init__(self, soak: Soak, machine: Mapping[str, Any]) -> None:
        self._soak, self._machine = soak, machine
        self.flat = flatness(soak.samples, soak.plan.settled, soak.plan.storm[0])
        self.verdicts = self._judge()

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return all(one.ok for one in self.verdicts)

    def _judge(self) -> list[Verdict]:
        soak = self._soak
        found = told(soak.ledger.accounts, max(1, soak.plan.waits // _ENDED_SHARE))
        found.append(Verdict(not soak.cancelled, f"jobs that somebody has cancelled: {soak.cancelled}"))
        found.append(Verdict(len(soak.weather) == 4, f"weather: {'; '.join(soak.weather) or 'none'}"))
        if not self.flat:
            found.append(Verdict(False, f"{len(soak.samples)} samples are too few to say what is flat"))
        return found + [one.verdict for one in self.flat]

    def waits(self) -> Table:
        """What became of the waits, by family."""
        table = _table(
            "waits", "begun", "told right", "wrong", "twice", "lost", "p50, s", "p99, s", "in all, s"
        )
        for family, one in self._soak.ledger.accounts.items():
            table.add_row(family, *_cells(one))
        return table

    def levels(self) -> Table:
        """What the triggerer held."""
        table = _table("triggerer", "settled", "at the end", "grown", "allowed", "per hour", "")
        for one in self.flat:
            table.add_row(one.name, *_flat_cells(one))
        return table

    def pace(self) -> str:
        """Requests, logins, processor and speed, in lines."""
        soak = self._soak
        samples = soak.samples
        if len(samples) < 2:
            return ""
        seconds = samples[-1].at - samples[0].at
        cpu = {
            name: (getattr(samples[-1], name).cpu - getattr(samples[0], name).cpu) / seconds
            for name in ("supervisor", "runner")
        }
        requests = ", ".join(
            f"{name} {_sum(samples, 'requests', name) / seconds:.1f} per second, "
            f"{_sum(samples, 'logins', name)} logins"
            for name in samples[0].requests
        )
        return (
            f"{soak.ledger.ended} waits ended; all began {soak.filled_seconds:.0f} s after the triggerer's start\n"
            f"requests of all waits together: {requests}\n"
            f"longest stall of the triggers' loop: {max(soak.stalls, default=0.0):.1f} s, "
            f"{sum(one >= _LONG for one in soak.stalls)} of {_LONG:.0f} s or longer\n"
            f"lines of the triggerer's own output that tell of an error: {len(soak.errors)}\n"
            f"processor: supervisor {cpu['supervisor']:.2f}, triggers {cpu['runner']:.2f} cores"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, with all samples."""
        soak = self._soak
        shortest, longest = soak.plan.life
        return {
            "ok": self.ok,
            "settings": {
                "waits": soak.plan.waits,
                "seconds": soak.plan.seconds,
                "families": soak.plan.numbers,
                "life_s": [round(shortest, 1), round(longest, 1)],
                "settled_s": soak.plan.settled,
            },
            "machine": dict(self._machine),
            "weather": soak.weather,
            "stalls_s": sorted(soak.stalls, reverse=True)[:_ERRORS],
            "errors": soak.errors[:_ERRORS],
            "all_started_s": round(soak.filled_seconds, 1),
            "ended": soak.ledger.ended,
            "waits": soak.ledger.as_json(),
            "flatness": [asdict(one) for one in self.flat],
            "verdicts": [asdict(one) for one in self.verdicts],
            "samples": [asdict(one) for one in soak.samples],
        }


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    return table


def _cells(one: Account) -> list[str]:
    late = [percentile(one.calm, 0.5), percentile(one.calm, 0.99), percentile(one.late, 0.99)]
    seconds = ["-" if value is None else f"{value:.1f}" for value in late]
    return [
        str(number) for number in (one.begun, one.right, one.wrong.total(), one.twice, one.lost)
    ] + seconds


def _flat_cells(one: Flatness) -> list[str]:
    first, last = f"{one.first:.0f}{one.unit}", f"{one.last:.0f}{one.unit}"
    verdict = "flat" if one.ok else "GROWS"
    return [first, last, f"{one.growth:+.1f}", f"{one.allowed:.0f}", f"{one.per_hour:+.1f}", verdict]


def _sum(samples: Sequence[Sample], what: str, name: str) -> int:
    return sum(getattr(one, what).get(name, 0) for one in samples[1:])
