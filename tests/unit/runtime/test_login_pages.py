"""The address to go on to after a login is always one of this Airflow, and no page can fill a browser with cookies."""

from __future__ import annotations

import re
from html import unescape
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from jwt import ExpiredSignatureError
from starlette.routing import Mount

pytest.importorskip("airflow.models.revoked_token", reason="an earlier Airflow has no revoked tokens")

from astronomer.runtime.login import pages, safe_next
from astronomer.runtime.middleware import SessionMiddleware

BASE = "https://airflow.example"
UNDER = "https://airflow.example/team/a"


@pytest.mark.parametrize(("target", "wanted"), [
    (None, f"{BASE}/"), ("", f"{BASE}/"), ("/", f"{BASE}/"), ("/dags/x?a=1&b=2#c", f"{BASE}/dags/x?a=1&b=2#c"),
    (f"{BASE}/dags/x", f"{BASE}/dags/x"), (BASE, f"{BASE}/"),
])  # fmt: skip
def test_a_page_of_ours(target, wanted):
    assert safe_next(target, BASE) == wanted


def test_below_a_path():
    assert safe_next("/team/a/dags", UNDER) == f"{UNDER}/dags"
    assert safe_next(f"{UNDER}/dags", UNDER) == f"{UNDER}/dags"
    for other in ("/team/ab", "/team/b", "/team/a/../b", "/team/a/%2e%2e/b", "/"):
        assert safe_next(other, UNDER) == f"{UNDER}/"


@pytest.mark.parametrize("target", [
    "https://airflow.example.evil.example/", "https://airflow.example@evil.example/", "http://airflow.example/", "https://airflow.example:444/",
    "//evil.example", "https:evil.example", "https:///evil.example", "dags", "/\\evil.example", "/x\ny", "/x y", "/\u2028",
    "https://[", "javascript:alert(1)", "/" + "a" * 1000, "/" + "é" * 200,
])  # fmt: skip
def test_anything_else_is_the_home_page(target):
    assert safe_next(target, BASE) == f"{BASE}/"


@pytest.mark.parametrize(("base", "target"), [
    ("https://Airflow.Example", "https://airflow.example/dags/x"), ("https://airflow.example:443", "https://airflow.example/dags/x"),
    ("https://airflow.example", "HTTPS://AIRFLOW.example:443/dags/x"), ("http://LocalHost:80", "http://localhost/dags/x"),
])  # fmt: skip
def test_a_page_of_ours_as_a_browser_spells_it(base, target):
    assert safe_next(target, base) == f"{base}/dags/x"


@pytest.mark.parametrize("base", [BASE, "https://Airflow.Example:443", "https://airflow.example:8443"])
@pytest.mark.parametrize("target", [
    "https://airflow.example:444/x", "https://airflow.example:80/x", "https://airflow.example:0/x", "http://airflow.example:443/x",
    "http://airflow.example/x", "https://evil.example:443/x", "https://a@airflow.example/x", "https://airflow.example@evil.example:443/x",
    "https://airflow.example:port/x", "https://airflow.example:99999/x", "https://:443/x", "https://airflow.example./x", "ftp://airflow.example/x",
])  # fmt: skip
def test_another_origin_is_the_home_page(base, target):
    assert safe_next(target, base) == f"{base}/"


@given(st.text(alphabet="/\\:.@%?#hevil[]025fe\t ", max_size=30) | st.text(max_size=30))
def test_whatever_it_is_it_stays_here(target):
    parts = urlsplit(safe_next(target, BASE))
    assert (parts.scheme, parts.netloc) == ("https", "airflow.example")
    assert parts.path.startswith("/")
    assert not parts.path.startswith("//")


class Audited:
    """What the audit log is told."""

    def __init__(self):
        self.refused = []

    def token_refused(self, reason, detail=""):
        self.refused.append((reason, detail))


@pytest.fixture
def manager():
    settings = SimpleNamespace(
        base_url=BASE, https=True, login_url="https://platform.example/login", logout_url=None
    )
    return SimpleNamespace(settings=settings, revoke_token=lambda _token: None, audit=Audited())


@pytest.fixture
def browser(manager):
    app = SessionMiddleware(FastAPI(routes=[Mount("/auth", pages(manager))]), https=True)
    with TestClient(app, f"{BASE}/auth", follow_redirects=False) as browser:
        yield browser


def test_a_browser_keeps_the_last_five_logins(browser):
    for _ in range(20):
        answer = browser.get("/login", params={"next": "/dags/x"})
        assert answer.status_code == 303
        newest = [text for text in answer.headers.get_list("set-cookie") if "Max-Age=600" in text]
        assert newest[0].partition("=")[0] in browser.cookies
    assert len(browser.cookies) == 5


def test_the_platform_is_asked_for_a_form(browser):
    asked = parse_qs(urlsplit(browser.get("/login").headers["location"]).query)
    assert asked["response_mode"] == ["form_post"]
    assert asked["redirect_uri"] == [f"{BASE}/auth/callback"]


@pytest.mark.parametrize("kind", ["image", "iframe", "empty", "script"])
def test_a_part_of_another_page_is_no_login(browser, kind):
    answer = browser.get("/login", headers={"sec-fetch-dest": kind})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_page_in_a_tab_is_one(browser):
    assert browser.get("/login", headers={"sec-fetch-dest": "document"}).headers["set-cookie"]


class TestThroughTheProxy:
    """Without ``login_url`` a proxy brings the tokens, and Airflow's pages still send the browser to log in."""

    GOOD, OLD, UNKNOWN = ({"authorization": f"Bearer {token}"} for token in ("good", "old", "unknown"))

    @pytest.fixture(autouse=True)
    def _proxy(self, manager):
        async def get_user_from_token(token):
            if token == "unknown":
                raise HTTPException(503, "The platform is silent.")
            if token != "good":
                raise ExpiredSignatureError

        manager.settings.login_url, manager.get_user_from_token = None, get_user_from_token

    @pytest.mark.parametrize(
        ("target", "wanted"),
        [
            ("/dags/x?a=1#b", "/dags/x?a=1#b"),
            (f"{BASE}/dags/x", "/dags/x"),
            ("//evil.example", "/"),
            (f"{BASE}//evil.example", "/"),
        ],
    )
    def test_who_brings_a_good_token_goes_on_at_the_same_host(self, browser, target, wanted):
        answer = browser.get("/login", params={"next": target}, headers=self.GOOD)
        assert (answer.status_code, answer.headers["location"]) == (303, wanted)
        assert "set-cookie" not in answer.headers

    def test_without_an_address_of_its_own_it_goes_on_to_the_same_host(self, browser, manager):
        manager.settings.base_url = ""
        assert browser.get("/login?next=/dags/x", headers=self.GOOD).headers["location"] == "/dags/x"

    @pytest.mark.parametrize(("brought", "status", "words"), [
        ({}, 401, "Come from the platform"), (OLD, 401, "Come from the platform"), (UNKNOWN, 503, "The platform is silent."),
    ])  # fmt: skip
    def test_who_does_not_can_try_again(self, browser, brought, status, words):
        answer = browser.get("/login", params={"next": '/dags/x?a="1"&b=2'}, headers=brought)
        assert answer.status_code == status
        assert words in answer.text
        [again] = re.findall('<a href="([^"]+)">Try again</a>', answer.text)
        back = browser.get(f"/{unescape(again)}", headers=self.GOOD)
        assert back.headers["location"] == "/dags/x?a=%221%22&b=2"


class TestNotLetIn:
    def back(self, browser, **form):
        [state] = parse_qs(urlsplit(browser.get("/login").headers["location"]).query)["state"]
        return browser.post("/callback", data={"state": state, **form})

    @pytest.mark.parametrize(("error", "shown"), [
        ("access_denied", ": access_denied."), ("temporarily_unavailable", ": temporarily_unavailable."), ("call 0800-EVIL", "."), ("role", "."),
    ])  # fmt: skip
    def test_the_platform_has_refused(self, browser, manager, error, shown):
        answer = self.back(browser, error=error, error_description="call 0800-EVIL")
        assert answer.status_code == 403
        assert f"The platform has not let you in{shown}" in answer.text
        assert "EVIL" not in answer.text
        assert manager.audit.refused == [("not let in", shown[2:-1])]
        assert not browser.cookies, "it is good once"

    def test_a_stranger_is_not_told_so(self, browser, manager):
        answer = browser.post("/callback", data={"state": "x", "error": "access_denied"})
        assert "did not set out from here" in answer.text
        assert manager.audit.refused == []


class TestCookiesOfStrangers:
    """Over http any server of this machine can set them, with names that none of ours has."""

    NAMES = tuple(f"runtime_login_{name}" for name in ("a[b", "a@b", "(", "{}", "?", "", "a b"))

    @pytest.fixture
    def browser(self, manager):
        manager.settings.base_url, manager.settings.https = "http://localhost", False
        app = SessionMiddleware(FastAPI(routes=[Mount("/auth", pages(manager))]), https=False)
        with TestClient(app, "http://localhost/auth", follow_redirects=False) as browser:
            browser.headers["cookie"] = "; ".join(f"{name}=x" for name in self.NAMES)
            yield browser

    def test_a_login_leaves_them_alone(self, browser):
        answer = browser.get("/login")
        assert answer.status_code == 303
        assert len(answer.headers.get_list("set-cookie")) == 1

    @pytest.mark.parametrize("state", ["a[b", "a@b", "", "a b"])
    def test_none_of_them_is_a_login(self, browser, state):
        answer = browser.post("/callback", data={"state": state, "access_token": "a.b.c"})
        assert answer.status_code == 403
        assert "did not set out from here" in answer.text


class TestLogout:
    def leave(self, browser):
        browser.cookies.set("_token", "x.y.z")
        return browser.get("/logout")

    def test_it_ends_what_the_cookie_holds(self, browser, manager):
        ended = []
        manager.revoke_token = ended.append
        answer = self.leave(browser)
        assert "has ended" in answer.text
        assert ended == ["x.y.z"]
        assert answer.headers["set-cookie"].startswith('_token=""; ')

    @pytest.mark.parametrize(("brought", "end"), [
        ("Bearer a.b.c", ["a.b.c", "x.y.z"]), ("bearer  a.b.c ", ["a.b.c", "x.y.z"]), ("Bearer ", ["x.y.z"]), ("Basic eA==", ["x.y.z"]),
    ])  # fmt: skip
    def test_it_ends_what_a_program_or_a_proxy_shows_too(self, browser, manager, brought, end):
        ended = []
        manager.revoke_token = ended.append
        browser.headers["authorization"] = brought
        self.leave(browser)
        assert ended == end

    def test_what_cannot_be_ended_keeps_its_cookie(self, browser, manager):
        def refuse(_token):
            raise HTTPException(503, "You are still logged in.")

        manager.revoke_token = refuse
        answer = self.leave(browser)
        assert answer.status_code == 503
        assert "You are still logged in." in answer.text
        assert "set-cookie" not in answer.headers
