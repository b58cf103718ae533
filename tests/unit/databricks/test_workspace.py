"""Which workspace a connection means: by the stock hook's rules, and a full URL besides."""

from __future__ import annotations

import pytest
from airflow.providers.databricks.hooks.databricks_base import BaseDatabricksHook
from hypothesis import given
from hypothesis import strategies as st

from astronomer.deferral import CredentialsRejected
from astronomer.providers.databricks.hooks.workspace import Secrets, Workspace
from tests.unit.databricks.fakes import connection, pat, principal

# What the stock hook understands, too.
COMMON = [
    {"host": "x.cloud.databricks.com"},
    {"host": "x.cloud.databricks.com/"},
    {"host": "x.cloud.databricks.com:8443"},
    {"host": "https://x.cloud.databricks.com"},
    {"host": "https://x.cloud.databricks.com/?o=123#job/1"},
    {"host": "http://x.cloud.databricks.com"},
    {"host": "x", "schema": "http"},
    {"host": "x", "schema": "https", "port": 8443},
    {"host": "127.0.0.1", "schema": "http", "port": 8080},
    {"host": "https://x", "schema": "http", "port": 8080},
    {"host": "x", "extra_dejson": {"host": "y"}},
    {"host": None, "extra_dejson": {"host": "https://y/"}},
    {"host": "[::1]", "port": 8443},
]


def stock_address(fields):
    hook = BaseDatabricksHook()
    hook.__dict__["databricks_conn"] = connection(**fields)
    return hook._endpoint_url("api").removesuffix("/api")


@pytest.mark.parametrize("fields", COMMON)
def test_the_address_is_the_stock_hooks(fields):
    assert Workspace.of(pat(**fields)).address == stock_address(fields)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"host": "https://localhost:8443"}, "https://localhost:8443"),
        ({"host": "http://localhost:8080/"}, "http://localhost:8080"),
        ({"host": "http://localhost"}, "http://localhost"),
        ({"host": "http://127.0.0.1"}, "http://127.0.0.1"),
        ({"host": "http://gateway:80"}, "http://gateway"),
        ({"host": "https://x:443"}, "https://x"),
        ({"host": "x", "port": 443}, "https://x"),
        ({"host": "https://x:8443", "port": 9443}, "https://x:9443"),
        ({"host": "http://x:8080", "schema": "https"}, "https://x:8080"),
        ({"host": "https://[::1]:8443"}, "https://[::1]:8443"),
        ({"host": "https://me:secret@X.Cloud.Databricks.Com"}, "https://x.cloud.databricks.com"),
        ({"host": "x", "schema": "HTTPS"}, "https://x"),
        ({"host": "", "extra_dejson": {"host": "https://y:8443"}}, "https://y:8443"),
    ],
)
def test_a_full_url_keeps_its_scheme_and_port(fields, address):
    assert Workspace.of(pat(**fields)).address == address


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": None}, "names no host"),
        ({"host": "https://"}, "names no host"),
        ({"host": "x", "schema": "default"}, "schema is 'default'"),
        ({"host": "https://x:notaport"}, "Port could not be cast"),
        ({"extra_dejson": {"proxies": "http://proxy"}}, "`proxies`"),
        ({"extra_dejson": {"proxies": {"ftp": "http://proxy"}}}, "`proxies`"),
        ({"extra_dejson": {"proxies": {"http": ""}}}, "`proxies`"),
        ({"extra_dejson": {"proxies": {"http": "http://me:SECRET@[proxy"}}}, "IPv6"),
        ({"extra_dejson": {"proxies": {"http": "http://me:SECRET@proxy:port"}}}, "Port"),
    ],
)
def test_fields_that_make_no_sense(fields, words):
    with pytest.raises(CredentialsRejected, match=words) as caught:
        Workspace.of(pat(conn_id="mine", **fields))
    assert "'mine'" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_proxies():
    proxies = {"https": "proxy:3128", "http": "http://me:word@proxy:3128"}
    found = Workspace.of(pat(extra_dejson={"proxies": proxies})).proxies
    assert found == {"https": "http://proxy:3128", "http": "http://me:word@proxy:3128"}
    assert Workspace.of(pat()).proxies == {}


def who(one):
    return Workspace.of(one).principal


def test_the_same_login_is_the_same_principal():
    assert who(pat(conn_id="a")) == who(pat(conn_id="b"))
    path = {"http_path": "/sql/1.0/warehouses/1", "session_configuration": {"a": 1}}
    assert who(pat(conn_id="a")) == who(pat(conn_id="b", extra_dejson=path))


def test_another_login_is_another_principal():
    everyone = [pat(), pat("dapi-other-one"), principal(), principal("rotated-secret"), connection()]
    everyone.append(connection(extra_dejson={"token": "dapi-0123456789"}))
    everyone.append(pat(extra_dejson={"proxies": {"https": "http://proxy"}}))
    assert len({who(one) for one in everyone}) == len(everyone)


SECRET = st.text(st.characters(categories=["L", "N", "P"]), min_size=8)


@given(SECRET, SECRET, st.text("ab \n"), st.text("ab \n"))
def test_no_secret_is_seen(password, token, before, after):
    one = connection(login="me", password=password, extra_dejson={"token": token})
    hidden = Workspace.secrets(one).hide(f"{before}{password}, {token}{after}")
    assert hidden == f"{before}***, ***{after}"


@pytest.mark.parametrize(
    "text",
    [
        "Can't get necessary data from OAuth token: {'access_token': 'SECRET', 'expires_in': 3600}",
        '{"id_token": "SECRET"}',
        "client_secret=SECRET&scope=all-apis",
        "the token eyJhbGciOiJSUzI1NiJ9.SECRET.SECRET is expired",
        "POST with refresh_token: SECRET",
    ],
)
def test_a_token_that_nobody_knew_is_not_seen_either(text):
    assert "SECRET" not in Secrets().hide(text)


def test_only_secrets_are_kept_out():
    extra = {
        "aws_jwt_audience": "databricks",
        "auth_type": "databricks-cli",
        "federated_token_provider": "a.vend",
    }
    extra |= {
        "client_secret": "SECRET1",
        "proxies": {"https": "http://me:SECRET2@proxy"},
        "http_path": "/sql/1.0",
    }
    secrets = Workspace.secrets(connection(extra_dejson=extra))
    assert secrets.hide("databricks-cli a.vend /sql/1.0") == "databricks-cli a.vend /sql/1.0"
    assert secrets.hide("SECRET1 SECRET2") == "*** ***"


def test_a_very_short_secret_does_not_garble_every_message():
    assert Secrets(["a"]).hide("a message") == "a message"
    assert "dapi" not in repr(Secrets(["dapi123456"]))
