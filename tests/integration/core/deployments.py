"""Another deployment: a real Airflow API server, what its other processes do to its runs, and a gateway before it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
from aiohttp import ClientSession, web

from tools.demo.environment import KEPT, LOOPBACK, free_port

__all__ = ["Gateway", "RealDeployment"]

ROOT = Path(__file__).resolve().parents[3]
_PATIENCE = 90.0


@dataclass
class RealDeployment:
    """One API server with a SQLite database; users ``reader`` and ``nobody`` with passwords of their own."""

    home: Path
    port: int = field(default_factory=free_port)
    passwords: dict[str, str] = field(
        default_factory=lambda: {name: secrets.token_urlsafe(9) for name in ("admin", "reader")}, repr=False
    )

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @contextmanager
    def running(self) -> Iterator[RealDeployment]:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "passwords.json").write_text(json.dumps(self.passwords))
        command = [sys.executable, "-W", "ignore", "-m", "tests.integration.core.deployment_server"]
        with (self.home / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, str(self.port)], cwd=ROOT, env=self._environment(), stdout=log, stderr=log
            )
            try:
                self._await(process)
                with httpx.Client(
                    base_url=f"{self.url}/api/v2", headers=self._headers("admin"), timeout=_PATIENCE
                ) as self.api:
                    yield self
            finally:
                process.terminate()
                process.wait(_PATIENCE)

    def _environment(self) -> dict[str, str]:
        settings = {
            "CORE__DAGS_FOLDER": self.home / "dags",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,reader:viewer",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": self.home / "passwords.json",
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            "LOGGING__BASE_LOG_FOLDER": self.home / "logs",
            "API__BASE_URL": self.url,
            "API__SECRET_KEY": secrets.token_urlsafe(32),
            "API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        }
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "AIRFLOW_HOME": str(self.home),
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
        }

    def _await(self, process: Any) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                if httpx.get(f"{self.url}/api/v2/version").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert process.poll() is None, (self.home / "server.log").read_text()[-4000:]
            assert time.monotonic() < until, "the API server does not come up"
            time.sleep(0.2)

    def token(self, user: str = "reader") -> str:
        """A token, as Airflow gives it to a user."""
        told = {"username": user, "password": self.passwords[user]}
        return str(httpx.post(f"{self.url}/auth/token", json=told, timeout=_PATIENCE).json()["access_token"])

    def _headers(self, user: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user)}"}

    def revoke(self, token: str) -> None:
        """End a token before its time."""
        headers = {"Authorization": f"Bearer {token}"}
        httpx.get(f"{self.url}/api/v2/auth/logout", headers=headers, timeout=_PATIENCE)

    def connection(self, **fields: Any) -> str:
        """An Airflow connection to it, as an environment variable has it."""
        return json.dumps({"conn_type": "Astro Cloud", "host": self.url, **fields})

    # What its scheduler and its users do.

    def run(
        self, run_id: str, dag_id: str = "orders", *, date: str | None = None, after: str | None = None
    ) -> str:
        """Start a run, which is queued, with its task instances."""
        body = {"dag_run_id": run_id, "logical_date": date} | ({"run_after": after} if after else {})
        self.api.post(f"/dags/{dag_id}/dagRuns", json=body).raise_for_status()
        return run_id

    def delete(self, run_id: str, dag_id: str = "orders") -> None:
        self.api.delete(f"/dags/{dag_id}/dagRuns/{run_id}").raise_for_status()

    def delete_all(self) -> None:
        self._execute("DELETE FROM task_instance")
        self._execute("DELETE FROM dag_run")

    def set(self, run_id: str, dag_id: str = "orders", **states: str | None) -> None:
        """Set the states of tasks; ``_run`` is the run itself, and ``m_1`` an instance of the mapped task."""
        for name, state in states.items():
            if name == "_run":
                ended = str(datetime.now(timezone.utc))[:26] if state in {"success", "failed"} else None
                self._execute(
                    "UPDATE dag_run SET state=?, end_date=? WHERE dag_id=? AND run_id=?",
                    *(state, ended, dag_id, run_id),
                )
                continue
            task_id, index = ("m", int(name[2:])) if name.startswith("m_") else (name, -1)
            task_id = f"g.{task_id}" if task_id in {"x", "y"} else task_id
            self._execute(
                "UPDATE task_instance SET state=? WHERE dag_id=? AND run_id=? AND task_id=? AND map_index=?",
                *(state, dag_id, run_id, task_id, index),
            )

    def _execute(self, statement: str, *values: Any) -> None:
        connection = sqlite3.connect(self.home / "airflow.db", timeout=20)
        try:
            with connection:
                connection.execute(statement, values)
        finally:
            connection.close()


class Gateway:
    """Passes requests on, notes them, and does to the next ones what a test says.

    :ivar script: for each of the next requests to the API: ``None``, an HTTP status, or ``reset``.
    :ivar asked: (method, path) of all requests.
    """

    def __init__(self, to: str) -> None:
        self._to = to
        self.port = free_port()
        self.script: list[Any] = []
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def lists(self) -> int:
        """How many questions about many things there were."""
        return sum(path.endswith("/list") for _, path in self.asked)

    def logins(self) -> int:
        return sum(path == "/auth/token" for _, path in self.asked)

    def __enter__(self) -> Gateway:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._http = ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self.port).start()

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._http.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        self.tokens.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        fault = self.script.pop(0) if self.script and request.path.startswith("/api") else None
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault is not None:
            page = "<html><body>Service temporarily unavailable</body></html>"
            return web.Response(status=fault, text=page, content_type="text/html")
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with self._http.request(
            request.method,
            self._to + request.raw_path,
            headers=headers,
            data=await request.read(),
            allow_redirects=False,
        ) as answer:
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in {"transfer-encoding", "content-length"}
            }
            return web.Response(status=answer.status, headers=kept, body=await answer.read())
