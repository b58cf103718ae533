"""SQL warehouses: which exist, which run, and the statements that wait for one."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.errors import ApiError, invalid

if TYPE_CHECKING:
    from astronomer.lab.databricks.sql import SqlEngine

__all__ = ["Warehouse", "Warehouses", "routes"]

STARTER = "Serverless Starter Warehouse"


@dataclass(eq=False)
class Warehouse:
    """One warehouse.

    :param start_seconds: how long it takes to start, seconds of the workspace.
    :param auto_start: whether a statement starts it.
    :param concurrency: how many statements it runs at once, or None for any number; the others are PENDING.
    """

    id: str
    name: str
    state: str = "RUNNING"
    start_seconds: float = 0.0
    auto_start: bool = True
    concurrency: int | None = None
    running: int = 0
    line: deque[Callable[[], None]] = field(default_factory=deque, repr=False)

    @property
    def path(self) -> str:
        """The ``http_path`` of the SQL connector."""
        return f"/sql/1.0/warehouses/{self.id}"

    def described(self, origin: str) -> dict[str, Any]:
        """Return the warehouse as the API describes it."""
        host, _, port = origin.partition("://")[2].partition(":")
        up = self.state in {"RUNNING", "STARTING"}
        return {
            "id": self.id,
            "name": self.name,
            "size": "XXSMALL",
            "cluster_size": "2X-Small",
            "min_num_clusters": 1,
            "max_num_clusters": 1,
            "num_clusters": int(up),
            "num_active_sessions": self.running,
            "auto_stop_mins": 10,
            "auto_resume": self.auto_start,
            "creator_name": "lab@example.com",
            "state": self.state,
            "spot_instance_policy": "COST_OPTIMIZED",
            "enable_photon": True,
            "enable_serverless_compute": True,
            "warehouse_type": "PRO",
            "channel": {"name": "CHANNEL_NAME_CURRENT"},
            "jdbc_url": f"jdbc:spark://{host}:{port or 443}/default;transportMode=http;ssl=1;httpPath={self.path};",
            "odbc_params": {
                "hostname": host,
                "path": self.path,
                "port": int(port or 443),
                "protocol": "https",
            },
            "health": {"status": "HEALTHY"} if up else {},
        }


class Warehouses:
    """The warehouses of a workspace. Every method may be called from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._by_id: dict[str, Warehouse] = {}
        self.default = self.add(STARTER)

    def all(self) -> list[Warehouse]:
        """Return every warehouse."""
        return list(self._by_id.values())

    def add(self, name: str, **settings: Any) -> Warehouse:
        """Create a warehouse."""
        warehouse = Warehouse(secrets.token_hex(8), name, **settings)
        self._by_id[warehouse.id] = warehouse
        return warehouse

    def remove(self, warehouse_id: str) -> None:
        """Delete a warehouse."""
        self._by_id.pop(warehouse_id, None)

    def get(self, warehouse_id: str) -> Warehouse:
        """Return a warehouse.

        :raises ApiError: there is none with this id.
        """
        if found := self._by_id.get(warehouse_id):
            return found
        if len(warehouse_id) != 16 or not all(c in "0123456789abcdef" for c in warehouse_id):
            raise invalid(f"{warehouse_id} is not a valid endpoint id.")
        raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"SQL warehouse {warehouse_id} does not exist.")

    def start(self, warehouse_id: str) -> None:
        """Start a warehouse, or do nothing if it runs."""
        warehouse = self.get(warehouse_id)
        with self._lock:
            if warehouse.state in {"RUNNING", "STARTING"}:
                return
            warehouse.state = "STARTING"
        if warehouse.start_seconds > 0:
            self._clock.call_later(warehouse.start_seconds, lambda: self._started(warehouse))
        else:
            self._started(warehouse)

    def stop(self, warehouse_id: str) -> None:
        """Stop a warehouse: what runs on it goes on, what comes later waits for its start."""
        with self._lock:
            self.get(warehouse_id).state = "STOPPED"

    def _started(self, warehouse: Warehouse) -> None:
        with self._lock:
            if warehouse.state == "STARTING":
                warehouse.state = "RUNNING"
        self._serve(warehouse)

    def enter(self, warehouse_id: str, ready: Callable[[], None]) -> None:
        """Call ``ready`` once the warehouse runs and has a place, maybe at once; each place is given back by ``leave``.

        :raises ApiError: there is no such warehouse.
        """
        warehouse = self.get(warehouse_id)
        with self._lock:
            warehouse.line.append(ready)
            sleeping = warehouse.state == "STOPPED" and warehouse.auto_start
        if sleeping:
            self.start(warehouse_id)
        self._serve(warehouse)

    def withdraw(self, warehouse_id: str, ready: Callable[[], None]) -> bool:
        """Leave the line, and return whether ``ready`` was still in it."""
        with self._lock:
            warehouse = self._by_id.get(warehouse_id)
            if warehouse is None or ready not in warehouse.line:
                return False
            warehouse.line.remove(ready)
            return True

    def leave(self, warehouse_id: str) -> None:
        """Give a place back."""
        warehouse = self._by_id.get(warehouse_id)
        if warehouse is None:
            return
        with self._lock:
            warehouse.running -= 1
        self._serve(warehouse)

    def _serve(self, warehouse: Warehouse) -> None:
        while ready := self._next(warehouse):
            ready()

    def _next(self, warehouse: Warehouse) -> Callable[[], None] | None:
        with self._lock:
            full = warehouse.concurrency is not None and warehouse.running >= warehouse.concurrency
            if warehouse.state != "RUNNING" or full or not warehouse.line:
                return None
            warehouse.running += 1
            return warehouse.line.popleft()


def routes(engine: SqlEngine) -> list[Route]:
    """Return the endpoints under ``/api``."""
    warehouses = engine.warehouses

    async def listing(request: Request) -> Response:
        key = request.url.path.rpartition("/")[2]
        return JSONResponse({key: [one.described(engine.origin()) for one in warehouses.all()]})

    async def one(request: Request) -> Response:
        return JSONResponse(warehouses.get(request.path_params["id"]).described(engine.origin()))

    async def start(request: Request) -> Response:
        warehouses.start(request.path_params["id"])
        return JSONResponse({})

    async def stop(request: Request) -> Response:
        warehouses.stop(request.path_params["id"])
        return JSONResponse({})

    return [
        route
        for root in ("/2.0/sql/warehouses", "/2.0/sql/endpoints")
        for route in (
            Route(root, listing, methods=["GET"]),
            Route(root + "/{id}", one, methods=["GET"]),
            Route(root + "/{id}/start", start, methods=["POST"]),
            Route(root + "/{id}/stop", stop, methods=["POST"]),
        )
    ]
