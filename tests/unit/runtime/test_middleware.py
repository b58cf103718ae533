"""Which requests are kept from Airflow's renewal of the session cookie, and what the page gets instead."""

from __future__ import annotations

import pytest

pytest.importorskip("airflow.models.revoked_token", reason="an earlier Airflow has no revoked tokens")

from astronomer.runtime.middleware import TOKENS, SessionMiddleware


async def seen(path, *cookies, root_path="", kind="http", https=False):
    """Return the scope that the next application gets."""
    found = {}

    async def app(scope, _receive, _send):
        found.update(scope)

    headers = [(b"host", b"x"), *((b"cookie", text.encode()) for text in cookies)]
    scope = {"type": kind, "path": path, "scheme": "http", "root_path": root_path, "headers": headers}
    await SessionMiddleware(app, https=https)(scope, None, None)
    return found


@pytest.mark.parametrize(("path", "root_path"), [
    ("/auth/logout", ""), ("/auth/callback", ""), ("/team/auth/logout", "/team"),
])  # fmt: skip
async def test_the_pages_that_set_the_cookie_themselves(path, root_path):
    scope = await seen(path, "a=1; _token=x.y.z; runtime_login_s=/dags", root_path=root_path)
    assert scope[TOKENS] == ["x.y.z"]
    assert scope["headers"] == [(b"host", b"x"), (b"cookie", b"a=1; runtime_login_s=/dags")]


@pytest.mark.parametrize("path", ["/api/v2/auth/logout", "/auth/login", "/", "/team/auth/logout"])
async def test_no_others(path):
    scope = await seen(path, "_token=x.y.z")
    assert TOKENS not in scope
    assert (b"cookie", b"_token=x.y.z") in scope["headers"]


async def test_each_of_several():
    scope = await seen("/auth/logout", '_token=one;_token="two"', "b=2", "_tokens=3;x;_token = three")
    assert scope[TOKENS] == ["one", "two", "three"]
    assert [value for name, value in scope["headers"] if name == b"cookie"] == [b"", b"b=2", b"_tokens=3;x"]


async def test_what_is_no_request():
    assert TOKENS not in await seen("/auth/logout", "_token=x", kind="websocket")


@pytest.mark.parametrize("path", ["/", "/auth/logout"])
async def test_a_browser_came_by_https_whatever_the_proxy_speaks(path):
    assert (await seen(path, "_token=x", https=True))["scheme"] == "https"
    assert (await seen(path, "_token=x"))["scheme"] == "http"


async def test_what_brings_no_session_is_answered_as_it_came():
    """A program on the same network, which another redirect would lead astray."""
    assert (await seen("/api/v2/dags/", "a=1", https=True))["scheme"] == "http"
