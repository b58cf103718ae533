"""What the Airflow of the demo knows of the world: nothing of the caller's Airflow, and only loopback ports."""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tools import leftovers

LOOPBACK = "127.0.0.1"
USER = "admin"
WORKERS = 2
# Of the caller's environment only these: where programs and temporary files are, and the marks that tell whose we are.
MARKS = (leftovers.VARIABLE, leftovers.COMMAND)
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", *MARKS)
PORTS = range(20_000, 30_000)  # below those that the system gives to outgoing connections


def free_port() -> int:
    """Return a port that nobody listens on."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError(f"No free port between {PORTS.start} and {PORTS.stop}.")


@dataclass(frozen=True)
class Places:
    """Where things are in the checkout."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / ".demo"

    @property
    def home(self) -> Path:
        return self.state / "airflow"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def lab(self) -> Path:
        return self.state / "lab"

    @property
    def workspace_folder(self) -> Path:
        """Where the local Databricks workspace has the files that examples name."""
        return self.lab / "workspace" / "Shared" / "airflow_examples"

    @property
    def dags(self) -> Path:
        return self.root / "examples"

    @property
    def task_logs(self) -> Path:
        return self.logs / "tasks"

    @property
    def passwords(self) -> Path:
        return self.home / "passwords.json"

    @property
    def database(self) -> Path:
        return self.home / "airflow.db"


@dataclass(frozen=True)
class OtherPlaces(Places):
    """Those of another Airflow of the same checkout."""

    @property
    def home(self) -> Path:
        return self.state / "other-airflow"

    @property
    def dags(self) -> Path:
        return self.home / "dags"

    @property
    def task_logs(self) -> Path:
        return self.logs / "other-tasks"


@dataclass(frozen=True)
class Installation:
    """One Airflow: its address, its secrets, and its configuration."""

    places: Places
    workers: int = WORKERS
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9), repr=False)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Write the password where Airflow's simple auth manager looks for it."""
        self.places.home.mkdir(parents=True, exist_ok=True)
        self.places.passwords.touch(mode=0o600)
        self.places.passwords.write_text(json.dumps({USER: self.password}))

    def connection(self) -> str:
        """Return the Airflow connection by which another Airflow may ask this one."""
        return json.dumps(
            {"conn_type": "Astro Cloud", "host": self.url, "login": USER, "password": self.password}
        )

    def environment(self) -> dict[str, str]:
        """Return the whole environment of its processes."""
        settings = {**self._core(), **self._api(), **self._pace()}
        airflow = {f"AIRFLOW__{name}": str(value) for name, value in settings.items()}
        ours = {"AIRFLOW_HOME": str(self.places.home), "PYTHONPATH": str(self.places.root)}
        return {**base_environment(self.places), **ours, **airflow}

    def _core(self) -> dict[str, object]:
        return {
            "CORE__DAGS_FOLDER": self.places.dags,
            "CORE__LOAD_EXAMPLES": False,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": self.workers,
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": self.places.passwords,
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__HOSTNAME_CALLABLE": "socket.gethostname",  # others may ask a name server, and wait
            "CORE__DAGBAG_IMPORT_TIMEOUT": 120,
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.places.database}",
            "LOGGING__BASE_LOG_FOLDER": self.places.task_logs,
            "LOGGING__COLORED_CONSOLE_LOG": False,
        }

    def _api(self) -> dict[str, object]:
        return {
            "API__HOST": LOOPBACK,
            "API__PORT": self.port,
            "API__BASE_URL": self.url,
            "API__WORKERS": 1,
            "API__SECRET_KEY": secrets.token_urlsafe(32),
            "API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        }

    def _pace(self) -> dict[str, object]:
        """A laptop's Airflow may look more often than a cluster's, and must be patient with a slow one."""
        return {
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
            "DAG_PROCESSOR__PARSING_PROCESSES": 1,
            "DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": 180,
            "TRIGGERER__RUNNER_HEALTH_CHECK_THRESHOLD": 120,
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 900,
        }


def base_environment(places: Places) -> dict[str, str]:
    """Return what every process of the demo gets; a home of its own keeps dotfiles of the user out."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    home = places.state / "home"
    home.mkdir(parents=True, exist_ok=True)
    ours = {"HOME": str(home), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    if sys.platform == "darwin":  # forked workers would hang in the system's proxy look-up
        ours |= {"NO_PROXY": "*", "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"}
    return {"LANG": "C.UTF-8", **kept, **ours}
