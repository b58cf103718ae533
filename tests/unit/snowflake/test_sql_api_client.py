import asyncio
import contextlib

import pytest
from aiohttp import web

from astronomer.deferral import CredentialsRejected, Transient, clock
from astronomer.deferral._compat import PlainConnection
from astronomer.lab.tls import issue
from astronomer.providers.snowflake.hooks.sql_api import ReadSqlApiHook, SqlApiClient
from tests.sockets import MuteServer, given_up, nothing_left
from tests.unit.deferral.web import serving


class SignedHook(ReadSqlApiHook):
    def get_headers(self):
        return {"Authorization": "Bearer the-token"}


@pytest.fixture
def certificates(tmp_path, monkeypatch):
    found = issue(tmp_path, "server")
    monkeypatch.setenv("SSL_CERT_FILE", str(found.ca))
    return found


def connected_to(port):
    extra = {"account": "mute", "host": "localhost", "port": port}
    return PlainConnection("mute", "me", "secret", None, None, None, extra)


@contextlib.asynccontextmanager
async def asking(certificates, answer):
    async with serving(answer, certificates=certificates) as url:
        client = SqlApiClient(SignedHook(connected_to(int(url.rpartition(":")[2]))))
        try:
            yield client
        finally:
            await client.close()


async def test_a_home_directory_logs_nobody_in(certificates, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen = []

    async def answer(request):
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"statementHandle": "01"})

    async with asking(certificates, answer) as client:
        assert await client.look("01") == (200, {"statementHandle": "01"})
    assert seen == ["Bearer the-token"]


async def test_a_redirect_that_keeps_the_method_is_followed(certificates):
    seen = []

    async def answer(request):
        seen.append((request.method, request.path))
        if request.path.startswith("/api"):
            raise web.HTTPTemporaryRedirect("/moved")
        return web.json_response({"statementHandle": "01"}, status=202)

    async with asking(certificates, answer) as client:
        assert await client.submit({"statement": "SELECT 1"}, "a-request") == ["01"]
    assert seen == [("POST", "/api/v2/statements"), ("POST", "/moved")]


@pytest.mark.parametrize("status", [200, 202, 404, 408, 422])
async def test_an_answer_that_is_not_snowflakes_is_weather(certificates, status):
    async def answer(request):
        return web.Response(status=status)

    async with asking(certificates, answer) as client:
        with pytest.raises(Transient, match=f"GET /api/v2/statements/01: HTTP {status}, but"):
            await client.look("01")
        await client.cancel("01")  # what becomes of the statement is asked in any case


async def test_a_pause_that_no_answer_asks_for_is_not_taken(certificates):
    async def answer(request):
        return web.Response(status=429)

    async with asking(certificates, answer) as client:
        with pytest.raises(Transient, match="HTTP 429") as caught:
            await client.look("01")
    assert not caught.value.final


async def test_a_refusal_does_not_repeat_the_token(certificates):
    async def answer(request):
        return web.json_response({"message": f"who is {request.headers['Authorization']}?"}, status=403)

    async with asking(certificates, answer) as client:
        with pytest.raises(CredentialsRejected, match=r'HTTP 403 {"message": "who is Bearer \*\*\*\?"}'):
            await client.look("01")


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (401, {}, Transient),
        (403, {}, Transient),
        (403, {"WWW-Authenticate": "Basic"}, Transient),
        (401, {"WWW-Authenticate": "Bearer"}, CredentialsRejected),
    ],
)
async def test_a_gateways_page_is_no_refusal_unless_it_asks_for_a_login(certificates, status, headers, kind):
    asked = []

    async def answer(request):
        asked.append(request.path)
        return web.Response(status=status, text="<html>Forbidden</html>", headers=headers)

    async with asking(certificates, answer) as client:
        for call in (client.look, client.cancel):
            with pytest.raises(Transient, match=f"HTTP {status} <html>") as caught:
                await call("01")
            assert type(caught.value) is kind
    assert len(asked) == (2 if kind is Transient else 4), "only a refused token is signed anew"


async def test_a_refusal_to_sign_is_heard_by_all_who_wait(certificates, monkeypatch):
    tried = []

    def refuse(hook):
        tried.append(hook)
        raise ValueError("the key is broken")

    monkeypatch.setattr(SignedHook, "get_headers", refuse)
    client = SqlApiClient(SignedHook(connected_to(1)))
    refusals = await asyncio.gather(*(client.look("01") for _ in range(8)), return_exceptions=True)
    assert len(tried) == 1
    assert {type(refusal) for refusal in refusals} == {CredentialsRejected}
    assert "Airflow connection 'mute': ValueError: the key is broken" in str(refusals[0])
    later = clock.now() + 10.0
    monkeypatch.setattr(clock, "now", lambda: later)
    with pytest.raises(CredentialsRejected):
        await client.parameters()
    assert len(tried) == 2
    await client.close()


async def test_a_refused_token_is_signed_anew_once_for_all(certificates, monkeypatch):
    signed = []

    def sign(hook):
        signed.append(hook)
        return {"Authorization": f"Bearer {len(signed)}"}

    async def answer(request):
        old = request.headers["Authorization"] == "Bearer 1"
        return web.json_response({"statementHandle": "01"}, status=401 if old else 200)

    monkeypatch.setattr(SignedHook, "get_headers", sign)
    async with asking(certificates, answer) as client:
        await asyncio.gather(*(client.look("01") for _ in range(8)))
    assert len(signed) == 2


def test_of_a_look_that_is_given_up_nothing_is_left(certificates):
    async def main():
        client = SqlApiClient(SignedHook(connected_to(server.port)))
        await given_up(client.look("handle"), server)
        await client.close()

    with MuteServer(certificates) as server, nothing_left():
        asyncio.run(main())
