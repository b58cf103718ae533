"""The query history: every statement that ran on a warehouse, newest first, with its query tags."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.databricks.errors import Arguments, arguments, invalid
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.sql_statement import Statement

__all__ = ["routes", "user_id"]

_STATUS = {
    "PENDING": "QUEUED",
    "RUNNING": "RUNNING",
    "SUCCEEDED": "FINISHED",
    "CLOSED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELED": "CANCELED",
}
_FIELDS = ("statement_ids", "user_ids", "warehouse_ids", "statuses")


def routes(engine: SqlEngine) -> list[Route]:
    """Return the endpoints under ``/api``."""

    async def listing(request: Request) -> Response:
        given = await arguments(request)
        size = given.integer("max_results") or 100
        if not 1 <= size <= 1000:
            raise invalid(f"max_results must be between 1 and 1000, not {size}.")
        offset = _offset(given.text("page_token"))
        matching = [one for one in _visible(engine) if _matches(one, _filter(given))]
        page = matching[offset : offset + size]
        body: dict[str, Any] = {"res": [_described(one) for one in page], "has_next_page": False}
        if offset + size < len(matching):
            body |= {"has_next_page": True, "next_page_token": f"lab{offset + size}"}
        return JSONResponse(body)

    return [Route("/2.0/sql/history/queries", listing, methods=["GET"])]


def user_id(principal: str) -> int:
    """Return the number of a user."""
    return int.from_bytes(principal.encode()[:6].ljust(6, b"\0"), "big")


def _visible(engine: SqlEngine) -> Iterable[Statement]:
    """Yield what the history knows by now, newest first; results may be gone, statements stay."""
    latest = engine.clock.now() - engine.history_latency
    for statement in reversed(list(engine.history)):
        if statement.submitted_at <= latest and statement.on_warehouse:
            engine.look(statement.id)
            yield statement


def _filter(given: Arguments) -> dict[str, Any]:
    """Return ``filter_by``, from the body, or from the query as JSON or in dot notation."""
    whole = given.get("filter_by")
    if isinstance(whole, str):
        try:
            whole = json.loads(whole)
        except ValueError:
            raise invalid("filter_by is not valid JSON.") from None
    found: dict[str, Any] = dict(whole or {})
    for name in _FIELDS:
        value = given.get(f"filter_by.{name}", found.get(name))
        if value is not None:
            found[name] = {str(one) for one in (value if isinstance(value, list) else [value])}
    for edge in ("start_time_ms", "end_time_ms"):
        within = found.get("query_start_time_range") or {}
        value = given.get(f"filter_by.query_start_time_range.{edge}", within.get(edge))
        found[edge] = None if value is None else int(value)
    return found


def _matches(statement: Statement, wanted: dict[str, Any]) -> bool:
    milliseconds = int(statement.submitted_at * 1000)
    facts = {
        "statement_ids": statement.id,
        "user_ids": str(user_id(statement.principal)),
        "warehouse_ids": statement.compute,
        "statuses": _STATUS[statement.state],
    }
    if any(name in wanted and fact not in wanted[name] for name, fact in facts.items()):
        return False
    start, end = wanted["start_time_ms"], wanted["end_time_ms"]
    return (start is None or milliseconds >= start) and (end is None or milliseconds <= end)


def _offset(token: str) -> int:
    if not token:
        return 0
    number = token.removeprefix("lab")
    if not number.isdigit():
        raise invalid("The page token is not valid.")
    return int(number)


def _described(statement: Statement) -> dict[str, Any]:
    number = user_id(statement.principal)
    body: dict[str, Any] = {
        "query_id": statement.id,
        "status": _STATUS[statement.state],
        "query_text": statement.text,
        "query_start_time_ms": int(statement.submitted_at * 1000),
        "user_id": number,
        "user_name": statement.principal,
        "executed_as_user_id": number,
        "executed_as_user_name": statement.principal,
        "warehouse_id": statement.compute,
        "endpoint_id": statement.compute,
        "lookup_key": statement.id,
        "is_final": statement.ended,
        "plans_state": "UNKNOWN",
        "statement_type": statement.kind,
        "session_id": statement.session.id,
        "query_tags": [
            {"key": key} if value is None else {"key": key, "value": value}
            for key, value in statement.tags.items()
        ],
    }
    if statement.ended_at is not None:
        ended = int(statement.ended_at * 1000)
        body |= {"query_end_time_ms": ended, "execution_end_time_ms": ended, "rows_produced": statement.rows}
        body["duration"] = ended - int(statement.submitted_at * 1000)
    if statement.error is not None:
        body["error_message"] = statement.error.message
    return body
