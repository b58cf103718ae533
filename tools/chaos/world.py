"""A real Airflow and the local services, each part a process that can be killed, and comes back when it has died."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil  # type: ignore[import-untyped]
from rich.console import Console

from astronomer.lab.databricks import LabClient as DatabricksClient
from astronomer.lab.snowflake import LabClient as SnowflakeClient
from tools.demo.airflow import Airflow
from tools.demo.backend import SCHEDULER, TRIGGERER, WORKER, Servers
from tools.demo.environment import Places
from tools.demo.leaks import leaks
from tools.demo.patience import Patience
from tools.demo.processes import ProcessEndedError, Processes, Program, family
from tools.demo.remote import Service
from tools.demo.services import Services
from tools.demo.signals import Signals

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
DAGS = ("chaos_ours", "chaos_stock", "chaos_ours_late", "chaos_stock_late", "chaos_many")
CLOUD_HOST = "lab.snowflakecomputing.com"
CONNECTIONS = ("connection.password ", "connection.extra ")
"""Where Airflow keeps what users have saved, encrypted."""
LOOK_EVERY = 0.5
ANSWERING = 240.0
TASKS_AT_ONCE = 8
TRIGGERER_DEAD_AFTER = 10
WORKER_DEAD_AFTER = 30

SETTINGS: Mapping[str, object] = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": WORKER_DEAD_AFTER,
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 5,
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 10,
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": 60,
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 10,
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 15,
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": 1,
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": TRIGGERER_DEAD_AFTER,
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": 5,
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 5,
}


@dataclass(frozen=True)
class ChaosPlaces(Places):
    """A state folder of its own, with a copy of the Dags that may be edited."""

    folder: Path = field(kw_only=True)

    @property
    def state(self) -> Path:
        return self.folder

    @property
    def dags(self) -> Path:
        return self.folder / "dags"


@dataclass
class ChaosServices(Services):
    """Airflow has its connections in its database, where a user can edit them.

    :ivar given: all that these connections have ever been, for the search for credentials.
    """

    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)

    def change_connection(self, name: str, **more: Any) -> dict[str, Any]:
        """Make a connection, or change fields of one; returns all of it."""
        self.connections[name] = {**self.connections.get(name, {}), **more}
        self.given[f"AIRFLOW_CONN_{name.upper()}_{len(self.given)}"] = json.dumps(self.connections[name])
        return self.connections[name]

    def add_principal(self, credentials: Mapping[str, str]) -> None:
        """Make the connection by which ours ask the workspace: with OAuth tokens, which end.

        Stock looks for these at port 443 only, and keeps its personal token, which does not.
        """
        workspace = self.connections["databricks_default"]
        more = {
            "login": credentials["client_id"],
            "password": credentials["client_secret"],
            "extra": {"http_path": workspace["extra"]["http_path"], "service_principal_oauth": True},
        }
        self.change_connection("databricks_oauth", **{**workspace, **more})

    def _start_airflow(self, variables: Mapping[str, str]) -> None:
        prefix = "AIRFLOW_CONN_"
        told = {name: value for name, value in variables.items() if not name.startswith(prefix)}
        found = {
            name.removeprefix(prefix).lower(): dict(json.loads(value))
            for name, value in variables.items()
            if name.startswith(prefix)
        }
        snowflake = found["snowflake_default"]
        key = {"private_key_file": str(self.places.lab / "rsa_key.p8")}
        found["snowflake_sql_api"] = {**snowflake, "extra": {**snowflake["extra"], **key}}
        del found["snowflake_sql_api"]["password"]
        self.connections = found
        for name in found:
            self.change_connection(name)
        told["ASTRONOMER_CHAOS_HOSTS"] = json.dumps({CLOUD_HOST: snowflake["extra"]["port"]})
        super()._start_airflow(told)


@dataclass
class World:
    """Everything that runs, and a user of it.

    :ivar fell: how often a part has ended that nobody had killed, such as when its database was away.
    """

    places: ChaosPlaces
    processes: Processes
    services: ChaosServices
    backend: Servers
    console: Console
    snowflake: SnowflakeClient = field(init=False)
    databricks: DatabricksClient = field(init=False)
    airflow: Airflow = field(init=False)
    injections: list[tuple[float, str]] = field(default_factory=list)
    fell: Counter[str] = field(default_factory=Counter)
    _held: set[str] = field(default_factory=set)

    def start(self) -> None:
        """Return when all Dags are there and can run."""
        shutil.rmtree(self.places.dags, ignore_errors=True)
        shutil.copytree(HERE / "dags", self.places.dags)
        remote, self.airflow, _ = self.services.start()
        self.snowflake = SnowflakeClient(_url(remote, "Snowflake"), self.places.lab / "ca.pem")
        self.databricks = DatabricksClient(_url(remote, "Databricks"), self.places.lab / "ca.pem")
        self.services.add_principal(self.databricks.credentials())
        for name, connection in self.services.connections.items():
            self.airflow.add_connection(name, connection)
        for dag_id in DAGS:
            self.airflow.unpause(dag_id)

    def leaks(self) -> list[str]:
        """Return where a credential stands in what Airflow and its servers have written."""
        first = self.services.first
        variables = {**first.environment, **self.services.given}
        found = leaks(
            self.places,
            {"Airflow": variables},
            {"Snowflake": self.snowflake, "Databricks": self.databricks},
            passwords={"Airflow: password of its user": first.installation.password},
            databases=self.backend.databases(),
            folders=self.backend.folders(),
        )
        return [one for one in found if not one.startswith(CONNECTIONS)]

    def note(self, what: str) -> None:
        """Remember what was done to the world."""
        self.injections.append((time.time(), what))

    # Life and death of the parts.

    def tend(self) -> None:
        """Start what has died, as a container platform does."""
        self.processes.look()
        for name in self.services.first.parts:
            if name not in self._held:
                program = self.program(name)
                if program is None or program.process.poll() is not None:
                    if program:
                        self.processes.programs.remove(program)
                        self.note(f"{name} ended by itself")
                        self.fell[name] += 1
                    self.services.start_part(name)

    def program(self, name: str) -> Program | None:
        """Return what runs under a name."""
        return next((one for one in self.processes.programs if one.name == name), None)

    def names(self, part: str) -> list[str]:
        """Return the names of the programs that are one part of Airflow."""
        return [name for name, one in self.services.first.parts.items() if one == part]

    def end(self, name: str, number: int, *, hold: bool = False) -> bool:
        """End a part by a signal, and whether it ran; SIGKILL goes to all that it has started as well.

        :param hold: it does not come back before :meth:`release`.
        """
        if hold:
            self._held.add(name)
        program = self.program(name)
        if program is None or program.process.poll() is not None:
            return False
        members = family(program.process.pid)
        self.processes.lose(program, number)
        give_up = time.monotonic() + 60
        while any(map(_lives, members)) and time.monotonic() < give_up:
            time.sleep(0.1)
        self.note(f"{signal.Signals(number).name} {name}")
        return True

    def release(self, name: str) -> None:
        """Let a part come back."""
        self._held.discard(name)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Stop the processes of a part for the block."""
        program = self.program(name)
        with self.stopped(family(program.process.pid) if program else [], name):
            yield

    @contextmanager
    def stopped(self, members: Sequence[psutil.Process], what: str) -> Iterator[int]:
        """Stop processes for the block; gives how many of them ran."""
        found = 0
        for one in members:
            with suppress(psutil.Error):
                one.suspend()
                found += 1
        self.note(f"SIGSTOP {what}")
        try:
            yield found
        finally:
            self.note(f"SIGCONT {what}")
            for one in members:
                with suppress(psutil.Error):
                    one.resume()

    # Processes of tasks.

    def task_processes(self) -> dict[int, psutil.Process]:
        """Return all processes of the parts that run tasks, by their ids."""
        roots = [self.program(name) for part in (SCHEDULER, WORKER) for name in self.names(part)]
        return {one.pid: one for root in roots if root for one in family(root.process.pid)[1:]}

    def kill_task(self, pid: int, *, machine: bool = False) -> bool:
        """End a task's process, as the kernel does when memory runs out; whether it still ran.

        :param machine: and its supervisor, as when the machine dies.
        """
        members = self.of_task(pid)
        if not members:
            return False
        with suppress(psutil.Error):
            for one in members if machine else members[-1:]:
                one.kill()
            self.note(f"SIGKILL task process {pid}{' and its supervisor' if machine else ''}")
            return True
        return False

    def of_task(self, pid: int) -> list[psutil.Process]:
        """Return the supervisor of a task's process, unless that is a part of Airflow, and the process itself.

        Of a process that has ended, and only waits to be asked how, there is nothing left to kill.
        """
        process = self.task_processes().get(pid)
        with suppress(psutil.Error):
            if process and process.status() == psutil.STATUS_ZOMBIE:
                return []
            supervisor = process.parent() if process else None
            roots = {one.process.pid for one in self.processes.programs}
            return [one for one in (supervisor, process) if one and one.pid not in roots]
        return []

    def sender(self, port: int) -> psutil.Process | None:
        """Return the process that has a connection from this port."""
        own = {one.pid: one for program in self.processes.programs for one in family(program.process.pid)}
        for connection in psutil.net_connections("tcp4"):
            if connection.laddr and connection.laddr.port == port and connection.pid in own:
                return own[connection.pid]
        return None

    def triggerer_of(self, process: psutil.Process) -> str | None:
        """Return the name of the triggerer that a process belongs to."""
        for name in self.names(TRIGGERER):
            program = self.program(name)
            if program and process.pid in {one.pid for one in family(program.process.pid)}:
                return name
        return None

    # A patient user.

    def ask(self, question: Callable[..., T], *arguments: Any) -> T:
        """Return an answer of Airflow's, which may be away for a while."""
        give_up = time.monotonic() + ANSWERING
        while True:
            try:
                return question(*arguments)
            except httpx.HTTPError as error:
                refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
                if time.monotonic() > give_up or (refused and not _logged_out(error)):
                    raise
                with suppress(httpx.HTTPError):
                    if _logged_out(error):
                        self.airflow.log_in()
            self.tend()
            time.sleep(LOOK_EVERY)

    def until(self, condition: Callable[[], T], seconds: float) -> T | None:
        """Return the first true answer, or None when the time is over; what dies meanwhile comes back."""
        give_up = time.monotonic() + seconds
        while True:
            self.tend()
            if found := self.ask(condition):
                return found
            if time.monotonic() > give_up:
                return None
            time.sleep(LOOK_EVERY)


@contextmanager
def running(
    folder: Path, console: Console, processes: Processes, signals: Signals, *, celery: bool
) -> Iterator[World]:
    """Start everything, and end it, whatever signals come meanwhile."""
    places = ChaosPlaces(HERE.parents[1], folder=folder)
    backend = Servers(celery=celery, triggerers=2, workers=TASKS_AT_ONCE)
    settings = {name: str(value) for name, value in SETTINGS.items()}
    settings["PYTHONPATH"] = (
        f"{HERE / 'python'}:{places.root}"  # the checkout's code, wherever the environment is
    )
    services = ChaosServices(places, processes, console, DAGS, settings, backend=backend)
    world = World(places, processes, services, backend, console)
    try:
        world.start()
        yield world
    finally:
        signals.ignore()
        services.close()
        processes.stop(10.0)
        backend.close()


def restart_server(world: World, name: str, number: int) -> None:
    """End PostgreSQL or Redis by a signal and start it again with the data that it had."""
    program = world.program(name)
    if program is None:
        raise ProcessEndedError(f"{name} has ended by itself")
    world.processes.lose(program, number, group=False)
    world.note(f"{signal.Signals(number).name} {name}")
    world.backend.start_servers(world.processes, Patience(world.processes, world.console))


def _url(remote: list[Service], name: str) -> str:
    return next(one.url for one in remote if one.name == name)


def _logged_out(error: httpx.HTTPError) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 401


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
