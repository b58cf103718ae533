"""The client against a workspace: every way to log in, every kind of weather, and as few requests as that takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys

import aiohttp
import pytest

from astronomer.deferral import CredentialsRejected, Transient, transport
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks.budget import RequestBudget
from astronomer.providers.databricks.hooks.client import DatabricksClient

LIST = "2.2/jobs/runs/list"
API = "^/api/"


def subject_token():
    """What a control plane would vend, for `federated_token_provider`."""
    return "lab-subject-token"


@contextlib.asynccontextmanager
async def client_of(conn_id="databricks_default", rate=None):
    client = await DatabricksClient.shared(conn_id)
    if rate:
        client.budget = RequestBudget(rate)
    try:
        yield client
    finally:
        await client.close()


# Logins.


@pytest.mark.parametrize("auth", ["pat", "oauth", "url"])
async def test_it_logs_in(lab, connect_as, auth):
    connect_as(auth=auth)
    before = lab.clock.now()
    async with client_of() as client:
        assert await client.get(LIST, active_only=True, limit=25) == {}
        assert before - 1 <= client.server_time <= lab.clock.now()


async def test_the_url_of_a_connection_says_it_all(lab, connect_as):
    connect_as(auth="url")
    async with client_of() as client:
        assert client.address == lab.url


async def test_two_connections_of_one_principal_share_everything(lab, connect_as):
    connect_as("one", auth="oauth")
    connect_as("two", auth="oauth", http_path="/sql/1.0/warehouses/1")
    async with client_of("one") as one, client_of("two") as two:
        assert one is two
        await asyncio.gather(*(client.get(LIST) for client in (one, two, one, two)))
    assert lab.requests.logins == 1


async def test_requests_at_once_take_one_token(lab, connect_as):
    connect_as(auth="oauth")
    async with client_of(rate=25) as client:
        await asyncio.gather(*(client.get(LIST) for _ in range(30)))
    assert lab.requests.logins == 1
    assert lab.requests.connections <= 6


async def test_one_connection_is_kept(lab):
    async with client_of(rate=25) as client:
        for _ in range(20):
            await client.get(LIST)
    assert lab.requests.count(API) == 20
    assert lab.requests.connections == 1


async def test_tokens_that_end_in_mid_use(lab, connect_as):
    connect_as(auth="oauth")
    async with client_of(rate=25) as client:
        await client.get(LIST)
        lab.expire_tokens()
        await asyncio.gather(*(client.get(LIST) for _ in range(10)))
    assert lab.requests.logins == 2


def test_the_event_loops_of_a_process_share_a_token(lab, connect_as):
    """A worker opens one for each step of an operator."""
    connect_as(auth="oauth")

    async def ask():
        async with client_of() as client:
            await client.get(LIST)

    for _ in range(3):
        asyncio.run(ask())
    assert lab.requests.logins == 1
    lab.expire_tokens()
    for _ in range(3):
        asyncio.run(ask())
    assert lab.requests.logins == 2
    assert lab.requests.count(API, status=403) + lab.requests.count(API, status=401) == 1
    lab.rotate_secret()
    connect_as(auth="oauth")
    asyncio.run(ask())
    assert lab.requests.logins == 3, "another secret had the token of the one before"


async def test_a_secret_rotated_in_mid_use(lab, connect_as):
    connect_as(auth="oauth")
    async with client_of() as client:
        await client.get(LIST)
        lab.rotate_secret()
        await client.get(LIST)  # the token goes on living
        lab.expire_tokens()
        with pytest.raises(CredentialsRejected, match="invalid_client"):
            await client.get(LIST)
        connect_as(auth="oauth")
        async with client_of() as again:
            assert again is not client
            await again.get(LIST)


async def test_a_token_rotated_in_mid_use(lab, connect_as):
    async with client_of() as client:
        await client.get(LIST)
        lab.rotate_token()
        with pytest.raises(CredentialsRejected, match="Invalid access token"):
            await client.get(LIST)
        async with client_of() as same_secret:  # nobody has edited the connection yet
            with pytest.raises(CredentialsRejected):
                await same_secret.get(LIST)
        connect_as()
        async with client_of() as again:
            await again.get(LIST)


@pytest.mark.parametrize(
    "extra",
    [
        {"federated_token_provider": f"{__name__}.subject_token"},
        {"federated_token_provider": f"{__name__}.subject_token", "client_id": "5d6f0c42"},
    ],
)
async def test_by_the_stock_hook(lab, connect_as, extra):
    """At the port of the workspace, too, where the stock hook alone would not look."""
    connect_as(auth="url", fields={"password": None, "extra": extra})
    async with client_of() as client:
        await asyncio.gather(*(client.get(LIST) for _ in range(3)))
        lab.expire_tokens()
        await client.get(LIST)
    assert lab.requests.logins == 2


async def test_by_the_stock_hook_that_is_refused(connect_as):
    extra = {"federated_token_provider": "getpass.getuser"}
    connect_as(auth="url", fields={"password": None, "extra": extra})
    async with client_of() as client:
        with pytest.raises(CredentialsRejected, match=r"the stock hook could not log in: .*invalid_grant"):
            await client.get(LIST)


async def test_by_the_stock_hook_in_bad_weather(lab, connect_as):
    extra = {"federated_token_provider": f"{__name__}.subject_token"}
    connect_as(auth="url", fields={"password": None, "extra": extra})
    async with client_of() as client:
        for weather in ("reset", "status"):
            lab.faults.clear()
            getattr(lab.faults, weather)(*([503] if weather == "status" else []), path="/oidc/")
            with pytest.raises(Transient) as caught:
                await client.get(LIST)
            assert type(caught.value) is Transient
        lab.faults.clear()
        await client.get(LIST)


@pytest.mark.parametrize("auth_type", ["oauth-m2m", "pat"])
async def test_by_the_sdk(lab, connect_as, monkeypatch, auth_type, tmp_path):
    monkeypatch.setenv("DATABRICKS_HOST", "https://stray.example.com")
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-stray")
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "stray")
    login = {"login": lab.client_id, "password": lab.client_secret}
    if auth_type == "pat":
        login = {"login": "token", "password": lab.token}
    connect_as(auth="url", fields={**login, "extra": {"auth_type": auth_type}})
    async with client_of() as client:
        await asyncio.gather(*(client.get(LIST) for _ in range(3)))
        if auth_type == "oauth-m2m":
            lab.expire_tokens()
            await client.get(LIST)


async def test_by_the_sdk_that_knows_no_such_way(connect_as):
    connect_as(auth="url", fields={"password": None, "extra": {"auth_type": "by-magic"}})
    async with client_of() as client:
        with pytest.raises(CredentialsRejected, match=r"databricks-sdk could not log in: .*by-magic"):
            await client.get(LIST)


# Weather.


@pytest.mark.parametrize("kind", ["reset", "cut", "lose_answer"])
async def test_a_broken_answer_is_weather(lab, kind):
    async with client_of() as client:
        getattr(lab.faults, kind)(API)
        with pytest.raises(Transient):
            await client.get(LIST)
        lab.faults.clear()
        await client.get(LIST)


@pytest.mark.parametrize("kind", ["reset", "cut", "lose_answer"])
async def test_an_order_is_given_once_whatever_becomes_of_the_answer(lab, kind):
    async with client_of() as client:
        await client.get(LIST)  # so that it goes over a connection that was used before
        getattr(lab.faults, kind)("jobs/create")
        with pytest.raises(Transient):
            await client.post("2.2/jobs/create", {"name": "once"})
    assert lab.requests.count("jobs/create") == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_in_trouble_is_weather(lab, status):
    async with client_of() as client:
        lab.faults.status(status, API, times=1)
        with pytest.raises(Transient, match=str(status)) as caught:
            await client.get(LIST)
        assert caught.value.retry_after is None
        await client.get(LIST)


async def test_a_slow_answer_is_weather(lab, monkeypatch):
    monkeypatch.setattr(transport, "_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    async with client_of() as client:
        lab.faults.slow(5, API, times=1)
        with pytest.raises(Transient, match="no answer in time"):
            await client.get(LIST)


async def test_a_retry_after_is_for_the_whole_client(lab, monkeypatch):
    loop = asyncio.get_running_loop()
    async with client_of() as client:
        lab.faults.status(429, "runs/list", retry_after=60, times=1)
        for request in (
            client.get(LIST),
            client.get("2.2/jobs/list"),
            client.post("2.2/jobs/runs/cancel", {}),
        ):
            with pytest.raises(Transient) as caught:
                await request
            assert 0 < caught.value.retry_after <= 66
        assert lab.requests.count(API) == 1
        assert client.budget.questions.rate == 5.0
        ahead, real = caught.value.retry_after, loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + ahead)
        await client.get(LIST)


async def test_bad_weather_at_the_token_endpoint(lab, connect_as):
    connect_as(auth="oauth")
    async with client_of() as client:
        for fault in ("reset", "cut"):
            getattr(lab.faults, fault)("^/oidc/", times=1)
            with pytest.raises(Transient) as caught:
                await client.get(LIST)
            assert type(caught.value) is Transient
        await client.get(LIST)


async def test_a_workspace_that_is_not_there(connect_as):
    connect_as(fields={"port": 1})
    async with client_of() as client:
        with pytest.raises(Transient, match="Cannot connect"):
            await client.get(LIST)


async def test_a_certificate_that_nobody_vouches_for(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    async with client_of() as client:
        with pytest.raises(Transient, match=r"(?i)certificate"):
            await client.get(LIST)


async def test_the_quota_of_the_list_is_never_touched(lab):
    async with client_of(rate=25) as client:
        await asyncio.gather(*(client.get(LIST) for _ in range(60)))
    assert lab.requests.count(API, status=429) == 0


# Refusals.


async def test_a_run_that_is_not_there():
    async with client_of() as client:
        with pytest.raises(RequestRejected, match="does not exist") as caught:
            await client.get("2.2/jobs/runs/get", run_id=1)
        assert caught.value.status in (400, 404)


async def test_a_page_that_is_too_long():
    async with client_of() as client:
        with pytest.raises(RequestRejected) as caught:
            await client.get(LIST, limit=26)
        assert (caught.value.status, caught.value.error_code) == (400, "INVALID_PARAMETER_VALUE")


# Proxies.


@contextlib.asynccontextmanager
async def tunnel():
    """A proxy for https: what it was asked, and its URL with a login in it."""
    seen, talks = [], []

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def handle(reader, writer):
        talks.append(asyncio.current_task())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        _, port = head.split()[1].split(":")
        there, back = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield seen, f"http://me:proxy-password@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait(talks, timeout=60)


@pytest.mark.parametrize("auth", ["pat", "oauth"])
async def test_the_proxies_of_the_connection(lab, connect_as, auth):
    async with tunnel() as (seen, url):
        connect_as(auth=auth, proxies={"https": url})
        async with client_of() as client:
            await client.get(LIST)
            await client.get(LIST)
    assert len(seen) == 1  # one connection serves the token endpoint and the API
    assert seen[0].startswith(f"CONNECT localhost:{lab.port}")
    assert "Proxy-Authorization: Basic " in seen[0]


# What it costs to import.

IMPORTS = """
import json, sys
import {module}
heavy = ("databricks.sdk", "databricks.sql", "airflow.providers.databricks.hooks", "pandas", "azure", "requests")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


@pytest.mark.parametrize("module", ["client", "workspace"])
def test_importing_it_imports_nothing_heavy(module):
    code = IMPORTS.format(module=f"astronomer.providers.databricks.hooks.{module}")
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert json.loads(told.stdout.splitlines()[-1]) == []
