"""HTTP as it is: what goes over the wire, and each way in which it fails."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web

from astronomer.deferral import Transient
from astronomer.deferral import transport as transport_module
from astronomer.deferral.transport import HttpAnswer, Transport, basic
from astronomer.lab.tls import issue
from tests.sockets import MuteServer, given_up, nothing_left
from tests.unit.deferral.web import PROXY_LOGIN, proxying, serving


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


class Patient(HttpAnswer):
    pause_untold = 5.0


@contextlib.asynccontextmanager
async def sending(proxies=None):
    transport = Transport(HttpAnswer, {"User-Agent": "tests"}, proxies=proxies)
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
    assert headers["User-Agent"] == "tests"
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


async def test_a_redirect_is_followed_where_that_is_wanted():
    asked = []

    async def answer(request):
        asked.append(request.path)
        if request.path == "/api":
            raise web.HTTPTemporaryRedirect("/elsewhere")
        return web.json_response({})

    async with serving(answer) as url, sending() as transport:
        assert (await transport.send("POST", f"{url}/api", json={})).status == 307
        assert (await transport.send("POST", f"{url}/api", json={}, redirected=True)).status == 200
    assert asked == ["/api", "/api", "/elsewhere"]


async def test_what_is_quoted_stays_as_it_is():
    asked = []

    async def answer(request):
        asked.append(request.raw_path)
        return web.json_response({})

    path = "/runs/scheduled__2026-01-01T00%3A00%2B00%3A00?signature=a%2Fb"
    async with serving(answer) as url, sending() as transport:
        await transport.send("GET", url + path)
        await transport.send("GET", f"{url}/list", params={"key": "a/b c"})
    assert asked == [path, "/list?key=a/b+c"]


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


async def nothing(reader, writer):
    await reader.readuntil(b"\r\n\r\n")


async def cut(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


async def garbage(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\x01\x02\r\n\r\n")


async def broken(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")


async def silence(reader, writer):
    await reader.read()


@pytest.mark.parametrize("talk", [reset, nothing, cut, garbage, broken, silence])
async def test_no_answer_is_weather(talk, monkeypatch):
    monkeypatch.setattr(transport_module, "_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    async with speaking(talk) as url, sending() as transport:
        with pytest.raises(Transient, match="GET /api") as caught:
            await transport.send("GET", f"{url}/api?signature=SECRET")
    assert caught.value.retry_after is None
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/api", "http://nowhere.invalid/api", "http:///api", "http://[bad/api"]
)
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
        transport = Transport(HttpAnswer, {})
        task = asyncio.ensure_future(transport.send("GET", url))
        await until(lambda: transport._http is not None and transport._http.connector._acquired)
        await transport.close()
        with pytest.raises(Transient):
            await task
        with pytest.raises(Transient, match="closed"):
            await transport.send("GET", url)


async def test_it_closes_while_it_opens():
    transport = Transport(HttpAnswer, {})
    task = asyncio.ensure_future(transport.send("GET", "http://127.0.0.1:1"))
    await until(transport._opening.locked)
    await transport.close()
    with pytest.raises(Transient, match="closed"):
        await task
    assert transport._http is None


def test_of_a_request_that_is_given_up_nothing_is_left(tmp_path, monkeypatch):
    certificates = issue(tmp_path, "server")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))

    async def main():
        transport = Transport(HttpAnswer, {})
        await given_up(transport.send("GET", f"https://localhost:{server.port}/api"), server)
        await transport.close()

    with MuteServer(certificates) as server, nothing_left():
        asyncio.run(main())


# Answers.


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "-7"}, 0.0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:30 GMT", "Date": "Thu, 01 Jan 2026 00:00:10 GMT"}, 20.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:30 GMT"}, 0.0),
    ],
)
def test_how_long_a_server_wants_to_be_left_alone(headers, seconds):
    assert HttpAnswer("GET /", 503, headers, b"").retry_after == seconds
    assert Patient("GET /", 429, headers, b"").retry_after == (5.0 if seconds is None else seconds)
    assert Patient("GET /", 503, headers, b"").retry_after == seconds


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff"])
def test_an_answer_that_is_no_object_is_weather(body):
    with pytest.raises(Transient, match="GET /: HTTP 200, but the answer is no JSON object"):
        HttpAnswer("GET /", 200, {}, body).document()


# Proxies.


@pytest.fixture
async def proxy(monkeypatch):
    async with proxying(monkeypatch) as found:
        yield found


async def test_the_proxy_of_the_connection(proxy):
    seen, url = proxy
    async with sending({"http": url}) as transport:
        assert (await transport.send("GET", "http://workspace.invalid/api")).well
    assert seen == [("http://workspace.invalid/api", basic(*PROXY_LOGIN)["Authorization"])]


async def test_the_proxy_of_the_environment(proxy, monkeypatch):
    seen, url = proxy
    monkeypatch.setenv("http_proxy", url)
    async with sending() as transport:
        assert (await transport.send("GET", "http://workspace.invalid/api")).well
    assert len(seen) == 1


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_error_shows_the_proxys_password(monkeypatch, scheme):
    monkeypatch.setenv(f"{scheme}_proxy", "http://{}:{}@127.0.0.1:1".format(*PROXY_LOGIN))
    async with sending() as transport:
        with pytest.raises(Transient) as caught:
            await transport.send("GET", f"{scheme}://workspace.invalid/api")
    assert PROXY_LOGIN[1] not in str(caught.value)


async def test_a_proxy_that_asks_for_no_login_and_has_no_scheme(proxy, monkeypatch):
    seen, url = proxy
    monkeypatch.setenv("http_proxy", url.rpartition("@")[2])
    async with sending() as transport:
        assert (await transport.send("GET", "http://workspace.invalid/api")).well
    assert seen == [("http://workspace.invalid/api", None)]


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
