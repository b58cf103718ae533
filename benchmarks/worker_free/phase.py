"""One side: a new Airflow, a run of the Dag that does not count, some seconds of nothing, and then the measured runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import URL

from benchmarks.worker_free import cpu
from benchmarks.worker_free.database import Databases, unfinished
from benchmarks.worker_free.plan import DAG_ID, EXECUTORS, NEXT, RUN, Load
from benchmarks.worker_free.workers import Worked, worked
from tools.demo.airflow import Airflow
from tools.demo.board import epoch
from tools.demo.environment import Places
from tools.demo.processes import Processes, family
from tools.demo.remote import Job
from tools.demo.services import Services
from tools.demo.signals import Signals

__all__ = ["Pair", "Seen", "Used", "paired", "run", "settings"]

_ROOT = Path(__file__).parents[2]
_LOOK_EVERY = 1.0
_PATIENCE = 15.0  # of the end with our processes
_NOT_PROGRAMS = ("local services", "database migration")


@dataclass(frozen=True)
class Pair:
    """A measured task and the one after it.

    :param state: of the measured one.
    :param ended_at: epoch seconds at which its run ended on Databricks, ``None`` if there is none.
    :param next_at: epoch seconds at which Airflow started the next one.
    """

    state: str
    ended_at: float | None
    next_at: float | None


@dataclass(frozen=True)
class Used:
    """What the whole Airflow used in some seconds, by part."""

    seconds: float
    cpu: Mapping[str, float]

    @property
    def total(self) -> float:
        """Of all parts."""
        return sum(self.cpu.values())


@dataclass(frozen=True)
class Seen:
    """What was seen of one side.

    :param idle: without any task.
    :param used: from the first trigger of the Dag to the end of its last run.
    :param submitted: how many runs the measured tasks started on Databricks.
    """

    idle: Used
    used: Used
    pairs: list[Pair]
    worked: Worked
    submitted: int


@dataclass(frozen=True)
class _Folder(Places):
    """The Dags of this benchmark, and a folder that is thrown away."""

    folder: Path = field(kw_only=True)

    @property
    def state(self) -> Path:
        return self.folder

    @property
    def dags(self) -> Path:
        return Path(__file__).with_name("dags")


def run(load: Load, side: str, databases: Databases, directory: Path, signals: Signals) -> Seen:
    """Start an Airflow, measure one side in it, and end it.

    :param directory: a new one is made there.
    """
    places = _Folder(_ROOT, folder=directory / side)
    places.state.mkdir(parents=True)
    processes = Processes(places.logs, places.state / "processes.json", signals)
    url = databases.new(side, places.state)
    console = Console(file=sys.stderr, width=130)
    services = Services(places, processes, console, (DAG_ID,), settings(load, side, url))
    try:
        with closing(services):
            remote, airflow, _ = services.start()
            (databricks,) = [one for one in remote if one.name == "Databricks"]
            with unfinished(url) as left:
                return _Phase(load, services, databases, airflow, databricks.jobs, left).go()
    finally:
        processes.stop(_PATIENCE)


def settings(load: Load, side: str, url: URL) -> dict[str, str]:
    """The variables that this Airflow gets besides those of any demo."""
    return {
        **load.for_dag(side),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url.render_as_string(hide_password=False),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "",  # not needed, and asyncpg is not asked for
        "AIRFLOW__CORE__EXECUTOR": EXECUTORS[load.executor],
        "AIRFLOW__CORE__PARALLELISM": str(load.workers),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": str(load.scheduler_sleep),
    }


@dataclass(frozen=True)
class _Phase:
    load: Load
    services: Services
    databases: Databases
    airflow: Airflow
    jobs: Callable[[], list[Job]]
    unfinished: Callable[[], int]

    def go(self) -> Seen:
        self.airflow.unpause(DAG_ID)
        self._say("a run of the Dag that does not count")
        self.airflow.trigger(DAG_ID, {})
        self._until_ended()
        self._say(f"{self.load.idle:g} s without a task")
        idle = self._using(lambda: self._sleep_until(time.monotonic() + self.load.idle))
        self._say(f"{self.load.tasks} tasks")
        log = self.services.program("scheduler").log
        run_ids, before = list[str](), log.stat().st_size
        used = self._using(lambda: run_ids.extend(self._all_runs()))
        instances = [one for one in self.airflow.task_instances() if one["dag_run_id"] in run_ids]
        jobs = [job for job in self.jobs() if str(job.owner).partition("/")[0] in run_ids]
        return Seen(
            idle,
            used,
            paired(instances, {str(job.owner): job for job in jobs}),
            worked(log.read_bytes()[before:].decode(errors="replace").splitlines()),
            len(jobs),
        )

    def _all_runs(self) -> list[str]:
        """Trigger the Dag, every few seconds, and wait for the end of all its runs."""
        began, run_ids, without = time.monotonic(), [], self._below_scheduler()
        for number in range(self.load.runs):
            self._sleep_until(began + number * self.load.every)
            run_ids.append(self.airflow.trigger(DAG_ID, {}))
        self._until_ended()
        self._until(lambda: self._below_scheduler() - without, "workers")
        return run_ids

    def _below_scheduler(self) -> int:
        """How many processes it has: more than before, as long as workers run."""
        return len(family(self.services.program("scheduler").process.pid))

    def _using(self, what: Callable[[], Any]) -> Used:
        before, began = self._cpu(), time.monotonic()
        what()
        return Used(time.monotonic() - began, cpu.less(self._cpu(), before))

    def _cpu(self) -> dict[str, float]:
        programs = {one.name: one.process.pid for one in self.services.processes.programs}
        for name in _NOT_PROGRAMS:
            programs.pop(name, None)
        return cpu.of_parts(programs) | cpu.of_database(self.databases.pid)

    def _until_ended(self) -> None:
        self._until(self.unfinished, "runs of the Dag")

    def _until(self, unfinished: Callable[[], int], what: str) -> None:
        give_up = time.monotonic() + self.load.patience
        while (left := unfinished()) > 0:
            if time.monotonic() > give_up:
                raise RuntimeError(f"{left} {what} have not ended after {self.load.patience:g} s")
            self._sleep_until(time.monotonic() + _LOOK_EVERY)

    def _sleep_until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            self.services.processes.check()
            time.sleep(min(left, _LOOK_EVERY))

    def _say(self, words: str) -> None:
        self.services.console.print(f"{words} …")


def paired(instances: Iterable[Mapping[str, Any]], jobs: Mapping[str, Job]) -> list[Pair]:
    """Each measured task with the end of its run and the start of the task after it.

    :param instances: as Airflow's API tells of them.
    :param jobs: the run of each on Databricks, by its name.
    """
    by_name = {(str(one["dag_run_id"]), str(one["task_id"])): one for one in instances}
    found = []
    for (run_id, task_id), one in by_name.items():
        if not task_id.startswith(RUN):
            continue
        job = jobs.get(f"{run_id}/{task_id}")
        after = by_name.get((run_id, f"{NEXT}{task_id.removeprefix(RUN)}"), {})
        started = after.get("start_date")
        found.append(
            Pair(str(one["state"]), job.ended if job else None, epoch(str(started)) if started else None)
        )
    return found
