"""``/monitoring/queries``: the status of one query, and the list of a user's queries."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from astronomer.lab.snowflake.errors import SnowflakeError
from astronomer.lab.snowflake.queries import Query
from astronomer.lab.snowflake.session_api import account_of

__all__ = ["entry", "routes"]

DEFAULT_MAX = 100
_WORDS = {"SUCCESS": "SUCCEEDED", "RESUMING_WAREHOUSE": "QUEUED"}
_SUBSETS: dict[str, Callable[[str], bool]] = {
    "RUNNING": lambda state: state in ("RUNNING", "RESTARTED"),
    "QUEUED": lambda state: state in ("QUEUED", "RESUMING_WAREHOUSE", "QUEUED_REPARING_WAREHOUSE"),
    "BLOCKED": lambda state: state == "BLOCKED",
    "SUCCEEDED": lambda state: state == "SUCCESS",
    "FAILED": lambda state: state.startswith("FAILED"),
    "ABORTED": lambda state: state in ("ABORTED", "ABORTING"),
}


def entry(query: Query) -> dict[str, Any]:
    """Return one query as both forms of the endpoint describe it."""
    now = time.time()
    ended = query.ended_at
    return {
        "id": query.id,
        "status": query.state,
        "state": _WORDS.get(query.state, query.state),
        "sqlText": query.sql,
        "sessionId": query.session_id,
        "startTime": int(query.started_at * 1000),
        "endTime": int(ended * 1000) if ended else 0,
        "totalDuration": int(((ended or now) - query.started_at) * 1000),
        "errorCode": query.error_code,
        "errorMessage": query.error_message,
        "warehouseId": 1 if query.warehouse else 0,
        "warehouseName": query.warehouse,
        "warehouseExternalSize": "X-Small" if query.warehouse else None,
        "warehouseServerType": "STANDARD" if query.warehouse else None,
        "stats": {"scanBytes": 0, "producedRows": query.result.total if query.result else 0},
    }


def _answer(queries: list[Query]) -> Response:
    body = {
        "data": {"queries": [entry(query) for query in queries]},
        "code": None,
        "message": None,
        "success": True,
    }
    return Response(json.dumps(body, separators=(",", ":")), media_type="application/json")


def _user(request: Request) -> str:
    session = account_of(request).sessions.authenticate(request.headers.get("authorization"))
    request.state.entry.session = session.id
    return session.user


def _refused(error: SnowflakeError) -> Response:
    body = {"data": None, "code": error.code, "message": error.message, "success": False}
    return Response(json.dumps(body), media_type="application/json")


async def one(request: Request) -> Response:
    """Answer with one query; an unknown id, or another user's, is an empty list."""
    try:
        query = account_of(request).queries.get(request.path_params["query_id"], _user(request))
    except SnowflakeError as error:
        return _refused(error)
    return _answer([query] if query else [])


async def many(request: Request) -> Response:
    """Answer with the newest queries of the user that match ``user``, ``wh``, ``start``, ``end`` (ms), ``session_id``, ``subset``."""
    account = account_of(request)
    try:
        user = _user(request)
    except SnowflakeError as error:
        return _refused(error)
    wanted = request.query_params
    most = min(int(wanted.get("max") or DEFAULT_MAX), account.settings.list_limit)
    start = int(wanted.get("start") or 0) / 1000
    matches = _filter(user, dict(wanted))
    found: list[Query] = []
    for query in account.queries.newest_first():
        if len(found) == most or query.started_at < start:
            break
        if matches(query):
            found.append(query)
    return _answer(found)


def _filter(user: str, wanted: dict[str, str]) -> Callable[[Query], bool]:
    subset = _SUBSETS.get(wanted.get("subset", "").upper(), bool)
    named = wanted.get("user", user).upper()
    end = int(wanted.get("end") or 0) / 1000
    warehouse, session = wanted.get("wh", "").upper(), wanted.get("session_id", "")

    def matches(query: Query) -> bool:
        return (
            query.user == user == named
            and subset(query.state)
            and (not end or query.started_at <= end)
            and (not warehouse or query.warehouse == warehouse)
            and (not session or str(query.session_id) == session)
        )

    return matches


def routes() -> list[Route]:
    """Return the endpoints; some drivers send a double slash before the id."""
    return [
        Route("/monitoring/queries", many, methods=["GET"]),
        Route("/monitoring/queries/{query_id}", one, methods=["GET"]),
        Route("/monitoring/queries//{query_id}", one, methods=["GET"]),
    ]
