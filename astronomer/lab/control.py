"""``/_lab``: a stand-in steered over HTTP, for tests and benchmarks whose Airflow runs in other processes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.front import CONTROL

if TYPE_CHECKING:
    from astronomer.lab.stand_in import StandIn

__all__ = ["Command", "routes"]

Command = Callable[[Any, dict[str, Any]], Any]
"""Does something with a stand-in and what was sent, the query of a GET or the body, and returns what is answered.

What it cannot do it says with ValueError, TypeError or LookupError.
"""


def health(lab: StandIn, _asked: dict[str, Any]) -> dict[str, Any]:
    """Tell that the lab is up."""
    return lab.health()


def secrets_known(lab: StandIn, _asked: dict[str, Any]) -> dict[str, str]:
    """Tell every credential ever given out or accepted, and what it is."""
    return lab.secrets()


def requests(lab: StandIn, asked: dict[str, Any]) -> Any:
    """Tell the request log, or what came after the epoch second ``since``, or with ``summary`` its counts."""
    if "summary" in asked:
        return lab.requests_summary()
    return lab.requests.as_json(float(asked.get("since", 0)))


def clear_requests(lab: StandIn, _asked: dict[str, Any]) -> dict[str, Any]:
    """Forget the request log."""
    lab.clear_requests()
    return {"cleared": True}


def faults(lab: StandIn, _asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Tell the faults in force with their hits."""
    return [
        {"path": one.path, "method": one.method, "times": one.times, "hits": one.hits, "effects": [str(e) for e in one.effects]}
        for one in lab.faults.active
    ]  # fmt: skip


def add_fault(lab: StandIn, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Put a fault in force, see ``Faults.script``."""
    lab.faults.script(asked)
    return faults(lab, {})


def clear_faults(lab: StandIn, _asked: dict[str, Any]) -> list[dict[str, Any]]:
    """End every fault."""
    lab.faults.clear()
    return []


EVERY: dict[str, Command] = {
    "GET health": health,
    "GET secrets": secrets_known,
    "GET requests": requests,
    "DELETE requests": clear_requests,
    "GET faults": faults,
    "POST faults": add_fault,
    "DELETE faults": clear_faults,
}
"""What every stand-in can be told."""


def routes(lab: StandIn, own: Mapping[str, Command]) -> list[Route]:
    """Return the endpoints of a stand-in: those of every one, and its own, by method and path."""
    return [_route(lab, name, command) for name, command in {**EVERY, **own}.items()]


def _route(lab: StandIn, name: str, command: Command) -> Route:
    method, path = name.split()

    async def answer(request: Request) -> Response:
        # Another user of the machine must not get at tokens with which tasks can be run.
        shown = request.headers.get("authorization", "")
        if command is not health and not secrets.compare_digest(shown, f"Bearer {lab.control_key}"):
            return JSONResponse({"error": "only who can read the lab's ca.key may steer it"}, status_code=403)
        try:
            sent = request.query_params if method == "GET" else json.loads(await request.body() or b"{}")
            return JSONResponse(command(lab, dict(sent)))
        except (ValueError, TypeError, LookupError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            return JSONResponse({"error": reason}, status_code=400)

    return Route(f"{CONTROL}/{path}", answer, methods=[method])
