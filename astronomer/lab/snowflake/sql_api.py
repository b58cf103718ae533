"""The SQL API v2: ``/api/v2/statements``, sessionless, with bearer tokens.

Source: docs.snowflake.com/en/developer-guide/sql-api/reference.
"""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.snowflake.account import Account, result_expired
from astronomer.lab.snowflake.credentials import User
from astronomer.lab.snowflake.errors import SnowflakeError
from astronomer.lab.snowflake.queries import Query
from astronomer.lab.snowflake.results import Result
from astronomer.lab.snowflake.session_api import account_of, body_of, wait_for

__all__ = ["routes", "unauthorized"]

PATH = "/api/v2/statements"
TIMED_OUT = ("000630", "000631")
_CONTEXT = ("database", "schema", "warehouse", "role")
_RUNNING = (
    "Asynchronous execution in progress. Use provided query id to perform query monitoring and management."
)


def _user(request: Request) -> User:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise SnowflakeError("390101", "08001", "Authorization header not found in the request data.")
    kind = request.headers.get("x-snowflake-authorization-token-type", "OAUTH").upper()
    return account_of(request).credentials.bearer(token, kind)


def unauthorized(error: SnowflakeError) -> tuple[int, dict[str, Any]]:
    """Return the answer to a token that is not accepted."""
    body = {"code": error.code, "message": error.message, "data": None, "success": False, "headers": None}
    return 401, body


def _guarded(
    endpoint: Callable[[Request, User], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        try:
            user = _user(request)
        except SnowflakeError as error:
            status, body = unauthorized(error)
            return JSONResponse(body, status_code=status)
        try:
            return await endpoint(request, user)
        except SnowflakeError as error:
            status = 404 if error.code == "000709" else 422
            body = {"code": error.code, "message": error.message, "sqlState": error.sqlstate}
            return JSONResponse(body, status_code=status)

    return guarded


async def submit(request: Request, user: User) -> Response:
    """Run a statement: wait for it a while, or with ``async=true`` not at all."""
    account = account_of(request)
    try:
        body = await body_of(request)
    except ValueError:
        body = {}
    if not isinstance(body.get("statement"), str):
        text = "Incoming request does not contain a valid payload."
        return JSONResponse({"code": "390142", "message": text}, status_code=400)
    request_id = request.query_params.get("requestId") or str(uuid.uuid4())
    remembered = request.app.state.sql_api_requests
    query = remembered.get((user.name, request_id)) if _true(request, "retry") else None
    if query is None:
        query = _start(account, user, body, request_id)
        remembered[user.name, request_id] = query
    request.state.entry.session = query.session_id
    seconds = 0.0 if _true(request, "async") else account.settings.detach_after
    return await _answer(request, query, seconds)


def _start(account: Account, user: User, body: dict[str, Any], request_id: str) -> Query:
    given = {name: body.get(name) for name in _CONTEXT}
    if given["warehouse"] and account.warehouses.get(given["warehouse"]) is None:
        raise SnowflakeError("390201", "08004", "The requested warehouse does not exist or not authorized.")
    session = account.new_session(user.name, {**given, "parameters": None})
    parameters = dict(body.get("parameters") or {})
    if body.get("timeout") is not None:
        parameters["STATEMENT_TIMEOUT_IN_SECONDS"] = body["timeout"]
    query = account.new_query(
        session, body["statement"], parameters, body.get("bindings") or None, request_id=request_id
    )
    account.runner.submit(query)
    # A request has a session of its own, which ends with it.
    account.runner.end_session(session, cancel=False)
    return query


async def status(request: Request, user: User) -> Response:
    """Answer with the state of a statement, and with one partition of its rows once it has succeeded."""
    query = account_of(request).visible(request.path_params["handle"], user.name)
    request.state.entry.session = query.session_id
    return await _answer(request, query, 0.0)


async def cancel(request: Request, user: User) -> Response:
    """Cancel a statement."""
    account = account_of(request)
    query = account.visible(request.path_params["handle"], user.name)
    if account.abort(query):
        await wait_for(query, 5.0)
        text = "successfully canceled statement execution"
        return JSONResponse({**_common(query), "code": "000604", "sqlState": "57014", "message": text})
    body = {
        "code": "000605",
        "sqlState": "57014",
        "message": "Identified SQL statement is not currently executing.",
    }
    return JSONResponse({**_common(query), **body}, status_code=422)


async def _answer(request: Request, query: Query, seconds: float) -> Response:
    if not query.finished and not (seconds and await wait_for(query, seconds)):
        return JSONResponse({**_common(query), "code": "333334", "message": _RUNNING}, status_code=202)
    if query.result_lost:
        raise result_expired(query.id)
    if (result := query.result) is None:
        error = query.error
        body = {
            "code": error.code,
            "sqlState": error.sqlstate,
            "message": error.message,
            "createdOn": _created(query),
        }
        return JSONResponse({**_common(query), **body}, status_code=408 if error.code in TIMED_OUT else 422)
    return _rows(request, query, result)


def _rows(request: Request, query: Query, result: Result) -> Response:
    rows = account_of(request).settings.partition_rows
    number = int(request.query_params.get("partition") or 0)
    nullable = request.query_params.get("nullable", "true").lower() != "false"
    data = result.partition(number, rows, nullable=nullable)
    if number:
        # As the real service, partitions after the first are rows only, and always compressed.
        packed = gzip.compress(json.dumps({"data": data}).encode())
        return Response(packed, media_type="application/json", headers={"content-encoding": "gzip"})
    body: dict[str, Any] = {
        **_common(query),
        "code": "090001",
        "sqlState": "00000",
        "message": "Statement executed successfully.",
        "createdOn": _created(query),
        "resultSetMetaData": result.metadata(rows),
        "data": data,
    }
    if result.children:
        body["statementHandles"] = [child for child, _ in result.children]
    return JSONResponse(body)


def _common(query: Query) -> dict[str, Any]:
    url = f"{PATH}/{query.id}?requestId={query.request_id or query.id}"
    return {"statementHandle": query.id, "statementStatusUrl": url, "requestId": query.request_id}


def _created(query: Query) -> int:
    return int(query.started_at * 1000)


def _true(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def routes() -> list[Route]:
    """Return the endpoints."""
    return [
        Route(PATH, _guarded(submit), methods=["POST"]),
        Route(PATH + "/{handle}", _guarded(status), methods=["GET"]),
        Route(PATH + "/{handle}/cancel", _guarded(cancel), methods=["POST"]),
    ]
