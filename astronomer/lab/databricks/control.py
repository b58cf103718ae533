"""``/_lab``: the lab steered over HTTP, for tests and benchmarks whose Airflow runs in other processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.databricks.errors import ApiError
from astronomer.lab.databricks.seeding import seed
from astronomer.lab.front import CONTROL

if TYPE_CHECKING:
    from astronomer.lab.databricks.lab import DatabricksLab

__all__ = ["routes"]


def _lab(request: Request) -> DatabricksLab:
    lab: DatabricksLab = request.app.state.lab
    return lab


async def _body(request: Request) -> dict[str, Any]:
    return dict(json.loads(await request.body() or b"{}"))


async def health(request: Request) -> Response:
    """Answer that the lab is up."""
    lab = _lab(request)
    return JSONResponse(
        {"status": "ok", "service": "databricks", "active": lab.active, "now": lab.clock.now()}
    )


async def requests(request: Request) -> Response:
    """Answer with the request log, its counts with ``?summary``; DELETE forgets it."""
    lab = _lab(request)
    if request.method == "DELETE":
        lab.requests.clear()
        lab.quotas.throttled = lab.credentials.issued = 0
        return JSONResponse({"cleared": True})
    if "summary" not in request.query_params:
        return JSONResponse(lab.requests.as_json())
    counts = {"throttled": lab.quotas.throttled, "tokens": lab.credentials.issued, "active": lab.active}
    return JSONResponse({**lab.requests.summary(), **counts})


async def faults(request: Request) -> Response:
    """Put a fault in force, see ``Faults.script``; GET lists them with their hits, DELETE ends them all."""
    scripted = _lab(request).faults
    if request.method == "DELETE":
        scripted.clear()
    elif request.method == "POST":
        try:
            scripted.script(await _body(request))
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
    listed = [
        {"path": one.path, "method": one.method, "times": one.times, "hits": one.hits, "effects": [str(e) for e in one.effects]}
        for one in scripted.active
    ]  # fmt: skip
    return JSONResponse(listed)


async def runs(request: Request) -> Response:
    """Answer with every run, oldest first; ``?state=`` selects by result or life cycle, ``?active`` those that go on."""
    wanted = request.query_params
    found = [
        {
            "run_id": run.run_id,
            "job_id": run.job_id,
            "name": run.name,
            "kind": run.kind,
            "state": run.state.text,
            "ended": run.ended,
            "start_time": run.start_time,
            "end_time": run.end_time,
            "token": run.token,
            "creator": run.creator,
        }
        for run in _lab(request).runs.values()
        if wanted.get("state") in (None, run.state.text) and not ("active" in wanted and run.ended)
    ]
    return JSONResponse(found)


async def seeds(request: Request) -> Response:
    """Start runs that only wait, see ``seeding.seed``; answer with their ids."""
    body = await _body(request)
    try:
        ids = seed(_lab(request).workspace, int(body.pop("count", 1)), **body)
    except TypeError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return JSONResponse({"run_ids": ids})


async def clock(request: Request) -> Response:
    """Advance the clock by ``{"advance": seconds}``, or change its ``{"speed": ...}``; answer with the time."""
    body, clock = await _body(request), _lab(request).clock
    if "speed" in body:
        clock.speed = float(body["speed"])
    if "advance" in body:
        clock.advance(float(body["advance"]))
    return JSONResponse({"now": clock.now(), "speed": clock.speed})


async def quotas(request: Request) -> Response:
    """Multiply the limits by ``{"factor": ...}``; 0 is none at all."""
    limits = _lab(request).quotas
    limits.factor = float((await _body(request)).get("factor", 1))
    return JSONResponse({"factor": limits.factor})


async def credentials(request: Request) -> Response:
    """Do ``{"rotate_token": true}``, ``{"rotate_secret": true}`` or ``{"expire_tokens": true}``; answer what is valid."""
    body, held = await _body(request), _lab(request).credentials
    if body.get("rotate_token"):
        held.rotate_token()
    if body.get("rotate_secret"):
        held.rotate_secret()
    if body.get("expire_tokens"):
        held.expire_tokens()
    return JSONResponse(
        {"token": held.token, "client_id": held.client_id, "client_secret": held.client_secret}
    )


async def end(request: Request) -> Response:
    """Cancel ``{"run_id": ...}`` as a user would, or delete it with ``{"delete": true}``."""
    body, workspace = await _body(request), _lab(request).workspace
    try:
        run = workspace.find(int(body["run_id"]))
    except (ApiError, KeyError, ValueError) as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    if body.get("delete"):
        workspace.forget(run)
    else:
        workspace.conductor.cancel(run)
    return JSONResponse({"run_id": run.run_id, "state": run.state.text})


def routes() -> list[Route]:
    """Return the endpoints."""
    return [
        Route(CONTROL + "/health", health, methods=["GET"]),
        Route(CONTROL + "/requests", requests, methods=["GET", "DELETE"]),
        Route(CONTROL + "/faults", faults, methods=["GET", "POST", "DELETE"]),
        Route(CONTROL + "/runs", runs, methods=["GET"]),
        Route(CONTROL + "/seed", seeds, methods=["POST"]),
        Route(CONTROL + "/clock", clock, methods=["GET", "POST"]),
        Route(CONTROL + "/quotas", quotas, methods=["POST"]),
        Route(CONTROL + "/credentials", credentials, methods=["GET", "POST"]),
        Route(CONTROL + "/end", end, methods=["POST"]),
    ]
