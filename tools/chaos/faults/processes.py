"""Processes that die or stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import psutil  # type: ignore[import-untyped]

from tools.chaos.books import Wait
from tools.chaos.faults import Fault
from tools.chaos.scene import Scene, pids
from tools.chaos.world import restart_server
from tools.demo.backend import API_SERVER, POSTGRES, PROCESSOR, REDIS, SCHEDULER, TRIGGERER, WORKER

GROUP = "Processes"
HELD = 6.0  # seconds for which a service holds an answer, while who waits for it is killed
EACH = 30.0  # seconds within which the next moment for a kill comes
PAUSE = (30.0, 90.0)
PAUSED = 3  # tasks at once


def kill_tasks(scene: Scene, kills: int, *, machine: bool = False) -> None:
    """Processes of tasks, at random instants."""
    _while(scene, kills, lambda: _one_task(scene, machine=machine))


def kill_before_submit(scene: Scene, kills: int) -> None:
    """Processes of tasks that have just begun; one whose job was there already does not count."""
    known: set[int] = set()

    def one() -> None:
        for instance in scene.in_state("running"):
            wait, pid = scene.wait_of(instance), int(instance["pid"] or 0)
            if pid in known or not wait.has_job or scene.kills >= kills:
                continue
            known.add(pid)
            if not _submitted(scene, wait) and scene.world.kill_task(pid) and not _submitted(scene, wait):
                scene.killed_task(pid)

    _while(scene, kills, one)


def _submitted(scene: Scene, wait: Wait) -> bool:
    """Whether a task has a job that it would go on with."""
    scene.remote.look()
    return any(job.ended is None or job.succeeded for job in scene.jobs(wait))


def kill_senders(scene: Scene, kills: int, *, step: str, whose: str = "task") -> None:
    """Whoever has sent a request of this step, done by the service but not yet answered."""
    with scene.disturbed("late", step, delay=HELD, rate=0.5, seed=scene.random.randrange(1000)):
        _while(scene, kills, sender_killer(scene, kills, step=step, whose=whose))


def sender_killer(scene: Scene, kills: int, *, step: str, whose: str) -> Callable[[], None]:
    """Return what kills those who wait for an answer of a step now.

    :param whose: ``task``: the process of a task on a worker; or ``triggerer``.
    """
    since, seen = time.time(), set[float]()

    def one() -> None:
        scene.watch()
        for process, triggerer, side in _senders(scene, step, since, seen):
            if scene.kills >= kills or (triggerer is None) == (whose == "triggerer"):
                continue
            if triggerer:
                scene.kill(triggerer, side=side)
            else:
                scene.kill_task(process.pid)

    return one


def _senders(
    scene: Scene, step: str, since: float, seen: set[float]
) -> Iterator[tuple[psutil.Process, str | None, str]]:
    """Return who waits for an answer of a step, each of its requests once: the process, its triggerer, the side."""
    scene.remote.look()
    for request in scene.disturbers(step, since):
        at, job = float(request["at"]), scene.remote.named(request)
        early = step == "result" and not (job and job.ended and job.ended <= at)  # it is a poll as well
        if at in seen or request["status"] or early:
            continue
        if process := scene.world.sender(int(request["client_port"])):
            seen.add(at)
            triggerer, side = scene.world.triggerer_of(process), scene.remote.side(request)
            # Stock operators submit nothing in a triggerer.
            yield process, triggerer, "ours" if triggerer and step == "submit" else side


def pause_senders(scene: Scene, _kills: int, *, step: str) -> None:
    """Some who wait for an answer of a step stop until others have taken their work over."""
    with ExitStack() as stack:
        with scene.disturbed("late", step, delay=HELD):
            Pauser(scene, stack, step, PAUSED).wait()
        scene.go_on(scene.random.uniform(*PAUSE), feed=True)


@dataclass
class Pauser:
    """Stops the first who wait for an answer of a step, until the stack ends; of triggerers one: the other goes on.

    :param most: how many are stopped.
    """

    scene: Scene
    stack: ExitStack
    step: str
    most: int
    stopped: int = 0
    triggerer: str | None = None
    _since: float = field(default_factory=time.time)
    _seen: set[float] = field(default_factory=set)

    def wait(self) -> None:
        """Look for a while, until there were enough."""
        until = time.monotonic() + EACH
        while self.stopped < self.most and time.monotonic() < until:
            self.look()

    def look(self) -> None:
        """Stop those who wait now."""
        self.scene.watch()
        for process, triggerer, side in _senders(self.scene, self.step, self._since, self._seen):
            if self.stopped < self.most and not (triggerer and self.triggerer):
                self.triggerer = self.triggerer or triggerer
                self.stopped += 1
                _pause_sender(self.scene, self.stack, process, triggerer, side)


def _pause_sender(
    scene: Scene, stack: ExitStack, process: psutil.Process, triggerer: str | None, side: str
) -> None:
    if triggerer:
        stack.enter_context(scene.world.paused(triggerer))
        scene.hits.add(side)
    else:
        _pause_task(scene, stack, process.pid)


def _pause_task(scene: Scene, stack: ExitStack, pid: int) -> None:
    """Stop a task's process and its supervisor until the stack ends."""
    if stack.enter_context(scene.world.stopped(scene.world.of_task(pid), f"task process {pid}")):
        scene.hits.process(pid)


def kill_after_submit(scene: Scene, kills: int) -> None:
    """Processes of tasks whose job is known to run, before they defer."""
    known: set[str] = set()

    def one() -> None:
        running = {
            (i["dag_id"], i["dag_run_id"], i["task_id"]): i for i in scene.in_state("running") if i["pid"]
        }
        for wait, job in scene.active_jobs():
            instance = running.get((wait.dag_id, wait.run_id, wait.task_id))
            if instance and job.id not in known and scene.kills < kills:
                known.add(job.id)
                scene.kill_task(int(instance["pid"]))

    _while(scene, kills, one)


def kill_finishing(scene: Scene, kills: int) -> None:
    """Processes of tasks that come back from their wait."""
    waited: set[tuple[str, str, str]] = set()

    def one() -> None:
        for instance in scene.watch():
            key = (instance["dag_id"], instance["dag_run_id"], instance["task_id"])
            if instance["state"] == "deferred":
                waited.add(key)
            elif key in waited and instance["state"] == "running" and instance["pid"] and scene.kills < kills:
                waited.discard(key)
                scene.kill_task(int(instance["pid"]))

    _while(scene, kills, one)


def kill_part(scene: Scene, kills: int, *, part: str) -> None:
    """All processes of a part of Airflow at random instants."""

    def one() -> None:
        scene.kill(scene.random.choice(scene.world.names(part)))
        scene.go_on(scene.random.uniform(4.0, 12.0), feed=True)

    _while(scene, kills, one)


def kill_anything(scene: Scene, kills: int) -> None:
    """Tasks' processes mostly, and parts of Airflow between them."""
    parts = [one for one in scene.world.services.first.parts if one != API_SERVER] + [API_SERVER]

    def one() -> None:
        if scene.random.random() < 0.75:
            _one_task(scene, machine=scene.random.random() < 0.2)
        else:
            scene.kill(scene.random.choice(parts))

    _while(scene, kills, one)


def pause_tasks(scene: Scene, _kills: int) -> None:
    """Processes of tasks and their supervisors stop, one of ours at least, and the scheduler takes them for dead."""

    def running() -> list[int]:
        found = sorted(pids(scene.look()), key=lambda pid: scene.hits.tasks[pid] != "ours")
        return found if found and scene.hits.tasks[found[0]] == "ours" else []

    with ExitStack() as stack:
        for pid in (scene.world.until(running, EACH) or [])[:PAUSED]:
            _pause_task(scene, stack, pid)
        scene.go_on(scene.random.uniform(*PAUSE), feed=True)


def pause_part(scene: Scene, _kills: int, *, part: str) -> None:
    """A part of Airflow stops for a while."""
    scene.go_on(scene.random.uniform(2.0, 8.0), feed=True)
    name = scene.world.names(part)[0]
    scene.world.tend()
    with scene.world.paused(name):
        if scene.world.program(name) is not None:
            scene.hit()
        until = time.monotonic() + scene.random.uniform(*PAUSE)
        while time.monotonic() < until:
            time.sleep(1.0)
            scene.world.tend()


def restart_servers(scene: Scene, kills: int, *, name: str, stop: int, crash: int) -> None:
    """A server that Airflow stands on ends, once in good order and once by a crash."""
    for number in range(kills):
        scene.go_on(scene.random.uniform(5.0, 15.0), feed=True)
        how = (stop, crash)[number % 2]
        restart_server(scene.world, name, how)
        scene.hit()
        scene.kills += how == crash


def _while(scene: Scene, kills: int, one: Callable[[], None]) -> None:
    """Do it until there were enough kills, as long as one comes after the other."""
    last, seen = time.monotonic(), scene.kills
    while scene.kills < kills and time.monotonic() - last < EACH * 2:
        scene.feed()
        one()
        if scene.kills > seen:
            last, seen = time.monotonic(), scene.kills
        time.sleep(0.2)


def _one_task(scene: Scene, *, machine: bool) -> None:
    time.sleep(scene.random.uniform(0.0, 1.5))
    if found := pids(scene.watch()):
        scene.kill_task(scene.random.choice(found), machine=machine)


FAULTS = (
    Fault(GROUP, "task killed at random", kill_tasks, weight=20, runs=2, quick=True),
    Fault(GROUP, "task killed before it submits", kill_before_submit, weight=8, runs=2, quick=True),
    Fault(
        GROUP, "task killed as it submits", partial(kill_senders, step="submit"), weight=8, runs=2, quick=True
    ),
    Fault(
        *(GROUP, "triggerer killed as it submits", partial(kill_senders, step="submit", whose="triggerer")),
        weight=2,
    ),
    Fault(GROUP, "paused as it submits", partial(pause_senders, step="submit"), seconds=30),
    Fault(GROUP, "task killed before it defers", kill_after_submit, weight=5, runs=2),
    Fault(GROUP, "task killed as it finishes", kill_finishing, weight=8, runs=2, quick=True),
    Fault(
        GROUP, "task killed as it reads the result", partial(kill_senders, step="result"), weight=4, runs=2
    ),
    Fault(
        *(GROUP, "triggerer killed as it reads the result"),
        partial(kill_senders, step="result", whose="triggerer"),
        weight=2,
    ),
    Fault(GROUP, "paused as it polls", partial(pause_senders, step="poll"), seconds=75),
    Fault(GROUP, "paused as it reads the result", partial(pause_senders, step="result")),
    Fault(GROUP, "worker's machine killed", partial(kill_tasks, machine=True), weight=4, runs=2),
    Fault(
        *(GROUP, "triggerer killed as it polls", partial(kill_senders, step="poll", whose="triggerer")),
        weight=5,
        quick=True,
    ),
    Fault(
        *(GROUP, "triggerer killed at random", partial(kill_part, part=TRIGGERER)),
        weight=5,
        seconds=75,
        quick=True,
        steady=True,
    ),
    Fault(GROUP, "scheduler killed", partial(kill_part, part=SCHEDULER), weight=3, quick=True),
    Fault(GROUP, "API server killed", partial(kill_part, part=API_SERVER), weight=3, quick=True),
    Fault(GROUP, "Dag processor killed", partial(kill_part, part=PROCESSOR), weight=2),
    Fault(
        *(GROUP, "database restarted"),
        partial(restart_servers, name=POSTGRES, stop=signal.SIGINT, crash=signal.SIGQUIT),
        weight=2,
        seconds=20,
        quick=True,
    ),
    Fault(
        *(GROUP, "Redis restarted"),
        partial(restart_servers, name=REDIS, stop=signal.SIGTERM, crash=signal.SIGKILL),
        weight=2,
        seconds=20,
        celery=True,
    ),
    Fault(GROUP, "Celery's worker killed", partial(kill_part, part=WORKER), weight=3, celery=True),
    Fault(GROUP, "anything killed at random", kill_anything, weight=20, runs=2),
    Fault(GROUP, "task paused", pause_tasks, seconds=30),
    Fault(GROUP, "triggerer paused", partial(pause_part, part=TRIGGERER), seconds=75, steady=True),
    Fault(GROUP, "Celery's worker paused", partial(pause_part, part=WORKER), seconds=20, celery=True),
    Fault(GROUP, "scheduler paused", partial(pause_part, part=SCHEDULER), seconds=20),
    Fault(GROUP, "API server paused", partial(pause_part, part=API_SERVER), seconds=20),
    Fault(GROUP, "Dag processor paused", partial(pause_part, part=PROCESSOR), seconds=20),
)
