"""The end of a served application: no client, however it behaves, holds it up or leaves a socket behind."""

import socket
import ssl
import threading
import time
from contextlib import closing, contextmanager

import pytest

from astronomer.lab.server import ThreadedServer
from astronomer.lab.tls import issue
from tests.lab.conftest import until
from tests.sockets import nothing_left


class Application:
    """Answers nothing; its requests do what the test says."""

    def __init__(self):
        self.asked = threading.Event()
        self.act = lambda transport: None

    async def __call__(self, scope, receive, send):
        self.act(scope["state"]["transport"])
        self.asked.set()
        while (await receive())["type"] != "http.disconnect":
            continue


@pytest.fixture
def application():
    return Application()


@pytest.fixture
def certificates(tmp_path):
    return issue(tmp_path, "server")


@contextmanager
def served(application, certificates):
    with nothing_left():
        server = ThreadedServer(application, certificates)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def connected(server):
    return closing(socket.create_connection(("127.0.0.1", server.port)))


def stopped(server):
    """Seconds that it took."""
    started = time.monotonic()
    server.stop()
    return time.monotonic() - started


def test_a_client_that_never_begins_the_handshake(application, certificates):
    with served(application, certificates) as server, connected(server) as client:
        until(lambda: len(server._listener._accepted) == 1)
        assert stopped(server) < 2
        assert client.recv(1) == b""


@pytest.mark.parametrize("closes", [0, 1, 2])
def test_a_client_that_never_says_goodbye(application, certificates, closes):
    # The second close() of a TLS transport forgets the connection: abort() does nothing afterwards.
    application.act = lambda transport: [transport.close() for _ in range(closes)]
    trusting = ssl.create_default_context(cafile=certificates.ca)
    with (
        served(application, certificates) as server,
        connected(server) as raw,
        trusting.wrap_socket(raw, server_hostname="localhost") as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert application.asked.wait(10)
        assert stopped(server) < 2
