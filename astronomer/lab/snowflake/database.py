"""The SQL of an account, run by fakesnow on DuckDB: one isolated database per lab, one connection per session."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from fakesnow import statement_type
from fakesnow.conn import FakeSnowflakeConnection
from fakesnow.converter import from_binding
from fakesnow.dialect import parse_one
from fakesnow.instance import FakeSnow
from fakesnow.rowtype import describe_as_rowtype
from fakesnow.server import gcs_stage_info
from fakesnow.transforms import stage

from astronomer.lab.files import remove_with
from astronomer.lab.snowflake.results import Result
from astronomer.lab.snowflake.sqltext import bare
from astronomer.lab.threads import DaemonThreads

__all__ = ["Bindings", "Database", "DuckSession"]

DATABASE, SCHEMA = "LAB", "PUBLIC"
THREADS = 8

# fakesnow makes a directory for files when it is imported, and leaves it behind.
remove_with(stage, Path(stage.LOCAL_BUCKET_PATH))

_QUERY = re.compile(r"\s*\(*\s*(SELECT|WITH|VALUES|FROM|DESCRIBE|SHOW)\b", re.IGNORECASE)


class _Address:
    """The part of a request that fakesnow reads to tell a client where to upload a file."""

    def __init__(self, scheme: str, netloc: str) -> None:
        self.url = self
        self.scheme = scheme
        self.netloc = netloc


class _Connection:
    """A DuckDB connection that runs queries as relations.

    DuckDB warns each time a cursor's result is turned into Arrow, and a process may have made warnings errors.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._relation: Any = None
        self._fetched: Iterator[Any] | None = None

    def execute(self, sql: str, params: Any = None) -> _Connection:
        self._relation = self._fetched = None
        if _QUERY.match(bare(sql)):
            self._relation = self._inner.sql(sql, params=params or None)
        else:
            self._inner.execute(sql, params)
        return self

    def fetchall(self) -> Any:
        return list(self._rows) if self._relation is not None else self._inner.fetchall()

    def fetchone(self) -> Any:
        return next(self._rows, None) if self._relation is not None else self._inner.fetchone()

    def to_arrow_table(self) -> Any:
        return (self._inner if self._relation is None else self._relation).to_arrow_table()

    @property
    def _rows(self) -> Iterator[Any]:
        # A relation runs again on each call, so its rows are fetched once.
        if self._fetched is None:
            self._fetched = iter(self._relation.fetchall())
        return self._fetched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Bindings:
    """The bind variables of a request: none, one set, or one set per row of a batch."""

    def __init__(self, sent: dict[str, Any] | None) -> None:
        self.one: Any = None
        self.batch: list[tuple[Any, ...]] | None = None
        if not sent:
            return
        if not all(name.isdigit() for name in sent):
            self.one = {name: _value(binding) for name, binding in sent.items()}
            return
        ordered = [sent[str(position)] for position in range(1, len(sent) + 1)]
        if any(isinstance(binding["value"], list) for binding in ordered):
            columns = [[_value({**b, "value": value}) for value in b["value"]] for b in ordered]
            self.batch = list(zip(*columns, strict=True))
        else:
            self.one = tuple(_value(binding) for binding in ordered)

    def __bool__(self) -> bool:
        return self.one is not None or self.batch is not None


def _value(binding: dict[str, Any]) -> Any:
    return None if binding.get("value") is None else from_binding(binding)


class Database:
    """The databases, schemas and tables of one account, all in memory."""

    def __init__(self) -> None:
        self.pool = DaemonThreads(THREADS, "astronomer.lab.duckdb")
        self._fake = FakeSnow(create_database_on_connect=True, create_schema_on_connect=True)
        self._lock = threading.Lock()
        self._fake.connect(DATABASE, SCHEMA).close()

    def open(self, database: str | None, schema: str | None) -> DuckSession:
        """Return a connection for one session; a database or schema that does not exist is left unset."""
        with self._lock:
            inner = self._fake.duck_conn.cursor()
            connection = FakeSnowflakeConnection(
                _Connection(inner),  # type: ignore[arg-type]
                {},
                database,
                schema,
                create_database=False,
                create_schema=False,
                paramstyle="qmark",
            )
        return DuckSession(connection, inner)

    def close(self) -> None:
        """Close every connection."""
        self.pool.shutdown(cancel_futures=True)
        with contextlib.suppress(Exception):
            self._fake.duck_conn.close()


class DuckSession:
    """One session's connection. Every method blocks; the session's lock makes sure that only one runs at a time."""

    def __init__(self, connection: FakeSnowflakeConnection, inner: Any) -> None:
        self._connection = connection
        self._inner = inner

    @property
    def database(self) -> str | None:
        """The current database, if it exists."""
        return self._connection.database if self._connection.database_set else None

    @property
    def schema(self) -> str | None:
        """The current schema, if it exists."""
        return self._connection.schema if self._connection.schema_set else None

    def execute(
        self, sql: str, bindings: Bindings, tables: dict[str, pa.Table], upload: tuple[str, str]
    ) -> Result:
        """Run one statement and return its result.

        :param tables: Arrow tables it may read, by the name it knows them under.
        :param upload: scheme and host:port at which clients reach this server, for PUT.
        """
        cursor = self._connection.cursor()
        for name, table in tables.items():
            self._inner.register(name, table)
        try:
            affected = 0
            if bindings.batch is None:
                cursor.execute(sql, binding_params=bindings.one, server=True)
            else:
                for row in bindings.batch:
                    cursor.execute(sql, binding_params=row, server=True)
                    affected += cursor.rowcount or 0
            result = self._result(cursor, affected if bindings.batch is not None else None, bindings, upload)
            result.type_id = statement_type.statement_type_id(parse_one(sql))
            self._enter_public(cursor)
            return result
        finally:
            self._connection.results_cache.clear()
            for name in tables:
                self._inner.unregister(name)

    def _result(
        self, cursor: Any, affected: int | None, bindings: Bindings, upload: tuple[str, str]
    ) -> Result:
        statement = cursor._last_transformed  # noqa: SLF001 - fakesnow's own server reads these too
        table = cursor._arrow_table  # noqa: SLF001
        if put := statement.args.get("put_stage_data"):
            if not bindings:
                put["stageInfo"] = gcs_stage_info(_Address(*upload), statement, put)  # type: ignore[arg-type]
            return Result(pa.table({}), [], data=put)
        rowtype = describe_as_rowtype(cursor._describe_last_sql())  # noqa: SLF001
        if affected is not None:
            table = pa.table({table.column_names[0]: pa.array([affected], pa.int64())})
            return Result(table, rowtype[:1], total=1)  # type: ignore[arg-type]
        return Result(table, rowtype, total=table.num_rows)  # type: ignore[arg-type]

    def _enter_public(self, cursor: Any) -> None:
        """Give a new database its PUBLIC schema, and enter it with the database, as Snowflake does."""
        arguments = cursor._last_transformed.args  # noqa: SLF001
        if created := arguments.get("create_db_name"):
            self._connection.cursor().execute(f'CREATE SCHEMA IF NOT EXISTS "{created}"."PUBLIC"')
        elif arguments.get("set_database") and not arguments.get("set_schema"):
            with contextlib.suppress(Exception):
                self._connection.cursor().execute("USE SCHEMA PUBLIC")

    def describe(self, sql: str) -> Result | None:
        """Return the columns a statement would return, without running it, or None where only running it can tell."""
        described = self._connection.cursor()._describe_only(sql)  # noqa: SLF001
        if described is None:
            return None
        rowtype = describe_as_rowtype(described)
        empty = pa.table({column["name"]: pa.array([], pa.string()) for column in rowtype})
        return Result(empty.slice(0, 0), rowtype, statement_type.SELECT)  # type: ignore[arg-type]

    def begin(self) -> None:
        """Start a transaction."""
        self._inner.begin()

    def commit(self) -> None:
        """Commit the open transaction."""
        self._inner.commit()

    def rollback(self) -> None:
        """Roll back the open transaction."""
        self._inner.rollback()

    def interrupt(self) -> None:
        """Make the statement that another thread is running here fail soon."""
        self._inner.interrupt()

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        with contextlib.suppress(Exception):
            self._connection.close()
