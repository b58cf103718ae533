"""All faults, one after the other, until there were enough kills."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from tools.chaos.books import GRACE
from tools.chaos.certificate import Certificate, Row
from tools.chaos.faults import Fault, people, processes, remote, triggerers
from tools.chaos.jobs import Remote
from tools.chaos.scene import Scene
from tools.chaos.world import World

FAULTS: tuple[Fault, ...] = (*processes.FAULTS, *triggerers.FAULTS, *remote.FAULTS, *people.FAULTS)
CROWD = 20
"""How many kills there may be for a fault's number of runs; for more there are more of these."""
SETTLING = 240.0


@dataclass
class Campaign:
    """What is tried, and what was found.

    :param kills: how many processes are to be killed in all.
    :param certificate: what was found before: that is not tried again.
    :param of: the faults among which so many kills are shared; those that are tried by default.
    :param save: called after each scene.
    """

    world: World
    console: Console
    faults: Sequence[Fault]
    kills: int
    seed: int
    certificate: Certificate = field(default_factory=Certificate)
    save: Callable[[], None] = lambda: None
    of: Sequence[Fault] = ()
    _scenes: list[tuple[Fault, Scene]] = field(default_factory=list)

    def run(self) -> Certificate:
        """Try all faults once, and those that kill until there were enough kills."""
        seeds = random.Random(self.seed)  # noqa: S311 - must repeat, not resist guessing
        shares = _shares(self.faults, self.kills, self.of)
        self.certificate.wanted = max(self.certificate.wanted, min(self.kills, sum(shares.values())))
        remote_side = Remote(self.world.snowflake, self.world.databricks)
        for fault, kills in plan(self.faults, self.kills, self.certificate, self.of):
            row = self._try(fault, kills, remote_side, random.Random(seeds.random()))  # noqa: S311
            self.certificate.add(row)
            self._say(row)
            self.save()
        remote_side.look()
        for fault, scene in self._scenes:
            self.certificate.rows[fault.group, fault.name].findings += scene.latecomers()
        before: Counter[str] = Counter(self.certificate.facts.get("ended by themselves"))
        self.certificate.facts["ended by themselves"] = dict(before + self.world.fell)
        self.certificate.complete = True
        return self.certificate

    def _try(self, fault: Fault, kills: int, remote_side: Remote, chance: random.Random) -> Row:
        started = time.monotonic()
        runs = fault.runs * max(1, kills // CROWD)
        scene = Scene(
            *(self.world, remote_side, chance, fault.seconds, runs, fault.dags), conf=dict(fault.conf)
        )
        self._scenes.append((fault, scene))
        scene.feed()
        fault.inject(scene, kills)
        scene.settle(SETTLING)
        findings = scene.verdict(steady=fault.steady) + fault.check(scene)
        waits = scene.all_waits()
        row = Row(fault.group, fault.name, kills=scene.kills, findings=findings, brief=fault.seconds <= GRACE)
        for wait in waits:
            row.tasks[wait.side] += 1
            row.jobs[wait.side] += len(scene.jobs(wait))
            row.retries[wait.side] += max(0, wait.tries - 1)
        row.injected = scene.hits.total()
        scene.clean()
        row.seconds = time.monotonic() - started
        return row

    def _say(self, row: Row) -> None:
        wrong = {side: sum(one.side == side for one in row.findings) for side in ("ours", "stock")}
        self.console.print(
            f"{row.group}: {row.fault}: injected {_told(row)}, {sum(row.tasks.values())} tasks, "
            f"wrong {wrong['ours']} / stock {wrong['stock']}, {row.seconds:.0f} s, {self.certificate.kills} kills so far",
            markup=False,
        )
        for one in row.findings:
            if one.side == "ours":
                self.console.print(f"  {one.measure}: {one.text}", style="red", markup=False, soft_wrap=True)


def _told(row: Row) -> str:
    return ", ".join(f"{number} {side}" for side, number in row.injected.items()) or "0"


def plan(
    faults: Sequence[Fault], kills: int, before: Certificate | None = None, of: Sequence[Fault] = ()
) -> Iterator[tuple[Fault, int]]:
    """Return the faults in turn, with how many kills each is to do; in rounds, when there are many.

    :param before: what is left out.
    :param of: the faults among which so many kills are shared; these by default.
    """
    before = before or Certificate()
    shares = _shares(faults, kills, of)
    left = {one.name: before.kills_left(one.group, one.name, shares[one.name]) for one in faults}
    for fault in faults:
        if left[fault.name] or (fault.group, fault.name) not in before.rows:
            yield fault, min(fault.at_once, left[fault.name])
            left[fault.name] -= fault.at_once
    while any(share > 0 for share in left.values()):
        for fault in faults:
            if left[fault.name] > 0:
                yield fault, min(fault.at_once, left[fault.name])
                left[fault.name] -= fault.at_once


def _shares(faults: Sequence[Fault], kills: int, of: Sequence[Fault]) -> dict[str, int]:
    weights = sum(fault.weight for fault in of or faults)
    return {one.name: max(2, -(-kills * one.weight // weights)) if one.weight else 0 for one in faults}
