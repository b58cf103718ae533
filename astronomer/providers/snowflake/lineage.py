"""Where queries run, in the words of OpenLineage: as the stock hook has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

__all__ = ["database_of", "external_query"]


def database_of(hook: Any) -> DatabaseInfo:
    """The account and database of a connection.

    :param hook: a stock hook.
    """
    found: DatabaseInfo = hook.get_openlineage_database_info(None)
    return found


def external_query(hook: Any, query_id: str) -> tuple[str, str]:
    """The query, and the namespace of its account."""
    from airflow.providers.openlineage.sqlparser import SQLParser

    return query_id, SQLParser.create_namespace(database_of(hook))
