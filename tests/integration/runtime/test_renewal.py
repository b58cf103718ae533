"""The cookie of a session that is half over: Airflow renews it, but never over what a page has said of it."""

from __future__ import annotations

import time

import jwt
import pytest

from tests.integration.runtime.browsers import bring, chosen, set_out

pytestmark = [pytest.mark.xdist_group("runtime-server"), pytest.mark.timeout(400)]


def who(browser, deployment):
    answer = browser.get(f"{deployment.url}/ui/auth/me")
    return answer.json().get("username") if answer.status_code == 200 else answer.status_code


def session_cookies(answer):
    return [text for text in answer.headers.get_list("set-cookie") if text.startswith("_token=")]


def test_it_is_renewed_until_the_platforms_token_ends(browser, deployment, issuer):
    token = issuer.platform.token("viewer", exp=int(time.time()) + 900)
    old = deployment.session(token)
    bring(browser, old)
    [cookie] = session_cookies(browser.get(f"{deployment.url}/ui/auth/me"))
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    new = browser.cookies["_token"]
    before, after = (jwt.decode(one, options={"verify_signature": False}) for one in (old, new))
    platform = jwt.decode(token, options={"verify_signature": False})
    assert before["exp"] < after["exp"] <= platform["exp"]
    assert after["runtime_session"] == before["runtime_session"]
    assert who(browser, deployment) == "vera@example.com"
    assert browser.cookies["_token"] == new, "it is young"


@pytest.mark.parametrize("age", [400, 900], ids=["is-renewed", "has-ended"])
def test_who_comes_back_as_somebody_else_is_somebody_else(browser, deployment, issuer, age):
    where, form = chosen(browser, issuer, set_out(browser, deployment), "admin")
    bring(browser, deployment.session(issuer.platform.token("viewer"), age=age))
    answer = browser.post(where, data=form)
    assert len(session_cookies(answer)) == 1
    assert who(browser, deployment) == "ada@example.com"


def test_a_login_that_fails_leaves_the_session_as_it_is(browser, deployment, issuer):
    where, form = chosen(browser, issuer, set_out(browser, deployment), "admin")
    bring(browser, deployment.session(issuer.platform.token("viewer"), age=0))
    assert browser.post(where, data={**form, "access_token": "a.b.c"}).status_code == 403
    assert who(browser, deployment) == "vera@example.com"


@pytest.mark.parametrize("path", ["/auth/logout", "/api/v2/auth/logout"])
def test_who_leaves_keeps_no_cookie_and_no_session(browser, deployment, issuer, path):
    session = deployment.session(issuer.platform.token("viewer"))
    bring(browser, session)
    out = browser.get(f"{deployment.url}{path}", follow_redirects=True)
    assert str(out.url) == f"{issuer.url}/logout"
    assert "_token" not in browser.cookies
    assert deployment.status(session) == 403


@pytest.mark.parametrize("path", ["/auth/logout", "/api/v2/auth/logout"])
def test_who_leaves_with_a_cookie_that_has_ended_ends_the_session_of_it(browser, deployment, issuer, path):
    """A token for the command line lives longer than the cookie that it was made with."""
    token = issuer.platform.token("viewer")
    made = deployment.ask(token, "POST", "/ui/auth/token", json={"token_type": "cli"}).json()["access_token"]
    bring(browser, deployment.session(token, age=900))
    browser.get(f"{deployment.url}{path}", follow_redirects=True)
    assert {deployment.status(one) for one in (made, token)} == {403}


def test_leaving_is_no_warning(browser, deployment, issuer):
    name = f"leaves-{time.time()}"
    where, form = chosen(browser, issuer, set_out(browser, deployment))
    assert (
        browser.post(where, data={**form, "access_token": issuer.platform.token(sub=name)}).status_code == 303
    )
    browser.get(f"{deployment.url}/api/v2/auth/logout", follow_redirects=True)
    events = [one["event"] for one in deployment.audit if one.get("sub") == name]
    assert events == ["logged in", "logged out"]


def test_a_cookie_that_is_refused_is_told_once(browser, deployment, issuer):
    """Airflow looks at it twice: whether to renew it, and whose it is."""
    name = f"is-late-{time.time()}"
    bring(browser, deployment.session(issuer.platform.token(sub=name), runtime_session_exp=time.time() - 1))
    assert who(browser, deployment) == 401
    assert [one["event"] for one in deployment.audit if one.get("sub") == name] == ["token refused"]
