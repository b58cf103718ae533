"""Airflow's own client of the REST API, unmodified, with the platform's tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("airflowctl")
DAGS = ("dags", "list", "--output", "json")

pytestmark = [pytest.mark.xdist_group("runtime-server"), pytest.mark.timeout(400)]


@pytest.fixture
def airflowctl(deployment, tmp_path):
    """Give what runs a command with a token: exit status and what it wrote."""

    def run(token, *arguments):
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path), "AIRFLOW_CLI_TOKEN": token,
        }  # fmt: skip
        command = [PROGRAM, *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr

    status, told = run("not-read-yet", "auth", "login", "--api-url", deployment.url, "--skip-keyring")
    assert status == 0, told
    return run


def listed(answer, key):
    status, told = answer
    assert status == 0, told
    return [one[key] for one in json.loads(told)]


def test_a_role_may_what_it_may_elsewhere(airflowctl, issuer):
    for role, changes, reads_connections in (
        ("viewer", False, False),
        ("editor", True, False),
        ("admin", True, True),
    ):
        token = issuer.platform.token(role)
        assert "orders" in listed(airflowctl(token, *DAGS), "dag_id")
        status, told = airflowctl(token, "dags", "pause", "orders")
        assert (status == 0) is changes, told
        connections = airflowctl(token, "connections", "list", "--output", "json")
        if reads_connections:
            assert "bank" in listed(connections, "connection_id")
        else:
            assert connections[0] == 1
            assert "Forbidden" in connections[1]


def test_a_token_of_airflow_opens_until_the_platforms_is_logged_out(airflowctl, deployment, issuer):
    token = issuer.platform.token("viewer")
    exchanged = deployment.ask(token, "POST", "/auth/token").json()["access_token"]
    assert "orders" in listed(airflowctl(exchanged, *DAGS), "dag_id")
    assert deployment.status(token, path="/api/v2/auth/logout") == 307
    for ended in (token, exchanged):
        status, told = airflowctl(ended, *DAGS)
        assert status == 1
        assert "Invalid JWT token" in told
