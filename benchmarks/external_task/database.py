"""What the benchmark itself does in the database, under another role than the triggerer's."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from benchmarks.external_task.plan import DAG, WAITING, Target
from tools.servers.postgres import Server

__all__ = ["Database", "Moments", "Resumed", "opened", "version"]

_STATEMENTS = text(
    "SELECT query, sum(calls)::bigint FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid "
    "WHERE rolname = :role GROUP BY query"
)
_END_RUN = text(
    "UPDATE dag_run SET state = :state, end_date = now(), updated_at = now() "
    "WHERE dag_id = :dag_id AND run_id = :run_id"
)
_END_TASKS = text(
    "UPDATE task_instance SET state = :state, end_date = now(), updated_at = now() "
    "WHERE dag_id = :dag_id AND run_id = :run_id AND task_id = ANY(:task_ids)"
)
_HAND_OVER = (
    "DELETE FROM trigger WHERE queue <> :side",
    "UPDATE task_instance SET trigger_id = trigger.id FROM trigger WHERE dag_id = :dag_id AND pid = triggerer_id",
    "UPDATE trigger SET queue = NULL, triggerer_id = NULL",
    "VACUUM ANALYZE",  # autovacuum would do it in the middle of the measurement
)
_STILL = text(f"SELECT count(*) FROM task_instance WHERE dag_id = '{WAITING}' AND trigger_id IS NOT NULL")
_RESUMED = text(
    "SELECT run_id, task_id, extract(epoch FROM scheduled_dttm)::float8, next_method, next_kwargs "
    f"FROM task_instance WHERE dag_id = '{WAITING}' AND state = 'scheduled'"
)


class Resumed(NamedTuple):
    """What the triggerer wrote into the task instance of a sensor.

    :param at: epoch seconds.
    :param next_method: of the sensor; Airflow's own word if the trigger has failed.
    :param next_kwargs: with the event in it.
    """

    run_id: str
    task_id: str
    at: float
    next_method: str
    next_kwargs: Any


class Database:
    """One role for all of Airflow, and two databases that it owns: the prepared world, and the copy in use."""

    def __init__(self, server: Server) -> None:
        self.role = f"astronomer_bench_{secrets.token_hex(4)}"
        self.world, self.copy = f"{self.role}_world", f"{self.role}_run"
        self._password = secrets.token_hex(16)
        self._server = server
        self.pid = server.pid
        self._admin = _engine(server.url)

    def url(self, name: str) -> str:
        """For Airflow."""
        mine = self._server.url.set(username=self.role, password=self._password, database=name)
        return mine.render_as_string(hide_password=False)

    def create(self) -> None:
        """The role and an empty world.

        :raises RuntimeError: the server counts no statements.
        """
        with self._admin.connect() as connection:
            if "pg_stat_statements" not in connection.scalar(text("SHOW shared_preload_libraries")):
                raise RuntimeError("the server needs shared_preload_libraries = 'pg_stat_statements'")
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_stat_statements"))
            connection.execute(text(f"CREATE ROLE {self.role} LOGIN PASSWORD '{self._password}'"))
            connection.execute(text(f"GRANT {self.role} TO current_user"))
            connection.execute(
                text(f"CREATE DATABASE {self.world} OWNER {self.role} ENCODING 'UTF8' TEMPLATE template0")
            )

    def drop(self) -> None:
        """Leave nothing behind."""
        with self._admin.connect() as connection:
            for name in (self.copy, self.world):
                connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"DROP ROLE IF EXISTS {self.role}"))

    def renew(self, side: str) -> None:
        """A fresh copy of the world, in which the sensors have the triggers of that side, or none.

        In the world, each trigger has its side for a queue, and the number of its sensor for a triggerer. The number
        of a sensor is the process id that its worker has left.
        """
        with self._admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {self.copy} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {self.copy} OWNER {self.role} TEMPLATE {self.world}"))
        with self._connect() as connection:
            for one in _HAND_OVER:
                connection.execute(text(one), {"side": side, "dag_id": WAITING} if ":" in one else {})

    @contextmanager
    def moments(self) -> Iterator[Moments]:
        """The copy, as another process sees it."""
        with self._connect() as connection:
            yield Moments(connection)

    def _connect(self) -> Connection:
        return _engine(self._server.url.set(database=self.copy)).connect()

    def statements(self) -> Counter[str]:
        """How often Airflow's role has executed each statement so far."""
        with self._admin.connect() as connection:
            return Counter(dict(connection.execute(_STATEMENTS, {"role": self.role}).tuples().all()))


@contextmanager
def opened(server: Server) -> Iterator[Database]:
    """The databases for the block."""
    database = Database(server)
    try:
        database.create()
        yield database
    finally:
        database.drop()


class Moments:
    """How the external work ends, and what became of the waits, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def end(self, target: Target, state: str) -> float:
        """End a target as the scheduler or a worker would, and return the moment just before."""
        place = {"dag_id": target.dag_id, "run_id": target.run_id, "state": state}
        moment = time.time()
        if target.kind == DAG:
            self._connection.execute(_END_RUN, place)
        else:
            self._connection.execute(_END_TASKS, {**place, "task_ids": target.task_ids})
        return moment

    def still_waiting(self) -> int:
        """How many sensors still have a trigger."""
        return int(self._connection.scalar(_STILL) or 0)

    def resumed(self) -> list[Resumed]:
        """The sensors that have been told something."""
        return [Resumed(*row) for row in self._connection.execute(_RESUMED)]


def version(server: Server) -> str:
    """Of PostgreSQL."""
    with _engine(server.url).connect() as connection:
        return str(connection.scalar(text("SHOW server_version")))


def _engine(url: URL) -> Engine:
    return create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
