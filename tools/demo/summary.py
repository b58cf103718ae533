"""The end of the demo in numbers, and whether everything went as it should."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tools.demo.board import Board, Task
from tools.demo.environment import WORKERS
from tools.demo.plan import PLANS
from tools.demo.remote import Job, by_id
from tools.demo.work import external

# The log of the scheduler, or of Celery's worker, has a line for each piece of work a worker did, with how long the
# worker was busy with it.
STINT = re.compile(r"Workload finished.*?\bduration=([\d.]+)")


@dataclass(frozen=True)
class Side:
    """What one service has on record.

    :param jobs: everything that was ever started there.
    :param requests: every request, with ``path`` and ``client_port``.
    :param login: the path of a login.
    """

    name: str
    jobs: Sequence[Job]
    requests: Sequence[Mapping[str, Any]]
    login: str


@dataclass(frozen=True)
class OtherRun:
    """A run in the other Airflow.

    :param ended: epoch seconds; None while it goes on.
    """

    state: str
    ended: float | None


@dataclass(frozen=True)
class Facts:
    """What was seen of one run of the demo.

    :param stints: how long a worker was busy, each time one was.
    :param triggerer_ports: the TCP ports from which the triggerer spoke to the services.
    :param left_open: what was begun and neither finished nor undone.
    :param seconds: from the first trigger of a Dag to the end of the last task.
    :param cancelled: job id -> seconds from the user's click to its end.
    :param elsewhere: Dag here -> the run in the other Airflow for which it has waited.
    :param leaks: where a credential stands in what was written.
    """

    board: Board
    stints: Sequence[float]
    sides: Sequence[Side]
    triggerer_ports: Collection[int]
    left_open: Sequence[str]
    seconds: float
    cancelled: Mapping[str, float]
    elsewhere: Mapping[str, OtherRun]
    leaks: Sequence[str] = ()

    @property
    def jobs(self) -> list[Job]:
        """Those of all services that tasks submitted and waited for."""
        return [job for side in self.sides for job in side.jobs if job.owner is not None]


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    ok: bool
    text: str


def stints(log: str) -> list[float]:
    """Return how long workers were busy, from the log of those who start them."""
    return [float(found) for found in STINT.findall(log)]


def waiting_seconds(facts: Facts) -> float:
    """Return how long tasks that cannot defer would have held a worker: run times of jobs, waits of sensors.

    A wait for another Dag counts nothing: that Dag waits for workers itself.
    """
    tasks = facts.board.tasks.values()
    sensors = sum(task.waited for task in tasks if not task.job and not external(task.instance))
    return sum(job.seconds for job in facts.jobs) + sensors


def checks(facts: Facts) -> list[Check]:
    """Return what must hold for the demo to have succeeded."""
    found = _ended_as_planned(facts.board)
    found += _cancelled(facts)
    found += _elsewhere(facts)
    found += _worker_free(facts.board)
    for side in facts.sides:
        running = [job.id for job in side.jobs if job.running]
        found.append(_none(running, f"job still runs on {side.name}"))
    found.append(_none(list(facts.left_open), "transaction is left open"))
    found.append(_none(list(facts.leaks), "credential stands in a log, a file or a database"))
    per_task = Counter(job.owner for job in facts.jobs)
    found.append(_none([str(owner) for owner, n in per_task.items() if n > 1], "job was started twice"))
    return found


def numbers(facts: Facts) -> list[tuple[str, str]]:
    """Return (what, how much), for somebody who pays for the workers."""
    busy, waiting = sum(facts.stints), waiting_seconds(facts)
    saved = f" ({1 - busy / waiting:.0%} less)" if 0 < busy < waiting else ""
    found = [
        ("Tasks", f"{len(facts.board.tasks)} on {WORKERS} workers, in {facts.seconds:.0f} s"),
        ("Remote jobs at once", f"up to {most_at_once(facts.jobs)}"),
        (
            "Worker time without deferral",
            f"at least {waiting:.0f} s, as long as jobs ran and sensors waited",
        ),
        ("Worker time taken", f"{busy:.0f} s with everything{saved}, in {len(facts.stints)} short stints"),
        ("Duration without deferral", f"at least {waiting / WORKERS:.0f} s on {WORKERS} workers"),
        ("Waits for other Dags", _external(facts.board)),
    ]
    for side in facts.sides:
        found.append((f"Requests to {side.name}", _split(side.requests, facts.triggerer_ports)))
        logins = [one for one in side.requests if one["path"] == side.login]
        if logins:
            found.append((f"Logins to {side.name}", _split(logins, facts.triggerer_ports)))
    return found


def _external(board: Board) -> str:
    waits = [task.waited for task in board.tasks.values() if task.waited and external(task.instance)]
    return f"{len(waits)}, for {sum(waits):.0f} s in all, which do not count above"


def _split(requests: Sequence[Mapping[str, Any]], triggerer_ports: Collection[int]) -> str:
    triggerer = sum(one["client_port"] in triggerer_ports for one in requests)
    workers = len(requests) - triggerer
    return f"{len(requests)}: {workers} by workers, {triggerer} by the triggerer, for all waits together"


def render(facts: Facts) -> Table:
    """Return the numbers as a table."""
    found = Table(show_header=False, box=None, pad_edge=False)
    found.add_column(no_wrap=True)
    found.add_column()
    for what, how_much in numbers(facts):
        found.add_row(what, how_much)
    return found


def most_at_once(jobs: Sequence[Job]) -> int:
    """Return the greatest number of jobs that ran at one moment."""
    moments = [(job.started, 1) for job in jobs]
    moments += [(job.ended, -1) for job in jobs if job.ended]
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def _ended_as_planned(board: Board) -> list[Check]:
    wrong = [task for task in board.rows() if task.state != _expected(task)]
    missing = sum(plan.tasks for plan in PLANS.values()) - len(board.tasks)
    found = [Check(False, f"{one.dag}.{one.name} is {one.state}, not {_expected(one)}") for one in wrong]
    if missing:
        found.append(Check(False, f"{missing} tasks never came to be"))
    return found or [Check(True, f"Every task ended as it should{_intended(board)}")]


def _intended(board: Board) -> str:
    """Name the tasks that a user might take for accidents."""
    found = ""
    for state in ("failed", "skipped"):
        names = [f"{task.dag}.{task.name}" for task in board.rows() if _expected(task) == state]
        if names:
            found += f"; {state}, as intended: {', '.join(names)}"
    return found


def _expected(task: Task) -> str:
    plan = PLANS.get(task.dag)
    return plan.expected(str(task.instance["task_id"])) if plan else "success"


def _cancelled(facts: Facts) -> list[Check]:
    """What a user ended in mid-wait is gone, and was not just over by then."""
    jobs = by_id(facts.jobs)
    found = []
    for task in facts.board.rows():
        plan = PLANS.get(task.dag)
        if plan is None or plan.cancel != task.instance["task_id"]:
            continue
        job = jobs.get(task.job or "")
        if job is None or not job.cancelled or job.id not in facts.cancelled:
            state = "it was never started" if job is None else f"{job.id} is {job.state}"
            found.append(Check(False, f"The job of {task.dag}.{task.name} is not gone: {state}"))
        else:
            seconds = facts.cancelled[job.id]
            found.append(
                Check(True, f"{task.dag}: the job {job.id} was gone {seconds:.1f} s after the click")
            )
    return found


def _elsewhere(facts: Facts) -> list[Check]:
    """A wait for the other Airflow was over after the run there, and not before."""
    found = []
    for task in facts.board.rows():
        plan = PLANS.get(task.dag)
        if plan is not None and plan.elsewhere is not None:
            found.append(_went_on(task, facts.elsewhere.get(task.dag), plan.elsewhere))
    return found


def _went_on(task: Task, run: OtherRun | None, dag_id: str) -> Check:
    there = f"the run of {dag_id} in the other Airflow"
    if run is None or run.ended is None or task.woke is None:
        return Check(False, f"{task.dag}: {there} " + (f"is {run.state}" if run else "was never started"))
    seconds = task.woke - run.ended
    when = f"{abs(seconds):.1f} s {'after' if seconds >= 0 else 'before'}"
    return Check(seconds >= 0, f"{task.dag}: the wait was over {when} the end of {there}")


def _worker_free(board: Board) -> list[Check]:
    """A task that starts in the triggerer has never been in a process of its own."""
    own = [
        task
        for task in board.rows()
        if (plan := PLANS.get(task.dag)) and task.instance["task_id"] in plan.worker_free
    ]
    ran = [
        f"{task.dag}.{task.name}" for task in own if task.instance.get("pid") or task.instance.get("hostname")
    ]
    if not own:
        return []
    return (
        [Check(False, f"A worker ran {', '.join(ran)}")]
        if ran
        else [Check(True, f"{len(own)} tasks needed no worker from their beginning to their end")]
    )


def _none(found: Sequence[str], what: str) -> Check:
    return Check(not found, f"No {what}" if not found else f"{len(found)} x: {what}: {', '.join(found)}")
