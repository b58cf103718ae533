"""What a browser does to log in: it is sent to the platform's page, and posts the form that leads back."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx

from astronomer.lab.issuer import IssuerServer
from tests.integration.runtime.deployment import Deployment

__all__ = ["bring", "chosen", "log_in", "set_out"]


def fields(page: httpx.Response) -> dict[str, str]:
    return {name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', page.text)}


def set_out(browser: httpx.Client, deployment: Deployment, target: str = "/dags/orders") -> httpx.Response:
    """Go to Airflow and be sent to the platform's page; returns it."""
    answer = browser.get(
        f"{deployment.url}/api/v2/auth/login", params={"next": target}, follow_redirects=True
    )
    assert answer.status_code == 200, answer.text
    return answer


def chosen(
    browser: httpx.Client, issuer: IssuerServer, page: httpx.Response, role: str = "editor"
) -> tuple[str, dict[str, str]]:
    """Press a button on it; returns what the form that leads back holds."""
    asked = parse_qs(urlsplit(str(page.url)).query)
    form = {name: asked[name][0] for name in ("redirect_uri", "state")}
    back = browser.post(f"{issuer.url}/login", data={**form, "role": role})
    return asked["redirect_uri"][0], fields(back)


def log_in(
    browser: httpx.Client,
    deployment: Deployment,
    issuer: IssuerServer,
    role: str = "editor",
    target: str = "/dags/orders",
) -> httpx.Response:
    where, form = chosen(browser, issuer, set_out(browser, deployment, target), role)
    return browser.post(where, data=form)


def bring(browser: httpx.Client, session: str) -> None:
    """Give the browser a session cookie, as Airflow would have set it."""
    browser.cookies.set("_token", session, domain="localhost.local", path="/")  # what a jar calls localhost
