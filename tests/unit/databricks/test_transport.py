"""HTTP as it is: what goes over the wire, and each way in which it fails."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web

from astronomer.deferral import Transient
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks import transport as transport_module
from astronomer.providers.databricks.hooks.client import DatabricksClient
from astronomer.providers.databricks.hooks.credentials import basic
from astronomer.providers.databricks.hooks.transport import Transport
from tests.unit.databricks.fakes import pat

PASSWORDS = ("me", "proxy-password")


@contextlib.asynccontextmanager
async def serving(answer):
    """A web server on the loopback interface; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def speaking(talk):
    """A server that speaks as ``talk(reader, writer)`` does; its URL."""
    talks = []

    async def handle(reader, writer):
        talks.append(asyncio.current_task())
        try:
            await talk(reader, writer)
            await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for one in talks:
            one.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


@contextlib.asynccontextmanager
async def sending(proxies=None):
    transport = Transport(proxies or {}, "tests")
    try:
        yield transport
    finally:
        await transport.close()


async def until(condition):
    while not condition():  # noqa: ASYNC110  # nobody sets an event for it
        await asyncio.sleep(0)


async def test_what_is_sent():
    seen = []

    async def answer(request):
        seen.append((request.method, request.path_qs, dict(request.headers), await request.text()))
        response = web.json_response({})
        response.set_cookie("session", "1")
        return response

    async with serving(answer) as address, sending() as transport:
        url = address.replace("127.0.0.1", "localhost")  # aiohttp keeps no cookies of an address
        await transport.send("GET", f"{url}/api", params=[("a", "1"), ("a", "2")])
        await transport.send("POST", f"{url}/api", json={"run_id": 7}, headers={"Authorization": "Bearer x"})
    (_, question, headers, _), (_, _, _, body) = seen
    assert question == "/api?a=1&a=2"
    assert headers["User-Agent"].startswith("astronomer-providers/")
    assert headers["User-Agent"].endswith("caller/tests")
    assert "Authorization" not in headers
    assert body == '{"run_id": 7}'
    assert "Cookie" not in seen[1][2]


async def test_a_home_directory_logs_nobody_in(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    async def answer(request):
        return web.json_response({"authorization": request.headers.get("Authorization")})

    async with serving(answer) as url, sending() as transport:
        assert (await transport.send("GET", url)).document() == {"authorization": None}


async def test_no_redirect_is_followed():
    async def answer(request):
        raise web.HTTPFound("http://elsewhere.example.com/")

    async with serving(answer) as url, sending() as transport:
        found = await transport.send("POST", f"{url}/api", json={})
    assert found.status == 302
    assert isinstance(found.error(), Transient)


async def test_one_connection_is_kept():
    peers = []

    async def answer(request):
        peers.append(request.transport.get_extra_info("peername"))
        return web.json_response({})

    async with serving(answer) as url, sending() as transport:
        for _ in range(5):
            await transport.send("GET", url)
        assert transport._http.connector._keepalive_timeout > 60
    assert len(set(peers)) == 1


async def reset(reader, writer):
    await reader.readline()
    writer.transport.abort()


async def cut(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


async def garbage(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\x01\x02\r\n\r\n")


async def silence(reader, writer):
    await reader.read()


@pytest.mark.parametrize("talk", [reset, cut, garbage, silence])
async def test_no_answer_is_weather(talk, monkeypatch):
    monkeypatch.setattr(transport_module, "_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    async with speaking(talk) as url, sending() as transport:
        with pytest.raises(Transient, match="GET /api") as caught:
            await transport.send("GET", f"{url}/api?signature=SECRET")
    assert caught.value.retry_after is None
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/api", "http://nowhere.invalid/api", "http:///api"])
async def test_a_host_that_is_not_there_is_weather(url):
    async with sending() as transport:
        with pytest.raises(Transient):
            await transport.send("GET", f"{url}?signature=SECRET")


async def test_a_header_that_cannot_be_sent_is_no_defect():
    async with speaking(silence) as url, sending() as transport:
        with pytest.raises(Transient, match="ValueError"):
            await transport.send("GET", url, headers={"X": "a\r\nb"})


async def test_a_cancelled_request_is_cancelled():
    async with speaking(silence) as url, sending() as transport:
        task = asyncio.ensure_future(transport.send("GET", url))
        await until(lambda: transport._http is not None and transport._http.connector._acquired)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_requests_under_way_when_it_closes():
    async with speaking(silence) as url:
        transport = Transport({}, "tests")
        task = asyncio.ensure_future(transport.send("GET", url))
        await until(lambda: transport._http is not None and transport._http.connector._acquired)
        await transport.close()
        with pytest.raises(Transient):
            await task
        with pytest.raises(Transient, match="closed"):
            await transport.send("GET", url)


async def test_it_closes_while_it_opens():
    transport = Transport({}, "tests")
    task = asyncio.ensure_future(transport.send("GET", "http://127.0.0.1:1"))
    await until(transport._opening.locked)
    await transport.close()
    with pytest.raises(Transient, match="closed"):
        await task
    assert transport._http is None


# Proxies.


@pytest.fixture
async def proxy(monkeypatch):
    """A proxy for plain HTTP: the requests it has seen, and its URL with a login in it."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    seen = []

    async def answer(request):
        seen.append((str(request.url), request.headers.get("Proxy-Authorization")))
        return web.json_response({"proxied": True}, status=407 if request.path == "/refused" else 200)

    async with serving(answer) as url:
        yield seen, url.replace("http://", "http://{}:{}@".format(*PASSWORDS))


async def test_the_proxy_of_the_connection(proxy):
    seen, url = proxy
    async with sending({"http": url}) as transport:
        assert (await transport.send("GET", "http://workspace.invalid/api")).well
    assert seen == [("http://workspace.invalid/api", basic(*PASSWORDS)["Authorization"])]


async def test_the_proxy_of_the_environment(proxy, monkeypatch):
    seen, url = proxy
    monkeypatch.setenv("http_proxy", url)
    async with sending() as transport:
        assert (await transport.send("GET", "http://workspace.invalid/api")).well
    assert len(seen) == 1


async def test_the_connections_comes_before_the_environments(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with sending({"http": proxy[1]}) as transport:
        assert (await transport.send("GET", "http://workspace.invalid/api")).well


async def test_no_proxy_where_the_environment_wants_none(proxy, monkeypatch):
    seen, url = proxy
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    async def answer(request):
        return web.json_response({"proxied": False})

    async with serving(answer) as direct, sending() as transport:
        assert (await transport.send("GET", direct)).document() == {"proxied": False}
    assert not seen


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_error_shows_the_proxys_password(proxy, scheme):
    _, url = proxy
    client = DatabricksClient(
        pat(host="workspace.invalid", schema=scheme, extra_dejson={"proxies": {scheme: url}})
    )
    for broken in (url, "http://{}:{}@127.0.0.1:1".format(*PASSWORDS)):
        client._transport._proxies = {scheme: broken}
        with pytest.raises((Transient, RequestRejected)) as caught:
            await client.get("../refused")
        assert PASSWORDS[1] not in str(caught.value)
    await client.close()


# Storage links.


@pytest.fixture
async def storage():
    """A storage service: what it was sent, and where it is."""
    seen = []

    async def answer(request):
        seen.append(dict(request.headers))
        kind = request.path.rsplit("/", 1)[1]
        if kind == "expired":
            body = "<Error><Code>ExpiredToken</Code><Token-0>SECRET</Token-0></Error>"
            return web.Response(status=403, text=body)
        if kind == "busy":
            return web.Response(status=503, text="<Code>SlowDown</Code>")
        return web.Response(body=b"\x00rows")

    async with serving(answer) as url:
        yield seen, url


async def test_a_storage_link_is_not_shown_the_token(storage):
    seen, url = storage
    client = DatabricksClient(pat())
    assert await client.fetch(f"{url}/bucket/chunk?signature=a%2Fb") == b"\x00rows"
    assert "Authorization" not in seen[0]
    await client.close()


async def test_a_storage_link_that_is_no_longer_good(storage):
    client = DatabricksClient(pat())
    with pytest.raises(RequestRejected) as caught:
        await client.fetch(f"{storage[1]}/bucket/expired?signature=SECRET")
    assert (caught.value.status, caught.value.error_code) == (403, "ExpiredToken")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(Transient, match="SlowDown"):
        await client.fetch(f"{storage[1]}/bucket/busy?signature=SECRET")
    await client.close()
