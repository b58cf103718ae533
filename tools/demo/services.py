"""Starts the local services and Airflow, and knows when each of them is ready."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from astronomer.lab.databricks.client import LabClient as DatabricksClient
from astronomer.lab.snowflake.client import LabClient as SnowflakeClient
from tools.demo.airflow import Airflow
from tools.demo.environment import USER, Installation, Places, base_environment
from tools.demo.plan import PLANS
from tools.demo.processes import ProcessEndedError, Processes, Program
from tools.demo.remote import Databricks, Service, Snowflake

READY_SECONDS = 300.0
SAY_AGAIN = 20.0
AIRFLOW_PARTS = {
    "API server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "Dag processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
READY_LINE = "# Ctrl-C stops it."


@dataclass
class Services:
    """Everything that has to run before a Dag can.

    :param dags: the Dags that Airflow has to have read.
    :param settings: variables for Airflow's processes, before the demo's own ones.
    """

    places: Places
    processes: Processes
    console: Console
    dags: Collection[str] = tuple(PLANS)
    settings: Mapping[str, str] = field(default_factory=dict)
    _env: dict[str, str] = field(default_factory=dict)

    def start(self) -> tuple[list[Service], Airflow, Installation]:
        """Return when the local services answer and Airflow has read the Dags."""
        self._clean()
        installation = Installation(self.places)
        installation.prepare()
        env = {**installation.environment(), **self.settings}
        with self._step("Starting the local Snowflake and Databricks, creating Airflow's database"):
            migration = self._airflow("database migration", ["db", "migrate"], env, once=True)
            remote, lab_env = self._lab()
            self._until(lambda: migration.done, "the database migration")
        for service in remote:
            self.console.print(f"  {service.name}, local: {service.url}")
        with self._step("Starting Airflow: API server, scheduler, Dag processor, triggerer"):
            self._env = {**env, **lab_env}
            for part in AIRFLOW_PARTS:
                self.start_part(part)
            airflow = Airflow(installation.url, USER, installation.password)
            self._until(lambda: not airflow.unhealthy(), "Airflow", lambda: ", ".join(airflow.unhealthy()))
            airflow.log_in()
        self.console.print(f"  Airflow: {installation.url}, user {USER}, password {installation.password}")
        with self._step("Waiting for Airflow to read the Dags"):
            self._until(lambda: self._dags_are_there(airflow), "the Dag processor")
        return remote, airflow, installation

    def start_part(self, part: str, name: str | None = None) -> Program:
        """Start a part of Airflow, or one more of its kind under a name of its own."""
        return self._airflow(name or part, AIRFLOW_PARTS[part], self._env)

    def program(self, name: str) -> Program:
        """Return what was started under a name."""
        return next(one for one in self.processes.programs if one.name == name)

    def _clean(self) -> None:
        for folder in (self.places.home, self.places.logs, self.places.lab):
            shutil.rmtree(folder, ignore_errors=True)
        self.places.logs.mkdir(parents=True)

    def _lab(self) -> tuple[list[Service], dict[str, str]]:
        shutil.copytree(self.places.dags / "workspace", self.places.workspace_folder, dirs_exist_ok=True)
        command = [sys.executable, "-m", "astronomer.lab", "up", "--directory", str(self.places.lab)]
        program = self.processes.start(
            "local services", command, base_environment(self.places), self.places.root
        )
        self._until(lambda: READY_LINE in program.log.read_text().splitlines(), "the local services")
        lines = program.log.read_text().splitlines()
        told = [shlex.split(line) for line in lines if line.startswith("export ")]
        variables = dict(words[1].split("=", 1) for words in told)
        authority = self.places.lab / "ca.pem"
        remote: list[Service] = [
            Snowflake(SnowflakeClient(_address(lines, "Snowflake"), authority)),
            Databricks(DatabricksClient(_address(lines, "Databricks"), authority)),
        ]
        return remote, variables

    def _airflow(self, name: str, command: list[str], env: dict[str, str], *, once: bool = False) -> Program:
        words = [sys.executable, "-m", "airflow", *command]
        return self.processes.start(name, words, env, self.places.root, once=once)

    def _dags_are_there(self, airflow: Airflow) -> bool:
        if errors := airflow.import_errors():
            raise ProcessEndedError("A Dag cannot be imported:\n" + "\n".join(errors.values()))
        return set(self.dags) <= airflow.dags()

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        """Say what is being done, and how long it took."""
        started = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(f"{what} …"):
                yield
        else:
            self.console.print(f"{what} …")
            yield
        self.console.print(f"{what}: {time.monotonic() - started:.0f} s")

    def _until(
        self,
        ready: Callable[[], bool],
        what: str,
        missing: Callable[[], str] = lambda: "it has not answered yet",
    ) -> None:
        """Wait for something that a program has to do."""
        started = time.monotonic()
        said = started
        while True:
            self.processes.check()
            if ready():
                return
            now = time.monotonic()
            if now - started > READY_SECONDS:
                logs = ", ".join(str(one.log) for one in self.processes.programs)
                raise ProcessEndedError(
                    f"{what} was not ready after {READY_SECONDS:.0f} s: {missing()}. See {logs}"
                )
            if now - said > SAY_AGAIN:
                said = now
                self.console.print(f"  still waiting for {what}: {missing()}")
            time.sleep(0.5)


def _address(lines: list[str], name: str) -> str:
    """Return the address in the line `# A local Snowflake at https://localhost:1234. Paste …`."""
    line = next(line for line in lines if line.startswith(f"# A local {name} at "))
    return next(word.rstrip(".") for word in line.split() if word.startswith("https://"))
