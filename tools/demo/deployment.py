"""One Airflow: the programs that it consists of, and how to tell that it is ready."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from types import MappingProxyType

from tools.demo.airflow import Airflow
from tools.demo.environment import USER, Installation
from tools.demo.processes import ProcessEndedError, Processes, Program

PARTS = {
    "API server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "Dag processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "Celery worker": ["celery", "worker", "--skip-serve-logs", "--queues", "default,snowflake,databricks"],
}
NONE: Mapping[str, str] = MappingProxyType({})
Launch = Callable[[str, list[str], Mapping[str, str]], list[str]]
"""Returns the command that runs ``airflow`` with these words: of which program, and with which variables."""
DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
REPORTING = frozenset({"scheduler", "Dag processor", "triggerer"})  # to the API server


def installed(_name: str, words: list[str], _variables: Mapping[str, str]) -> list[str]:
    """Return the command of the Airflow of this environment."""
    return [sys.executable, "-m", "airflow", *words]


@dataclass
class Deployment:
    """One Airflow, and a user of it.

    :param dags: the Dags that it has to have read before it is ready.
    :param parts: the programs that it consists of: their names, and which of :data:`PARTS` they are.
    :param which: goes before the names of its programs; nothing for the first Airflow.
    :param launch: tells how they are run.
    """

    installation: Installation
    processes: Processes
    dags: Collection[str]
    parts: Mapping[str, str]
    which: str = ""
    launch: Launch = installed
    user: Airflow = field(init=False)
    _env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = {part.lower().replace(" ", "_") for part in self.parts.values() if part in REPORTING}
        self.user = Airflow(self.installation.url, USER, self.installation.password, needed)

    def programs(self, part: str) -> list[Program]:
        """Return those of its programs that are that part and run."""
        names = {self.called(name) for name, one in self.parts.items() if one == part}
        return [one for one in self.processes.programs if one.name in names]

    def called(self, part: str) -> str:
        """Return how one of its parts is called."""
        return f"{self.which} {part}".lstrip()

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of its programs."""
        return self._env

    @property
    def access(self) -> str:
        """How a person gets in."""
        name = "The other Airflow" if self.which else "Airflow"
        return f"{name}: {self.installation.url}, user {USER}, password {self.installation.password}"

    def prepare(self, settings: Mapping[str, str]) -> None:
        """Write what its programs read.

        :param settings: variables for them, before the demo's own ones.
        """
        self.installation.prepare()
        self._env = {**self.installation.environment(), **settings}

    def migrate(self) -> Program:
        """Create its database; returns the program that does it."""
        return self._airflow("database migration", ["db", "migrate"], once=True)

    def copy_database(self, other: Deployment) -> None:
        """Take over a new database from another one, which is quicker than to create one."""
        with (
            closing(sqlite3.connect(other.installation.places.database)) as source,
            closing(sqlite3.connect(self.installation.places.database)) as target,
        ):
            source.backup(target)

    def start(self, more: Mapping[str, str]) -> None:
        """Start all parts.

        :param more: variables for them, such as connections.
        """
        self.change(more)
        for name in self.parts:
            self.start_part(name)

    def change(self, more: Mapping[str, str]) -> None:
        """Change variables of the programs that are started from now on."""
        self._env |= more

    def start_part(self, name: str, more: Mapping[str, str] = NONE) -> Program:
        """Start one of its programs.

        :param more: variables for it alone.
        """
        part = self.parts[name]
        return self._airflow(name, PARTS[part], {**self._patience(part), **more})

    def missing(self) -> list[str]:
        """Return the parts that do not work yet."""
        return [self.called(part) for part in self.user.unhealthy()]

    def dags_are_there(self) -> bool:
        """Whether it has read them.

        :raises ProcessEndedError: it cannot.
        """
        if errors := self.user.import_errors():
            raise ProcessEndedError("A Dag cannot be imported:\n" + "\n".join(errors.values()))
        return set(self.dags) <= self.user.dags()

    def _patience(self, part: str) -> Mapping[str, str]:
        """Return the variable by which a part waits a minute for a lock of SQLite; none where it must not.

        The API server can wait for one that it holds itself, and gives up after SQLite's usual five; a scheduler that
        then gave up as well would end.
        """
        database = self._env[DATABASE]
        if part == "API server" or not database.startswith("sqlite:"):
            return NONE
        return {DATABASE: f"{database}?timeout=60"}

    def _airflow(
        self, name: str, command: list[str], more: Mapping[str, str] = NONE, *, once: bool = False
    ) -> Program:
        variables = {**self._env, **more}
        words = self.launch(self.called(name), command, variables)
        # Not the checkout: `python -m` looks there first, and would take no other release of this package.
        home = self.installation.places.home
        return self.processes.start(self.called(name), words, variables, home, once=once)
