"""Whether nothing grows, nothing is lost and nothing was told twice."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tools.soak.ledger import Account
from tools.soak.samples import Sample

__all__ = ["Flatness", "Verdict", "flatness", "told", "trend"]

Series = Sequence[tuple[float, float]]
"""Moments in seconds, and values."""

_HOUR = 3600.0
_EDGE = 5  # a level at the beginning or the end is the median of a fifth of the samples
_LEAST = 8  # samples; fewer prove nothing

MEMORY_MB, MEMORY_SHARE = 16.0, 0.03
"""Garbage that waits for its collection moves the memory of 5000 waits up and down by some 2 % within a minute."""
FILES = 16.0
THREADS = 4.0
CONNECTIONS = 4.0
AT_FIRST = 4.0
"""So many times as much memory may come until all has settled: caches and pools fill."""


@dataclass(frozen=True)
class Verdict:
    """One thing that must hold."""

    ok: bool
    text: str


@dataclass(frozen=True)
class Flatness:
    """One quantity, from when it had settled.

    :param first: its level then; :param last: at the end.
    :param growth: by how much it has grown in between.
    :param allowed: and by how much it may.
    :param per_hour: the growth in an hour, at that pace.
    """

    name: str
    unit: str
    first: float
    last: float
    growth: float
    allowed: float
    per_hour: float
    ok: bool

    @property
    def verdict(self) -> Verdict:
        """In words."""
        grows = f"{self.name}: {self.first:.0f} to {self.last:.0f}{self.unit}, grown by {self.growth:.1f}"
        return Verdict(self.ok, f"{grows}; up to {self.allowed:.0f} is noise")


def trend(series: Series) -> float:
    """The slope of the line through all points, per second."""
    moments, values = zip(*series, strict=True)
    return float(statistics.linear_regression(moments, values).slope)


def flatness(samples: Sequence[Sample], settled: float, weather: float = 0.0) -> list[Flatness]:
    """What was seen of everything that must not grow.

    :param settled: the moment, on the clock of the samples, from which on it may not.
    :param weather: when that began which closes connections: what was open before may be opened again.
    """
    before = [one for one in samples if one.at < weather]
    seen = [one for one in samples if one.at >= settled]
    if len(seen) < _LEAST:
        return []

    def series(value: Callable[[Sample], float]) -> Series:
        return [(one.at, value(one)) for one in seen]

    found = [
        _by_trend("memory of the triggerer", series(lambda one: one.both.memory)),
        _by_trend("- of it, the triggers' process", series(lambda one: one.runner.memory)),
        _by_trend("- of it, Airflow's supervisor", series(lambda one: one.supervisor.memory)),
        _by_level("file descriptors beside a log per wait", series(lambda one: one.both.files), FILES),
        _by_level("threads", series(lambda one: one.both.threads), THREADS),
    ]
    found += [_connections(name, before, seen) for name in seen[0].connections]
    return found + (_left_by_weather(before, seen) if len(before) >= _EDGE else [])


def _left_by_weather(before: Sequence[Sample], seen: Sequence[Sample]) -> list[Flatness]:
    """What there is at the end, against what there was before anything was disturbed."""

    def grown(name: str, unit: str, value: Callable[[Sample], float], allowed: float) -> Flatness:
        first = _level([(one.at, value(one)) for one in before], -1)
        last = _level([(one.at, value(one)) for one in seen], -1)
        seconds = seen[-1].at - before[-1].at
        name = f"- since before the weather: {name}"
        return _judged(name, unit, (first, last), last - first, allowed, seconds)

    memory = max(MEMORY_MB, MEMORY_SHARE * statistics.median(one.both.memory for one in seen))
    found = [
        grown("memory", " MB", lambda one: one.both.memory, AT_FIRST * memory),
        grown("file descriptors", "", lambda one: one.both.files, FILES),
        grown("threads", "", lambda one: one.both.threads, THREADS),
    ]
    connections = [
        grown(f"connections to {name}", "", partial(_connected, name=name), CONNECTIONS)
        for name in seen[0].connections
    ]
    return found + connections


def _connected(sample: Sample, name: str) -> float:
    return sample.connections.get(name, 0)


def _connections(name: str, before: Sequence[Sample], seen: Sequence[Sample]) -> Flatness:
    series = [(one.at, _connected(one, name)) for one in seen]
    known = statistics.median(_connected(one, name) for one in before) if before else 0.0
    return _by_level(f"connections to {name}", series, CONNECTIONS + max(0.0, known - _level(series, 1)))


def _by_trend(name: str, series: Series) -> Flatness:
    """By the line through all points: single ones are noise."""
    allowed = max(MEMORY_MB, MEMORY_SHARE * statistics.median(value for _, value in series))
    seconds = _length(series)
    return _judged(name, " MB", _levels(series), trend(series) * seconds, allowed, seconds)


def _by_level(name: str, series: Series, allowed: float) -> Flatness:
    """By what is there at the end: each one counts."""
    first, last = _levels(series)
    return _judged(name, "", (first, last), last - first, allowed, _length(series))


def _judged(
    name: str, unit: str, levels: tuple[float, float], growth: float, allowed: float, seconds: float
) -> Flatness:
    per_hour = growth / max(1.0, seconds) * _HOUR
    return Flatness(name, unit, *levels, growth, allowed, per_hour, growth <= allowed)


def _levels(series: Series) -> tuple[float, float]:
    return _level(series, 1), _level(series, -1)


def _level(series: Series, direction: int) -> float:
    values = [value for _, value in series][::direction]
    return statistics.median(values[: max(1, len(values) // _EDGE)])


def _length(series: Series) -> float:
    return series[-1][0] - series[0][0]


def told(accounts: Mapping[str, Account], least: int) -> list[Verdict]:
    """Whether each wait whose work had ended has had its one event, and the right one.

    :param least: how many waits must have ended for that to mean anything.
    """
    every = list(accounts.values())
    right = sum(one.right for one in every)
    silent = [name for name, one in accounts.items() if not one.right]
    return [
        Verdict(right >= least, f"waits told once, after the end of their work and how it ended: {right}"),
        _none(sum(one.lost for one in every), "waits lost"),
        _none(sum(one.wrong.total() for one in every), "waits told wrong", _reasons(every)),
        _none(sum(one.twice for one in every), "waits told twice"),
        _none(sum(one.overdue for one in every), "waits told too late, though the weather was over"),
        _none(sum(one.unlogged for one in every), "waits told, without an event in their logs"),
        _none(len(silent), "families without any wait told", silent),
    ]


def _reasons(accounts: Sequence[Account]) -> list[str]:
    return sorted({reason for one in accounts for reason in one.wrong})


def _none(number: int, what: str, why: Sequence[str] = ()) -> Verdict:
    return Verdict(not number, f"{what}: {number}" + (f" ({'; '.join(why)})" if why else ""))
