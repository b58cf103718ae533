"""``/_lab``: the lab steered over HTTP, for tests and benchmarks whose Airflow runs in other processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.front import CONTROL
from astronomer.lab.snowflake.errors import SnowflakeError

if TYPE_CHECKING:
    from astronomer.lab.snowflake.lab import SnowflakeLab

__all__ = ["routes"]


def _lab(request: Request) -> SnowflakeLab:
    lab: SnowflakeLab = request.app.state.lab
    return lab


async def health(request: Request) -> Response:
    """Answer that the lab is up, and who may log in."""
    lab = _lab(request)
    return JSONResponse({"status": "ok", "service": "snowflake", "account": lab.account, "user": lab.user})


async def requests(request: Request) -> Response:
    """Answer with the request log, its counts with ``?summary``; DELETE forgets it."""
    log = _lab(request).requests
    if request.method == "DELETE":
        log.clear()
        return JSONResponse({"cleared": True})
    return JSONResponse(log.summary() if "summary" in request.query_params else log.as_json())


async def faults(request: Request) -> Response:
    """Put a fault in force, see ``Faults.script``; GET lists them with their hits, DELETE ends them all."""
    scripted = _lab(request).faults
    if request.method == "DELETE":
        scripted.clear()
    elif request.method == "POST":
        try:
            scripted.script(json.loads(await request.body() or b"{}"))
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
    listed = [
        {"path": one.path, "method": one.method, "times": one.times, "hits": one.hits, "effects": [str(e) for e in one.effects]}
        for one in scripted.active
    ]  # fmt: skip
    return JSONResponse(listed)


async def expire(request: Request) -> Response:
    """Expire what the body names: ``{"session": true}``, ``{"master": true, "direct": false}``, ``{"results": true}``."""
    account, body = _lab(request).account_state, json.loads(await request.body() or b"{}")
    if body.get("session"):
        account.sessions.expire_tokens()
    if body.get("master"):
        account.expire_masters(direct=bool(body.get("direct")))
    if body.get("results"):
        account.expire_results()
    return JSONResponse({"expired": sorted(name for name, wanted in body.items() if wanted)})


async def queries(request: Request) -> Response:
    """Answer with every query, oldest first; ``?tag=`` and ``?state=`` select."""
    wanted = request.query_params
    found = [
        query.as_json()
        for query in _lab(request).account_state.queries.snapshot().values()
        if wanted.get("tag") in (None, query.tag) and wanted.get("state") in (None, query.state)
    ]
    return JSONResponse(found)


async def abort(request: Request) -> Response:
    """Cancel ``{"query_id": ...}`` as an administrator would."""
    account, body = _lab(request).account_state, json.loads(await request.body() or b"{}")
    return JSONResponse({"aborted": account.abort(account.queries.get(str(body.get("query_id"))))})


async def warehouses(request: Request) -> Response:
    """Create, change, suspend (``"suspended": true``) or drop (``"exists": false``) the warehouse ``name``."""
    account, body = _lab(request).account_state, json.loads(await request.body() or b"{}")
    try:
        if body.pop("suspended", False):
            account.warehouses.suspend(str(body["name"]))
        else:
            account.warehouses.set(**body)
    except (TypeError, KeyError, SnowflakeError) as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return JSONResponse({"name": body.get("name")})


async def password(request: Request) -> Response:
    """Change the user's password to ``{"password": ...}``."""
    lab, body = _lab(request), json.loads(await request.body() or b"{}")
    lab.account_state.credentials.users[lab.user].password = lab.password = str(body["password"])
    return JSONResponse({"user": lab.user})


async def transactions(request: Request) -> Response:
    """Answer with the open transactions."""
    found: list[dict[str, Any]] = [
        {"id": one.id, "user": one.user, "session_id": one.session_id, "name": one.name}
        for one in _lab(request).account_state.open_transactions()
    ]
    return JSONResponse(found)


def routes() -> list[Route]:
    """Return the endpoints."""
    return [
        Route(CONTROL + "/health", health, methods=["GET"]),
        Route(CONTROL + "/requests", requests, methods=["GET", "DELETE"]),
        Route(CONTROL + "/faults", faults, methods=["GET", "POST", "DELETE"]),
        Route(CONTROL + "/expire", expire, methods=["POST"]),
        Route(CONTROL + "/queries", queries, methods=["GET"]),
        Route(CONTROL + "/abort", abort, methods=["POST"]),
        Route(CONTROL + "/warehouses", warehouses, methods=["POST"]),
        Route(CONTROL + "/password", password, methods=["POST"]),
        Route(CONTROL + "/transactions", transactions, methods=["GET"]),
    ]
