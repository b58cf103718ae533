"""Where runs and statements are, in the words of OpenLineage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from astronomer.deferral.lineage import parse_sql

if TYPE_CHECKING:
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    from astronomer.deferral.lineage import Told

__all__ = ["database_of", "external_query", "filled_in", "of_statement"]

_MARKER = re.compile(r"\bidentifier\s*\(\s*:(\w+)\s*\)|(?<!:):(\w+)", re.IGNORECASE)
_NAME = re.compile(r"(?:\w+|`[^`]+`)(?:\.(?:\w+|`[^`]+`))*")


def database_of(host: str | None, catalog: str | None) -> DatabaseInfo:
    """A workspace, under the name that :func:`external_query` gives it.

    :param host: of the Airflow connection; with or without a scheme and a port.
    :param catalog: of tables that name none.
    """
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    return DatabaseInfo(scheme="databricks", authority=_name_of(host), database=catalog or None)


def external_query(identifier: object, address: str, host: str | None = None) -> tuple[str, str]:
    """The run or statement, and the namespace of its workspace.

    :param address: the workspace's URL; without one,
    :param host: its host.
    """
    return str(identifier), f"databricks://{_name_of(address or host)}"


def _name_of(address: str | None) -> str | None:
    """The host in small letters, without its port."""
    whole = address or ""
    return urlsplit(whole if "://" in whole else f"//{whole}").hostname


def of_statement(
    statement: str, parameters: Iterable[Mapping[str, Any]] | None, database: DatabaseInfo, schema: str
) -> Told:
    """The tables of a statement, and its text as it was written: values of parameters may be secrets.

    Only where no table is found without them, they are put in place to find it.

    :param parameters: as the REST API takes them.
    :param schema: of tables that name none.
    """
    from openlineage.client.event_v2 import Dataset

    told = parse_sql(statement, database, schema)
    if told.inputs or told.outputs:
        return told
    named = parse_sql(filled_in(statement, parameters), database, schema)
    if named.inputs or named.outputs:  # without their facets: columns may have got names out of values
        told.inputs, told.outputs = (
            [Dataset(namespace=one.namespace, name=one.name) for one in found]
            for found in (named.inputs, named.outputs)
        )
        told.run_facets.pop("extractionError", None)
    return told


def filled_in(statement: str, parameters: Iterable[Mapping[str, Any]] | None) -> str:
    """The statement with those named parameters in place that may be names of tables; only to be parsed."""
    values = {str(one["name"]): str(one.get("value") or "") for one in parameters or ()}
    names = {name: value for name, value in values.items() if _NAME.fullmatch(value)}
    return _MARKER.sub(lambda found: names.get(found[1] or found[2], found[0]), statement)
