"""The public face of the stand-in: starts it, steers it, and says how to connect to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from astronomer.lab import control
from astronomer.lab.databricks import credentials, extras, sql_face
from astronomer.lab.databricks.app import Application
from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.conductor import Pace
from astronomer.lab.databricks.control import COMMANDS
from astronomer.lab.databricks.credentials import Credentials
from astronomer.lab.databricks.quotas import Quotas
from astronomer.lab.databricks.runs import Run
from astronomer.lab.databricks.seeding import seed
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.work import Worker
from astronomer.lab.databricks.workspace import Workspace
from astronomer.lab.request_log import Entry

__all__ = ["DatabricksLab"]


class DatabricksLab(sql_face.SqlFace):
    """A local Databricks workspace.

    :param port: the port to listen on; 0 for any free one, known once started.
    :param directory: keeps the certificates, so that a restart uses the same; default a temporary one.
    :param quotas: whether the real service's limits of requests hold; a number multiplies them.
    :param speed: seconds of the workspace's clock per second.
    :param token_seconds: how long an OAuth token lives.
    :param startup_seconds: how long each task is PENDING; ``cancel_seconds``: how long a cancelled run is TERMINATING.
    """

    service = "databricks"
    cloud_host = "lab.cloud.databricks.com"
    login_path = r"^/oidc/v1/token$"

    def __init__(
        self,
        *,
        port: int = 0,
        directory: Path | None = None,
        on_answer: Callable[[Entry], None] | None = None,
        quotas: bool | float = True,
        speed: float = 1.0,
        token_seconds: float = 3600.0,
        startup_seconds: float = 0.0,
        cancel_seconds: float = 0.2,
    ) -> None:
        super().__init__(port=port, directory=directory, on_answer=on_answer)
        self.workspace_directory = self.directory / "workspace"
        self.workspace_directory.mkdir(exist_ok=True)
        self.clock = Clock(speed)
        self.credentials = Credentials(self.clock, token_seconds, self.issued)
        self.quotas = Quotas(self.clock, float(quotas))
        self.sql = SqlEngine(self.clock, lambda: self.url, self.issued)
        worker = Worker(self.clock, self.workspace_directory, self.sql)
        pace = Pace(startup_seconds, cancel_seconds)
        self.workspace = Workspace(self.clock, lambda: self.url, pace, worker)

    # -- life ----------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.clock.attach(asyncio.get_running_loop())

    async def _end(self) -> None:
        self.workspace.conductor.stop()
        self.clock.detach()
        self.workspace.worker.close()

    def _close(self) -> None:
        self.sql.shut_down()

    def _now(self) -> float:
        return self.clock.now()

    # -- how to connect ------------------------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        """The personal access token that is valid now."""
        return self.credentials.token

    @property
    def client_id(self) -> str:
        """The service principal's id."""
        return self.credentials.client_id

    @property
    def client_secret(self) -> str:
        """The service principal's secret that is valid now."""
        return self.credentials.client_secret

    def airflow_connection(self, *, auth: str = "pat", cloud: bool = False, **extra: Any) -> dict[str, Any]:
        """Return an Airflow connection as a dictionary.

        :param auth: ``pat``, ``oauth`` for the service principal, or ``url`` for a personal access token and the whole
            URL in ``host``, which the stock hook does not understand.
        :param cloud: name ``cloud_host`` without a port, for use within ``redirected()``: the stock hook asks the
            default port for OAuth tokens, whatever the connection says.
        :param extra: more fields of the connection's extra.
        """
        where: dict[str, Any] = {"host": self.host, "schema": "https", "port": self.port}
        if cloud:
            where = {"host": self.cloud_host}
        ways: dict[str, dict[str, Any]] = {
            "pat": {**where, "password": self.token},
            "oauth": {**where, "login": self.client_id, "password": self.client_secret},
            "url": {"host": self.url, "password": self.token},
        }
        if auth not in ways:
            raise ValueError(f"unknown auth {auth!r}; use one of {', '.join(ways)}")
        more = {"service_principal_oauth": True} if auth == "oauth" else {}
        extra = {"http_path": self.sql.warehouses.default.path, **more, **extra}
        return {"conn_type": "databricks", **ways[auth], "extra": extra}

    # -- what happened -------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Return that the lab is up, how many runs are ``active``, and its time ``now``."""
        return {**super().health(), "active": self.active, "now": self.clock.now()}

    def requests_summary(self) -> dict[str, Any]:
        """Return the counts of the request log, of ``throttled`` requests, of ``tokens``, and of ``active`` runs."""
        counts = {
            "throttled": self.quotas.throttled,
            "tokens": self.credentials.issued,
            "active": self.active,
        }
        return {**super().requests_summary(), **counts}

    def clear_requests(self) -> None:
        """Forget the request log and the counts of throttled requests and tokens."""
        super().clear_requests()
        self.quotas.throttled = self.credentials.issued = 0

    @property
    def runs(self) -> dict[int, Run]:
        """A copy of id -> run, oldest first, without the runs of tasks; the records themselves are live."""
        return dict(self.workspace.index.runs)

    @property
    def active(self) -> int:
        """How many runs have not ended."""
        return self.workspace.index.active()

    # -- what shall happen ---------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self.clock.advance(seconds)

    def rotate_token(self) -> str:
        """Return a new personal access token; the old one is answered 403 from now on."""
        return self._do(self.credentials.rotate_token)

    def rotate_secret(self) -> str:
        """Return a new client secret; the old one is answered 401, and tokens issued for it go on living."""
        return self._do(self.credentials.rotate_secret)

    def expire_tokens(self) -> int:
        """End every OAuth token now, and return how many lived."""
        return self._do(self.credentials.expire_tokens)

    def cancel_by_user(self, run_id: int) -> None:
        """Cancel a run as somebody does in the workspace's pages."""
        self._do(lambda: self.workspace.conductor.cancel(self.workspace.find(run_id)))

    def delete_run(self, run_id: int) -> None:
        """Delete a run, whatever its state."""
        self._do(lambda: self.workspace.forget(self.workspace.find(run_id)))

    def seed(self, count: int, **options: Any) -> list[int]:
        """Start many runs that only wait, and return their ids; see ``seeding.seed``."""
        return self._do(lambda: seed(self.workspace, count, **options))

    def _application(self) -> Application:
        return Application(
            self,
            routes=[*extras.routes(), *sql_face.routes(self.sql)],
            open_routes=[
                *credentials.routes(self.credentials),
                *control.routes(self, COMMANDS),
                *sql_face.open_routes(self.sql, self.credentials),
            ],
        )

    def _expired(self, path: str) -> tuple[int, Any]:
        if path.startswith("/oidc/"):
            return 401, {"error": "invalid_client", "error_description": "Client authentication failed"}
        error = credentials.invalid_token()
        return error.status, error.body()
