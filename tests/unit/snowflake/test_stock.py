"""What the stock hook makes of a connection, and what it means when it cannot."""

from __future__ import annotations

import asyncio

import pytest
import requests
from aiohttp import web
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral._compat import AirflowNotFoundException, PlainConnection
from astronomer.providers.snowflake.hooks.stock import (
    ReadHook,
    by_stock,
    connection_parameters,
    fixed_parameters,
    place_of,
)
from tests.unit.deferral.web import serving

NOWHERE = "http://127.0.0.1:1/token"
TOLD = "^the stock hook cannot prepare a login with the Airflow connection 'mine': "


def hook(login="client", password="a-secret", **extra):
    return ReadHook(PlainConnection("mine", login, password, None, None, None, {"account": "acme", **extra}))


def oauth(token_endpoint=NOWHERE, **extra):
    return hook(
        authenticator="oauth", grant_type="client_credentials", token_endpoint=token_endpoint, **extra
    )


def failing(error):
    def make():
        raise error

    return make


async def test_a_token_endpoint_that_refuses():
    async def answer(request):
        return web.json_response({"error": "invalid_client", "client_secret": "a-secret"}, status=401)

    async with serving(answer) as url:
        with pytest.raises(CredentialsRejected, match=f"{TOLD}HTTPError: 401 .*/token") as caught:
            await asyncio.to_thread(connection_parameters, oauth(f"{url}/token?key=a-secret"))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_a_page_in_place_of_a_token():
    async def answer(request):
        return web.Response(text="<html>sign in to the network</html>")

    async with serving(answer) as url:
        with pytest.raises(Transient, match=TOLD) as caught:
            await asyncio.to_thread(connection_parameters, oauth(url))
    assert type(caught.value) is Transient


def test_a_token_endpoint_that_is_out_of_reach():
    with pytest.raises(Transient, match=f"{TOLD}ConnectionError: reset") as caught:
        by_stock(hook(), failing(requests.ConnectionError("reset")))
    assert type(caught.value) is Transient


@pytest.mark.parametrize("content", [None, b"", b"no key at all"], ids=["missing", "empty", "broken"])
@pytest.mark.parametrize("ask", [connection_parameters, fixed_parameters, place_of])
def test_a_bad_private_key_file(tmp_path, content, ask):
    file = tmp_path / "key.p8"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CredentialsRejected, match=f"{TOLD}ValueError: "):
        ask(hook(private_key_file=str(file)))


def test_a_missing_connection_is_told_by_airflow_in_a_worker(monkeypatch):
    gone = failing(AirflowNotFoundException("The conn_id `other` isn't defined"))
    with pytest.raises(AirflowNotFoundException):
        by_stock(SnowflakeHook("mine"), gone)
    with pytest.raises(CredentialsRejected, match=f"{TOLD}AirflowNotFoundException: The conn_id `other`"):
        by_stock(hook(), gone)


@pytest.mark.parametrize(
    ("found", "place"),
    [
        (hook(), ("acme", "acme.snowflakecomputing.com", "client")),
        (hook(region="eu"), ("acme.eu", "acme.eu.snowflakecomputing.com", "client")),
        (hook(host="localhost"), ("acme", "localhost", "client")),
        (oauth(), ("acme", "acme.snowflakecomputing.com", None)),
    ],
    ids=["plain", "region", "host", "OAuth"],
)
def test_where_it_is_costs_no_token(found, place):
    assert tuple(place_of(found).values()) == place


def test_an_older_provider_has_one_property():
    class Older:
        @property
        def _get_conn_params(self):
            return {"account": "acme", "region": "eu", "user": "me", "authenticator": "snowflake"}

    assert fixed_parameters(Older()) == Older()._get_conn_params
    assert place_of(Older())["account"] == "acme.eu"
