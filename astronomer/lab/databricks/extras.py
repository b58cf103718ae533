"""The few endpoints outside of Jobs and SQL that clients ask on the way."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.databricks.errors import arguments, missing

__all__ = ["routes"]


async def me(request: Request) -> Response:
    """Answer who asks."""
    user = request.state.user
    return JSONResponse({"id": "1001", "userName": user, "displayName": user, "active": True})


async def spark_versions(_request: Request) -> Response:
    """Answer with one runtime: what the stock hook asks to test a connection."""
    return JSONResponse({"versions": [{"key": "16.4.x-scala2.12", "name": "16.4 LTS (lab)"}]})


async def zones(_request: Request) -> Response:
    """Answer with one zone."""
    return JSONResponse({"zones": ["local"], "default_zone": "local"})


async def status(request: Request) -> Response:
    """Answer what lies at a path of the workspace directory."""
    path = (await arguments(request)).text("path")
    directory = request.app.state.lab.workspace_directory
    for candidate in (path, path + ".py"):
        found = directory / candidate.lstrip("/")
        if found.exists():
            kind = "DIRECTORY" if found.is_dir() else "NOTEBOOK"
            shown: dict[str, Any] = {"object_type": kind, "path": path, "object_id": found.stat().st_ino}
            return JSONResponse(shown if kind == "DIRECTORY" else {**shown, "language": "PYTHON"})
    raise missing(f"Path ({path}) doesn't exist.")


async def permissions(request: Request) -> Response:
    """Answer with the permissions given, which nobody checks."""
    given = await arguments(request)
    job_id = request.path_params["job_id"]
    request.app.state.lab.workspace.jobs.find(int(job_id))
    listed = given.get("access_control_list", [])
    return JSONResponse({"object_id": f"/jobs/{job_id}", "object_type": "job", "access_control_list": listed})


async def queries(request: Request) -> Response:
    """Save a query for SQL tasks, or answer with one."""
    saved = request.app.state.lab.workspace.worker.queries
    query_id = request.path_params.get("id")
    if query_id is None:
        given = await arguments(request)
        query_id = str(uuid.uuid4())
        saved[query_id] = {**(given.get("query") or given), "id": query_id, "lifecycle_state": "ACTIVE"}
    if query_id not in saved:
        raise missing(f"Query {query_id} does not exist.")
    return JSONResponse(saved[query_id])


def routes() -> list[Route]:
    """Return the endpoints, relative to ``/api``."""
    return [
        Route("/2.0/preview/scim/v2/Me", me, methods=["GET"]),
        Route("/2.0/clusters/spark-versions", spark_versions, methods=["GET"]),
        Route("/2.1/clusters/spark-versions", spark_versions, methods=["GET"]),
        Route("/2.0/clusters/list-zones", zones, methods=["GET"]),
        Route("/2.1/clusters/list-zones", zones, methods=["GET"]),
        Route("/2.0/sql/queries", queries, methods=["POST"]),
        Route("/2.0/sql/queries/{id}", queries, methods=["GET"]),
        Route("/2.0/workspace/get-status", status, methods=["GET"]),
        Route("/2.0/permissions/jobs/{job_id}", permissions, methods=["GET", "PUT", "PATCH"]),
    ]
