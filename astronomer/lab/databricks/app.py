"""The workspace over HTTP: who asks, how often, and for what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount

from astronomer.lab.databricks import repair
from astronomer.lab.databricks.errors import ApiError, arguments
from astronomer.lab.databricks.workspace import Call, Endpoint, Workspace

if TYPE_CHECKING:
    from astronomer.lab.databricks.lab import DatabricksLab

__all__ = ["Application"]

_API = re.compile(r"/api/(\d\.\d)/(.*)")

_JOBS: dict[tuple[str, str], Endpoint] = {
    ("POST", "jobs/create"): Workspace.create,
    ("GET", "jobs/get"): Workspace.get_job,
    ("GET", "jobs/list"): Workspace.list_jobs,
    ("POST", "jobs/update"): Workspace.update_job,
    ("POST", "jobs/reset"): Workspace.reset_job,
    ("POST", "jobs/delete"): Workspace.delete_job,
    ("POST", "jobs/run-now"): Workspace.run_now,
    ("POST", "jobs/runs/submit"): Workspace.submit,
    ("GET", "jobs/runs/get"): Workspace.get,
    ("GET", "jobs/runs/list"): Workspace.list,
    ("GET", "jobs/runs/get-output"): Workspace.output,
    ("POST", "jobs/runs/cancel"): Workspace.cancel,
    ("POST", "jobs/runs/cancel-all"): Workspace.cancel_all,
    ("POST", "jobs/runs/delete"): Workspace.delete,
    ("POST", "jobs/runs/repair"): repair.repair,
}


class Application:
    """An ASGI application.

    :param routes: the parts of the API below ``/api`` that are not in the Jobs API.
    :param open_routes: what may be asked without a credential.
    """

    def __init__(
        self, lab: DatabricksLab, routes: Sequence[BaseRoute], open_routes: Sequence[BaseRoute]
    ) -> None:
        self._lab = lab
        self._rest = Starlette(
            routes=[*open_routes, Mount("/api", routes=list(routes))],
            exception_handlers={ApiError: _shown, 404: _no_such_endpoint, 405: _no_such_endpoint},
        )
        self._rest.state.lab = lab

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        found = _API.fullmatch(scope["path"])
        if found is None:
            await self._rest(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            user = scope["state"]["user"] = self._lab.credentials.user(
                request.headers.get("authorization", "")
            )
            self._lab.quotas.spend(found[2])
            endpoint = _JOBS.get((scope["method"], found[2]))
            if endpoint is None:
                await self._rest(scope, receive, send)
                return
            call = Call(await arguments(request), float(found[1]), user)
            answer = endpoint(self._lab.workspace, call)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        response = (
            Response(answer, media_type="application/json")
            if isinstance(answer, bytes)
            else JSONResponse(answer)
        )
        await response(scope, receive, send)


async def _shown(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for nothing else
    return error.response()


async def _no_such_endpoint(request: Request, _error: Exception) -> Response:
    message = f"No API found for '{request.method} {request.url.path.removeprefix('/api')}'"
    return ApiError(404, "ENDPOINT_NOT_FOUND", message).response()
