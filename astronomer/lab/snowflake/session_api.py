"""The session API: what ``snowflake-connector-python`` and the other drivers speak."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from fakesnow.server import bucket_upload
from fakesnow.transforms import SERVER_VERSION
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.snowflake.account import NOT_EXECUTING, Account, Settings, result_expired
from astronomer.lab.snowflake.errors import SnowflakeError
from astronomer.lab.snowflake.queries import Query
from astronomer.lab.snowflake.sessions import Session, session_expired

__all__ = ["account_of", "body_of", "expired_reply", "routes", "wait_for"]

IN_PROGRESS, IN_PROGRESS_ASYNC = "333333", "333334"
ASYNC_ABORTS_AFTER = 300

Endpoint = Callable[[Request], Awaitable[Response]]


def account_of(request: Request) -> Account:
    """Return the account that a request is for."""
    account: Account = request.app.state.account
    return account


async def body_of(request: Request) -> dict[str, Any]:
    """Return the JSON body of a request, unpacked; an empty body is an empty object."""
    raw = await request.body()
    if request.headers.get("content-encoding") == "gzip" and raw:
        raw = gzip.decompress(raw)
    body = json.loads(raw or b"{}")
    return body if isinstance(body, dict) else {}


async def wait_for(query: Query, seconds: float) -> bool:
    """Wait until a query has ended, at most so long, and return whether it has."""
    try:
        await asyncio.wait_for(query.done.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


def _reply(
    data: Any, code: str | None = None, message: str | None = None, *, success: bool = True
) -> Response:
    return JSONResponse({"data": data, "code": code, "message": message, "success": success})


def _failure(error: SnowflakeError, data: dict[str, Any] | None = None) -> Response:
    return JSONResponse(
        {"data": data, "code": error.code, "message": error.message, "success": False, "headers": None}
    )


def expired_reply() -> tuple[int, Any]:
    """Return the answer to a request whose session token has expired."""
    error = session_expired()
    return 200, {"data": None, "code": error.code, "message": error.message, "success": False}


def _guarded(endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except SnowflakeError as error:
            # Clients read the SQLSTATE of a failed query from `data`; a session that is gone has none.
            gone = error.code.startswith("390")
            return _failure(error, None if gone else {"sqlState": error.sqlstate, "errorCode": error.code})

    return guarded


def _session(request: Request) -> Session:
    session = account_of(request).sessions.authenticate(request.headers.get("authorization"))
    request.state.entry.session = session.id
    return session


async def login(request: Request) -> Response:
    """Check the credentials and open a session."""
    account = account_of(request)
    data = (await body_of(request)).get("data") or {}
    try:
        user = account.credentials.log_in(data, request.state.entry.client_port)
        session = account.new_session(user.name, _context(request, data))
    except SnowflakeError as error:
        refused = {"nextAction": "RETRY_LOGIN", "authnMethod": "USERNAME_PASSWORD", "signInOptions": {}}
        return _failure(error, refused)
    async with session.lock:
        await account.runner.connection(session)
    request.state.entry.session = account.credentials.logins[-1].session = session.id
    return _reply(_welcome(session, account.settings))


def _context(request: Request, data: dict[str, Any]) -> dict[str, Any]:
    query = request.query_params
    return {
        "database": query.get("databaseName"),
        "schema": query.get("schemaName"),
        "warehouse": query.get("warehouse"),
        "role": query.get("roleName"),
        "parameters": data.get("SESSION_PARAMETERS"),
    }


def _welcome(session: Session, settings: Settings) -> dict[str, Any]:
    return {
        "token": session.token.text,
        "masterToken": session.master.text,
        "validityInSeconds": int(settings.session_seconds),
        "masterValidityInSeconds": int(settings.master_seconds),
        "sessionId": session.id,
        "displayUserName": session.user,
        "serverVersion": SERVER_VERSION,
        "firstLogin": False,
        "remMeToken": None,
        "remMeValidityInSeconds": 0,
        "healthCheckInterval": 45,
        "newClientForUpgrade": None,
        "idToken": None,
        "mfaToken": None,
        "parameters": session.parameters.as_login_reply(),
        "sessionInfo": {
            "databaseName": session.database,
            "schemaName": session.schema,
            "warehouseName": session.warehouse,
            "roleName": session.role,
        },
    }


async def renew(request: Request) -> Response:
    """Exchange the master token for new tokens."""
    account = account_of(request)
    account.end_expired()
    session = account.sessions.renew(request.headers.get("authorization"))
    request.state.entry.session = session.id
    return _reply(
        {
            "sessionToken": session.token.text,
            "validityInSecondsST": int(account.settings.session_seconds),
            "masterToken": session.master.text,
            "validityInSecondsMT": int(account.settings.master_seconds),
            "sessionId": session.id,
        }
    )


async def heartbeat(request: Request) -> Response:
    """Keep a session alive."""
    account_of(request).sessions.keep_alive(_session(request))
    return _reply(None)


async def session(request: Request) -> Response:
    """Log out, with ``?delete=true``: cancels what still runs in the session."""
    found = _session(request)
    if request.query_params.get("delete") == "true":
        account_of(request).runner.end_session(found, cancel=True)
    return _reply(None)


async def query_request(request: Request) -> Response:
    """Start a query, or join the one this session already started with the same requestId."""
    account, session = account_of(request), _session(request)
    body = await body_of(request)
    request_id = request.query_params.get("requestId") or str(uuid.uuid4())
    query = session.requests.get(request_id)
    if query is None:
        query = account.new_query(
            session,
            str(body.get("sqlText") or ""),
            body.get("parameters"),
            body.get("bindings"),
            request_id=request_id,
            asynchronous=bool(body.get("asyncExec")),
            describe_only=bool(body.get("describeOnly")),
            upload=(request.url.scheme, request.url.netloc),
        )
        session.requests[request_id] = query
        account.runner.submit(query)
    if query.asynchronous:
        return _in_progress(query)
    return await _outcome(account, query)


def _in_progress(query: Query) -> Response:
    data: dict[str, Any] = {
        "queryId": query.id,
        "getResultUrl": f"/queries/{query.id}/result",
        "progressDesc": None,
    }
    if query.asynchronous:
        data["queryAbortsAfterSecs"] = ASYNC_ABORTS_AFTER
        text = "Asynchronous execution in progress. Use provided query id to perform query monitoring and management."
        return _reply(data, IN_PROGRESS_ASYNC, text)
    return _reply(data, IN_PROGRESS, "Query execution in progress.")


async def _outcome(account: Account, query: Query) -> Response:
    """Answer with the result, with the error, or after a while with "still running"."""
    if not await wait_for(query, account.settings.detach_after):
        return _in_progress(query)
    if query.result_lost:
        raise result_expired(query.id)
    if query.result is None:
        error = query.error
        data = {
            "queryId": query.id,
            "sqlState": error.sqlstate,
            "errorCode": error.code,
            "internalError": False,
        }
        return _failure(error, {**data, "type": "COMPILATION", "line": -1, "pos": -1})
    return _reply(query.result.session_data(query.id, _final(query)))


def _final(query: Query) -> dict[str, Any]:
    session = query.session
    return {
        "finalDatabaseName": session.database,
        "finalSchemaName": session.schema,
        "finalWarehouseName": session.warehouse,
        "finalRoleName": session.role,
    }


async def result(request: Request) -> Response:
    """Answer with the result of a query of the same user, from any session."""
    account, session = account_of(request), _session(request)
    query = account.queries.get(request.path_params["query_id"], session.user)
    if query is None:
        raise result_expired(request.path_params["query_id"])
    return await _outcome(account, query)


async def abort_by_id(request: Request) -> Response:
    """Cancel a query of the same user, from any session."""
    account, session = account_of(request), _session(request)
    return _aborted(account, account.queries.get(request.path_params["query_id"], session.user))


async def abort_by_request(request: Request) -> Response:
    """Cancel the query that this session started with a requestId."""
    account, session = account_of(request), _session(request)
    body = await body_of(request)
    return _aborted(account, session.requests.get(str(body.get("requestId"))))


def _aborted(account: Account, query: Query | None) -> Response:
    if account.abort(query):
        return _reply(None)
    return _failure(SnowflakeError("000605", "57014", NOT_EXECUTING))


async def oauth_token(request: Request) -> Response:
    """Issue an OAuth access token for the lab's client, refresh token, or a user's password."""
    account = account_of(request)
    form = dict(parse_qsl((await request.body()).decode()))
    credentials = account.credentials
    seconds = 600.0
    user = credentials.authorize(form, request.headers.get("authorization"))
    if user is None:
        return JSONResponse(
            {"error": "invalid_client", "error_description": "not authorized"}, status_code=401
        )
    token = credentials.new_oauth_token(user, seconds)
    return JSONResponse(
        {"access_token": token, "token_type": "Bearer", "expires_in": int(seconds), "username": user}
    )


async def ignored(_request: Request) -> Response:
    """Accept and forget, as for telemetry."""
    return _reply(None)


def routes() -> list[Route]:
    """Return the endpoints."""
    return [
        Route("/session/v1/login-request", login, methods=["POST"]),
        Route("/session/token-request", _guarded(renew), methods=["POST"]),
        Route("/session/heartbeat", _guarded(heartbeat), methods=["POST"]),
        Route("/session", _guarded(session), methods=["POST"]),
        Route("/queries/v1/query-request", _guarded(query_request), methods=["POST"]),
        Route("/queries/v1/abort-request", _guarded(abort_by_request), methods=["POST"]),
        Route("/queries/{query_id}/result", _guarded(result), methods=["GET"]),
        Route("/queries/{query_id}/abort-request", _guarded(abort_by_id), methods=["POST"]),
        Route("/oauth/token-request", oauth_token, methods=["POST"]),
        Route("/telemetry/send", ignored, methods=["POST"]),
        Route("/fs_bucket/{path:path}", bucket_upload, methods=["PUT"]),
    ]
