"""People: what they do to tasks that wait."""

from __future__ import annotations

import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tools.chaos.books import FORGOTTEN_GRACE, GRACE, Finding, Wait
from tools.chaos.faults import Fault
from tools.chaos.faults.processes import EACH, HELD, PAUSE, Pauser, sender_killer
from tools.chaos.faults.triggerers import started
from tools.chaos.jobs import side_of
from tools.chaos.release import LOADED, Release
from tools.chaos.scene import SENSORS, Scene
from tools.chaos.world import World
from tools.demo.backend import TRIGGERER

GROUP = "People"
LONG = 900.0
LATE = 60.0  # seconds from the begin of a task that may take 25 to its end, on a busy machine
TAKEN_UP = 3.0
TAKEN_OVER = 30.0  # until the triggers of one that was killed run in another one
TIMED_OUT = re.compile("execution_timeout|timed out")
READING = 60.0  # seconds until Airflow has read a Dag that was changed
LIMIT, SHORTER = "timedelta(minutes=20)", "timedelta(seconds=20)"
DEPLOYING = 180.0  # seconds until every program has loaded a release


def mark(scene: Scene, _kills: int, *, state: str, but: Collection[str] = ()) -> None:
    """Every task is marked that has not ended: all wait, but for those that were late.

    :param but: the runs that go on.
    """
    for wait in _mark(scene, state, but):
        scene.hits.add(wait.side)


def _mark(
    scene: Scene, state: str, but: Collection[str] = (), then: Callable[[], None] = lambda: None
) -> list[Wait]:
    """Mark every task that has not ended, and return which.

    :param then: is done after each.
    """
    scene.dags = ()
    _deferred(scene)
    found = []
    for one in scene.watch():
        if one["dag_run_id"] in but or scene.done(scene.wait_of(one)):
            continue
        found.append(_mark_one(scene, one, state))
        then()
    return found


def _mark_one(scene: Scene, one: dict[str, Any], state: str) -> Wait:
    wait, moment = scene.wait_of(one), time.time()
    scene.world.ask(scene.world.airflow.mark, one, state)
    _ended(scene, wait, f"marked {state}", moment, {state})
    return wait


def mark_at_begin(scene: Scene, _kills: int) -> None:
    """Each task is marked as failed as soon as its job has begun: its worker hears of that at its next heartbeat only."""
    scene.dags = ()

    def mark_begun(going: list[dict[str, Any]]) -> None:
        scene.remote.look()
        for one in going:
            wait = scene.wait_of(one)
            if one["state"] == "running" and scene.jobs(wait) and not scene.done(wait):
                scene.hits.add(_mark_one(scene, one, "failed").side)

    scene.until_deferred(meanwhile=mark_begun)
    _mark(scene, "failed")


def mark_in_bad_weather(scene: Scene, _kills: int, *, kind: str, **fault: Any) -> None:
    """Every task is marked as failed, while most cancels are disturbed."""
    with scene.disturbed(kind, "cancel", rate=0.6, **fault):
        _mark(scene, "failed")
        scene.go_on(EACH)
        scene.remote.look()
        for one in scene.disturbers("cancel", scene.began):
            scene.hits.add(scene.remote.side(one))


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
                    scene.hits.add(wait.side)
    scene.world.note("cleared")
    time.sleep(GRACE / 2)
    _mark(scene, "failed")


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
                    scene.hits.add(wait.side)


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
    """Triggerers are killed as they cancel the jobs of one run's tasks, which were marked as failed."""
    other = _spared(scene)
    kill = sender_killer(scene, kills, step="cancel", whose="triggerer")
    with scene.disturbed("late", "cancel", delay=HELD):
        _mark(scene, "failed", other, kill)
        until = time.monotonic() + EACH
        while scene.kills < kills and time.monotonic() < until:
            kill()
    _end_others(scene)


def pause_cancelling(scene: Scene, _kills: int) -> None:
    """A triggerer stops as it cancels the jobs of one run's tasks, until the other one has its triggers."""
    other = _spared(scene)
    with ExitStack() as stack:
        with scene.disturbed("late", "cancel", delay=HELD):
            pauser = Pauser(scene, stack, "cancel", 1)
            _mark(scene, "failed", other, pauser.look)
            pauser.wait()
        scene.go_on(scene.random.uniform(*PAUSE))
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
    _mark(scene, "failed")


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
        wait.asked = scene.began


def names_its_limit(scene: Scene) -> list[Finding]:
    """Return the tasks of ours that do not say which job has not ended in time; counts those that had one."""
    found = []
    for wait in scene.all_waits():
        jobs = scene.jobs(wait)
        if not jobs and wait.has_job:  # the machine was too slow to begin one
            continue
        scene.hits.add(wait.side)
        told = scene.complaint(wait) if wait.side == "ours" else ""
        # A sensor names the task that it waits for.
        name = [job.id.rpartition(":")[2] for job in jobs] or [SENSORS.get(wait.task_id, "")]
        named = any(one in told for one in name)
        if wait.side == "ours" and not (TIMED_OUT.search(told) and named):
            text = f"{wait.name} does not say what has not ended in time: {told or 'it says nothing'}"
            found.append(Finding("lost", wait.side, wait.ended or time.time(), text))
    return found


def pause(scene: Scene, _kills: int) -> None:
    """The Dags are paused while tasks wait, and go on after their jobs have ended."""
    scene.until_deferred()
    for dag_id in scene.dags:
        scene.world.ask(scene.world.airflow.pause, dag_id)
        scene.hits.add(side_of(dag_id))
    scene.world.note("Dags paused")
    time.sleep(scene.seconds)
    for dag_id in scene.dags:
        scene.world.ask(scene.world.airflow.unpause, dag_id)


def edit_connections(scene: Scene, _kills: int) -> None:
    """Every connection is edited while tasks wait: another timeout, the same account."""
    if not scene.until_deferred():
        return
    services = scene.world.services
    for name, connection in list(services.connections.items()):
        extra = {**connection["extra"], "login_timeout": 30 + scene.random.randrange(30)}
        changed = services.change_connection(name, extra=extra)
        scene.world.ask(scene.world.airflow.edit_connection, name, changed)
        scene.hit()
    scene.world.note("connections edited")


def edit_timeout(scene: Scene, _kills: int) -> None:
    """The Dag's file gets an execution timeout that is over, while tasks wait, and its old one a minute later.

    Whichever of them counts for a task: its job must not be left, nor be started twice, and at last it succeeds.
    """
    if not scene.until_deferred():
        return
    file = scene.world.places.dags / "chaos.py"
    text = file.read_text()
    assert text.count(LIMIT) == 1  # noqa: S101 - else nothing would be changed
    moment = time.time()
    read = _write(scene, file, text.replace(LIMIT, SHORTER))
    scene.world.note("execution_timeout changed")
    for wait in scene.all_waits():
        if not scene.done(wait):
            wait.asked = moment
            scene.hits.add(wait.side, int(read))
    scene.go_on(scene.seconds)
    _write(scene, file, text)


def _write(scene: Scene, file: Path, text: str) -> bool:
    """Change a Dag's file, and whether Airflow has read it in time."""
    before = scene.versions()
    file.write_text(text)

    def read() -> bool:
        return all(new > before[dag_id] for dag_id, new in scene.versions().items())

    return bool(scene.world.until(read, READING))


def deploy(scene: Scene, _kills: int) -> None:
    """Another version of this package is deployed while many tasks wait: triggerers, scheduler and worker start with it.

    It is the same code under another number and in another place, so what is tried is the exchange, and that triggers
    which one version has written are taken up by another. What older releases have written is in tests/serialised.
    It counts only once each of these programs has loaded it.
    """
    waiting = scene.until_deferred(900.0)
    deferred = Counter(wait.side for wait in scene.waits.values() if wait.state == "deferred")
    world, first = scene.world, scene.world.services.first
    before = first.environment["PYTHONPATH"]
    with tempfile.TemporaryDirectory(prefix="astronomer-release-", ignore_cleanup_errors=True) as folder:
        release = Release.new(world.places.root, Path(folder))
        first.change({"PYTHONPATH": release.path})
        _restart(world)
        if waiting < scene.conf["tasks"]:
            world.note(f"only {waiting} tasks waited for a new version")
        elif world.until(lambda: not release.missing(world), DEPLOYING):
            for side, number in deferred.items():
                scene.hits.add(side, number)
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
    wait.ended_by, wait.over, wait.asked, wait.expected = what, moment, moment, frozenset(expected)
    scene.world.note(f"{what} {wait.task_id}")


FAULTS = (
    Fault(GROUP, "marked failed", partial(mark, state="failed"), seconds=LONG),
    Fault(GROUP, "marked failed as it begins", mark_at_begin, seconds=LONG, quick=True),
    Fault(
        *(GROUP, "marked failed, answers lost", partial(mark_in_bad_weather, kind="lose_answer")),
        seconds=LONG,
    ),
    # Vendors answer so to a cancel of what they do not list yet.
    Fault(
        *(GROUP, "marked failed, cancels taken and nothing done"),
        partial(mark_in_bad_weather, kind="status", status=200),
        seconds=LONG,
    ),
    Fault(GROUP, "marked success", partial(mark, state="success"), seconds=LONG),
    Fault(GROUP, "cleared", clear, seconds=LONG),
    Fault(GROUP, "run deleted", delete_run, seconds=LONG),
    Fault(GROUP, "marked failed, no triggerer there", mark_while_away, seconds=LONG, runs=2),
    Fault(GROUP, "triggerer paused as it cancels", pause_cancelling, seconds=LONG, runs=2),
    Fault(
        GROUP, "triggerer killed as it cancels", kill_cancelling, weight=2, at_once=2, seconds=LONG, runs=2
    ),
    Fault(
        *(GROUP, "execution_timeout reached", exceed),
        seconds=LONG,
        dags=("chaos_ours_late", "chaos_stock_late"),
        check=names_its_limit,
    ),
    Fault(GROUP, "Dag paused", pause, seconds=20, steady=True),
    Fault(GROUP, "connection edited", edit_connections, seconds=30, steady=True),
    Fault(GROUP, "execution_timeout changed", edit_timeout, seconds=60),
    Fault(
        *(GROUP, "new version deployed"),
        deploy,
        seconds=240,
        dags=("chaos_ours", "chaos_stock", "chaos_many"),
        conf={"tasks": 500},
    ),
)
