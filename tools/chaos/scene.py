"""One fault and the tasks that live through it."""

from __future__ import annotations

import datetime as dt
import random
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tools.chaos.books import FINAL, GRACE, Finding, Wait, audit
from tools.chaos.hits import Hits
from tools.chaos.jobs import Job, Remote, side_of
from tools.chaos.world import World
from tools.demo.board import epoch

BOTH = ("chaos_ours", "chaos_stock")
HELPERS = {"numbers", "statements"}
SENSORS = {"external_task": "snowflake_sql_api"}
"""The sensors, and the task that each waits for."""
STEPS = {
    "submit": (
        "POST",
        r"^/queries/v1/query-request|^/api/v2/statements$|/jobs/runs/submit$|/sql/statements/?$",
    ),
    "poll": (
        "GET",
        r"^/monitoring/queries|^/api/v2/statements/[^/]+$|/jobs/runs/(get|list)$|/sql/statements/[^/]+$|/sql/history",
    ),
    "result": (
        "GET",
        r"^/queries/[^/]+/result|^/api/v2/statements/[^/]+$|/jobs/runs/get-output|/sql/statements/[^/]+$",
    ),
    "cancel": ("POST", r"abort-request|/cancel$"),
}
"""The requests of each step in the life of a remote job, of all clients that are tried."""
GIVEN_UP = {"heartbeat timeout", "stuck in queued tries exceeded"}
"""Words of Airflow's scheduler in its audit log (``scheduler_job_runner.py`` of 3.3); what comes of a slow machine.

Its "state mismatch" is none of them: a task that resumes too soon after it has deferred causes that, too.
"""
ERROR = re.compile(r"Error|Exception|Job[A-Z]\w+|AirflowFail|Timeout|did not end|was cancelled")


@dataclass
class Scene:
    """The world while one fault is tried.

    :param seconds: how long remote jobs take.
    :param runs: how many runs of each Dag there are at once.
    """

    world: World
    remote: Remote
    random: random.Random
    seconds: float = 10.0
    runs: int = 1
    dags: tuple[str, ...] = BOTH
    conf: dict[str, Any] = field(default_factory=dict)
    waits: dict[tuple[str, str, str, int], Wait] = field(default_factory=dict)
    started: dict[str, set[str]] = field(default_factory=dict)
    hits: Hits = field(default_factory=Hits)
    kills: int = 0
    known: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.time)

    # The tasks.

    def feed(self) -> None:
        """See to it that so many runs of each Dag go on."""
        live = {(wait.dag_id, wait.run_id) for wait in self.waits.values() if not self.done(wait)}
        for dag_id in self.dags:
            runs = self.started.setdefault(dag_id, set())
            going = sum((dag_id, run) in live or not self._seen(dag_id, run) for run in runs)
            for _ in range(self.runs - going):
                conf = {"seconds": self.seconds, **self.conf}
                moment = dt.datetime.now(dt.timezone.utc).isoformat()  # by which sensors find the run
                runs.add(self.world.ask(self.world.airflow.trigger, dag_id, conf, moment))

    def look(self) -> list[dict[str, Any]]:
        """Take Airflow's word on all tasks; returns what it said of those that have not ended."""
        found = []
        for dag_id, runs in self.started.items():
            for run_id in runs:
                if self._over(dag_id, run_id):
                    continue
                for one in self.world.airflow.tasks(dag_id, run_id):
                    self._take(one)
                    if one["state"] not in FINAL:
                        found.append(one)
        return found

    def watch(self) -> list[dict[str, Any]]:
        """Look once, patiently."""
        self.world.tend()
        return self.world.ask(self.look)

    def go_on(self, seconds: float, *, feed: bool = False) -> None:
        """Let time pass, while what dies comes back.

        :param feed: and new runs begin where old ones have ended.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.watch()
            if feed:
                self.feed()
            time.sleep(1.0)

    def in_state(self, *states: str) -> list[dict[str, Any]]:
        return [one for one in self.watch() if one["state"] in states]

    def all_waits(self) -> list[Wait]:
        """Return the tasks with remote jobs or waits of their own."""
        return [wait for wait in self.waits.values() if wait.task_id not in HELPERS]

    def wait_of(self, instance: dict[str, Any]) -> Wait:
        return self.waits[_key(instance)]

    def jobs(self, wait: Wait) -> list[Job]:
        return self.remote.of(wait.dag_id, wait.run_id, wait.task_id, wait.index)

    def active_jobs(self) -> list[tuple[Wait, Job]]:
        self.remote.look()
        return [(wait, job) for wait in self.all_waits() for job in self.jobs(wait) if job.ended is None]

    def until_deferred(
        self, seconds: float = 120.0, meanwhile: Callable[[list[dict[str, Any]]], None] = lambda _going: None
    ) -> int:
        """Wait until all tasks are deferred or have ended; returns how many are deferred.

        :param meanwhile: is done with those that have not ended, at each look.
        """

        def reached() -> bool:
            meanwhile(self.look())
            begun = all(self._work(dag_id, run) for dag_id, runs in self.started.items() for run in runs)
            return begun and {wait.state for wait in self.waits.values()} <= {"deferred", *FINAL}

        self.world.until(reached, seconds)
        return sum(wait.state == "deferred" for wait in self.waits.values())

    def done(self, wait: Wait) -> bool:
        return wait.state in FINAL or not wait.expected

    # What is done to processes.

    @contextmanager
    def disturbed(self, kind: str, step: str, **fault: Any) -> Iterator[None]:
        """Put a fault in force on the requests of a step, at both services, for the block."""
        method, pattern = STEPS[step]
        labs = (self.world.snowflake, self.world.databricks)
        for lab in labs:
            lab.add_fault(kind, path=pattern, method=method, **fault)
        try:
            yield
        finally:
            for lab in labs:
                lab.clear_faults()

    def disturbers(self, step: str, since: float) -> Iterator[dict[str, Any]]:
        """Return the disturbed requests of a step."""
        method, pattern = STEPS[step]
        for lab in (self.world.snowflake, self.world.databricks):
            for one in lab.requests(since):
                if one["fault"] and one["method"] == method and re.search(pattern, one["path"]):
                    yield one

    def hit(self, number: int = 1) -> None:
        """Count a fault of whatever goes on now."""
        self.hits.all(self.going(), number)

    def going(self) -> set[str]:
        """Return the sides of which tasks go on."""
        unseen = {
            dag_id for dag_id, runs in self.started.items() for run in runs if not self._seen(dag_id, run)
        }
        live = {wait.side for wait in self.waits.values() if not self.done(wait)}
        return live | set(map(side_of, unseen))

    def kill(self, name: str, number: int = signal.SIGKILL, side: str | None = None) -> None:
        """Kill a part of Airflow.

        :param side: whom that hits, if it is not whatever goes on.
        """
        going = {side} if side else self.going()
        if self.world.end(name, number):
            self.hits.all(going)
            self.kills += 1

    def kill_task(self, pid: int, *, machine: bool = False) -> bool:
        """Kill the process of a task."""
        if pid not in self.hits.tasks:
            self.watch()
        killed = self.world.kill_task(pid, machine=machine)
        if killed:
            self.killed_task(pid)
        return killed

    def killed_task(self, pid: int) -> None:
        """Count a task's process that was killed."""
        self.hits.process(pid)
        self.kills += 1

    # The end.

    def settle(self, seconds: float) -> None:
        """Wait until all tasks have ended, and their jobs as well."""

        def over() -> bool:
            self.look()
            return all(map(self.done, self.waits.values()))

        self.world.until(over, seconds)
        grace = max((wait.grace for wait in self.waits.values()), default=GRACE)
        self.world.until(lambda: not self.outliving(), grace + 5)

    def verdict(self, *, steady: bool = False) -> list[Finding]:
        """Check the books.

        :param steady: whether tasks have no reason to fail, not even where a retry makes up for it.
        """
        self.remote.look()
        for wait in self.all_waits():
            if steady and wait.side == "ours" and wait.tries > 1 and not self.starved(wait):
                wait.steady, wait.complaint = True, self.complaint(wait, wait.tries - 1)
        self.known = {job.id for wait in self.all_waits() for job in self.jobs(wait)}
        now = time.time()
        found = [
            one for wait in self.all_waits() for one in audit(wait, self.jobs(wait), now, self._awaited(wait))
        ]
        return [one.because(self._cause(one.at)) for one in found]

    def starved(self, wait: Wait) -> bool:
        """Whether Airflow itself has given a task up, as it does when the machine is too slow for it."""
        events = self.world.ask(self.world.airflow.events, wait.dag_id, wait.run_id, wait.task_id)
        if found := events & GIVEN_UP:
            self.world.note(f"{wait.task_id}: {', '.join(sorted(found))}")
        return bool(found)

    def versions(self) -> dict[str, int]:
        """Return the newest version of each Dag that Airflow has read."""
        return {dag_id: self.world.ask(self.world.airflow.version, dag_id) for dag_id in self.dags}

    def complaint(self, wait: Wait, number: int | None = None) -> str:
        """Return the last error in the log of one try of a task; the last one by default."""
        task = wait.dag_id, wait.run_id, wait.task_id, wait.index
        try:
            lines = self.world.ask(self.world.airflow.log, *task, number or wait.tries)
        except httpx.HTTPStatusError:  # there is no log of it
            return ""
        return next((line for line in reversed(lines) if ERROR.search(line)), "")

    def latecomers(self) -> list[Finding]:
        """Return the jobs that tasks have started since the verdict."""
        return [
            Finding("duplicates", wait.side, job.started, f"{wait.name} started {job.id} long after its end")
            for wait in self.all_waits()
            for job in self.jobs(wait)
            if job.id not in self.known
        ]

    def clean(self) -> None:
        """End what is left, so that the next fault finds nothing of it."""
        for one in self.watch():
            self.world.ask(self.world.airflow.mark, one, "failed")
        for _, job in self.active_jobs():
            self.remote.end(job)

    def outliving(self) -> list[Job]:
        """Return the jobs that go on although their tasks have ended."""
        return [job for wait, job in self.active_jobs() if self.done(wait)]

    def _awaited(self, wait: Wait) -> Wait | None:
        return self.waits.get((wait.dag_id, wait.run_id, SENSORS.get(wait.task_id, ""), -1))

    def _cause(self, at: float) -> str:
        before = [f"{what} {at - moment:.1f} s" for moment, what in self.world.injections if moment <= at]
        return ", ".join(before[-3:]) or "nothing"

    def _over(self, dag_id: str, run_id: str) -> bool:
        work = self._work(dag_id, run_id)
        return bool(work) and all(map(self.done, work))

    def _work(self, dag_id: str, run_id: str) -> list[Wait]:
        """Return a run's tasks; what is mapped is there only when the helpers before it have ended."""
        return [wait for wait in self.all_waits() if (wait.dag_id, wait.run_id) == (dag_id, run_id)]

    def _seen(self, dag_id: str, run_id: str) -> bool:
        return any((wait.dag_id, wait.run_id) == (dag_id, run_id) for wait in self.waits.values())

    def _take(self, one: dict[str, Any]) -> None:
        key = _key(one)
        if key[0] == "chaos_many" and key[2] == "wait" and key[3] < 0:
            return  # it is going to be expanded
        side, now = side_of(key[0]), time.time()
        has_job = key[2] not in HELPERS | set(SENSORS)
        wait = self.waits.setdefault(key, Wait(side, *key, has_job=has_job))
        wait.state, wait.tries = str(one["state"] or "none"), int(one["try_number"])
        if one.get("pid"):
            self.hits.tasks[int(one["pid"])] = side
        if wait.state in FINAL:
            # Airflow 3.3 keeps the end of the first try, when a later one ends in the triggerer.
            ended = epoch(one["end_date"]) if one.get("end_date") else 0.0
            wait.ended = max(ended, wait.seen_active)
        else:
            wait.ended, wait.seen_active = None, now
        if wait.state == "success":
            wait.succeeded = wait.succeeded or now
        elif wait.succeeded is None:
            wait.unsuccessful = now


def _key(one: dict[str, Any]) -> tuple[str, str, str, int]:
    return str(one["dag_id"]), str(one["dag_run_id"]), str(one["task_id"]), int(one["map_index"])


def pids(instances: Iterable[dict[str, Any]]) -> list[int]:
    """Return the process ids of tasks that a worker runs."""
    return [int(one["pid"]) for one in instances if one["state"] == "running" and one.get("pid")]
