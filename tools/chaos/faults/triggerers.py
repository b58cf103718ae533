"""Two triggerers."""

from __future__ import annotations

import signal

from tools.chaos.faults import Fault
from tools.chaos.scene import Scene
from tools.chaos.world import TRIGGERER_DEAD_AFTER
from tools.demo.backend import TRIGGERER

GROUP = "Two triggerers"
CAPACITY = "AIRFLOW__TRIGGERER__CAPACITY"
STARTING = 60.0


def move(scene: Scene, _kills: int) -> None:
    """One stops until the other has its triggers, and wakes up: both run them for a moment."""
    if not scene.until_deferred():
        return
    for name in scene.world.names(TRIGGERER):
        with scene.world.paused(name):
            scene.hit()
            scene.go_on(TRIGGERER_DEAD_AFTER + 12)
        scene.go_on(5)


def roll(scene: Scene, _kills: int) -> None:
    """Each is told to end, and comes back before the next."""
    if not scene.until_deferred():
        return
    for name in scene.world.names(TRIGGERER):
        if scene.world.end(name, signal.SIGTERM):
            scene.hit()
        started(scene, name)


def fill(scene: Scene, _kills: int) -> None:
    """One has room for two triggers only, and the other one is away for a while."""
    first, second = scene.world.names(TRIGGERER)
    if not scene.until_deferred():
        return
    _replace(scene, second, {CAPACITY: "2"})
    if scene.world.end(first, signal.SIGTERM, hold=True):
        scene.hit()
    scene.go_on(TRIGGERER_DEAD_AFTER + 15)
    scene.world.release(first)
    started(scene, first)
    _replace(scene, second, {})


def _replace(scene: Scene, name: str, more: dict[str, str]) -> None:
    scene.world.end(name, signal.SIGTERM, hold=True)
    scene.world.services.first.start_part(name, more)
    scene.world.release(name)
    started(scene, name)


def started(scene: Scene, name: str) -> None:
    """Wait until a triggerer has said that it starts, since its program was started."""

    def said() -> bool:
        program = scene.world.program(name)
        return program is not None and "Starting the triggerer" in program.said()

    scene.world.until(said, STARTING)


FAULTS = (
    Fault(GROUP, "triggers moved by a pause, and both run", move, seconds=75, steady=True),
    Fault(GROUP, "rolling restart", roll, seconds=60, steady=True),
    Fault(GROUP, "one at capacity", fill, seconds=60, steady=True),
)
