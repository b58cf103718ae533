"""What a text of SQL is made of, where it can run, and what its parameters are to the REST API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook
from databricks.sql.parameters.native import (
    ArrayParameter,
    DbsqlParameterBase,
    MapParameter,
    dbsql_parameter_from_primitive,
)

__all__ = ["needs_session", "reject_empty", "rest_parameters", "split", "warehouse_of", "with_rest_markers"]

_LEADING = re.compile(r"\A(?:\s|;|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
_WAREHOUSE = re.compile(r"\A/?sql/1\.0/(?:warehouses|endpoints)/([^/?#\s]+)/?\Z")
_MARKER = re.compile(r"%\((\w+)\)s")
_RENDERED_LATER = re.compile(r"\{\{|\{%|\.(?:sql|json)\Z")
# What one statement leaves in its session for those after it.
_LEAVES_BEHIND = re.compile(
    r"(?:USE|SET|RESET|DECLARE|CACHE|UNCACHE|(?:BEGIN|START)\s+TRANSACTION|"
    r"(?:CREATE(?:\s+OR\s+REPLACE)?|DROP)(?:\s+GLOBAL)?\s+TEMP(?:ORARY)?)\b",
    re.IGNORECASE,
)
_LOCAL_FILES = re.compile(r"(?:PUT|GET|REMOVE)\s*'", re.IGNORECASE)


def split(sql: Any, split_statements: bool | None) -> list[str]:
    """The statements to run, in order, as the stock hook splits them.

    :param split_statements: ``None`` is the stock hook's default, which splits.

    :raises ValueError: there is none, or one of them is empty.
    """
    hook = DatabricksSqlHook
    if not isinstance(sql, str):
        pieces = list(sql)
    elif split_statements is False:
        pieces = [sql]
    else:
        pieces = hook.split_sql_string(sql)
    found = [hook.strip_sql_string(piece) for piece in pieces]
    if not found or not all(_LEADING.sub("", one).strip() for one in found):
        raise ValueError("`sql` holds no statement, or an empty one: it is blank or has only comments in it.")
    return found


def reject_empty(sql: Any, split_statements: bool | None = None) -> None:
    """Fail while the Dag is parsed, when the SQL is all there (no template, no file) and holds no statement.

    :raises ValueError: it is empty, or only comment.
    """
    pieces = [sql] if isinstance(sql, str) else sql
    if isinstance(pieces, (list, tuple)) and all(
        isinstance(one, str) and not _RENDERED_LATER.search(one) for one in pieces
    ):
        split(sql, split_statements)


def needs_session(statements: Sequence[str]) -> str | None:
    """The first statement that works only in a session, or with files of this machine, or ``None``.

    Each statement of the REST API has a session of its own.
    """
    for place, statement in enumerate(statements, 1):
        text = _LEADING.sub("", statement)
        leaves = _LEAVES_BEHIND.match(text) and place < len(statements)
        if leaves or _LOCAL_FILES.match(text):
            return text.splitlines()[0][:60]
    return None


def warehouse_of(http_path: str) -> str | None:
    """The warehouse's id in an HTTP path; ``None`` for a cluster's path."""
    found = _WAREHOUSE.match(http_path.strip())
    return found[1] if found else None


def rest_parameters(statement: str, parameters: Any) -> tuple[str, list[dict[str, Any]]] | None:
    """The statement and its parameters as the REST API takes them, of the types that the connector infers.

    :param parameters: as for the connector's ``execute``: values by name, or its parameter objects.
    :returns: ``None`` where it cannot be said: parameters by position, and arrays and maps.
    """
    if not parameters:
        return statement, []
    if isinstance(parameters, Mapping):
        found: list[Any] = [dbsql_parameter_from_primitive(value, name) for name, value in parameters.items()]
    else:
        found = [one for one in parameters if isinstance(one, DbsqlParameterBase) and one.name]
        if len(found) != len(list(parameters)):
            return None
    if any(isinstance(one, (ArrayParameter, MapParameter)) for one in found):
        return None
    return with_rest_markers(statement), [_as_rest(one) for one in found]


def with_rest_markers(statement: str) -> str:
    """The statement with ``:name`` in place of ``%(name)s``."""
    return _MARKER.sub(r":\1", statement)


def _as_rest(parameter: Any) -> dict[str, Any]:
    spark = parameter.as_tspark_param(named=True)
    value = None if spark.value is None else spark.value.stringValue
    return {"name": spark.name, "type": spark.type, "value": value}
