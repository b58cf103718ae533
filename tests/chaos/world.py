"""A real Airflow and a local Snowflake, each part a process that can be killed, and what is seen of them."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
import snowflake.connector
from rich.console import Console

from astronomer.lab.snowflake import LabClient, SnowflakeLab
from tools.demo.airflow import Airflow
from tools.demo.environment import Places
from tools.demo.processes import Processes, family
from tools.demo.remote import Service
from tools.demo.services import Services

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
DAGS = ("chaos_ten", "chaos_one", "chaos_worker", "chaos_answer", "chaos_user", "chaos_timeout")
GATE = "GATE"
CANCELLED = "000604"
POLLS = r"^/monitoring/queries"
LOGIN = r"^/session/v1/login-request"
LOOK_EVERY = 0.25
GENEROUS = 180.0
PATIENCE = 15.0  # of the end with our processes
TRIGGERER_DEAD_AFTER = 8
WORKER_DEAD_AFTER = 30

SETTINGS = {
    "CORE__PARALLELISM": 6,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": WORKER_DEAD_AFTER,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 5,
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 5,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": TRIGGERER_DEAD_AFTER,
}


@dataclass(frozen=True)
class ChaosPlaces(Places):
    """Dags of its own, and a state folder that pytest gives."""

    folder: Path = field(kw_only=True)

    @property
    def state(self) -> Path:
        return self.folder

    @property
    def dags(self) -> Path:
        return ROOT / "tests" / "chaos" / "dags"


@dataclass
class World:
    """Everything that runs, and a user of it."""

    places: Places
    processes: Processes
    services: Services
    lab: LabClient
    airflow: Airflow

    def run(self, dag_id: str) -> Run:
        """Start a run of a Dag."""
        return Run(self, dag_id, self.airflow.trigger(dag_id, {}))

    def until(self, condition: Callable[[], T], what: str, seconds: float = GENEROUS) -> T:
        """Return the first true answer; fails when a process ends or the time is over."""
        give_up = time.monotonic() + seconds
        while True:
            self.processes.check()
            try:
                if answer := condition():
                    return answer
            except httpx.TransportError:  # a busy machine
                pass
            if time.monotonic() > give_up:
                pytest.fail(
                    f"waited {seconds:g} s for {what}; logs are in {self.places.logs}\n{self._state()}"
                )
            time.sleep(LOOK_EVERY)

    # Triggerers and schedulers.

    def kill(self, name: str, number: int) -> None:
        """End a part by a signal, with all that it has started."""
        program = self.services.program(name)
        members = family(program.process.pid)
        self.processes.lose(program, number)
        self.until(lambda: not any(map(_lives, members)), f"the end of the {name}'s processes")

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Stop a part's processes for the block, at a moment in which none is writing to the database."""
        members = family(self.services.program(name).process.pid)

        def stopped() -> bool:
            for one in members:
                one.suspend()
            if not any(_writes(one.pid) for one in members):
                return True
            for one in members:
                one.resume()
            return False

        self.until(stopped, f"a moment to pause the {name}")
        try:
            yield
        finally:
            for one in members:
                one.resume()

    # The worker processes.

    def kill_task(self, pid: int) -> None:
        """End a task's process, as the kernel does when memory runs out; its supervisor lives."""
        self._worker_process(pid).kill()

    def kill_worker(self, pid: int) -> None:
        """End a task's process and its supervisor at once, as when the machine dies."""
        task = self._worker_process(pid)
        supervisor = task.parent()
        assert supervisor is not None
        assert supervisor.pid != self.services.program("scheduler").process.pid
        supervisor.kill()
        task.kill()

    def _worker_process(self, pid: int) -> psutil.Process:
        ours = {one.pid: one for one in family(self.services.program("scheduler").process.pid)}
        assert pid in ours, f"{pid} is none of the scheduler's workers"
        return ours[pid]

    # What Snowflake saw.

    def requests_since(self, moment: float, path: str) -> list[dict[str, Any]]:
        return [one for one in self.lab.requests() if one["at"] > moment and re.search(path, one["path"])]

    def logs(self, pattern: str) -> str:
        """Return task logs by a glob below their folder."""
        return "\n".join(
            one.read_text(errors="replace") for one in self.places.logs.glob(f"tasks/**/{pattern}")
        )

    def _state(self) -> str:
        tasks = [
            {
                name: one.get(name)
                for name in ("dag_id", "task_id", "map_index", "state", "try_number", "trigger")
            }
            for one in self.airflow.task_instances()
        ]
        queries = [
            {name: one[name] for name in ("id", "state", "error_code", "tag")} for one in self.lab.queries()
        ]
        return "\n".join(map(str, [*tasks, *queries]))


@dataclass
class Run:
    """One run of a Dag."""

    world: World
    dag_id: str
    run_id: str

    @property
    def path(self) -> str:
        return f"dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances"

    def tasks(self) -> list[dict[str, Any]]:
        return list(self.world.airflow._pages(self.path, "task_instances"))

    def task(self, task_id: str) -> dict[str, Any]:
        return next(one for one in self.tasks() if one["task_id"] == task_id)

    def queries(self, task_id: str | None = None) -> list[dict[str, Any]]:
        """Return the queries its tasks started, oldest first; a block counts as one."""
        return [
            one
            for one in self.world.lab.queries()
            if one["parent_id"] is None
            and (tag := _tag(one)).get("airflow_run_id") == self.run_id
            and tag["airflow_dag_id"] == self.dag_id
            and task_id in (None, tag["airflow_task_id"])
        ]

    def until_all(self, state: str, tasks: int) -> list[dict[str, Any]]:
        """Wait until so many tasks are in a state, and none has failed."""

        def reached() -> list[dict[str, Any]]:
            found = self.tasks()
            failed = [one["task_id"] for one in found if one["state"] == "failed"]
            assert not failed, failed
            return found if len(found) == tasks and {one["state"] for one in found} == {state} else []

        return self.world.until(reached, f"{tasks} tasks of {self.dag_id} to be {state}")

    def until_state(self, task_id: str, *states: str, try_number: int | None = None) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            found = self.task(task_id)
            right_try = try_number in (None, found["try_number"])
            return found if found["state"] in states and right_try else None

        return self.world.until(reached, f"{self.dag_id}.{task_id} to be {' or '.join(states)}")

    def until_watched(self, tasks: int) -> None:
        """Wait until all tasks are deferred and a triggerer has asked about the query of each."""
        self.until_all("deferred", tasks)
        self.world.until(
            lambda: self.log("*").count(" is active (") == tasks, "a triggerer to ask about each query"
        )

    def until_submitted(self, task_id: str) -> dict[str, Any]:
        """Wait until Snowflake has the query of a task; returns it."""
        return self.world.until(lambda: self.queries(task_id), f"a query of {self.dag_id}.{task_id}")[-1]

    def until_ended(self, query_id: str) -> dict[str, Any]:
        """Wait until a query has ended on Snowflake; returns it."""

        def look() -> dict[str, Any] | None:
            return next((one for one in self.queries() if one["id"] == query_id and one["ended_at"]), None)

        return self.world.until(look, f"the end of {query_id}")

    def mark(self, task_id: str, state: str) -> None:
        """Do what "Mark as …" on a task's page does."""
        self.world.airflow._call("PATCH", f"{self.path}/{task_id}", {"new_state": state})

    def clear(self, task_id: str) -> None:
        """Do what "Clear" on a task's page does."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": self.run_id, "task_ids": [task_id]}
        self.world.airflow._call("POST", f"dags/{self.dag_id}/clearTaskInstances", body)

    def log(self, task_id: str) -> str:
        """Return everything that was logged for a task, by workers and triggerers."""
        return self.world.logs(f"dag_id={self.dag_id}/run_id={self.run_id}/task_id={task_id}/**/*.log*")


class Gate:
    """A warehouse with one place. While it is shut, that place is taken and queries queue for it."""

    def __init__(self, world: World, connect_args: Mapping[str, Any]) -> None:
        self._lab = world.lab
        self._lab.set_warehouse(GATE, concurrency=1)
        self._connection = snowflake.connector.connect(**connect_args, warehouse=GATE)
        self._plug: str | None = None

    def shut(self) -> None:
        if self._plug is None:
            with self._connection.cursor() as cursor:
                cursor.execute_async("SELECT SYSTEM$WAIT(86400)")
                self._plug = str(cursor.sfqid)

    def open(self) -> None:
        """Let the queries through, one after the other."""
        if self._plug is not None:
            self._lab.abort_by_admin(self._plug)
            self._plug = None

    def close(self) -> None:
        self._connection.close(retry=False)


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    """Start everything; at the end nothing may be left of it."""
    places = ChaosPlaces(ROOT, folder=folder)
    processes = Processes(places.logs, folder / "processes.json")
    settings = {f"AIRFLOW__{name}": str(value) for name, value in SETTINGS.items()}
    console = Console(file=sys.stdout, width=130)
    services = Services(places, processes, console, DAGS, settings)
    try:
        remote, airflow, _ = services.start()
        lab = snowflake_among(remote, places)
        for dag_id in DAGS:
            airflow.unpause(dag_id)
        yield World(places, processes, services, lab, airflow)
        airflow.close()
    finally:
        processes.stop(PATIENCE)
    assert not left_of(places)


def left_of(places: Places) -> list[str]:
    """Return the processes that still run with the home folder of our processes."""
    found = []
    for one in psutil.process_iter():
        try:
            if (
                one.environ().get("HOME") == str(places.state / "home")
                and one.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(f"{one.pid} {' '.join(one.cmdline())[:100]}")
        except psutil.Error:
            continue
    return found


def snowflake_among(remote: Sequence[Service], places: Places) -> LabClient:
    """Return what steers the local Snowflake."""
    (url,) = [one.url for one in remote if one.name == "Snowflake"]
    return LabClient(url, places.lab / "ca.pem")


def connect_args(world: World) -> dict[str, Any]:
    """Return how this process connects to the lab."""
    host, port = world.lab.url.removeprefix("https://").split(":")
    login = {"account": SnowflakeLab.account, "user": SnowflakeLab.user, "password": SnowflakeLab.password}
    return {**login, "host": host, "port": int(port), "protocol": "https"}


def client_env(world: World) -> dict[str, str]:
    """Return the variables that make this process trust the lab."""
    bundle = str(world.places.lab / "ca-bundle.pem")
    return {"REQUESTS_CA_BUNDLE": bundle, "SNOWFLAKE_DISABLE_PLATFORM_DETECTION": "true"}


def only(found: Sequence[T]) -> T:
    """Return the one element."""
    assert len(found) == 1, found
    return found[0]


def _tag(query: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(query["tag"] or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "submit_key" in found else {}


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _writes(pid: int) -> bool:
    """Whether a process has locked a file for writing, so that others wait for it."""
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any("WRITE" in words and str(pid) in words for words in lines)
