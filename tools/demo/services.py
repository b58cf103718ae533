"""Starts the local services and Airflow, and knows when each of them is ready."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from rich.console import Console

from astronomer.lab.databricks.client import LabClient as DatabricksClient
from astronomer.lab.snowflake.client import LabClient as SnowflakeClient
from tools.demo.airflow import Airflow
from tools.demo.backend import API_SERVER, PROCESSOR, SCHEDULER, Backend, OneMachine
from tools.demo.deployment import Deployment, Launch, installed
from tools.demo.environment import Installation, OtherPlaces, Places, base_environment
from tools.demo.patience import Patience
from tools.demo.plan import PLANS
from tools.demo.processes import Processes, Program
from tools.demo.remote import Databricks, Service, Snowflake

READY_LINE = "# Ctrl-C stops it."
OTHER_PARTS = {name: name for name in (API_SERVER, SCHEDULER, PROCESSOR)}  # nothing defers there


@dataclass
class Services:
    """Everything that has to run before a Dag can.

    :param dags: the Dags that Airflow has to have read.
    :param settings: variables for Airflow's processes, before the demo's own ones.
    :param elsewhere: the Dags of another Airflow, which runs beside the first and is known to it as the connection
        ``other_airflow``; without any there is none.
    :param backend: what the first Airflow stands on.
    :param launch: tells how its programs are run.
    """

    places: Places
    processes: Processes
    console: Console
    dags: Collection[str] = tuple(PLANS)
    settings: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Collection[str] = ()
    backend: Backend = field(default_factory=OneMachine)
    launch: Launch = installed
    first: Deployment = field(init=False)
    other: Deployment | None = field(init=False, default=None)
    _patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        parts = self.backend.parts
        self.first = Deployment(
            Installation(self.places), self.processes, self.dags, parts, launch=self.launch
        )
        if self.elsewhere:
            installation = Installation(OtherPlaces(self.places.root), workers=1)
            self.other = Deployment(installation, self.processes, self.elsewhere, OTHER_PARTS, "other")
        self._patience = Patience(self.processes, self.console)

    @property
    def deployments(self) -> list[Deployment]:
        return [self.first, *([self.other] if self.other else [])]

    def start(self) -> tuple[list[Service], Airflow, Installation]:
        """Return when the local services answer and each Airflow has read its Dags."""
        self._clean()
        with self._patience.step("Starting the local Snowflake and Databricks, creating Airflow's database"):
            self.backend.start(self.processes, self._patience)
            self._prepare()
            migrations = [one.migrate() for one in self._migrated]
            remote, variables = self._lab()
            self._patience.until(lambda: all(one.done for one in migrations), "the database migration")
        for service in remote:
            self.console.print(f"  {service.name}, local: {service.url}")
        beside = ", and another Airflow beside it" if self.other else ""
        with self._patience.step(f"Starting Airflow: {', '.join(self.backend.parts)}{beside}"):
            self._start_airflow(variables)
        for one in self.deployments:
            self.console.print(f"  {one.access}", markup=False)
        with self._patience.step("Waiting for Airflow to read the Dags"):
            for one in self.deployments:
                self._patience.until(one.dags_are_there, f"the {one.called('Dag processor')}")
        return remote, self.first.user, self.first.installation

    def start_part(self, name: str) -> Program:
        """Start one of Airflow's programs."""
        return self.first.start_part(name)

    def program(self, name: str) -> Program:
        """Return what was started under a name."""
        return next(one for one in self.processes.programs if one.name == name)

    @property
    def _migrated(self) -> list[Deployment]:
        """Those whose database has to be made; the other one copies a file if it can."""
        return self.deployments if self.backend.settings() else [self.first]

    def close(self) -> None:
        """Let go of each Airflow; an API server waits for open connections when it ends."""
        for one in self.deployments:
            one.user.close()

    def _clean(self) -> None:
        homes = [one.installation.places.home for one in self.deployments]
        for folder in (*homes, self.places.logs, self.places.lab):
            shutil.rmtree(folder, ignore_errors=True)
        self.places.logs.mkdir(parents=True)

    def _prepare(self) -> None:
        self.first.prepare({**self.backend.settings(), **self.settings})
        if self.other:
            self.other.prepare({})
            folder = self.other.installation.places.dags
            folder.mkdir()
            for dag_id in self.elsewhere:
                shutil.copy(self.places.dags / f"{dag_id}.py", folder)

    def _start_airflow(self, variables: Mapping[str, str]) -> None:
        if self.other:
            variables = {**variables, "AIRFLOW_CONN_OTHER_AIRFLOW": self.other.installation.connection()}
            if self.other not in self._migrated:
                self.other.copy_database(self.first)
        self.first.start(variables)
        if self.other:
            self.other.start({})
        self._patience.until(lambda: not self._missing(), "Airflow", lambda: ", ".join(self._missing()))
        for one in self.deployments:
            one.user.log_in()

    def _missing(self) -> list[str]:
        return [part for one in self.deployments for part in one.missing()]

    def _lab(self) -> tuple[list[Service], dict[str, str]]:
        files = self.places.dags / "workspace"
        if files.is_dir():
            shutil.copytree(files, self.places.workspace_folder, dirs_exist_ok=True)
        command = [sys.executable, "-m", "astronomer.lab", "up", "--directory", str(self.places.lab)]
        program = self.processes.start(
            "local services", command, base_environment(self.places), self.places.root
        )
        self._patience.until(lambda: READY_LINE in program.log.read_text().splitlines(), "the local services")
        lines = program.log.read_text().splitlines()
        told = [shlex.split(line) for line in lines if line.startswith("export ")]
        variables = dict(words[1].split("=", 1) for words in told)
        authority = self.places.lab / "ca.pem"
        remote: list[Service] = [
            Snowflake(SnowflakeClient(_address(lines, "Snowflake"), authority)),
            Databricks(DatabricksClient(_address(lines, "Databricks"), authority)),
        ]
        return remote, variables


def _address(lines: list[str], name: str) -> str:
    """Return the address in the line `# A local Snowflake at https://localhost:1234. Paste …`."""
    line = next(line for line in lines if line.startswith(f"# A local {name} at "))
    return next(word.rstrip(".") for word in line.split() if word.startswith("https://"))
