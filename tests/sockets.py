"""A server that stops answering, and what shows that no socket was left behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
import warnings
from contextlib import contextmanager

from astronomer.lab.tls import Certificates

__all__ = ["MuteServer", "given_up", "nothing_left", "server_tls"]


def server_tls(certificates: Certificates) -> ssl.SSLContext:
    """What a server shows its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.chain, certificates.key)
    return context


class MuteServer:
    """Takes one TLS connection and one request, and then neither answers nor says goodbye.

    :param handshake: whether it speaks TLS at all, or is mute from the beginning.
    """

    def __init__(self, certificates: Certificates, *, handshake: bool = True) -> None:
        self.asked = threading.Event()
        self._context = server_tls(certificates) if handshake else None
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> MuteServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()

    def _listen(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            return  # the test says what it waited for
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        with connection:
            connection.recv(65536)
            self.asked.set()
            self._over.wait()


async def given_up(asking, server: MuteServer) -> None:
    """Cancel a request once the server has it."""
    request = asyncio.ensure_future(asking)
    await asyncio.to_thread(server.asked.wait, 20)
    assert not request.done(), request
    request.cancel()
    await asyncio.wait({request})
    assert request.cancelled()


@contextmanager
def nothing_left():
    """An event loop that lives and ends in here leaves no socket for the garbage collector to close."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    assert not [said for one in caught if "socket" in (said := str(one.message)).lower()]
