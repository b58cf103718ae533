"""QUERY_HISTORY and its relatives, and SHOW TRANSACTIONS: what the account says about its own queries."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from astronomer.lab.snowflake.errors import SnowflakeError
from astronomer.lab.snowflake.queries import Query

__all__ = ["FUNCTIONS", "history_table", "moment"]

INSTANT = pa.timestamp("us", tz="UTC")
FUNCTIONS = (
    "QUERY_HISTORY",
    "QUERY_HISTORY_BY_SESSION",
    "QUERY_HISTORY_BY_USER",
    "QUERY_HISTORY_BY_WAREHOUSE",
)
DEFAULT_LIMIT, LARGEST_LIMIT = 100, 10_000


def elapsed_ms(query: Query) -> int:
    """Return how long a query has run so far, or took."""
    end = time.time() if query.ended_at is None else query.ended_at
    return int((end - query.started_at) * 1000)


_COLUMNS: tuple[tuple[str, Any, Callable[[Query], Any]], ...] = (
    ("QUERY_ID", pa.string(), lambda q: q.id),
    ("QUERY_TEXT", pa.string(), lambda q: q.sql),
    ("DATABASE_NAME", pa.string(), lambda q: q.database),
    ("SCHEMA_NAME", pa.string(), lambda q: q.schema),
    ("QUERY_TYPE", pa.string(), lambda q: q.type),
    ("SESSION_ID", pa.int64(), lambda q: q.session_id),
    ("USER_NAME", pa.string(), lambda q: q.user),
    ("ROLE_NAME", pa.string(), lambda q: q.role),
    ("WAREHOUSE_NAME", pa.string(), lambda q: q.warehouse),
    ("WAREHOUSE_SIZE", pa.string(), lambda q: "X-Small" if q.warehouse else None),
    ("WAREHOUSE_TYPE", pa.string(), lambda q: "STANDARD" if q.warehouse else None),
    ("QUERY_TAG", pa.string(), lambda q: q.tag),
    ("EXECUTION_STATUS", pa.string(), lambda q: q.state),
    ("ERROR_CODE", pa.string(), lambda q: q.error_code),
    ("ERROR_MESSAGE", pa.string(), lambda q: q.error_message),
    ("START_TIME", INSTANT, lambda q: moment(q.started_at)),
    ("END_TIME", INSTANT, lambda q: moment(q.ended_at)),
    ("TOTAL_ELAPSED_TIME", pa.int64(), elapsed_ms),
    ("BYTES_SCANNED", pa.int64(), lambda _: 0),
    ("ROWS_PRODUCED", pa.int64(), lambda q: q.result.total if q.result else None),
    ("COMPILATION_TIME", pa.int64(), lambda _: 0),
    ("EXECUTION_TIME", pa.int64(), elapsed_ms),
    ("QUEUED_PROVISIONING_TIME", pa.int64(), lambda _: 0),
    ("QUEUED_REPAIR_TIME", pa.int64(), lambda _: 0),
    ("QUEUED_OVERLOAD_TIME", pa.int64(), lambda _: 0),
    ("TRANSACTION_BLOCKED_TIME", pa.int64(), lambda _: 0),
    ("RELEASE_VERSION", pa.string(), lambda _: "lab"),
    ("TRANSACTION_ID", pa.int64(), lambda q: q.transaction or 0),
    ("IS_CLIENT_GENERATED_STATEMENT", pa.bool_(), lambda _: False),
)


def moment(epoch: float | None) -> dt.datetime | None:
    """Return epoch seconds as an aware time."""
    return None if epoch is None else dt.datetime.fromtimestamp(epoch, dt.timezone.utc)


def history_table(
    function: str, arguments: dict[str, Any], asking: Query, newest_first: Iterable[Query]
) -> pa.Table:
    """Return what ``TABLE(INFORMATION_SCHEMA.<function>(<arguments>))`` holds for the asking query's user.

    As in Snowflake, RESULT_LIMIT (default 100) counts before the WHERE of the query round it, newest first, and queries
    that still run are included unless END_TIME_RANGE_END is given.

    :raises SnowflakeError: an argument is out of range.
    """
    limit = int(arguments.get("RESULT_LIMIT", DEFAULT_LIMIT))
    if not 1 <= limit <= LARGEST_LIMIT:
        text = f"Invalid value [{limit}] for function '{function}', parameter RESULT_LIMIT: must be between 1 and 10000"
        raise SnowflakeError("001015", "22023", text)
    found = []
    for query in newest_first:
        if query.user == asking.user and _selected(query, function, arguments, asking):
            found.append(query)
            if len(found) == limit:
                break
    return pa.table(
        {name: pa.array([value(query) for query in found], kind) for name, kind, value in _COLUMNS}
    )


def _selected(query: Query, function: str, arguments: dict[str, Any], asking: Query) -> bool:
    start, end = arguments.get("END_TIME_RANGE_START"), arguments.get("END_TIME_RANGE_END")
    if start is not None and query.ended_at is not None and query.ended_at < start.timestamp():
        return False
    if end is not None and (query.ended_at is None or query.ended_at > end.timestamp()):
        return False
    if function == "QUERY_HISTORY_BY_SESSION":
        return query.session_id == int(arguments.get("SESSION_ID", asking.session_id))
    if function == "QUERY_HISTORY_BY_USER":
        return query.user == str(arguments.get("USER_NAME", asking.user)).upper()
    if function == "QUERY_HISTORY_BY_WAREHOUSE":
        wanted = arguments.get("WAREHOUSE_NAME", asking.warehouse)
        return (query.warehouse or "").upper() == str(wanted or "").upper()
    return True
