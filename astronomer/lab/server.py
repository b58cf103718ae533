"""An ASGI application served over TLS on the loopback interface, from a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

import uvicorn
from uvicorn._types import ASGIApplication
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from astronomer.lab.tls import Certificates

__all__ = ["LOOPBACK", "PortInUseError", "ThreadedServer"]

LOOPBACK = "127.0.0.1"
STARTUP_SECONDS = 30.0
ANSWERING_SECONDS = 0.2
SHUTDOWN_SECONDS = 10.0


class PortInUseError(OSError):
    """The port asked for is taken; choose another, or 0 for any free one."""


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP, with the connection in ``scope["state"]["transport"]`` so that a fault can break it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class ThreadedServer:
    """Serves ``app`` from ``start()`` to ``stop()``.

    :param port: the port to listen on, or 0 for any free one.
    """

    def __init__(self, app: ASGIApplication, certificates: Certificates, *, port: int = 0) -> None:
        self.port = port
        self.loop: asyncio.AbstractEventLoop | None = None
        self._app = app
        self._certificates = certificates
        self._thread: threading.Thread | None = None
        self._server: uvicorn.Server | None = None
        self._socket: socket.socket | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Return once requests are answered.

        :raises PortInUseError: another process listens on the port.
        """
        self._socket = self._bind()
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(self._config())
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="astronomer.lab", daemon=True)
        self._thread.start()
        if not ready.wait(STARTUP_SECONDS) or self._error:
            raise RuntimeError(f"the stand-in on port {self.port} did not start") from self._error

    def stop(self) -> None:
        """Return once the port is closed; further calls do nothing."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(ANSWERING_SECONDS)
        if (loop := self.loop) is not None:
            # A client that keeps its connection open would otherwise hold up the end.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._abort_connections)
        self._thread.join(SHUTDOWN_SECONDS)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(SHUTDOWN_SECONDS)
        self._server = self._thread = None

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, self.port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            raise PortInUseError(error.errno, f"port {self.port} on {LOOPBACK} is already in use") from error
        return listener

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=2048,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=3,
            ssl_certfile=str(self._certificates.chain),
            ssl_keyfile=str(self._certificates.key),
        )

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 - reported to the thread that called start()
            self._error = error
        finally:
            self.loop = None
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        assert self._server is not None and self._socket is not None
        self.loop = asyncio.get_running_loop()
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.005)
        ready.set()
        await serving
        self._abort_connections()
        await asyncio.sleep(0.01)

    def _abort_connections(self) -> None:
        if self._server is not None:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()  # type: ignore[union-attr]
