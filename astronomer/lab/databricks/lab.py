"""The public face of the stand-in: starts it, steers it, and says how to connect to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from astronomer.lab import dns, tls
from astronomer.lab.databricks import control, credentials, extras, sql_face
from astronomer.lab.databricks.app import Application, dated
from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.conductor import Pace
from astronomer.lab.databricks.credentials import Credentials
from astronomer.lab.databricks.quotas import Quotas
from astronomer.lab.databricks.runs import Run
from astronomer.lab.databricks.seeding import seed
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.work import Worker
from astronomer.lab.databricks.workspace import Workspace
from astronomer.lab.faults import Faults
from astronomer.lab.front import Front
from astronomer.lab.request_log import Entry, RequestLog
from astronomer.lab.server import ThreadedServer

__all__ = ["DatabricksLab"]

T = TypeVar("T")
LOGIN = r"^/oidc/v1/token$"


class DatabricksLab(sql_face.SqlFace):
    """A local Databricks workspace.

    :param port: the port to listen on; 0 for any free one, known once started.
    :param directory: keeps the certificates, so that a restart uses the same; default a temporary one.
    :param quotas: whether the real service's limits of requests hold; a number multiplies them.
    :param speed: seconds of the workspace's clock per second.
    :param token_seconds: how long an OAuth token lives.
    :param startup_seconds: how long each task is PENDING; ``cancel_seconds``: how long a cancelled run is TERMINATING.
    """

    host = "localhost"
    cloud_host = "lab.cloud.databricks.com"

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
        self._temporary = None if directory else tempfile.TemporaryDirectory(prefix="astronomer-lab-")
        self.directory = Path(directory or self._temporary.name)  # type: ignore[union-attr]
        self.workspace_directory = self.directory / "workspace"
        self.workspace_directory.mkdir(parents=True, exist_ok=True)
        self._certificates = tls.issue(self.directory, "databricks", self.cloud_host)
        self.clock = Clock(speed)
        self.credentials = Credentials(self.clock, token_seconds)
        self.quotas = Quotas(self.clock, float(quotas))
        self.faults = Faults()
        self.requests = RequestLog(LOGIN, on_answer)
        self.sql = SqlEngine(self.clock, lambda: self.url)
        worker = Worker(self.clock, self.workspace_directory, self.sql)
        self.workspace = Workspace(
            self.clock, lambda: self.url, Pace(startup_seconds, cancel_seconds), worker
        )
        front = Front(self._application(), self.requests, self.faults, _expired)
        self._server = ThreadedServer(
            dated(front, self.clock), self._certificates, port=port, date_header=False
        )

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> DatabricksLab:
        """Return once the lab answers.

        :raises PortInUseError: the port is taken.
        """
        self._server.start()
        loop = self._server.loop
        assert loop is not None  # noqa: S101 - it answers
        self._do(lambda: self.clock.attach(loop))
        return self

    def stop(self) -> None:
        """End every run and its processes and close the port; the lab cannot be started again."""
        if self._server.loop is not None:
            with contextlib.suppress(RuntimeError):
                self._do(self._shut_down)
        self._server.stop()
        self.sql.shut_down()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _shut_down(self) -> None:
        self.workspace.conductor.stop()
        self.workspace.worker.close()
        self.clock.detach()

    def __enter__(self) -> DatabricksLab:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- how to connect ------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.port

    @property
    def url(self) -> str:
        """``https://localhost:<port>``."""
        return f"https://{self.host}:{self.port}"

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

    @property
    def ca_file(self) -> Path:
        """The lab's own certificate authority, PEM."""
        return self._certificates.ca

    @property
    def ca_bundle(self) -> Path:
        """The public authorities and the lab's own, PEM."""
        return self._certificates.bundle

    def client_env(self) -> dict[str, str]:
        """Return the variables that make ``requests``, ``aiohttp`` and the SDK trust the lab, and what they trusted."""
        return self._certificates.client_env()

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

    def connection_env(
        self, conn_id: str = "databricks_default", auth: str = "pat", **extra: Any
    ) -> dict[str, str]:
        """Return the variable that defines an Airflow connection."""
        return {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(self.airflow_connection(auth=auth, **extra))}

    def redirected(self) -> contextlib.AbstractContextManager[None]:
        """In this process, send requests for ``https://lab.cloud.databricks.com`` here."""
        return dns.redirected({self.cloud_host: self.port})

    # -- what happened -------------------------------------------------------------------------------------------------

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
                *control.routes(),
                *sql_face.open_routes(self.sql, self.credentials),
            ],
        )

    def _do(self, work: Callable[[], T]) -> T:
        """Run ``work`` where the workspace's state lives: in the server's loop once started, here before that."""
        loop = self._server.loop
        if loop is None:
            return work()

        async def there() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(there(), loop).result(60)


def _expired(path: str) -> tuple[int, Any]:
    if path.startswith("/oidc/"):
        return 401, {"error": "invalid_client", "error_description": "Client authentication failed"}
    error = credentials.invalid_token()
    return error.status, error.body()
