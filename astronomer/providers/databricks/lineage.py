"""Where runs and statements are, in the words of OpenLineage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

__all__ = ["database_of", "external_query", "filled_in"]


def database_of(host: str | None, catalog: str | None) -> DatabaseInfo:
    """A workspace, as the stock hooks tell of it: without the port.

    :param catalog: of tables that name none.
    """
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    return DatabaseInfo(scheme="databricks", authority=host, database=catalog or None)


def external_query(identifier: object, address: str, host: str | None = None) -> tuple[str, str]:
    """The run or statement, and the namespace of its workspace.

    :param address: the workspace's URL; without one,
    :param host: its host.
    """
    return str(identifier), f"databricks://{urlsplit(address).hostname or host}"


def filled_in(statement: str, parameters: Iterable[Mapping[str, Any]] | None) -> str:
    """The statement with its named parameters in place, which may be names of tables; only to be parsed."""
    values = {str(one["name"]): str(one.get("value") or "null") for one in parameters or ()}
    return re.sub(r"(?<!:):(\w+)", lambda found: values.get(found[1], found[0]), statement)
