"""How a connection logs in: each combination of fields as the stock hook would."""

from __future__ import annotations

import time

import pytest
import requests
from airflow.providers.databricks.hooks.databricks_base import BaseDatabricksHook
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral._compat import AirflowException
from astronomer.providers.databricks.hooks.client import DatabricksClient
from astronomer.providers.databricks.hooks.credentials import basic, bearer
from astronomer.providers.databricks.hooks.workspace import Mode, Workspace
from tests.effort import examples
from tests.unit.databricks.fakes import HOST, answer, connection

K8S = {"client_id": "federated"}
ROWS = {
    "password": {"password": "dapi-password"},
    "token in extra": {"extra_dejson": {"token": "dapi-extra"}},
    "token in extra before all": {
        "login": "me",
        "password": "secret-one",
        "extra_dejson": {"token": "dapi-extra", "azure_tenant_id": "t", "service_principal_oauth": True},
    },
    "empty token in extra": {"login": "me", "password": "secret-one", "extra_dejson": {"token": ""}},
    "password before Azure": {"password": "dapi-password", "extra_dejson": {"azure_tenant_id": "tenant"}},
    "basic": {"login": "me", "password": "secret-one"},
    "basic without a login": {},
    "Azure service principal": {"login": "me", "password": "one", "extra_dejson": {"azure_tenant_id": "t"}},
    "Azure service principal without a secret": {
        "login": "me",
        "password": "",
        "extra_dejson": {"azure_tenant_id": "t"},
    },
    "Azure managed identity": {"extra_dejson": {"use_azure_managed_identity": True}},
    "Azure default credential": {"extra_dejson": {"use_default_azure_credential": True}},
    "Azure, principal outside of the workspace": {
        "login": "me",
        "password": "secret-one",
        "extra_dejson": {"azure_tenant_id": "t", "azure_resource_id": "/subscriptions/1"},
    },
    "Azure headers beside a token": {
        "password": "dapi-password",
        "extra_dejson": {"azure_resource_id": "/subscriptions/1", "use_azure_managed_identity": True},
    },
    "OAuth": {"login": "me", "password": "secret-one", "extra_dejson": {"service_principal_oauth": True}},
    "OAuth without a secret": {"login": "me", "extra_dejson": {"service_principal_oauth": True}},
    "OAuth switched off": {
        "login": "me",
        "password": "secret-one",
        "extra_dejson": {"service_principal_oauth": False},
    },
    "OAuth beside Azure headers": {
        "login": "me",
        "password": "secret-one",
        "extra_dejson": {"service_principal_oauth": True, "azure_resource_id": "/s", "azure_tenant_id": "t"},
    },
    "a token provider": {"extra_dejson": {"federated_token_provider": "a.b", **K8S}},
    "a token provider for the whole account": {"extra_dejson": {"federated_token_provider": "a.b"}},
    "AWS by the login": {"login": "federated_aws"},
    "AWS by the extra": {"extra_dejson": {"federated_aws": True, **K8S}},
    "Kubernetes by the login": {"login": "federated_k8s", "extra_dejson": K8S},
    "Kubernetes by the extra": {"extra_dejson": {"federated_k8s": True, **K8S}},
    "Kubernetes without a client": {"login": "federated_k8s"},
    "a provider before AWS before Kubernetes": {
        "login": "federated_k8s",
        "extra_dejson": {"federated_aws": True, "federated_token_provider": "a.b", **K8S},
    },
    "the connector's own auth_type": {
        "login": "me",
        "password": "secret-one",
        "extra_dejson": {"auth_type": "databricks-oauth"},
    },
}


@pytest.fixture(autouse=True)
def sources(monkeypatch):
    """Every place a token of the stock hook comes from, as a word that says which."""

    def kept(name):
        def make(self, resource=None):
            token = f"{name} for {resource}"
            entry = {"access_token": token, "token_type": "Bearer", "expires_on": int(time.time()) + 3600}
            self.oauth_tokens[resource] = entry
            return token

        return make

    def service_principal(self, resource):
        if not (self.databricks_conn.login and self.databricks_conn.password):
            raise AirflowException("invalid_client")
        return kept("service principal")(self, resource)

    def exchange(self, resource):
        return kept(f"exchanged {self._get_federation_subject_token()}")(self, resource)

    for method, fake in {
        "_get_aad_token": kept("AAD"),
        "_get_aad_token_for_default_az_credential": kept("default credential"),
        "_get_sp_token": service_principal,
        "_get_federated_databricks_token": exchange,
        "_get_k8s_jwt_token": lambda self: "a Kubernetes token",
        "_get_aws_subject_token": lambda self: "an AWS token",
        "_resolve_supplied_subject_token": lambda self, provider: f"a token of {provider}",
        "_check_azure_metadata_service": lambda self: None,
    }.items():
        monkeypatch.setattr(BaseDatabricksHook, method, fake)


def by_stock(read):
    """What the stock hook would send; ``None`` when it would raise."""
    hook = BaseDatabricksHook()
    hook.__dict__["databricks_conn"] = read
    try:
        headers = dict(hook._get_aad_headers())
        token = hook._get_token()
        login = token or hook._get_connection_attr("login")
    except (AirflowException, ValueError):
        return None
    return headers | (bearer(token) if token else basic(login, read.password or ""))


async def by_us(read):
    """The same of ours; ``None`` when the login is refused."""
    try:
        client = DatabricksClient(read)
    except CredentialsRejected:
        return None

    async def ask(identity):
        assert identity == basic(read.login, read.password)
        token = f"service principal for https://{HOST}/oidc/v1/token"
        return answer(200, {"access_token": token, "expires_in": 3600})

    client._ask_for_token = ask
    client._credentials = client._log_in(read, Workspace.of(read))
    try:
        return dict(await client._credentials.headers())
    except CredentialsRejected:
        return None
    finally:
        await client.close()


@pytest.mark.parametrize("fields", ROWS.values(), ids=ROWS)
async def test_each_way_is_the_stock_hooks(fields):
    read = connection(**fields)
    assert await by_us(read) == by_stock(read)


FLAGS = st.sampled_from([True, False])
EXTRAS = st.fixed_dictionaries(
    {},
    optional={
        "token": st.sampled_from(["dapi-extra", ""]),
        "azure_tenant_id": st.just("tenant"),
        "azure_resource_id": st.just("/subscriptions/1"),
        "use_azure_managed_identity": FLAGS,
        "use_default_azure_credential": FLAGS,
        "service_principal_oauth": FLAGS,
        "federated_token_provider": st.sampled_from(["a.b", ""]),
        "federated_aws": FLAGS,
        "federated_k8s": FLAGS,
        "client_id": st.just("federated"),
    },
)
LOGINS = st.sampled_from([None, "", "me", "federated_aws", "federated_k8s"])


@settings(
    max_examples=examples(200),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(LOGINS, st.sampled_from([None, "", "secret-one"]), EXTRAS)
async def test_any_combination_is_the_stock_hooks(login, password, extra):
    read = connection(login=login, password=password, extra_dejson=extra)
    assert await by_us(read) == by_stock(read)


@pytest.mark.parametrize("fields", ROWS.values(), ids=ROWS)
def test_an_auth_type_counts_where_the_stock_hook_has_no_token(fields):
    extra = {"auth_type": "azure-cli", **fields.get("extra_dejson", {})}
    before = connection(**fields)
    after = connection(**{**fields, "extra_dejson": extra})
    no_token = fields in (ROWS["basic"], ROWS["basic without a login"], ROWS["OAuth switched off"])
    assert Workspace.of(after).mode is (Mode.UNIFIED if no_token else Workspace.of(before).mode)


async def test_a_stock_token_is_fetched_once_and_anew_when_refused(sources, monkeypatch):
    asked = []
    real = BaseDatabricksHook._get_aad_token
    monkeypatch.setattr(
        BaseDatabricksHook,
        "_get_aad_token",
        lambda self, resource: asked.append(dict(self.oauth_tokens)) or real(self, resource),
    )
    read = connection(login="me", password="secret-one", extra_dejson={"azure_tenant_id": "t"})
    client = DatabricksClient(read)
    first = await client._credentials.headers()
    assert await client._credentials.headers() is first
    assert client._credentials.renew(first)
    assert await client._credentials.headers() is not first
    assert asked == [{}, {}]
    await client.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (requests.ConnectionError("reset"), Transient),
        (AirflowException("Response: invalid_client, Status Code: 401"), CredentialsRejected),
    ],
    ids=["weather", "refusal"],
)
async def test_what_it_means_that_a_source_fails(monkeypatch, error, kind):
    def fail(self, resource):
        raise error

    monkeypatch.setattr(BaseDatabricksHook, "_get_aad_token", fail)
    client = DatabricksClient(connection(extra_dejson={"use_azure_managed_identity": True}))
    with pytest.raises(Transient) as caught:
        await client.get("2.2/jobs/runs/get")
    assert type(caught.value) is kind
    assert str(error) in str(caught.value)
    await client.close()


async def test_a_token_in_a_foreign_error_is_not_seen(monkeypatch):
    def fail(self, resource):
        self._is_oauth_token_valid({"access_token": "SECRET-TOKEN", "token_type": "Other"})

    monkeypatch.setattr(BaseDatabricksHook, "_get_aad_token", fail)
    client = DatabricksClient(connection(extra_dejson={"use_azure_managed_identity": True}))
    with pytest.raises(CredentialsRejected) as caught:
        await client.get("2.2/jobs/runs/get")
    error = caught.value
    while error is not None:
        assert "SECRET-TOKEN" not in str(error)
        assert error.__suppress_context__ or error.__context__ is None
        error = error.__cause__
    await client.close()
