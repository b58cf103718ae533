"""Both vendors' stand-ins, and processes that run triggers against them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from astronomer.lab.databricks import DatabricksLab
from astronomer.lab.snowflake import SnowflakeLab

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="package")
def labs():
    with SnowflakeLab() as snowflake, DatabricksLab() as databricks:
        yield snowflake, databricks


class Forks:
    """Makes triggerers' processes, and sees to it that none is left."""

    def __init__(self, environment):
        self._pids = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.worker_free.triggerer"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while "ready" not in (line := self._process.stdout.readline()):
            assert line, "it has ended"

    def start(self, **spec):
        """The process id of a new triggerer."""
        self._process.stdin.write(json.dumps(spec) + "\n")
        self._process.stdin.flush()
        self._pids.append(int(self._process.stdout.readline()))
        return self._pids[-1]

    def stop(self):
        for pid in self._pids:
            kill(pid)
        self._process.communicate(timeout=30)


def state_of(pid):
    """``T`` of one that is stopped; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def kill(pid):
    if state_of(pid):
        os.kill(pid, 9)


@pytest.fixture(scope="package")
def forks(labs):
    """By the lab whose certificate they trust."""
    snowflake, databricks = labs
    quiet = {"SNOWFLAKE_DISABLE_PLATFORM_DETECTION": "true"}
    made = [
        Forks(snowflake.client_env() | snowflake.connection_env("snowflake_default") | quiet),
        Forks(databricks.client_env() | databricks.connection_env("databricks_default", auth="oauth")),
    ]
    yield made
    for one in made:
        one.stop()
