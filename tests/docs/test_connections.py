"""Every connection of the pages is read by the stock hook, which finds a use for every field of it."""

from __future__ import annotations

import base64
import json

import pytest
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook, _SnowflakeOAuthManager
from airflow.sdk import Connection

from astronomer.providers.snowflake.hooks.stock import connection_parameters
from tests.docs.pages import blocks

CONNECTIONS = [block for block in blocks() if block.language == "json" and block.kind == "connection"]


class Read(dict):
    """An extra that notes which of its fields were looked up."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.used = set()

    def get(self, name, default=None):
        self.used.add(name)
        return super().get(name, default)

    def __getitem__(self, name):
        self.used.add(name)
        return super().__getitem__(name)


@pytest.fixture
def tokens(monkeypatch):
    """The requests for a token: nobody is asked, and the fields that were used are noted."""
    asked = []

    def token(self, *, conn_config, token_endpoint, grant_type):
        asked.append({**conn_config, "grant_type": self.validate_grant_type(grant_type)})
        return "a-token"

    monkeypatch.setattr(_SnowflakeOAuthManager, "get_valid_oauth_token", token)
    monkeypatch.setattr(SnowflakeHook, "get_azure_oauth_token", lambda self, conn_id: f"token of {conn_id}")
    return asked


@pytest.mark.parametrize("block", CONNECTIONS, ids=str)
def test_every_field_counts(block, tokens, lab, monkeypatch):
    described = json.loads(block.body)
    extra = Read(described.pop("extra"))
    key = lab.encrypted_private_key_file if described.get("password") else lab.private_key_file
    if "private_key_file" in extra:
        extra["private_key_file"] = str(key)
        described["password"] = described.get("password") and lab.passphrase
    if "private_key_content" in extra:
        extra["private_key_content"] = base64.b64encode(lab.private_key_file.read_bytes()).decode()
    connection = Connection(conn_id="documented", **described)
    monkeypatch.setattr(Connection, "extra_dejson", extra)
    monkeypatch.setattr(SnowflakeHook, "get_connection", lambda self, conn_id: connection)
    parameters = connection_parameters(SnowflakeHook("documented"))
    assert connection.conn_type == "snowflake"
    assert extra.keys() <= extra.used, "a field that the stock hook does not read"
    _proves_who_it_is(block.argument("auth"), parameters, tokens)


def _proves_who_it_is(auth, parameters, tokens):
    """What the connector is given for each way to authenticate."""
    assert parameters["account"]
    match auth:
        case "password":
            assert parameters["user"]
            assert parameters["password"]
            assert parameters["authenticator"] == "snowflake"
        case "key":
            assert isinstance(parameters["private_key"], bytes)
            assert "password" not in parameters
        case "client_credentials" | "refresh_token":
            assert parameters["token"] == "a-token"
            assert parameters["authenticator"] == "oauth"
            (asked,) = tokens
            assert asked["grant_type"] == auth
            assert asked["client_id"]
            assert asked["client_secret"]
            assert auth != "refresh_token" or asked["refresh_token"]
        case "azure":
            assert parameters["token"] == "token of azure_default"
        case "pat":
            assert parameters["authenticator"] == "programmatic_access_token"
            assert parameters["token"]
        case "okta":
            assert parameters["authenticator"].startswith("https://")
            assert parameters["password"]
        case "browser":
            assert parameters["authenticator"] == "externalbrowser"
            assert parameters["client_store_temporary_credential"] is True
        case "workload":
            assert parameters["authenticator"] == "WORKLOAD_IDENTITY"
            assert parameters["workload_identity_provider"] in ("AWS", "AZURE", "GCP", "OIDC")
        case "any":
            pass
        case _:
            pytest.fail(f"unknown way to authenticate: {auth}")


@pytest.mark.parametrize("auth", ["password", "key_pair", "key_pair_encrypted", "oauth", "pat"])
def test_those_the_local_snowflake_knows_log_in(auth, lab, run, monkeypatch):
    from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

    for name, value in lab.connection_env(auth=auth).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(lab.ca_bundle))
    assert run(SnowflakeOperator(task_id="load", sql="SELECT CURRENT_USER()")) == [("LAB_USER",)]
