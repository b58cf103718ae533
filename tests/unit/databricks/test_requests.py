"""What goes over the wire to a workspace, and to the storage that it names."""

from __future__ import annotations

import pytest
from aiohttp import web

from astronomer.deferral import Transient
from astronomer.deferral.transport import basic
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks.client import DatabricksClient
from tests.unit.databricks.fakes import pat
from tests.unit.deferral.web import PROXY_LOGIN, proxying, serving


async def test_who_asks():
    seen = []

    async def answer(request):
        seen.append(request.headers["User-Agent"])
        return web.json_response({})

    async with serving(answer) as url:
        for caller in ({}, {"caller": "tests"}):
            client = DatabricksClient(pat(), **caller)
            await client.fetch(url)
            await client.close()
    plain, called = seen
    assert plain.startswith("astronomer-providers/")
    assert called == f"{plain} caller/tests"


# Proxies.


@pytest.fixture
async def proxy(monkeypatch):
    async with proxying(monkeypatch, status=407) as found:
        yield found


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_proxy_of_the_connection(proxy, scheme):
    seen, url = proxy
    connection = pat(host="workspace.invalid", schema=scheme, extra_dejson={"proxies": {scheme: url}})
    client = DatabricksClient(connection)
    with pytest.raises((Transient, RequestRejected)) as caught:
        await client.get("refused")
    await client.close()
    assert PROXY_LOGIN[1] not in str(caught.value)
    if scheme == "http":
        assert seen == [("http://workspace.invalid/api/refused", basic(*PROXY_LOGIN)["Authorization"])]


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
