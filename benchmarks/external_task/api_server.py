"""The API server of the Airflow that is measured: Airflow's own command, as it is, with one worker and one user."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from benchmarks.external_task.command import Command, family
from benchmarks.external_task.triggers import CONN_ID
from tools.servers.postgres import free_port

__all__ = ["ApiServer", "running"]

_LOOPBACK = "127.0.0.1"
_USER = "admin"
_STARTING = 180.0
_LOOK_EVERY = 0.5
_HEALTH = "/api/v2/monitor/health"  # the one path that is not in the access log
_IN_ACCESS_LOG = b"request finished"


class ApiServer:
    """A running one.

    :param for_triggerer: the environment of a triggerer that asks it.
    """

    def __init__(self, command: Command, url: str, for_triggerer: Mapping[str, str]) -> None:
        self._command, self._url = command, url
        self.for_triggerer = for_triggerer

    def await_answer(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + _STARTING
        ask = build_opener(ProxyHandler({})).open
        while True:
            self.check()
            try:
                ask(self._url + _HEALTH, timeout=_STARTING).close()
            except (OSError, HTTPException) as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the API server does not answer:\n{self._command.said()}") from error
                time.sleep(_LOOK_EVERY)
                continue
            return

    def check(self) -> None:
        """:raises RuntimeError: it has died."""
        self._command.check()

    def cpu(self) -> float:
        """Seconds that it has used so far."""
        return family(self._command.main)

    def requests(self) -> int:
        """How many it has answered so far, by its own access log: Airflow writes one line for each."""
        return self._command.output.read_bytes().count(_IN_ACCESS_LOG)


@contextmanager
def running(env: Mapping[str, str], directory: Path) -> Iterator[ApiServer]:
    """Run one for the block."""
    directory.mkdir(parents=True)
    password, port = secrets.token_urlsafe(16), free_port()
    url = f"http://{_LOOPBACK}:{port}"
    command = Command(
        ["api-server"], {**env, **_settings(url, port, _passwords(directory, password))}, directory
    )
    connection = {"conn_type": "Astro Cloud", "host": url, "login": _USER, "password": password}
    no_proxy = dict.fromkeys(("NO_PROXY", "no_proxy"), _LOOPBACK)
    server = ApiServer(command, url, {f"AIRFLOW_CONN_{CONN_ID.upper()}": json.dumps(connection), **no_proxy})
    try:
        server.await_answer()
        yield server
    finally:
        command.stop()


def _passwords(directory: Path, password: str) -> Path:
    """Where Airflow's simple auth manager looks for it."""
    file = directory / "passwords.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps({_USER: password}), encoding="utf-8")
    return file


def _settings(url: str, port: int, passwords: Path) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{_USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API__HOST": _LOOPBACK,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(passwords.parent / "logs"),
        "NO_COLOR": "1",  # its access log is read
    }
