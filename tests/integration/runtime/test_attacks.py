"""Tokens that must open nothing, at a real API server; ``tests/unit/runtime/test_tokens.py`` has many more of them."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse

from astronomer.lab.issuer import Platform
from tests.integration.runtime.deployment import http

pytestmark = [pytest.mark.xdist_group("runtime-server"), pytest.mark.timeout(400)]


@pytest.fixture
def platform(issuer):
    return issuer.platform


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def hmac_signed(platform, secret, algorithm="HS256"):
    header = {"alg": algorithm, "kid": platform.kid, "typ": "JWT"}
    text = f"{encoded(header)}.{encoded(platform.claims('admin'))}"
    mac = jwt.algorithms.get_default_algorithms()[algorithm].sign(text.encode(), secret)
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


class TestSignature:
    @pytest.mark.parametrize("name", ["none", "None", "nOnE"])
    def test_none(self, deployment, platform, name):
        header = {"alg": name, "kid": platform.kid, "typ": "JWT"}
        assert deployment.status(f"{encoded(header)}.{encoded(platform.claims('admin'))}.") == 403

    def test_the_public_key_as_a_secret(self, deployment, platform):
        assert deployment.status(hmac_signed(platform, platform.public_pem())) == 403
        assert deployment.status(hmac_signed(platform, json.dumps(platform.published[0]).encode())) == 403

    def test_airflows_own_key_and_header(self, deployment, platform):
        """Who can guess Airflow's key is not somebody of the platform."""
        secret = deployment.jwt_secret
        forged = jwt.encode(
            platform.claims("admin"), secret, algorithm="HS512", headers={"kid": platform.kid}
        )
        assert deployment.status(forged) == 403

    def test_a_foreign_key(self, deployment, platform):
        other = Platform(platform.issuer, platform.audience)
        assert deployment.status(other.token("admin")) == 403
        assert deployment.status(other.token("admin", headers={"kid": platform.kid})) == 403
        assert deployment.status(other.token("admin", headers={"jwk": other.published[0]})) == 403
        assert deployment.status(platform.token("admin", headers={"jku": "http://localhost:1/jwks"})) == 403

    def test_changed_claims(self, deployment, platform):
        head, _, signature = platform.token("viewer").split(".")
        assert deployment.status(f"{head}.{encoded(platform.claims('admin'))}.{signature}") == 403

    @pytest.mark.parametrize(
        "kid", ["unknown", "", "../../../dev/null", "' OR 1=1 --", "http://localhost:1/x"]
    )
    def test_an_injected_key_id(self, deployment, platform, kid):
        assert deployment.status(platform.token("admin", headers={"kid": kid})) == 403


class TestClaims:
    def test_expired(self, deployment, platform):
        now = int(time.time())
        assert deployment.status(platform.token("admin", iat=now - 900, nbf=now - 900, exp=now - 300)) == 401

    @pytest.mark.parametrize("changes", [
        {"iss": "https://evil.example"}, {"aud": "other.deployment"}, {"nbf": time.time() + 3600, "exp": time.time() + 7200},
        {"exp": time.time() + 86400}, {"roles": "admin"}, {"roles": []}, {"roles": ["ADMIN"]}, {"roles": ["root"]},
        {"roles": {"admin": 1}}, {"roles": [["admin"]]}, {"roles": [], "deployments": {"elsewhere": "admin"}},
        {"sub": 1}, {"sub": "two\nlines"}, *({name: None} for name in ("exp", "iat", "nbf", "aud", "sub", "jti", "roles")),
        {"iss": None},
    ])  # fmt: skip
    def test_they_are_missing_or_wrong(self, deployment, platform, changes):
        assert deployment.status(platform.token("admin", **changes)) == 403

    def test_a_role_of_this_deployment(self, deployment, platform):
        here = platform.token("viewer", roles=[], deployments={"here": "admin", "elsewhere": "viewer"})
        there = platform.token(
            "viewer", roles=["viewer"], deployments={"here": "viewer", "elsewhere": "admin"}
        )
        assert deployment.status(here, path="/api/v2/connections") == 200
        assert deployment.status(there, path="/api/v2/connections") == 403

    @pytest.mark.parametrize("token", ["a", "a.b.c", "..", "e30.e30.", "é", "[]", "x" * 30000])
    def test_it_is_no_token(self, deployment, token):
        headers = {"authorization": b"Bearer " + token.encode()}
        assert http("GET", f"{deployment.url}/api/v2/dags", headers=headers).status_code in {401, 403}
        assert http("GET", f"{deployment.url}/api/v2/dags", cookies={"_token": "x"}).status_code in {401, 403}

    @pytest.mark.parametrize("header", ["Basic YTpi", "Token x", "bearer", "Bearer", ""])
    def test_another_way_to_show_it(self, deployment, header):
        assert (
            http("GET", f"{deployment.url}/api/v2/dags", headers={"authorization": header}).status_code == 401
        )

    def test_a_token_in_the_address_is_not_looked_at(self, deployment, platform):
        token = platform.token("admin")
        for name in ("token", "access_token", "_token", "jwt"):
            assert deployment.status(None, path=f"/api/v2/dags?{name}={token}") == 401


class TestConfusion:
    def test_the_token_of_a_task(self, deployment):
        assert (
            deployment.status(deployment.signed(aud="urn:airflow.apache.org:task", scope="execution")) == 403
        )

    def test_the_token_of_another_auth_manager_with_the_same_key(self, deployment):
        assert deployment.status(deployment.signed(role="admin", teams=None)) == 403

    @pytest.mark.parametrize(
        "claim", ["runtime_roles", "runtime_session", "runtime_session_exp", "runtime_for", "name", "sub"]
    )
    def test_half_a_session(self, deployment, platform, claim):
        whole = deployment.session(platform.token("admin"))
        assert deployment.status(whole) == 200, "else this shows nothing"
        claims = jwt.decode(whole, options={"verify_signature": False})
        del claims[claim]
        half = jwt.encode(claims, deployment.jwt_secret, algorithm="HS512", headers={"kid": "not-used"})
        assert deployment.status(half) == 403

    @pytest.mark.parametrize("rules", [["https://former.example", "0" * 16], ["0" * 16], None])
    def test_a_session_by_other_rules(self, deployment, platform, rules):
        session = deployment.session(platform.token("admin"), runtime_rules=rules)
        assert deployment.status(session) == 401

    @pytest.mark.parametrize(
        "elsewhere",
        [
            ["other.deployment", "here"],
            ["this.deployment", "elsewhere"],
            ["this.deployment"],
            "this.deployment",
        ],
    )
    def test_a_session_of_another_deployment_with_the_same_key(self, deployment, platform, elsewhere):
        session = deployment.session(platform.token("admin"), runtime_for=elsewhere)
        assert deployment.status(session) == 403
        assert deployment.audit[-1]["detail"] == "a session of another deployment"

    def test_a_session_that_outlives_the_platforms_token(self, deployment, platform):
        late = deployment.session(platform.token("admin"), runtime_session_exp=time.time() - 1)
        assert deployment.status(late) == 401

    def test_a_role_that_does_not_exist(self, deployment, platform):
        assert deployment.status(deployment.session(platform.token("admin"), runtime_roles=["root"])) == 403

    def test_a_person_at_the_api_for_tasks(self, deployment, platform):
        token = platform.token("admin")
        exchanged = deployment.ask(token, "POST", "/auth/token").json()["access_token"]
        for one in (token, exchanged):
            assert deployment.status(one, path="/execution/variables/safe") in {401, 403}
            assert deployment.status(one, path="/execution/connections/bank") in {401, 403}


class TestKeys:
    def test_strangers_cannot_make_it_ask_for_keys_again_and_again(self, deployment, issuer):
        deployment.status(issuer.platform.token("viewer"))
        before, started = issuer.fetches, time.monotonic()
        for number in range(20):
            assert (
                deployment.status(issuer.platform.token("admin", headers={"kid": f"unknown-{number}"})) == 403
            )
        assert issuer.fetches - before <= 1 + (time.monotonic() - started) / 2

    def test_a_new_key_counts_within_seconds_and_the_old_one_no_longer(self, deployment, issuer):
        old = issuer.platform.token("admin")
        assert deployment.status(old) == 200
        time.sleep(2.1)  # the shortest time between two questions here
        issuer.platform.rotate("ES256")
        assert deployment.status(issuer.platform.token("viewer")) == 200
        assert deployment.status(old) == 403

    @pytest.mark.parametrize("answer", [
        PlainTextResponse("down", 503), PlainTextResponse("no JSON"), JSONResponse([]),
        RedirectResponse("http://localhost:1/"),
    ])  # fmt: skip
    def test_known_keys_go_on_while_the_platform_is_down(self, deployment, issuer, answer):
        good = issuer.platform.token("viewer")
        assert deployment.status(good) == 200
        time.sleep(2.1)
        issuer.answer = answer
        try:
            assert deployment.status(issuer.platform.token("admin", headers={"kid": "unknown"})) == 403
            assert deployment.status(good) == 200
        finally:
            issuer.answer = None
