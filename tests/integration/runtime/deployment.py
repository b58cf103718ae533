"""A real API server with the security manager, before a database of its own, and the platform that it believes."""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
from sqlalchemy import create_engine, text

from astronomer.lab.issuer import IssuerServer
from astronomer.runtime.roles import Policy
from astronomer.runtime.tokens import fingerprint
from tools.demo.environment import KEPT, free_port

__all__ = ["Deployment", "http"]

ROOT = Path(__file__).resolve().parents[3]
DEPLOYMENT_ID = "here"
_PATIENCE = 150.0
_CONTEXT = ssl.create_default_context()  # httpx would read the authorities for every request


def http(method: str, url: str, **how: Any) -> httpx.Response:
    """Send one request; nothing of the one before is remembered."""
    return httpx.request(method, url, timeout=60, verify=_CONTEXT, **how)


@dataclass
class Deployment:
    """An Airflow that knows no users but the platform's.

    :param database: its URL; default a SQLite file.
    :param settings: variables, beside those that every one has.
    """

    home: Path
    issuer: IssuerServer
    database: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    jwt_secret: str = field(default_factory=lambda: secrets.token_urlsafe(64), repr=False)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def log(self) -> str:
        return (self.home / "server.log").read_text(errors="replace")

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The records of the audit log."""
        marked = [line[line.index('{"event"') :] for line in self.log.splitlines() if '{"event"' in line]
        return [json.JSONDecoder().raw_decode(line)[0] for line in marked]

    @property
    def policy(self) -> Policy:
        """The roles that it is told, and the platform's names for them."""
        names, file = (
            self.settings.get(f"AIRFLOW__ASTRONOMER_RUNTIME__{name}")
            for name in ("ROLE_MAP", "ROLE_PERMISSIONS")
        )
        return Policy.configured(names, Path(file) if file else None)

    def environment(self) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            "HOME": str(self.home),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database or f"sqlite:///{self.home}/airflow.db",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "",  # not needed, and asyncpg is not asked for
            "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__EXPOSE_CONFIG": "True",
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
            "AIRFLOW__API_AUTH__JWT_SECRET": self.jwt_secret,
            "AIRFLOW__ASTRONOMER_RUNTIME__JWKS_MIN_INTERVAL": "2",
            "AIRFLOW__ASTRONOMER_RUNTIME__DEPLOYMENT_ID": DEPLOYMENT_ID,
            "PYTHONUNBUFFERED": "1",
            **self.issuer.settings(),
            **self.settings,
        }

    def command(self) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "tests.integration.runtime.server", str(self.port)]

    @contextmanager
    def running(self) -> Iterator[Deployment]:
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "server.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                self._await(process)
                yield self
            finally:
                process.terminate()
                process.wait(30)

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the API server has ended:\n{self.log[-3000:]}")
            try:
                if httpx.get(f"{self.url}/api/v2/version", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        raise RuntimeError(f"the API server does not answer:\n{self.log[-3000:]}")

    @contextmanager
    def database_session(self) -> Iterator[Callable[[str], list[Any]]]:
        """Give what runs a statement in the metadata database; it counts at the end."""
        engine = create_engine(self.environment()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        with engine.begin() as connection:

            def execute(statement: str) -> list[Any]:
                result = connection.execute(text(statement))
                return list(result) if result.returns_rows else []

            yield execute
        engine.dispose()

    def signed(self, **claims: Any) -> str:
        """Return a token that this Airflow has signed for ten minutes, or seems to have."""
        now = int(time.time())
        good = {
            "sub": "x", "aud": "apache-airflow", "iat": now, "nbf": now, "exp": now + 600, "jti": "1" * 32,
        }  # fmt: skip
        headers = {"kid": "not-used"}
        return jwt.encode({**good, **claims}, self.jwt_secret, algorithm="HS512", headers=headers)

    def session(self, token: str, *, age: int = 400, **claims: Any) -> str:
        """Return the cookie of a session that was opened with the platform's token, by default one past its half.

        :param age: seconds, of its 600.
        """
        said = jwt.decode(token, options={"verify_signature": False})
        began = int(time.time()) - age
        whole = {
            "sub": said["sub"], "name": said["email"], "iat": began, "nbf": began, "exp": began + 600,
            "runtime_roles": said["roles"], "runtime_session": fingerprint(said["iss"], said["jti"]),
            "runtime_session_exp": said["exp"], "runtime_for": [self.issuer.platform.audience, DEPLOYMENT_ID],
            "runtime_rules": [self.issuer.platform.issuer, self.policy.digest],
        }  # fmt: skip
        return self.signed(**{**whole, **claims})

    def ask(self, token: str | None, method: str, path: str, **how: Any) -> httpx.Response:
        """Send one request, with a token as ``Authorization: Bearer``."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return http(method, f"{self.url}{path}", headers=headers, **how)

    def status(self, token: str | None, method: str = "GET", path: str = "/api/v2/dags", **how: Any) -> int:
        """Send one request; by default one that every role may."""
        return self.ask(token, method, path, **how).status_code
