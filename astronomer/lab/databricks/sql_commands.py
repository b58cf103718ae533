"""The statements that are about the workspace and not about rows: USE, SET, SHOW, DESCRIBE, and those without effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pyarrow as pa

from astronomer.lab.databricks.columns import Result
from astronomer.lab.databricks.duck import Database
from astronomer.lab.databricks.spark import bare
from astronomer.lab.databricks.sql_errors import SqlError, unknown_object

if TYPE_CHECKING:
    from astronomer.lab.databricks.sql_sessions import SqlSession

__all__ = ["Command", "command"]

Command = Callable[[Database, "SqlSession"], Result]

_NAME = r"((?:`[^`]+`|\w+)(?:\.(?:`[^`]+`|\w+))*)"
_LIKE = r"(?:\s+(?:like\s+)?'([^']*)')?"
_DETAIL = [
    "format",
    "id",
    "name",
    "description",
    "location",
    "createdAt",
    "lastModified",
    "partitionColumns",
    "clusteringColumns",
    "numFiles",
    "sizeInBytes",
    "properties",
    "minReaderVersion",
    "minWriterVersion",
    "tableFeatures",
    "statistics",
]


def command(text: str) -> Command | None:
    """Return what a statement does, if it is one of these."""
    statement = bare(text)
    for pattern, handler in _COMMANDS:
        if found := pattern.fullmatch(statement):
            groups = [group.strip() if group else "" for group in found.groups()]
            return lambda database, session: handler(database, session, *groups)
    return None


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip("`") for part in re.findall(r"`[^`]+`|\w+", name))


def _strings(columns: str, rows: Iterable[tuple[object, ...]]) -> Result:
    return Result.rows([(name, pa.string()) for name in columns.split()], rows)


def _like(names: Iterable[str], pattern: str) -> list[str]:
    wanted = "|".join(
        re.escape(one).replace(r"\*", ".*").replace("%", ".*") for one in (pattern or "*").split("|")
    )
    return [name for name in names if re.fullmatch(wanted, name, re.IGNORECASE)]


# -- where the session is ----------------------------------------------------------------------------------------------


def _use_catalog(database: Database, session: SqlSession, name: str) -> Result:
    catalog = _parts(name)[0].lower()
    if catalog not in database.catalogs():
        raise unknown_object("Catalog", catalog)
    session.catalog, session.schema = catalog, "default"
    return Result.nothing()


def _use(database: Database, session: SqlSession, name: str) -> Result:
    *before, schema = _parts(name)
    catalog = before[-1].lower() if before else session.catalog
    if not database.has_schema(catalog, schema):
        raise unknown_object("Schema", f"{catalog}.{schema}")
    session.catalog, session.schema = catalog, schema.lower()
    return Result.nothing()


def _set(_database: Database, session: SqlSession, name: str, value: str) -> Result:
    session.settings[name.lower()] = value.strip("'\"")
    return _strings("key value", [(name, value.strip("'\""))])


def _show_setting(_database: Database, session: SqlSession, name: str) -> Result:
    shown = {name.lower(): session.settings.get(name.lower(), "<undefined>")} if name else session.settings
    return _strings("key value", sorted(shown.items()))


def _create_catalog(database: Database, _session: SqlSession, if_missing: str, name: str) -> Result:
    if not (if_missing and _parts(name)[0].lower() in database.catalogs()):
        database.create_catalog(_parts(name)[0])
    return Result.nothing()


def _drop_catalog(database: Database, _session: SqlSession, if_there: str, name: str) -> Result:
    catalog = _parts(name)[0]
    if catalog.lower() in database.catalogs():
        database.drop_catalog(catalog)
    elif not if_there:
        raise unknown_object("Catalog", catalog)
    return Result.nothing()


# -- what there is -----------------------------------------------------------------------------------------------------


def _show_catalogs(database: Database, _session: SqlSession, pattern: str) -> Result:
    return _strings("catalog", [(name,) for name in _like(database.catalogs(), pattern)])


def _show_schemas(database: Database, session: SqlSession, catalog: str, pattern: str) -> Result:
    of = _parts(catalog)[0] if catalog else session.catalog
    if of.lower() not in database.catalogs():
        raise unknown_object("Catalog", of)
    return _strings("databaseName", [(name,) for name in _like(database.schemas(of), pattern)])


def _show_tables(database: Database, session: SqlSession, place: str, pattern: str) -> Result:
    *before, schema = _parts(place) or (session.schema,)
    catalog = before[-1] if before else session.catalog
    if not database.has_schema(catalog, schema):
        raise unknown_object("Schema", f"{catalog}.{schema}")
    columns = [("database", pa.string()), ("tableName", pa.string()), ("isTemporary", pa.bool_())]
    return Result.rows(
        columns, [(schema, name, False) for name in _like(database.tables(catalog, schema), pattern)]
    )


def _show_columns(database: Database, session: SqlSession, name: str) -> Result:
    _, empty = database.describe(_parts(name), session)
    return _strings("col_name", [(column.name,) for column in empty.columns])


def _show_partitions(database: Database, session: SqlSession, name: str) -> Result:
    (catalog, schema, table), _ = database.describe(_parts(name), session)
    by = database.partitions((catalog, schema, table))
    if not by:
        text = f"Operation not allowed: SHOW PARTITIONS is not allowed on a table that is not partitioned: `{table}`."
        raise SqlError("INVALID_PARTITION_OPERATION.PARTITION_SCHEMA_IS_EMPTY", text, "42601")
    columns = ", ".join(f'"{one}"' for one in by)
    cursor = database.cursor()
    try:
        relation = database.relation(cursor, (catalog, schema, table))
        return Result.of(relation.project(columns).distinct().order(columns).to_arrow_table())
    finally:
        cursor.close()


def _describe_detail(database: Database, session: SqlSession, name: str) -> Result:
    full, _ = database.describe(_parts(name), session)
    identity = "00000000-0000-4000-8000-" + f"{abs(hash(full)) % 16**12:012x}"
    values: dict[str, object] = {
        "format": "delta",
        "id": identity,
        "name": ".".join(full),
        "location": f"s3://lab/{'/'.join(full)}",
        "partitionColumns": list(database.partitions(full)),
        "clusteringColumns": [],
        "numFiles": 1,
        "sizeInBytes": 1024,
        "properties": {},
        "minReaderVersion": 1,
        "minWriterVersion": 2,
        "tableFeatures": ["appendOnly", "invariants"],
        "statistics": {},
    }
    kinds: dict[str, pa.DataType] = {
        "createdAt": pa.timestamp("us", "Etc/UTC"),
        "lastModified": pa.timestamp("us", "Etc/UTC"),
        "partitionColumns": pa.list_(pa.string()),
        "clusteringColumns": pa.list_(pa.string()),
        "numFiles": pa.int64(),
        "sizeInBytes": pa.int64(),
        "properties": pa.map_(pa.string(), pa.string()),
        "minReaderVersion": pa.int32(),
        "minWriterVersion": pa.int32(),
        "tableFeatures": pa.list_(pa.string()),
        "statistics": pa.map_(pa.string(), pa.int64()),
    }
    return Result.rows(
        [(one, kinds.get(one, pa.string())) for one in _DETAIL], [[values.get(one) for one in _DETAIL]]
    )


def _describe(database: Database, session: SqlSession, extended: str, name: str) -> Result:
    full, empty = database.describe(_parts(name), session)
    types = {column.name: column.type_text.lower() for column in empty.columns}
    rows: list[tuple[object, ...]] = [(name, kind, None) for name, kind in types.items()]
    if by := database.partitions(full):
        rows += [("# Partition Information", "", ""), ("# col_name", "data_type", "comment")]
        rows += [(name, types.get(name, ""), None) for name in by]
    if extended:
        catalog, schema, table = full
        rows += [("", "", ""), ("# Detailed Table Information", "", ""), ("Catalog", catalog, "")]
        rows += [
            ("Database", schema, ""),
            ("Table", table, ""),
            ("Type", "MANAGED", ""),
            ("Provider", "delta", ""),
        ]
    return _strings("col_name data_type comment", rows)


def _nothing(_database: Database, _session: SqlSession, *_groups: str) -> Result:
    return Result.nothing()


_Handler = Callable[..., Result]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text.replace(" ", r"\s+"), re.IGNORECASE | re.DOTALL)


_COMMANDS: list[tuple[re.Pattern[str], _Handler]] = [
    (_pattern(rf"(?:use|set) catalog {_NAME}"), _use_catalog),
    (_pattern(rf"use(?: schema| database)? {_NAME}"), _use),
    (_pattern(r"set ([\w.]+)\s*=\s*(.*)"), _set),
    (_pattern(r"set(?: ([\w.]+))?"), _show_setting),
    (_pattern(rf"create catalog( if not exists)? {_NAME}.*"), _create_catalog),
    (_pattern(rf"drop catalog( if exists)? {_NAME}.*"), _drop_catalog),
    (_pattern(rf"show catalogs{_LIKE}"), _show_catalogs),
    (_pattern(rf"show (?:schemas|databases)(?: (?:in|from) {_NAME})?{_LIKE}"), _show_schemas),
    (_pattern(rf"show tables(?: (?:in|from) {_NAME})?{_LIKE}"), _show_tables),
    (_pattern(rf"show columns (?:in|from) {_NAME}"), _show_columns),
    (_pattern(rf"show partitions {_NAME}"), _show_partitions),
    (_pattern(rf"desc(?:ribe)? detail {_NAME}"), _describe_detail),
    (_pattern(rf"desc(?:ribe)?(?: table)?( extended| formatted)? {_NAME}"), _describe),
    (
        _pattern(r"(?:optimize|vacuum|analyze|grant|revoke|refresh|comment|msck|cache|uncache|reset)\b.*"),
        _nothing,
    ),
]
