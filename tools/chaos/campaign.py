"""All faults, one after the other, until there were enough kills."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from tools.chaos.certificate import Certificate, Row
from tools.chaos.faults import Fault, people, processes, remote, triggerers
from tools.chaos.jobs import Remote
from tools.chaos.scene import Scene
from tools.chaos.world import World

FAULTS: tuple[Fault, ...] = (*processes.FAULTS, *triggerers.FAULTS, *remote.FAULTS, *people.FAULTS)
AT_ONCE = 40
"""The most kills in one scene, so that tasks come to an end between them."""
CROWD = 20
"""How many kills there may be for a fault's number of runs; for more there are more of these."""
SETTLING = 240.0


@dataclass
class Campaign:
    """What is tried, and what was found.

    :param kills: how many processes are to be killed in all.
    :param certificate: what was found before: that is not tried again.
    :param save: called after each scene.
    """

    world: World
    console: Console
    faults: Sequence[Fault]
    kills: int
    seed: int
    certificate: Certificate = field(default_factory=Certificate)
    save: Callable[[], None] = lambda: None
    _scenes: list[tuple[Fault, Scene]] = field(default_factory=list)

    def run(self) -> Certificate:
        """Try all faults once, and those that kill until there were enough kills."""
        seeds = random.Random(self.seed)  # noqa: S311 - must repeat, not resist guessing
        self.certificate.wanted = self.kills if any(fault.weight for fault in self.faults) else 0
        remote_side = Remote(self.world.snowflake, self.world.databricks)
        for fault, kills in plan(self.faults, self.kills, self.certificate):
            row = self._try(fault, kills, remote_side, random.Random(seeds.random()))  # noqa: S311
            self.certificate.add(row)
            self._say(row)
            self.save()
        remote_side.look()
        for fault, scene in self._scenes:
            self.certificate.rows[fault.group, fault.name].findings += scene.latecomers()
        self.certificate.facts["ended by themselves"] = dict(self.world.fell)
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
        findings = scene.verdict()
        waits = scene.all_waits()
        jobs = Counter[str]()
        for wait in waits:
            jobs[wait.side] += len(scene.jobs(wait))
        scene.clean()
        tasks = Counter(wait.side for wait in waits)
        seconds = time.monotonic() - started
        return Row(fault.group, fault.name, scene.hits.total(), scene.kills, tasks, jobs, findings, seconds)

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
    faults: Sequence[Fault], kills: int, before: Certificate | None = None
) -> Iterator[tuple[Fault, int]]:
    """Return the faults in turn, with how many kills each is to do; in rounds, when there are many.

    :param before: what is left out.
    """
    before = before or Certificate()
    weights = sum(fault.weight for fault in faults)
    shares = {fault.name: _share(fault, kills, weights) for fault in faults}
    left = {one.name: before.kills_left(one.group, one.name, shares[one.name]) for one in faults}
    for fault in faults:
        if left[fault.name] or (fault.group, fault.name) not in before.rows:
            yield fault, min(AT_ONCE, left[fault.name])
            left[fault.name] -= AT_ONCE
    while any(share > 0 for share in left.values()):
        for fault in faults:
            if left[fault.name] > 0:
                yield fault, min(AT_ONCE, left[fault.name])
                left[fault.name] -= AT_ONCE


def _share(fault: Fault, kills: int, weights: int) -> int:
    return max(2, -(-kills * fault.weight // weights)) if fault.weight else 0
