"""Who may ask, how often, and what goes wrong on the way."""

import base64
import time
from email.utils import parsedate_to_datetime

import pytest
import requests

from astronomer.lab.databricks.quotas import LIMITS
from tests.lab.databricks.conftest import Api, Refused, wait

FORM = {"grant_type": "client_credentials", "scope": "all-apis"}


@pytest.fixture
def own_lab(make_lab):
    """A workspace whose credentials a test may change."""
    return make_lab(token_seconds=600)


def log_in(lab, *, basic=None, **form):
    return requests.post(f"{lab.url}/oidc/v1/token", data={**FORM, **form}, auth=basic, timeout=60)


def asked(lab, token):
    """Return the status and the words of the answer to a request with this token."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = requests.get(f"{lab.url}/api/2.2/jobs/list", headers=headers, timeout=60)
    return answer.status_code, answer.json().get("message")


INVALID = (403, "Invalid access token.")


class TestTokens:
    def test_personal_access_tokens(self, own_lab):
        old = own_lab.token
        assert old.startswith("dapi")
        assert asked(own_lab, old)[0] == 200
        new = own_lab.rotate_token()
        assert (asked(own_lab, old), asked(own_lab, new)[0]) == (INVALID, 200)
        assert own_lab.token == new

    @pytest.mark.parametrize("way", ["basic", "form"])
    def test_oauth(self, own_lab, way):
        secret = (own_lab.client_id, own_lab.client_secret)
        how = {"basic": secret} if way == "basic" else {"client_id": secret[0], "client_secret": secret[1]}
        answer = log_in(own_lab, **how).json()
        assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 600, "all-apis")
        assert asked(own_lab, answer["access_token"])[0] == 200
        own_lab.advance(550)  # a busy machine takes some of the rest
        assert asked(own_lab, answer["access_token"])[0] == 200
        own_lab.advance(51)
        assert asked(own_lab, answer["access_token"]) == INVALID

    def test_all_tokens_end_at_once(self, own_lab):
        secret = (own_lab.client_id, own_lab.client_secret)
        tokens = [log_in(own_lab, basic=secret).json()["access_token"] for _ in range(2)]
        assert own_lab.expire_tokens() == 2
        assert [asked(own_lab, token) for token in tokens] == [INVALID, INVALID]
        assert asked(own_lab, own_lab.token)[0] == 200

    def test_a_rotated_secret_leaves_tokens_alive(self, own_lab):
        secret = (own_lab.client_id, own_lab.client_secret)
        token = log_in(own_lab, basic=secret).json()["access_token"]
        own_lab.rotate_secret()
        assert asked(own_lab, token)[0] == 200
        refused = log_in(own_lab, basic=secret)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
        assert log_in(own_lab, basic=(own_lab.client_id, own_lab.client_secret)).ok

    def test_a_federated_token_is_exchanged(self, own_lab):
        exchange = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}
        own = own_lab.credentials.subject_token
        assert asked(own_lab, log_in(own_lab, **exchange, subject_token=own).json()["access_token"])[0] == 200
        assert log_in(own_lab, **exchange, subject_token="other").json()["error"] == "invalid_grant"

    def test_what_is_refused(self, own_lab):
        assert asked(own_lab, "") == (
            401,
            "Credential was not sent or was of an unsupported type for this API.",
        )
        assert asked(own_lab, "dapi") == INVALID
        assert log_in(own_lab, grant_type="password").json()["error"] == "unsupported_grant_type"
        assert log_in(own_lab).status_code == 401
        broken = {"authorization": "Basic " + base64.b64encode(b"\xff").decode()}
        answer = requests.post(f"{own_lab.url}/oidc/v1/token", data=FORM, headers=broken, timeout=60)
        assert answer.status_code == 401

    def test_discovery(self, lab):
        found = requests.get(f"{lab.url}/.well-known/databricks-config", timeout=60).json()
        assert found["oidc_endpoint"] == f"{lab.url}/oidc"
        endpoints = requests.get(f"{lab.url}/oidc/.well-known/oauth-authorization-server", timeout=60).json()
        assert endpoints["token_endpoint"] == f"{lab.url}/oidc/v1/token"

    def test_connections(self, lab):
        url = lab.airflow_connection(auth="url")
        assert (url["host"], url["password"], "port" in url) == (lab.url, lab.token, False)
        oauth = lab.airflow_connection(auth="oauth", more=1)
        assert (oauth["login"], oauth["port"]) == (lab.client_id, lab.port)
        assert (oauth["extra"]["service_principal_oauth"], oauth["extra"]["more"]) == (True, 1)
        assert "port" not in lab.airflow_connection(cloud=True)
        with pytest.raises(ValueError, match="unknown auth 'magic'"):
            lab.airflow_connection(auth="magic")


class TestQuotas:
    @pytest.fixture(scope="class")
    @classmethod
    def limited(cls, make_lab):
        return make_lab(quotas=True, speed=1e-6)

    @pytest.mark.parametrize(
        ("path", "ask"),
        [
            ("jobs/runs/get", lambda api: api.run(1)),
            ("jobs/runs/list", lambda api: api.get("2.1/jobs/runs/list")),
            ("jobs/run-now", lambda api: api.post("2.2/jobs/run-now", job_id=1)),
            ("jobs/runs/submit", lambda api: api.post("2.2/jobs/runs/submit")),
            ("jobs/runs/cancel", lambda api: api.post("2.2/jobs/runs/cancel", run_id=1)),
            ("jobs/runs/get-output", lambda api: api.get("2.2/jobs/runs/get-output", run_id=1)),
            ("jobs/runs/repair", lambda api: api.post("2.2/jobs/runs/repair", run_id=1)),
            ("sql/history/queries", lambda api: api.get("2.0/sql/history/queries")),
        ],
    )
    def test_a_second_holds_so_many_requests(self, limited, path, ask):
        api, limit = Api(limited), int(LIMITS[path])

        def throttled():
            try:
                ask(api)
            except Refused as refused:
                return refused if refused.status == 429 else None

        assert [throttled() for _ in range(limit)] == [None] * limit
        refused = throttled()
        assert (refused.code, refused.headers["retry-after"]) == ("REQUEST_LIMIT_EXCEEDED", "1")
        limited.advance(1)
        assert [throttled() is None for _ in range(limit + 1)] == [True] * limit + [False]

    def test_they_can_be_changed_and_switched_off(self, limited):
        api = Api(limited)
        limited.quotas.factor = 0.1
        assert api.get("2.2/jobs/runs/list", limit=1) == api.get("2.2/jobs/runs/list", limit=1)
        api.get("2.2/jobs/runs/list")
        with pytest.raises(Refused, match="REQUEST_LIMIT_EXCEEDED"):
            api.get("2.2/jobs/runs/list")
        limited.quotas.factor = 0
        for _ in range(50):
            api.get("2.2/jobs/runs/list", limit=1)
        limited.quotas.factor = 1


class TestWeather:
    def test_an_expired_token_is_answered_as_the_service_does(self, lab, api):
        lab.faults.expired("runs/list", times=1)
        with pytest.raises(Refused) as refused:
            api.get("2.2/jobs/runs/list")
        assert (refused.value.status, refused.value.message) == INVALID
        lab.faults.expired("/oidc/", times=1)
        secret = (lab.client_id, lab.client_secret)
        assert log_in(lab, basic=secret).status_code == 401
        assert log_in(lab, basic=secret).ok

    def test_a_reset_leaves_no_run(self, lab, api):
        before = len(lab.runs)
        lab.faults.reset("runs/submit", times=1)
        with pytest.raises(requests.ConnectionError):
            api.submit(wait())
        assert len(lab.runs) == before

    def test_a_storm(self, lab, api):
        lab.faults.storm(60, rate=1.0, seed=3)
        seen = set()
        for _ in range(20):
            try:
                api.get("2.2/jobs/list")
            except Refused as refused:
                seen.add(refused.status)
            except requests.ConnectionError:
                seen.add("reset")
        assert seen == {429, 503, "reset"}

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "2.2/jobs/nope"), ("POST", "2.2/jobs/runs/get"), ("GET", "9.9/x")]
    )
    def test_there_is_no_such_endpoint(self, lab, method, path):
        headers = {"authorization": f"Bearer {lab.token}"}
        answer = requests.request(method, f"{lab.url}/api/{path}", headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")

    @pytest.mark.parametrize("body", [b"{", b"[]", b'"a"', b"\xff"])
    def test_a_body_that_is_not_an_object(self, lab, body):
        headers = {"authorization": f"Bearer {lab.token}"}
        answer = requests.post(f"{lab.url}/api/2.2/jobs/create", body, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "MALFORMED_REQUEST")

    def test_the_date_is_the_workspaces(self, make_lab):
        lab = make_lab()
        lab.advance(86_400)
        answer = requests.get(f"{lab.url}/_lab/health", timeout=60)
        assert parsedate_to_datetime(answer.headers["date"]).timestamp() == pytest.approx(
            time.time() + 86_400, abs=60
        )
