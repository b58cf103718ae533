"""Processes that die or stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

from tools.chaos.faults import Fault
from tools.chaos.scene import Scene, pids
from tools.chaos.world import restart_database
from tools.demo.backend import API_SERVER, PROCESSOR, SCHEDULER, TRIGGERER, WORKER

GROUP = "Processes"
HELD = 6.0  # seconds for which a service holds an answer, while who waits for it is killed
EACH = 30.0  # seconds within which the next moment for a kill comes
PAUSE = (30.0, 90.0)


def kill_tasks(scene: Scene, kills: int, *, machine: bool = False) -> None:
    """Processes of tasks, at random instants."""
    _while(scene, kills, lambda: _one_task(scene, machine=machine))


def kill_before_submit(scene: Scene, kills: int) -> None:
    """Processes of tasks that have just begun."""
    known: set[int] = set()

    def one() -> None:
        for pid in pids(scene.watch()):
            if pid not in known and scene.kills < kills:
                known.add(pid)
                scene.kill_task(pid)

    _while(scene, kills, one)


def kill_senders(scene: Scene, kills: int, *, step: str, whose: str = "task") -> None:
    """Whoever has sent a request of this step, done by the service but not yet answered."""
    since, killed = time.time(), set[int]()

    def one() -> None:
        scene.feed()
        scene.world.tend()
        for port in scene.disturbers(step, since):
            if port not in killed and scene.kills < kills:
                killed.add(port)
                _kill_sender(scene, port, whose)

    with scene.disturbed("late", step, delay=HELD, rate=0.5, seed=scene.random.randrange(1000)):
        _while(scene, kills, one)


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
    """Processes of tasks and their supervisors stop, and the scheduler takes them for dead."""
    stopped = []
    found = scene.world.until(lambda: pids(scene.look()), EACH) or []
    for pid in found[:3]:
        process = scene.world.task_processes().get(pid)
        supervisor = process.parent() if process else None
        for one in (supervisor, process):
            if one is not None:
                one.suspend()
                stopped.append(one)
        scene.injected += 1
    scene.world.note(f"SIGSTOP task processes {found[:3]}")
    scene.go_on(scene.random.uniform(*PAUSE), feed=True)
    for one in stopped:
        if one.is_running():
            one.resume()
    scene.world.note(f"SIGCONT task processes {found[:3]}")


def pause_part(scene: Scene, _kills: int, *, part: str) -> None:
    """A part of Airflow stops for a while."""
    scene.go_on(scene.random.uniform(2.0, 8.0), feed=True)
    name = scene.world.names(part)[0]
    scene.world.tend()
    with scene.world.paused(name):
        scene.injected += scene.world.program(name) is not None
        until = time.monotonic() + scene.random.uniform(*PAUSE)
        while time.monotonic() < until:
            time.sleep(1.0)
            scene.world.tend()


def restart_databases(scene: Scene, kills: int) -> None:
    """The database ends, once in good order and once by a crash."""
    for number in range(kills):
        scene.go_on(scene.random.uniform(5.0, 15.0), feed=True)
        how = (signal.SIGINT, signal.SIGQUIT)[number % 2]
        restart_database(scene.world, how)
        scene.injected += 1
        scene.kills += how == signal.SIGQUIT


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


def _kill_sender(scene: Scene, port: int, whose: str) -> None:
    process = scene.world.sender(port)
    if process is None:
        return
    if triggerer := scene.world.triggerer_of(process):
        if whose == "triggerer":
            scene.kill(triggerer)
    elif whose == "task":
        scene.kill_task(process.pid)


FAULTS = (
    Fault(GROUP, "task killed at random", kill_tasks, weight=20, runs=2, quick=True),
    Fault(GROUP, "task killed before it submits", kill_before_submit, weight=8, runs=2, quick=True),
    Fault(
        GROUP, "task killed as it submits", partial(kill_senders, step="submit"), weight=8, runs=2, quick=True
    ),
    Fault(GROUP, "task killed before it defers", kill_after_submit, weight=5, runs=2),
    Fault(GROUP, "task killed as it finishes", kill_finishing, weight=8, runs=2, quick=True),
    Fault(GROUP, "worker's machine killed", partial(kill_tasks, machine=True), weight=4, runs=2),
    Fault(
        *(GROUP, "triggerer killed as it polls", partial(kill_senders, step="poll", whose="triggerer")),
        weight=5,
        quick=True,
    ),
    Fault(GROUP, "triggerer killed at random", partial(kill_part, part=TRIGGERER), weight=5, quick=True),
    Fault(GROUP, "scheduler killed", partial(kill_part, part=SCHEDULER), weight=3, quick=True),
    Fault(GROUP, "API server killed", partial(kill_part, part=API_SERVER), weight=3, quick=True),
    Fault(GROUP, "Dag processor killed", partial(kill_part, part=PROCESSOR), weight=2),
    Fault(GROUP, "database restarted", restart_databases, weight=2, seconds=20, quick=True),
    Fault(GROUP, "Celery's worker killed", partial(kill_part, part=WORKER), weight=3),
    Fault(GROUP, "anything killed at random", kill_anything, weight=20, runs=2),
    Fault(GROUP, "task paused", pause_tasks, seconds=30),
    Fault(GROUP, "triggerer paused", partial(pause_part, part=TRIGGERER), seconds=30),
    Fault(GROUP, "scheduler paused", partial(pause_part, part=SCHEDULER), seconds=20),
    Fault(GROUP, "API server paused", partial(pause_part, part=API_SERVER), seconds=20),
    Fault(GROUP, "Dag processor paused", partial(pause_part, part=PROCESSOR), seconds=20),
)
