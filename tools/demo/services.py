"""Starts the local Snowflake and Airflow, and knows when each of them is ready."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from astronomer.lab.snowflake.client import LabClient
from tools.demo.airflow import Airflow
from tools.demo.environment import USER, Installation, Places, base_environment
from tools.demo.plan import PLANS
from tools.demo.processes import ProcessEndedError, Processes, Program

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

    def start(self) -> tuple[LabClient, Airflow, Installation]:
        """Return when Snowflake answers and Airflow has read the Dags."""
        self._clean()
        installation = Installation(self.places)
        installation.prepare()
        env = {**installation.environment(), **self.settings}
        with self._step("Starting the local Snowflake, creating Airflow's database"):
            migration = self._airflow("database migration", ["db", "migrate"], env, once=True)
            lab, lab_env = self._snowflake()
            self._until(lambda: migration.done, "the database migration")
        self.console.print(f"  Snowflake, local: {lab.url}")
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
        return lab, airflow, installation

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

    def _snowflake(self) -> tuple[LabClient, dict[str, str]]:
        command = [sys.executable, "-m", "astronomer.lab", "up", "--directory", str(self.places.lab)]
        program = self.processes.start(
            "local Snowflake", command, base_environment(self.places), self.places.root
        )
        self._until(lambda: READY_LINE in program.log.read_text().splitlines(), "the local Snowflake")
        told = [shlex.split(line) for line in program.log.read_text().splitlines()]
        variables = dict(words[1].split("=", 1) for words in told if words[:1] == ["export"])
        return LabClient(_address(told), self.places.lab / "ca.pem"), variables

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


def _address(told: list[list[str]]) -> str:
    """Return the address in the lab's first line: `# A local Snowflake at https://localhost:1234. Paste …`."""
    return next(word.rstrip(".") for words in told for word in words if word.startswith("https://"))
