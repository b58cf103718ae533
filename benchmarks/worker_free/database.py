"""The database of the Airflow that is measured: PostgreSQL if this machine has it, else a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, text
from sqlalchemy.pool import NullPool

from benchmarks.worker_free.plan import DAG_ID
from tools.servers import postgres
from tools.servers.postgres import Server

__all__ = ["Databases", "opened", "unfinished"]

_SQLITE = "sqlite"
_UNFINISHED = text(
    f"SELECT count(*) FROM dag_run WHERE dag_id = '{DAG_ID}' AND state NOT IN ('success', 'failed')"
)


@dataclass(frozen=True)
class Databases:
    """Where each side gets a new one.

    :param server: ``None`` for files.
    """

    server: Server | None

    @property
    def pid(self) -> int | None:
        """The server's first process."""
        return None if self.server is None else self.server.pid

    def new(self, name: str, directory: Path) -> URL:
        """Make an empty database."""
        if self.server is None:
            return URL.create(_SQLITE, database=str(directory / f"{name}.db"))
        engine = create_engine(self.server.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        return self.server.url.set(database=name)

    def facts(self) -> dict[str, str]:
        """What it is, for who repeats the measurement."""
        if self.server is None:
            return {"database": _SQLITE}
        with create_engine(self.server.url, poolclass=NullPool).connect() as connection:
            return {"database": f"postgresql {connection.execute(text('SHOW server_version')).scalar_one()}"}


@contextmanager
def opened() -> Iterator[Databases]:
    """PostgreSQL for the block, where it and its driver are installed."""
    if postgres.binaries() is None or find_spec("psycopg2") is None:
        yield Databases(None)
        return
    with postgres.started() as server:
        yield Databases(server)


@contextmanager
def unfinished(url: URL) -> Iterator[Any]:
    """What counts the runs of the Dag that have not ended: beside Airflow, and not through its API server."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield lambda: int(connection.execute(_UNFINISHED).scalar_one())
    finally:
        engine.dispose()
