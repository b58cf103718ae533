"""A workspace in memory, and connections to it."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

from astronomer.deferral import clock
from astronomer.deferral._compat import PlainConnection
from astronomer.providers.databricks.hooks.answers import Answer
from astronomer.providers.databricks.hooks.client import DatabricksClient

HOST = "adb-1.azuredatabricks.net"
SECRET = "dose-0123456789"


def connection(conn_id="databricks_default", **fields):
    """An Airflow connection as it is read."""
    given = {"login": None, "password": None, "host": HOST, "port": None, "schema": None, "extra_dejson": {}}
    return PlainConnection(conn_id, **(given | fields))


def pat(token="dapi-0123456789", **fields):
    return connection(password=token, **fields)


def principal(secret=SECRET, **fields):
    return connection(
        login="client-id", password=secret, extra_dejson={"service_principal_oauth": True}, **fields
    )


def answer(status=200, body=None, *, headers=None, asked="GET /api/2.2/jobs/runs/get"):
    content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    return Answer(asked, status, headers or {}, content)


@dataclass
class Workspace:
    """Answers requests where a transport would send them.

    :param script: answers to the next API requests: an answer, an exception, or a status; then all succeed.
    """

    secret: str = field(default=SECRET, repr=False)
    token_seconds: float = 3600.0
    latency: float = 0.05
    script: list[Any] = field(default_factory=list)
    logins: list[float] = field(default_factory=list)
    asked: list[tuple[float, str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    login_script: list[Any] = field(default_factory=list)
    alive: dict[str, float] = field(default_factory=dict)
    closed: int = 0

    def put_behind(self, client: DatabricksClient) -> DatabricksClient:
        client._transport = self
        return client

    async def send(self, method, url, *, headers=None, **content):
        await asyncio.sleep(self.latency)
        path = urlsplit(url).path
        if path == "/oidc/v1/token":
            return self._log_in(dict(headers))
        self.asked.append((clock.now(), method, path))
        self.headers.append(dict(headers))
        if self.script:
            return _scripted(self.script.pop(0))
        authorization = headers["Authorization"].removeprefix("Bearer ")
        if authorization.startswith("oauth-") and self.alive.get(authorization, 0) <= clock.now():
            return answer(403, {"error_code": "403", "message": "Invalid access token."})
        return answer(200, {"path": path, "content": content}, headers={"Date": formatdate(clock.now())})

    def _log_in(self, headers):
        self.logins.append(clock.now())
        if self.login_script:
            return _scripted(self.login_script.pop(0))
        expected = "Basic " + base64.b64encode(f"client-id:{self.secret}".encode()).decode()
        if headers["Authorization"] != expected:
            body = {"error": "invalid_client", "error_description": "Client authentication failed"}
            return answer(401, body, asked="POST /oidc/v1/token")
        token = f"oauth-{len(self.logins)}"
        self.alive[token] = clock.now() + self.token_seconds
        return answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": self.token_seconds})

    async def close(self):
        self.closed += 1


def _scripted(one):
    if isinstance(one, Exception):
        raise one
    return answer(one) if isinstance(one, int) else one
