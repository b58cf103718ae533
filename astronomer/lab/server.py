"""An ASGI application served over TLS on the loopback interface, from a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from astronomer.lab.front import Application
from astronomer.lab.tls import Certificates

__all__ = ["LOOPBACK", "PortInUseError", "ThreadedServer"]

LOOPBACK = "127.0.0.1"
STARTUP_SECONDS = 30.0
ANSWERING_SECONDS = 0.2
GRACEFUL_SECONDS = 3  # whatever else goes wrong
SHUTDOWN_SECONDS = 10.0
WORK_SECONDS = 60.0
_TURNS = 100  # of the event loop; a connection that is shut down takes a few

T = TypeVar("T")
Ending = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


class PortInUseError(OSError):
    """The port asked for is taken; choose another, or 0 for any free one."""


class _Listener(socket.socket):
    """A listening socket that knows what it has accepted: uvicorn knows no connection before its TLS handshake."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._accepted: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        connection, address = super().accept()
        self._accepted.add(connection)
        return connection, address

    def shut_down(self) -> bool:
        """End every connection that is still open; whether there was one."""
        still_open = [connection for connection in self._accepted if connection.fileno() != -1]
        for connection in still_open:
            with contextlib.suppress(OSError):  # the other side was quicker
                connection.shutdown(socket.SHUT_RDWR)
        return bool(still_open)


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP, with the connection in ``scope["state"]["transport"]`` so that a fault can break it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}
        self.access_log = False  # whatever the process's logging says: the lab has its own log


class _Server(uvicorn.Server):
    """A server that says when it answers, and whose end no client holds up."""

    def __init__(self, config: uvicorn.Config, listener: _Listener, ending: Ending) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._listener = listener
        self._ending = ending

    async def on_tick(self, counter: int) -> bool:
        self.ready.set()  # not sooner: told to exit before the first tick, it would leave out its shutdown
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._ending()
        except Exception:
            log.exception("the stand-in could not end everything that ran in it")
        closing = asyncio.ensure_future(super().shutdown(sockets))
        await asyncio.wait([closing], timeout=ANSWERING_SECONDS)
        # A client that keeps its connection open would otherwise hold up the end.
        self.end_connections()
        await closing

    def end_connections(self) -> bool:
        """Break off what is open; whether there was anything. It has ended a few turns of the loop later."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        return self._listener.shut_down()


async def _nothing() -> None:
    return None


class ThreadedServer:
    """Serves ``app`` from ``start()`` to ``stop()``.

    :param port: the port to listen on, or 0 for any free one.
    :param ending: what is done in the loop before the port is closed.
    """

    def __init__(
        self, app: Application, certificates: Certificates, *, port: int = 0, ending: Ending = _nothing
    ) -> None:
        self.port = port
        self._ending = ending
        self.loop: asyncio.AbstractEventLoop | None = None
        self._app = app
        self._certificates = certificates
        self._thread: threading.Thread | None = None
        self._server: _Server | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Return once requests are answered.

        :raises PortInUseError: another process listens on the port.
        """
        listener = self._bind()
        self.port = listener.getsockname()[1]
        self._server = server = _Server(self._config(), listener, self._ending)
        self._thread = threading.Thread(
            target=self._run, args=(server, listener), name="astronomer.lab", daemon=True
        )
        self._thread.start()
        if not server.ready.wait(STARTUP_SECONDS) or self._error:
            raise RuntimeError(f"the stand-in on port {self.port} did not start") from self._error

    def do(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns in the loop's thread, or in this one while nothing is served."""
        loop = self.loop
        if loop is None or threading.current_thread() is self._thread:
            return work()
        done: Future[T] = Future()

        def there() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
                done.set_exception(error)

        loop.call_soon_threadsafe(there)
        return done.result(WORK_SECONDS)

    def stop(self) -> None:
        """Return once the port is closed; further calls do nothing."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(SHUTDOWN_SECONDS)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(SHUTDOWN_SECONDS)
        self._server = self._thread = None

    def _bind(self) -> _Listener:
        # With the protocol left out, asyncio does not switch Nagle's algorithm off, and each answer takes 40 ms more.
        listener = _Listener(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
            interface="asgi3",
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=2048,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
            ssl_certfile=str(self._certificates.chain),
            ssl_keyfile=str(self._certificates.key),
        )

    def _run(self, server: _Server, listener: _Listener) -> None:
        try:
            asyncio.run(self._serve(server, listener))
        except BaseException as error:  # noqa: BLE001 - reported to the thread that called start()
            self._error = error
        finally:
            self.loop = None
            server.ready.set()

    async def _serve(self, server: _Server, listener: _Listener) -> None:
        self.loop = asyncio.get_running_loop()
        await server.serve(sockets=[listener])
        # What is open when the loop ends would be left behind for the garbage collector to complain of.
        for _ in range(_TURNS):
            if not server.end_connections():
                break
            await asyncio.sleep(0)
