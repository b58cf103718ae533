"""HTTP to another deployment as it is: what goes over the wire, and each way in which it fails."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest
from aiohttp import web

from astronomer.deferral import Transient
from astronomer.lab.tls import issue
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable, NoSuchApi
from astronomer.providers.core.hooks.deployment_http import Transport
from tests.sockets import MuteServer, nothing_left


@contextlib.asynccontextmanager
async def serving(answer, *, tls=None):
    """A web server on the loopback interface; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "localhost", 0, ssl_context=tls).start()
        port = runner.addresses[0][1]
        yield f"http{'s' if tls else ''}://localhost:{port}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def speaking(what):
    """A server that reads a request, says ``what`` and hangs up, or resets the connection; its URL."""

    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if what is None:
            writer.transport.abort()
            return
        writer.write(what)
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def sending(ca_file=None):
    transport = Transport(ca_file)
    try:
        yield transport
    finally:
        await transport.close()


async def test_what_is_sent():
    seen = []

    async def answer(request):
        seen.append((request.method, request.raw_path, request.headers, await request.text()))
        response = web.json_response({})
        response.set_cookie("session", "1")
        return response

    async with serving(answer) as url, sending() as transport:
        await transport.send(
            "GET", f"{url}/api/v2/dags/a/dagRuns/scheduled__2026-01-01T00%3A00%2B00%3A00?limit=1"
        )
        await transport.send(
            "POST", f"{url}/list", json={"dag_ids": ["a"]}, headers={"Authorization": "Bearer x"}
        )
    (_, path, headers, _), (_, _, _, body) = seen
    assert path == "/api/v2/dags/a/dagRuns/scheduled__2026-01-01T00%3A00%2B00%3A00?limit=1"
    assert headers["User-Agent"].startswith("astronomer-providers/")
    assert "Authorization" not in headers
    assert body == '{"dag_ids": ["a"]}'
    assert "Cookie" not in seen[1][2]


async def test_a_home_directory_logs_nobody_in(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    async def answer(request):
        return web.json_response({"authorization": request.headers.get("Authorization")})

    async with serving(answer) as url, sending() as transport:
        assert (await transport.send("GET", url)).document() == {"authorization": None}


async def test_no_redirect_is_followed():
    paths = []

    async def answer(request):
        paths.append(request.path)
        raise web.HTTPFound("/login")

    async with serving(answer) as url, sending() as transport:
        found = await transport.send("POST", f"{url}/api", json={}, headers={"Authorization": "Bearer x"})
    assert isinstance(found.error(), NoSuchApi)
    assert paths == ["/api"]


@pytest.mark.parametrize(
    "what",
    [
        None,
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
async def test_an_answer_that_is_none(what):
    async with speaking(what) as url, sending() as transport:
        with pytest.raises(Transient, match="GET /api"):
            await transport.send("GET", f"{url}/api")


async def test_nobody_there():
    async with sending() as transport:
        with pytest.raises(Transient):
            await transport.send("GET", "http://127.0.0.1:9/api")
        with pytest.raises(Transient):
            await transport.send("GET", "https://no-such-host.invalid/api")


async def test_a_closed_client():
    transport = Transport()
    await transport.close()
    with pytest.raises(Transient, match="closed"):
        await transport.send("GET", "http://127.0.0.1:9/api")


async def test_a_private_authority(tmp_path):
    async def answer(request):
        return web.json_response({"well": True})

    certificates = issue(tmp_path, "server")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates.chain, certificates.key)
    async with serving(answer, tls=tls) as url:
        async with sending() as transport:
            with pytest.raises(Transient, match="certificate verify failed"):
                await transport.send("GET", url)
        async with sending(str(certificates.ca)) as transport:
            assert (await transport.send("GET", url)).document() == {"well": True}


async def test_an_authority_that_is_none(tmp_path):
    (tmp_path / "ca.pem").write_text("nonsense")
    async with sending(str(tmp_path / "ca.pem")) as transport:
        with pytest.raises(ConnectionUnusable, match=r"ca\.pem cannot be read"):
            await transport.send("GET", "https://localhost:9/")


async def test_a_proxy_of_the_environment(monkeypatch):
    seen = []

    async def answer(request):
        seen.append((request.raw_path, request.headers.get("Proxy-Authorization")))
        return web.json_response({})

    async with serving(answer) as url, sending() as transport:
        monkeypatch.setenv("http_proxy", url.replace("http://", "http://me:proxy-secret@"))
        monkeypatch.setenv("no_proxy", "direct.example.com")
        await transport.send("GET", "http://airflow.example.com/api")
        monkeypatch.setenv("http_proxy", "http://me:proxy-secret@127.0.0.1:9")
        with pytest.raises(Transient) as caught:
            await transport.send("GET", "http://airflow.example.com/api")
    assert seen == [("http://airflow.example.com/api", "Basic bWU6cHJveHktc2VjcmV0")]
    assert "proxy-secret" not in str(caught.value)


async def test_a_host_without_a_proxy(monkeypatch):
    async def answer(request):
        return web.json_response({"well": True})

    async with serving(answer) as url, sending() as transport:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "localhost")
        assert (await transport.send("GET", url)).document() == {"well": True}


def test_of_a_request_that_is_given_up_nothing_is_left(tmp_path):
    certificates = issue(tmp_path, "server")

    async def main():
        transport = Transport(str(certificates.ca))
        asking = asyncio.ensure_future(transport.send("GET", f"https://localhost:{server.port}/api"))
        await asyncio.to_thread(server.asked.wait, 20)
        assert not asking.done(), asking
        asking.cancel()
        await asyncio.wait({asking})
        await transport.close()

    with MuteServer(certificates) as server, nothing_left():
        asyncio.run(main())
