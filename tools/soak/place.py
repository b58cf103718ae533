"""Where a soak runs: a directory, a database, the local Snowflake and Databricks, and the variables that tell Airflow."""

from __future__ import annotations

import base64
import json
import os
import resource
import secrets
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from astronomer.lab import client
from astronomer.lab.databricks.client import LabClient as DatabricksClient
from astronomer.lab.snowflake.client import LabClient as SnowflakeClient
from tools.demo.processes import ProcessEndedError, Processes

__all__ = ["API_CONN", "DATABRICKS_CONN", "SNOWFLAKE_CONN", "Lab", "allow_files", "environment"]

ROOT = Path(__file__).resolve().parents[2]
SNOWFLAKE_CONN, API_CONN, DATABRICKS_CONN = "soak_snowflake", "soak_snowflake_api", "soak_databricks"
SNOWFLAKE, DATABRICKS = "Snowflake", "Databricks"

# What only triggers ask for: the soak itself submits over other paths, which must not fail.
_POLLS = {
    SNOWFLAKE: r"^/(monitoring/queries|api/v2/statements/|session/)",
    DATABRICKS: r"^/(api/2\.\d/jobs/|api/2\.0/sql/statements/.)",
}
_SUBMITS = ("/queries/v1/query-request", "POST /api/v2/statements", "POST /api/2.0/sql/statements")
_READY = "# Ctrl-C stops it."
_STARTING = 120.0
_FOREIGN = ("AIRFLOW_", "SNOWFLAKE_", "DATABRICKS_", "ASTRONOMER_SOAK")


@dataclass
class Lab:
    """The local services, in a process of their own."""

    snowflake: SnowflakeClient
    databricks: DatabricksClient
    ports: Mapping[str, int]
    variables: Mapping[str, str]
    warehouse: str
    principal: Mapping[str, str] = field(repr=False)
    ca_file: Path = field(default_factory=Path)

    @classmethod
    def start(cls, processes: Processes, directory: Path, env: Mapping[str, str]) -> Lab:
        """Return when they answer."""
        command = [sys.executable, "-m", "astronomer.lab", "up", "--quiet", "--directory", str(directory)]
        program = processes.start("local services", command, env, ROOT)
        give_up = time.monotonic() + _STARTING
        while _READY not in (lines := program.log.read_text().splitlines()):
            processes.check()
            if time.monotonic() > give_up:
                raise ProcessEndedError(f"The local services did not start:\n{program.tail()}")
            time.sleep(0.2)
        told = [shlex.split(line)[1].split("=", 1) for line in lines if line.startswith("export ")]
        return cls._told(dict(told), lines, directory)

    @classmethod
    def _told(cls, variables: dict[str, str], lines: list[str], directory: Path) -> Lab:
        ca_file = directory / "ca.pem"
        account = json.loads(variables.pop("AIRFLOW_CONN_SNOWFLAKE_DEFAULT"))
        workspace = json.loads(variables.pop("AIRFLOW_CONN_DATABRICKS_DEFAULT"))
        databricks = DatabricksClient(_address(lines, DATABRICKS), ca_file)
        principal = databricks.credentials()
        path = str(workspace["extra"]["http_path"])
        connections = {
            SNOWFLAKE_CONN: account,
            API_CONN: _with_key(account, directory),
            DATABRICKS_CONN: {
                **workspace,
                "login": principal["client_id"],
                "password": principal["client_secret"],
                "extra": {"http_path": path, "service_principal_oauth": True},
            },
        }
        named = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(one) for name, one in connections.items()}
        return cls(
            SnowflakeClient(_address(lines, SNOWFLAKE), ca_file),
            databricks,
            {SNOWFLAKE: int(account["extra"]["port"]), DATABRICKS: int(workspace["port"])},
            {**variables, **named},
            path.rpartition("/")[2],
            principal,
            ca_file,
        )

    @property
    def each(self) -> Mapping[str, client.LabClient]:
        """By name."""
        return {SNOWFLAKE: self.snowflake, DATABRICKS: self.databricks}

    def storm(self, seconds: float) -> None:
        """Answer nine of ten polls and logins with 429, 503 or a reset."""
        for name, one in self.each.items():
            one.storm(seconds, path=_POLLS[name])

    def expire(self) -> None:
        """End every session and every token."""
        self.snowflake.expire_sessions()
        self.databricks.expire_tokens()

    def counted(self) -> tuple[dict[str, int], dict[str, int]]:
        """Requests of the triggers, and logins of anybody, since the last time; they are forgotten."""
        requests, logins = {}, {}
        for name, one in self.each.items():
            summary = one.requests_summary()
            one.clear_requests()
            polls = (
                number
                for path, number in summary["by_path"].items()
                if not any(submit in path and not path.endswith("}") for submit in _SUBMITS)
            )
            requests[name], logins[name] = sum(polls), int(summary["logins"])
        return requests, logins

    def cancelled(self) -> int:
        """How many jobs somebody has cancelled: nobody should have."""
        aborted: int = sum(one["error_code"] == "000604" for one in self.snowflake.queries())
        return (
            aborted
            + len(self.databricks.runs(state="CANCELED"))
            + len(self.databricks.statements(state="CANCELED"))
        )


def _with_key(account: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The same login with a key pair: the SQL API takes no password."""
    key = next(one for one in directory.rglob("rsa_key.p8"))
    found = {name: value for name, value in account.items() if name != "password"}
    return {**found, "extra": {**account["extra"], "private_key_file": str(key)}}


def _address(lines: list[str], name: str) -> str:
    line = next(line for line in lines if line.startswith(f"# A local {name} at "))
    return next(word.rstrip(".") for word in line.split() if word.startswith("https://"))


def environment(directory: Path, url: URL) -> dict[str, str]:
    """The variables of Airflow's processes: nothing of the caller's Airflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    airflow = {
        "CORE__DAGS_FOLDER": directory / "dags",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "CORE__HOSTNAME_CALLABLE": "socket.gethostname",  # others may ask a name server, and wait
        "DATABASE__SQL_ALCHEMY_CONN": url.render_as_string(hide_password=False),
        "API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "LOGGING__BASE_LOG_FOLDER": directory / "logs",
    }
    if url.drivername.startswith("postgresql"):
        airflow["DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = ""  # not needed, and asyncpg is not asked for
    (directory / "dags").mkdir()
    return {
        **kept,
        "AIRFLOW_HOME": str(directory / "airflow"),
        "HOME": str(directory),
        "SNOWFLAKE_HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        **{f"AIRFLOW__{name}": str(value) for name, value in airflow.items()},
    }


def allow_files(number: int) -> None:
    """Raise the limit of open files, which child processes inherit.

    :raises ProcessEndedError: this machine does not allow as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise ProcessEndedError(f"So many waits need {number} open files, and the hard limit is {hard}.")
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
