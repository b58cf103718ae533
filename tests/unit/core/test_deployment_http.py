"""HTTP to another deployment as it is: what goes over the wire, and each way in which it fails."""

from __future__ import annotations

import contextlib

import pytest
from aiohttp import web

from astronomer.deferral import Transient
from astronomer.lab.tls import issue
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable, NoSuchApi
from astronomer.providers.core.hooks.deployment_http import new_transport
from tests.unit.deferral.web import serving


@contextlib.asynccontextmanager
async def sending(ca_file=None):
    sends = new_transport(ca_file)
    try:
        yield sends
    finally:
        await sends.close()


async def test_what_is_sent():
    seen = []

    async def answer(request):
        seen.append((request.method, request.raw_path, request.headers, await request.text()))
        return web.json_response({})

    async with serving(answer) as url, sending() as sends:
        await sends.send(
            "GET", f"{url}/api/v2/dags/a/dagRuns/scheduled__2026-01-01T00%3A00%2B00%3A00?limit=1"
        )
        await sends.send(
            "POST", f"{url}/list", json={"dag_ids": ["a"]}, headers={"Authorization": "Bearer x"}
        )
    (_, path, headers, _), (_, _, _, body) = seen
    assert path == "/api/v2/dags/a/dagRuns/scheduled__2026-01-01T00%3A00%2B00%3A00?limit=1"
    assert headers["User-Agent"].startswith("astronomer-providers/")
    assert "Authorization" not in headers
    assert body == '{"dag_ids": ["a"]}'


async def test_no_redirect_is_followed():
    paths = []

    async def answer(request):
        paths.append(request.path)
        raise web.HTTPFound("/login")

    async with serving(answer) as url, sending() as sends:
        found = await sends.send("POST", f"{url}/api", json={}, headers={"Authorization": "Bearer x"})
    assert isinstance(found.error(), NoSuchApi)
    assert paths == ["/api"]


async def test_a_private_authority(tmp_path):
    async def answer(request):
        return web.json_response({"well": True})

    certificates = issue(tmp_path, "server")
    async with serving(answer, certificates=certificates) as url:
        async with sending() as sends:
            with pytest.raises(Transient, match="certificate verify failed"):
                await sends.send("GET", url)
        async with sending(str(certificates.ca)) as sends:
            assert (await sends.send("GET", url)).document() == {"well": True}


async def test_an_authority_that_is_none(tmp_path):
    (tmp_path / "ca.pem").write_text("nonsense")
    async with sending(str(tmp_path / "ca.pem")) as sends:
        with pytest.raises(ConnectionUnusable, match=r"ca\.pem cannot be read"):
            await sends.send("GET", "https://localhost:9/")
