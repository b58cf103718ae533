"""What Airflow stands on: a file and one machine, or the servers of a distributed installation."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from tools.demo.environment import KEPT, WORKERS
from tools.demo.patience import Patience
from tools.demo.processes import Processes
from tools.servers.postgres import Cluster
from tools.servers.redis import Redis

API_SERVER, SCHEDULER, PROCESSOR, TRIGGERER = "API server", "scheduler", "Dag processor", "triggerer"
WORKER = "Celery worker"
ALONE = (API_SERVER, SCHEDULER, PROCESSOR, TRIGGERER)
POSTGRES, REDIS = "PostgreSQL", "Redis"


class Backend(Protocol):
    """What Airflow stands on."""

    @property
    def parts(self) -> Mapping[str, str]:
        """The programs that Airflow consists of: their names, and the part that each of them is."""

    def start(self, processes: Processes, patience: Patience) -> None:
        """Start the servers and return when they answer."""

    def settings(self) -> dict[str, str]:
        """Return the variables by which Airflow finds them."""

    def databases(self) -> list[str]:
        """Return the URLs of databases that are no files of Airflow's."""

    def folders(self) -> list[Path]:
        """Return where servers of ours keep what passed through them, but for their databases."""

    def close(self) -> None:
        """Throw away what they kept, once they have ended."""


@dataclass(frozen=True)
class OneMachine:
    """A file for a database, and workers that the scheduler starts: nothing has to be installed."""

    parts: Mapping[str, str] = field(default_factory=lambda: {name: name for name in ALONE})

    def start(self, processes: Processes, patience: Patience) -> None:
        """Nothing to do."""

    def settings(self) -> dict[str, str]:
        """Return none."""
        return {}

    def databases(self) -> list[str]:
        """Return none."""
        return []

    def folders(self) -> list[Path]:
        """Return none."""
        return []

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class Servers:
    """PostgreSQL, and Redis for Celery's workers: new ones on loopback, or those that a URL names.

    :param celery: whether tasks go to Celery's workers; otherwise the scheduler starts them.
    :param triggerers: how many there are.
    :param workers: how many tasks run at once.
    :param database_url: of a PostgreSQL server whose user may create databases; a new one is made there, and dropped.
    :param redis_url: of a database on a Redis server that nobody else uses.
    :raises MissingServerError: a server is not installed; the message says what to do.
    """

    celery: bool = True
    triggerers: int = 2
    workers: int = WORKERS
    database_url: str | None = None
    redis_url: str | None = None
    _cluster: Cluster | None = field(init=False, default=None)
    _redis: Redis | None = field(init=False, default=None)
    _database: URL | None = field(init=False, default=None)

    @property
    def parts(self) -> dict[str, str]:
        """Those of one machine, more triggerers, and a worker."""
        found = {name: name for name in ALONE}
        found |= {f"{TRIGGERER} {number}": TRIGGERER for number in range(2, self.triggerers + 1)}
        return found | ({WORKER: WORKER} if self.celery else {})

    def start(self, processes: Processes, patience: Patience) -> None:
        """Start what no URL names, and make a database."""
        if self.database_url is None:
            self._cluster = Cluster.new()
        if self.celery and self.redis_url is None:
            self._redis = Redis.new()
        self.start_servers(processes, patience)
        self._database = self._server().set(database=f"airflow_{secrets.token_hex(4)}")
        self._administer(f"CREATE DATABASE {self._database.database}")

    def start_servers(self, processes: Processes, patience: Patience) -> None:
        """Start the servers that are ours and do not run, with the data that they had."""
        running = {one.name for one in processes.programs}
        if self._cluster and POSTGRES not in running:
            cluster = self._cluster
            started = processes.start(
                *(POSTGRES, cluster.command, _environment(), cluster.directory),
                server=True,
                owner=cluster.owner,
            )
            patience.until(lambda: cluster.answers() is None, POSTGRES, by=started)
        if self._redis and REDIS not in running:
            started = processes.start(
                REDIS, self._redis.command, _environment(), self._redis.directory, server=True
            )
            patience.until(self._redis.answers, REDIS, by=started)

    def settings(self) -> dict[str, str]:
        """Return the variables by which Airflow finds them."""
        assert self._database is not None  # noqa: S101 - it has been started
        database = self._database.render_as_string(hide_password=False)
        found = {
            "DATABASE__SQL_ALCHEMY_CONN": database,
            "DATABASE__SQL_ALCHEMY_CONN_ASYNC": "",  # not needed, and asyncpg is not asked for
            "CORE__PARALLELISM": str(self.workers),
        }
        if self.celery:
            found |= {
                "CORE__EXECUTOR": "CeleryExecutor",
                "CELERY__BROKER_URL": self._broker(),
                "CELERY__RESULT_BACKEND": f"db+{database.replace('+psycopg2', '')}",
                "CELERY__WORKER_CONCURRENCY": str(self.workers),
                "CELERY__WORKER_ENABLE_REMOTE_CONTROL": "False",
            }
        return {f"AIRFLOW__{name}": value for name, value in found.items()}

    def databases(self) -> list[str]:
        """Return Airflow's."""
        return [self.database.render_as_string(hide_password=False)]

    def folders(self) -> list[Path]:
        """Return Redis's, unless it is somebody else's."""
        return [self._redis.data] if self._redis else []

    def close(self) -> None:
        """Throw away what they kept: all of our servers, and our database on somebody else's."""
        if self._cluster is None and self._database is not None:
            self._administer(f"DROP DATABASE IF EXISTS {self._database.database} WITH (FORCE)")
        for one in (self._cluster, self._redis):
            if one:
                one.remove()

    @property
    def database(self) -> URL:
        """Airflow's database."""
        assert self._database is not None  # noqa: S101 - it has been started
        return self._database

    def _server(self) -> URL:
        if self._cluster:
            return self._cluster.url
        return make_url(str(self.database_url)).set(drivername="postgresql+psycopg2")

    def _broker(self) -> str:
        return self._redis.url if self._redis else str(self.redis_url)

    def _administer(self, statement: str) -> None:
        engine = create_engine(self._server(), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))


def _environment() -> dict[str, str]:
    """What a server keeps of ours: also the mark by which one that was left behind is found."""
    return {name: os.environ[name] for name in KEPT if name in os.environ}
