"""An event loop ends after its connections, however they were given up."""

import asyncio
import ssl

import aiohttp
import pytest

from astronomer.deferral.connector import Connector, untrusted
from astronomer.lab.tls import issue
from tests.sockets import MuteServer, given_up, nothing_left


@pytest.fixture
def certificates(tmp_path):
    return issue(tmp_path, "server")


@pytest.fixture
def trusting(certificates):
    return ssl.create_default_context(cafile=certificates.ca)


async def ask(session, server):
    async with session.post(f"https://localhost:{server.port}") as response:
        return await response.text()


@pytest.mark.parametrize("handshake", [True, False])
def test_of_a_request_that_is_given_up_nothing_is_left(certificates, trusting, handshake):
    async def main():
        async with aiohttp.ClientSession(connector=Connector(ssl=trusting)) as session:
            await given_up(ask(session, server), server)

    with MuteServer(certificates, handshake=handshake) as server, nothing_left():
        asyncio.run(main())


def test_a_request_in_flight_ends_with_the_session(certificates, trusting):
    async def main():
        async with aiohttp.ClientSession(connector=Connector(ssl=trusting)) as session:
            asking = asyncio.ensure_future(ask(session, server))
            await asyncio.to_thread(server.asked.wait)
        with pytest.raises(aiohttp.ClientConnectionError):
            await asking

    with MuteServer(certificates) as server, nothing_left():
        asyncio.run(main())


def test_a_session_never_used_closes():
    async def main():
        async with aiohttp.ClientSession(connector=Connector()) as session:
            pass
        assert session.closed

    asyncio.run(main())


def test_an_untrusted_certificate_says_what_to_do():
    said = untrusted(ssl.SSLCertVerificationError("self-signed"), ", or verify it otherwise")
    assert "SSL_CERT_FILE" in said
    assert "or verify it otherwise; verification cannot be switched off" in said


@pytest.mark.parametrize("error", [OSError("no"), TimeoutError(), KeyError("odd")])
def test_other_errors_need_no_advice(error):
    assert untrusted(error) == ""
