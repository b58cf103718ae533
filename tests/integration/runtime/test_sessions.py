"""Tokens that are exchanged, renewed and ended."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest

from tests.integration.runtime.deployment import Deployment, http

pytestmark = [pytest.mark.xdist_group("runtime-server"), pytest.mark.timeout(400)]


def said(token):
    return jwt.decode(token, options={"verify_signature": False})


def exchange(deployment, token):
    answer = deployment.ask(token, "POST", "/auth/token")
    assert answer.status_code == 201, answer.text
    return answer.json()["access_token"]


def logout(deployment, token=None, cookie=None):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    cookies = {"_token": cookie} if cookie else {}
    return http("GET", f"{deployment.url}/api/v2/auth/logout", headers=headers, cookies=cookies).status_code


@pytest.fixture
def second(deployment, issuer, tmp_path):
    """Another API server of the same Airflow."""
    (tmp_path / "filled").touch()
    database = deployment.environment()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    with Deployment(tmp_path, issuer, database, jwt_secret=deployment.jwt_secret).running() as second:
        yield second


class TestExchange:
    def test_it_opens_the_same(self, deployment, issuer):
        for role, status in (("viewer", 403), ("editor", 403), ("admin", 200)):
            exchanged = exchange(deployment, issuer.platform.token(role))
            assert deployment.status(exchanged) == 200
            assert deployment.status(exchanged, path="/api/v2/connections") == status
            assert deployment.ask(exchanged, "GET", "/ui/auth/me").json()["id"] == f"user-{role}"

    @pytest.mark.parametrize(("method", "path", "allowed"), [
        ("GET", "/api/v2/dags", {"viewer", "editor", "admin"}), ("GET", "/ui/auth/menus", {"viewer", "editor", "admin"}),
        ("PATCH", "/api/v2/dags/orders", {"editor", "admin"}), ("GET", "/api/v2/variables", {"admin"}),
        ("POST", "/api/v2/connections/test", {"admin"}), ("GET", "/api/v2/eventLogs", {"admin"}),
    ])  # fmt: skip
    def test_a_browser_with_it_may_do_the_same(self, deployment, issuer, method, path, allowed):
        for role in ("viewer", "editor", "admin"):
            cookie = {"_token": exchange(deployment, issuer.platform.token(role))}
            status = deployment.status(None, method, path, cookies=cookie)
            assert (status == 403) is (role not in allowed), f"{role}: {status}"
            assert status not in {401, 500}

    @pytest.mark.parametrize("path", ["/auth/token", "/ui/auth/token"])
    @pytest.mark.parametrize("kind", ["api", "cli"])
    def test_it_never_outlives_the_platforms_token(self, deployment, issuer, path, kind):
        token = issuer.platform.token("viewer", exp=int(time.time()) + 90)
        answer = deployment.ask(token, "POST", path, json={"token_type": kind})
        assert answer.status_code in {200, 201}, answer.text
        assert said(answer.json()["access_token"])["exp"] <= said(token)["exp"]

    def test_nor_one_made_from_it(self, deployment, issuer):
        token = issuer.platform.token("viewer", exp=int(time.time()) + 90)
        again = deployment.ask(
            exchange(deployment, token), "POST", "/ui/auth/token", json={"token_type": "cli"}
        )
        assert said(again.json()["access_token"])["exp"] <= said(token)["exp"]

    def test_an_exchanged_one_cannot_be_exchanged(self, deployment, issuer):
        assert deployment.status(exchange(deployment, issuer.platform.token()), "POST", "/auth/token") == 403

    def test_without_a_good_token_there_is_none(self, deployment, issuer):
        now = int(time.time())
        assert deployment.status(None, "POST", "/auth/token") == 401
        assert deployment.status("a.b.c", "POST", "/auth/token") == 403
        assert deployment.status(issuer.platform.token(roles=["x"]), "POST", "/auth/token") == 403
        old = issuer.platform.token(iat=now - 900, nbf=now - 900, exp=now - 300)
        assert deployment.status(old, "POST", "/auth/token") == 401

    def test_one_that_is_about_to_end(self, deployment, issuer):
        """Within the tolerance for clocks it is still good, but no new one can come of it."""
        now = int(time.time())
        token = issuer.platform.token(iat=now - 600, nbf=now - 600, exp=now - 5)
        assert deployment.status(token) == 200
        assert deployment.status(token, "POST", "/auth/token") == 401
        assert deployment.status(token, "POST", "/ui/auth/token", json={}) == 401


class TestLogout:
    @pytest.mark.parametrize("jti", ["1", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "x" * 4000, "ü/'\"%"])
    def test_the_platforms_token_opens_nothing_any_more(self, deployment, issuer, jti):
        token = issuer.platform.token("admin", jti=f"{jti}{time.time()}"[-5000:])
        assert deployment.status(token) == 200
        assert logout(deployment, token) == 307
        assert deployment.status(token) == 403

    def test_on_our_own_page_too(self, deployment, issuer):
        token, other = issuer.platform.token("admin"), issuer.platform.token("viewer")
        cookie = {"_token": exchange(deployment, other)}
        answer = deployment.ask(token, "GET", "/auth/logout", cookies=cookie)
        assert answer.status_code == 303
        assert {deployment.status(one) for one in (token, other, cookie["_token"])} == {403}

    def test_it_ends_every_token_of_the_session(self, deployment, issuer):
        token = issuer.platform.token("admin")
        first, second = exchange(deployment, token), exchange(deployment, token)
        third = deployment.ask(first, "POST", "/ui/auth/token", json={"token_type": "cli"}).json()[
            "access_token"
        ]
        assert {deployment.status(one) for one in (token, first, second, third)} == {200}
        assert logout(deployment, cookie=first) == 307
        assert {deployment.status(one) for one in (token, first, second, third)} == {403}
        assert deployment.status(token, "POST", "/auth/token") == 403

    def test_on_every_api_server(self, deployment, issuer, second):
        token = issuer.platform.token("admin")
        session = exchange(deployment, token)
        assert {one.status(each) for one in (deployment, second) for each in (token, session)} == {200}
        assert logout(second, cookie=session) == 307
        assert {one.status(each) for one in (deployment, second) for each in (token, session)} == {403}

    def test_it_ends_no_other_session_of_the_same_person(self, deployment, issuer):
        one, other = issuer.platform.token("admin"), issuer.platform.token("admin")
        logout(deployment, one)
        assert deployment.status(other) == 200

    def test_a_forged_token_ends_nobodys_session(self, deployment, issuer):
        token = issuer.platform.token("viewer", jti="victim")
        forged = jwt.encode(said(token), "a-key-that-nobody-knows-a-key-that-nobody-knows", algorithm="HS256")
        assert logout(deployment, forged) == 307
        assert deployment.status(token) == 200

    def test_a_token_that_is_over_is_remembered_for_longer_than_it_is_accepted(self, deployment, issuer):
        """Airflow forgets a revoked token at its end, but the clocks' tolerance goes on beyond that."""
        now = int(time.time())
        token = issuer.platform.token("viewer", iat=now - 600, nbf=now - 600, exp=now - 1)
        assert deployment.status(token) == 200
        logout(deployment, token)
        assert deployment.status(token) == 403
        with deployment.database_session() as execute:
            [(end,)] = execute("SELECT max(exp) FROM revoked_token")
            assert str(end) > time.strftime("%Y-%m-%d %H:%M", time.gmtime(now + 1200))

    def test_many_at_once_are_all_told_that_it_has_ended(self, deployment, issuer):
        subject = f"leaves-{time.time()}"
        token = issuer.platform.token("viewer", sub=subject)
        one = exchange(deployment, token)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda cookie: logout(deployment, token, cookie), [one, None] * 8))
        assert set(answers) == {307}
        assert {deployment.status(each) for each in (token, one)} == {403}
        assert ("logged out", subject) in {(each["event"], each.get("sub")) for each in deployment.audit}

    def test_without_the_database_the_answer_is_that_you_are_still_logged_in(self, deployment, issuer):
        token = issuer.platform.token("viewer")
        cookie = {"_token": exchange(deployment, token)}
        with deployment.database_session() as execute:
            execute("ALTER TABLE revoked_token RENAME TO hidden")
        try:
            answers = [
                deployment.ask(token, "GET", "/api/v2/auth/logout"),
                deployment.ask(None, "GET", "/api/v2/auth/logout", cookies=cookie),
                deployment.ask(None, "GET", "/auth/logout", cookies=cookie),
                deployment.ask(token, "GET", "/auth/logout"),
            ]
        finally:
            with deployment.database_session() as execute:
                execute("ALTER TABLE hidden RENAME TO revoked_token")
        for answer in answers:
            assert answer.status_code == 503
            assert "You are still logged in." in answer.text
            assert "set-cookie" not in answer.headers
        assert deployment.status(token) == 200

    def test_what_is_stored_is_no_token(self, deployment, issuer):
        token = issuer.platform.token("viewer", jti="to-be-looked-for")
        logout(deployment, token)
        with deployment.database_session() as execute:
            stored = [jti for (jti,) in execute("SELECT jti FROM revoked_token")]
        assert stored
        assert all(len(jti) == 32 and set(jti) <= set("0123456789abcdef") for jti in stored)


def test_the_action_log_has_the_name_of_who_did_it(deployment, issuer):
    token = issuer.platform.token("admin")
    assert (
        deployment.status(token, "POST", "/api/v2/pools", json={"name": f"p{time.time()}", "slots": 1}) == 201
    )
    events = deployment.ask(token, "GET", "/api/v2/eventLogs?limit=50&order_by=-id").json()["event_logs"]
    assert ("post_pool", "ada@example.com") in {(one["event"], one["owner"]) for one in events}


def test_the_audit_log_tells_what_was_refused_and_what_was_changed(deployment, issuer):
    marker = f"who-{time.time()}"
    viewer = issuer.platform.token("viewer", sub=marker, email=None)
    admin = issuer.platform.token("admin", sub=f"{marker}-admin", email=None)
    stranger = issuer.platform.token("admin", headers={"kid": marker})
    deployment.status(viewer, "DELETE", f"/api/v2/connections/x?secret={marker}-query")
    deployment.status(
        admin, "POST", "/api/v2/connections", json={"connection_id": f"c{time.time()}", "conn_type": "http"}
    )
    deployment.status(stranger)
    records = deployment.audit
    [refused] = [one for one in records if one.get("sub") == marker]
    assert (refused["event"], refused["resource"], refused["action"]) == (
        "access refused",
        "connection",
        "DELETE",
    )
    assert (refused["method"], refused["path"]) == ("DELETE", "/api/v2/connections/x")
    [changed] = [one for one in records if one.get("sub") == f"{marker}-admin"]
    assert (changed["event"], changed["resource"], changed["action"]) == (
        "change allowed",
        "connection",
        "POST",
    )
    [unknown] = [one for one in records if one.get("kid") == marker]
    assert unknown["reason"] == "unknown key"
    assert "sub" not in unknown
    assert f"{marker}-query" not in "\n".join(map(str, records))
    for token in (viewer, admin, stranger):
        assert not any(part in deployment.log for part in token.split(".")[1:]), "no token in any log"
