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

pytestmark = pytest.mark.usefixtures("patient_servers")


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
def served(application, certificates, **settings):
    with nothing_left():
        server = ThreadedServer(application, certificates, **settings)
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
        until(lambda: len(server._server._listener._accepted) == 1)
        assert stopped(server) < 30
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
        assert application.asked.wait(60)
        assert stopped(server) < 30


def test_an_end_right_after_the_beginning(application, certificates):
    ended = threading.Event()

    async def ending():
        ended.set()

    with served(application, certificates, ending=ending):
        pass
    assert ended.is_set()


def test_work_is_done_where_the_application_runs(application, certificates):
    with served(application, certificates) as server:
        assert server.do(threading.current_thread) is server._thread
        assert server.do(lambda: server.do(lambda: "there already")) == "there already"
        with pytest.raises(ZeroDivisionError):
            server.do(lambda: 1 / 0)
    assert server.do(threading.current_thread) is threading.current_thread()


def test_the_ending_comes_before_the_port_is_closed_and_may_fail(application, certificates, caplog):
    async def ending():
        with connected(server):
            raise OSError("cannot end")

    with served(application, certificates, ending=ending) as server:
        assert stopped(server) < 30
    assert "could not end everything that ran in it" in caplog.text
    assert "cannot end" in caplog.text
