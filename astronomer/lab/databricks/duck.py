"""The data of a workspace: an in-memory DuckDB whose attached databases are the catalogs."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from astronomer.lab.databricks.columns import Result
from astronomer.lab.databricks.spark import CATALOG_PREFIX, Plan
from astronomer.lab.databricks.sql_errors import SqlError, unknown_object

if TYPE_CHECKING:
    from astronomer.lab.databricks.sql_sessions import SqlSession

__all__ = ["Database", "Table"]

Table = tuple[str, str, str]
"""Catalog, schema and name of a table, lower case."""

_TRIPS = """
CREATE TABLE nyctaxi.trips AS
SELECT TIMESTAMPTZ '2016-02-14 16:52:13+00' + to_minutes(i * 37) AS tpep_pickup_datetime,
       TIMESTAMPTZ '2016-02-14 17:16:04+00' + to_minutes(i * 37) AS tpep_dropoff_datetime,
       round(1.5 + i % 7, 2)::DOUBLE AS trip_distance, round(7.5 + i % 11, 2)::DOUBLE AS fare_amount,
       (10001 + i % 40)::INTEGER AS pickup_zip, (10001 + i % 31)::INTEGER AS dropoff_zip
FROM range(100) AS numbers(i)
"""


class Database:
    """Catalogs ``main`` and ``samples`` at first, each with a schema ``default``."""

    def __init__(self) -> None:
        self._root = duckdb.connect(":memory:")
        self._root.execute("SET python_enable_replacements = false")
        self._lock = threading.Lock()
        self._partitions: dict[Table, tuple[str, ...]] = {}
        for catalog in ("main", "samples"):
            self.create_catalog(catalog)
        self._root.execute("CREATE SCHEMA cat_samples.nyctaxi")
        self._root.execute(_TRIPS.replace("nyctaxi.trips", "cat_samples.nyctaxi.trips"))

    def close(self) -> None:
        """Forget everything."""
        self._root.close()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection of its own to the same data."""
        with self._lock:
            cursor = self._root.cursor()
        # Without this a name that no table has is looked up among the variables of this program.
        cursor.execute("SET python_enable_replacements = false")
        cursor.execute("SET TimeZone = 'Etc/UTC'")
        return cursor

    def run(self, cursor: duckdb.DuckDBPyConnection, plan: Plan, session: SqlSession) -> Result:
        """Do what a plan says, all of it or nothing.

        :raises duckdb.Error: it failed or was interrupted.
        """
        self._enter(cursor, plan, session)
        if plan.answer == "rows":
            relation = cursor.sql(plan.steps[-1])
            names = [str(kind) for kind in relation.types]
            return Result.of(relation.to_arrow_table(), names)
        changed = self._change(cursor, plan)
        self._note(plan, session)
        return _changes(plan.kind, changed) if plan.answer == "changed" else Result.nothing()

    def _enter(self, cursor: duckdb.DuckDBPyConnection, plan: Plan, session: SqlSession) -> None:
        """Make short names mean what they mean in the session; a schema that does not exist has no tables."""
        if session.catalog not in self.catalogs():
            raise unknown_object("Catalog", session.catalog)
        exists = self.has_schema(session.catalog, session.schema)
        if not exists and len(plan.table) == 1:
            raise unknown_object("Schema", f"{session.catalog}.{session.schema}")
        schema = session.schema if exists else "main"
        cursor.execute(f'USE "{CATALOG_PREFIX}{session.catalog}"."{schema}"')

    def _change(self, cursor: duckdb.DuckDBPyConnection, plan: Plan) -> int:
        changed = 0
        cursor.execute("BEGIN")
        try:
            for step in plan.steps:
                rows = cursor.execute(step).fetchall()
                changed = int(rows[0][0]) if plan.answer == "changed" and rows else 0
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
        return changed

    def _note(self, plan: Plan, session: SqlSession) -> None:
        if plan.table:
            self._partitions[self.qualified(plan.table, session)] = plan.partitions

    # -- what there is -------------------------------------------------------------------------------------------------

    @staticmethod
    def qualified(name: tuple[str, ...], session: SqlSession) -> Table:
        """Return catalog, schema and name of what a dotted name means in a session."""
        parts = [
            part.lower().removeprefix(CATALOG_PREFIX) if position < len(name) - 2 else part.lower()
            for position, part in enumerate(name)
        ]
        catalog, schema, table = [session.catalog, session.schema, ""][: 3 - len(parts)] + parts[-3:]
        return catalog, schema, table

    def partitions(self, table: Table) -> tuple[str, ...]:
        """Return the columns a table is partitioned by."""
        return self._partitions.get(table, ())

    def describe(self, name: tuple[str, ...], session: SqlSession) -> tuple[Table, Result]:
        """Return a table's full name and an empty result with its columns.

        :raises SqlError: it does not exist.
        """
        full = self.qualified(name, session)
        cursor = self.cursor()
        try:
            relation = self.relation(cursor, full).limit(0)
            return full, Result.of(relation.to_arrow_table())
        except duckdb.Error:
            raise unknown_object("Table", ".".join(full)) from None
        finally:
            cursor.close()

    @staticmethod
    def relation(cursor: duckdb.DuckDBPyConnection, table: Table) -> duckdb.DuckDBPyRelation:
        """Return the rows of a table, to be fetched."""
        catalog, schema, name = table
        return cursor.table(f'"{CATALOG_PREFIX}{catalog}"."{schema}"."{name}"')

    def catalogs(self) -> list[str]:
        """Return the names of the catalogs."""
        names = itertools.chain.from_iterable(self._ask("SELECT database_name FROM duckdb_databases()"))
        return sorted(name.removeprefix(CATALOG_PREFIX) for name in names if name.startswith(CATALOG_PREFIX))

    def schemas(self, catalog: str) -> list[str]:
        """Return the names of a catalog's schemas."""
        rows = self._ask(
            "SELECT schema_name FROM duckdb_schemas() WHERE database_name = ? AND schema_name <> 'main' "
            "AND NOT internal ORDER BY 1",
            CATALOG_PREFIX + catalog.lower(),
        )
        return [name for (name,) in rows]

    def tables(self, catalog: str, schema: str) -> list[str]:
        """Return the names of a schema's tables and views."""
        place = (CATALOG_PREFIX + catalog.lower(), schema)
        rows = self._ask(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = $1 AND lower(schema_name) = lower($2) UNION "
            "SELECT view_name FROM duckdb_views() WHERE database_name = $1 AND lower(schema_name) = lower($2) ORDER BY 1",
            *place,
        )
        return [name for (name,) in rows]

    def has_schema(self, catalog: str, schema: str) -> bool:
        """Return whether a schema exists."""
        return schema.lower() in {name.lower() for name in self.schemas(catalog)}

    def create_catalog(self, name: str) -> None:
        """Create a catalog with a schema ``default``.

        :raises SqlError: it exists.
        """
        if name.lower() in self.catalogs():
            raise SqlError("CATALOG_ALREADY_EXISTS", f"Catalog '{name}' already exists.", "42710")
        database = CATALOG_PREFIX + name.lower()
        with self._lock:
            self._root.execute(f"ATTACH ':memory:' AS \"{database}\"")
            self._root.execute(f'CREATE SCHEMA "{database}"."default"')

    def drop_catalog(self, name: str) -> None:
        """Drop a catalog and everything in it."""
        with self._lock:
            self._root.execute(f'DETACH "{CATALOG_PREFIX}{name.lower()}"')

    def _ask(self, sql: str, *values: str) -> list[tuple[str, ...]]:
        with self._lock:
            return self._root.execute(sql, list(values)).fetchall()


def _changes(kind: str, changed: int) -> Result:
    """Return the row a statement that changes rows answers with."""
    names = {
        "INSERT": ["num_affected_rows", "num_inserted_rows"],
        "MERGE": ["num_affected_rows", "num_updated_rows", "num_deleted_rows", "num_inserted_rows"],
    }.get(kind, ["num_affected_rows"])
    values = [changed, 0, 0, changed] if kind == "MERGE" else [changed] * len(names)
    rows = Result.rows([(name, pa.int64()) for name in names], [values])
    return Result(rows.table, rows.columns, changed)
