"""What the stock hook's ``run`` returns, for statements that have run already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.sql.hooks.handlers import fetch_all_handler, fetch_one_handler, get_row_count
from airflow.providers.common.sql.hooks.lineage import send_sql_hook_lineage

from astronomer.deferral.in_triggerer import lineage_sender
from astronomer.providers.databricks.jobs.statement import DatabricksStatement
from astronomer.providers.databricks.sql.results import reader

if TYPE_CHECKING:
    from astronomer.deferral.in_triggerer import InTriggerer

__all__ = ["PURE_HANDLERS", "read"]

PURE_HANDLERS = (fetch_all_handler, fetch_one_handler)
"""Handlers that do nothing but fetch."""


def read(
    hook: Any,
    job: DatabricksStatement,
    statements: Sequence[str],
    handler: Callable[[Any], Any] | None,
    *,
    parameters: Any = None,
    last_only: bool,
    tolerance: float,
    in_triggerer: InTriggerer | None = None,
) -> Any:
    """The handler's output for each statement, or for the last.

    Leaves ``query_ids`` and ``descriptions`` on the hook, as its ``run`` does, and reports each statement to the
    lineage collector once.

    :param handler: is called with a cursor on each result, in order; one that only fetches is called with those whose
        output counts.
    :param tolerance: seconds for which bad weather is waited out.
    :param in_triggerer: where there is no worker: requests go over the triggerer's loop, and results have to be small.

    :raises ResultGone: Databricks no longer has a result.
    :raises Transient: Databricks could not be asked.
    """
    send = lineage_sender(in_triggerer, send_sql_hook_lineage)
    hook.query_ids, hook.descriptions = job.statement_ids, []
    results: list[Any] = []
    with reader(job.conn_id, tolerance, in_triggerer) as source:
        for place, (statement_id, text) in enumerate(zip(job.statement_ids, statements, strict=False), 1):
            idle = last_only and place < len(statements) and handler in PURE_HANDLERS
            cursor = None if handler is None or idle else source.cursor(statement_id)
            send(context=hook, sql=text, sql_parameters=parameters, cur=cursor, job_id=statement_id)
            if handler is None or cursor is None:
                continue
            if (row_count := get_row_count(cursor)) is not None:
                hook.log.info("Rows affected: %s", row_count)
            if cursor.truncated:
                hook.log.warning("Databricks has cut the result of %s off: it is too large", statement_id)
            results.append(hook._make_common_data_structure(handler(cursor)))
            hook.descriptions.append(cursor.description)
    if handler is None:
        return None
    if last_only:
        hook.descriptions = hook.descriptions[-1:]
        return results[-1]
    return results
