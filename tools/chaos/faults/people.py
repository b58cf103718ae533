"""People: what they do to tasks that wait."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

from tools.chaos.books import FORGOTTEN_GRACE, GRACE, Wait
from tools.chaos.faults import Fault
from tools.chaos.faults.triggerers import started
from tools.chaos.release import LOADED, Release
from tools.chaos.scene import Scene
from tools.chaos.world import World
from tools.demo.backend import TRIGGERER

GROUP = "People"
LONG = 900.0
LATE = 60.0  # seconds from the begin of a task that may take 25 to its end, on a busy machine
TAKEN_UP = 3.0
TAKEN_OVER = 30.0  # until the triggers of one that was killed run in another one
DEPLOYING = 180.0  # seconds until every program has loaded a release


def mark(scene: Scene, _kills: int, *, state: str, but: Collection[str] = ()) -> None:
    """Every task is marked that has not ended: all wait, but for those that were late.

    :param but: the runs that go on.
    """
    scene.dags = ()
    _deferred(scene)
    for one in scene.watch():
        if one["dag_run_id"] in but or scene.done(scene.wait_of(one)):
            continue
        moment = time.time()
        scene.world.ask(scene.world.airflow.mark, one, state)
        _ended(scene, scene.wait_of(one), f"marked {state}", moment, {state})


def clear(scene: Scene, _kills: int) -> None:
    """Every waiting task is cleared, and later what was started anew is ended."""
    _deferred(scene)
    for dag_id, runs in scene.started.items():
        for run_id in runs:
            moment = time.time()
            ids = {wait.task_id for wait in scene.waits.values() if wait.run_id == run_id}
            scene.world.ask(scene.world.airflow.clear, dag_id, run_id, ids)
            for wait in scene.waits.values():
                if (wait.dag_id, wait.run_id) == (dag_id, run_id):
                    wait.cleared.append(moment)
                    scene.injected += 1
    scene.world.note("cleared")
    time.sleep(GRACE / 2)
    mark(scene, 0, state="failed")


def delete_run(scene: Scene, _kills: int) -> None:
    """The run of every waiting task is deleted."""
    _deferred(scene)
    for dag_id, runs in scene.started.items():
        for run_id in runs:
            moment = time.time()
            scene.world.ask(scene.world.airflow.delete_run, dag_id, run_id)
            for wait in scene.waits.values():
                if (wait.dag_id, wait.run_id) == (dag_id, run_id):
                    _ended(scene, wait, "deleted with its run", moment, set())


def mark_while_away(scene: Scene, _kills: int) -> None:
    """The waiting tasks of one run are marked as failed while there is no triggerer; another run goes on meanwhile."""
    other = _spared(scene)
    for name in scene.world.names(TRIGGERER):
        scene.kills += scene.world.end(name, signal.SIGKILL, hold=True)
    mark(scene, 0, state="failed", but=other)
    for name in scene.world.names(TRIGGERER):
        scene.world.release(name)
    _end_others(scene)


def kill_cancelling(scene: Scene, kills: int) -> None:
    """The triggerers are killed while they cancel the jobs of one run's tasks, which were marked as failed."""
    other = _spared(scene)
    mark(scene, 0, state="failed", but=other)
    time.sleep(scene.random.uniform(0.0, 2.0))
    for name in scene.world.names(TRIGGERER)[:kills]:
        scene.kill(name)
    _end_others(scene)


def _spared(scene: Scene) -> set[str]:
    """Wait until all tasks wait; one run of each Dag is to go on, and what the others leave behind needs time."""
    _deferred(scene)
    spared = {min(runs) for runs in scene.started.values()}
    for wait in scene.waits.values():
        if wait.run_id not in spared:
            wait.grace = FORGOTTEN_GRACE
    return spared


def _end_others(scene: Scene) -> None:
    """Let triggerers come back and find what was left behind; then end the tasks that have gone on meanwhile."""
    for name in scene.world.names(TRIGGERER):
        started(scene, name)
    until = time.monotonic() + FORGOTTEN_GRACE
    while time.monotonic() < until:
        scene.watch()
        if time.monotonic() > until - FORGOTTEN_GRACE + TAKEN_OVER and not scene.outliving():
            break
        time.sleep(2.0)
    mark(scene, 0, state="failed")


def exceed(scene: Scene, _kills: int) -> None:
    """Jobs take longer than their tasks may."""
    scene.dags = ()

    def known() -> bool:
        scene.look()
        return len(scene.waits) > 0 and all(wait.tries for wait in scene.waits.values())

    scene.world.until(known, 120.0)
    moment = time.time()
    for wait in scene.all_waits():
        _ended(scene, wait, "ended by its execution_timeout", moment + LATE, {"failed"})


def pause(scene: Scene, _kills: int) -> None:
    """The Dags are paused while tasks wait, and go on after their jobs have ended."""
    scene.until_deferred()
    for dag_id in scene.dags:
        scene.world.ask(scene.world.airflow.pause, dag_id)
        scene.injected += 1
    scene.world.note("Dags paused")
    time.sleep(scene.seconds)
    for dag_id in scene.dags:
        scene.world.ask(scene.world.airflow.unpause, dag_id)


def edit_connections(scene: Scene, _kills: int) -> None:
    """Every connection is edited while tasks wait: another timeout, the same account."""
    if not scene.until_deferred():
        return
    for name, connection in scene.world.services.connections.items():
        connection["extra"] = {**connection["extra"], "login_timeout": 30 + scene.random.randrange(30)}
        scene.world.ask(scene.world.airflow.edit_connection, name, connection)
        scene.injected += 1
    scene.world.note("connections edited")


def edit_timeout(scene: Scene, _kills: int) -> None:
    """The Dag's file gets another execution timeout while tasks wait."""
    if not scene.until_deferred():
        return
    file = scene.world.places.dags / "chaos.py"
    text = file.read_text()
    file.write_text(text.replace("minutes=20", "minutes=19"))
    scene.injected += 1
    scene.world.note("execution_timeout changed")
    time.sleep(15.0)
    file.write_text(text)


def deploy(scene: Scene, _kills: int) -> None:
    """Another version of this package is deployed while many tasks wait: triggerers, scheduler and worker start with it.

    It is the same code under another number and in another place, so what is tried is the exchange, and that triggers
    which one version has written are taken up by another. What older releases have written is in tests/serialised.
    It counts only once each of these programs has loaded it.
    """
    waiting = scene.until_deferred(900.0)
    world, first = scene.world, scene.world.services.first
    before = first.environment["PYTHONPATH"]
    with tempfile.TemporaryDirectory(prefix="astronomer-release-", ignore_cleanup_errors=True) as folder:
        release = Release.new(world.places.root, Path(folder))
        first.change({"PYTHONPATH": release.path})
        _restart(world)
        if world.until(lambda: not release.missing(world), DEPLOYING):
            scene.injected += waiting
            world.note(f"a new version deployed while {waiting} tasks waited")
        else:
            world.note(f"no new version in {', '.join(release.missing(world))}")
        scene.settle(max(300.0, 2.0 * waiting))
        first.change({"PYTHONPATH": before})
        _restart(world)


def _restart(world: World) -> None:
    """Let the programs that a release is for end and come back, one after the other."""
    for part in LOADED:
        for name in world.names(part):
            world.end(name, signal.SIGTERM)
            world.tend()
            time.sleep(10.0)


def _deferred(scene: Scene) -> list[dict[str, object]]:
    scene.until_deferred()
    time.sleep(TAKEN_UP)  # a triggerer takes up what was deferred last
    return scene.in_state("deferred")


def _ended(scene: Scene, wait: Wait, what: str, moment: float, expected: set[str]) -> None:
    wait.ended_by, wait.over, wait.expected = what, moment, frozenset(expected)
    scene.injected += 1
    scene.world.note(f"{what} {wait.task_id}")


FAULTS = (
    Fault(GROUP, "marked failed", partial(mark, state="failed"), seconds=LONG),
    Fault(GROUP, "marked success", partial(mark, state="success"), seconds=LONG),
    Fault(GROUP, "cleared", clear, seconds=LONG),
    Fault(GROUP, "run deleted", delete_run, seconds=LONG),
    Fault(GROUP, "marked failed, no triggerer there", mark_while_away, seconds=LONG, runs=2),
    Fault(GROUP, "triggerer killed as it cancels", kill_cancelling, weight=2, seconds=LONG, runs=2),
    Fault(
        GROUP, "execution_timeout reached", exceed, seconds=LONG, dags=("chaos_ours_late", "chaos_stock_late")
    ),
    Fault(GROUP, "Dag paused", pause, seconds=20),
    Fault(GROUP, "connection edited", edit_connections, seconds=30),
    Fault(GROUP, "execution_timeout changed", edit_timeout, seconds=30),
    Fault(
        *(GROUP, "new version deployed"),
        deploy,
        seconds=240,
        dags=("chaos_ours", "chaos_stock", "chaos_many"),
        conf={"tasks": 500},
    ),
)
