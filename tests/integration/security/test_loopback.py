"""What is for one machine is reached from one machine only."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from astronomer.lab import server
from tools.demo.environment import Installation, Places
from tools.servers import postgres

ROOT = Path(__file__).resolve().parents[3]
UP = [sys.executable, "-m", "astronomer.lab", "up"]


def listening(process: psutil.Process) -> list[str]:
    """The addresses on which a process and its children listen."""
    found = []
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # servers have children that end soon
            found += [one for one in member.net_connections(kind="inet") if one.status == psutil.CONN_LISTEN]
    return [one.laddr.ip for one in found]


def only_loopback(addresses: list[str]) -> bool:
    return bool(addresses) and all(ipaddress.ip_address(one).is_loopback for one in addresses)


@pytest.fixture
def up(tmp_path):
    """The command, when it answers."""
    command = [*UP, "--quiet", "--directory", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while "Ctrl-C stops it" not in (line := process.stdout.readline()):
                assert line, "it ended"
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)


def test_the_stand_ins_listen_on_loopback_only(up):
    addresses = listening(up)
    assert len(addresses) >= 2
    assert only_loopback(addresses), addresses


def test_no_option_opens_them_to_others():
    asked = subprocess.run(
        [*UP, "--host", "0.0.0.0"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert asked.returncode == 2
    assert "unrecognized arguments: --host 0.0.0.0" in asked.stderr
    assert ipaddress.ip_address(server.LOOPBACK).is_loopback


def test_the_demos_airflow(tmp_path):
    variables = Installation(Places(tmp_path)).environment()
    assert ipaddress.ip_address(variables["AIRFLOW__API__HOST"]).is_loopback
    for name in ("AIRFLOW__API__BASE_URL", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"):
        assert variables[name].startswith("http://127.0.0.1:")


@pytest.mark.skipif(postgres.binaries() is None, reason=postgres.MISSING)
def test_the_database_of_measurements():
    with postgres.started() as running:
        assert running.pid is not None
        addresses = listening(psutil.Process(running.pid))
        assert only_loopback(addresses), addresses


def test_a_listener_for_all_would_be_seen():
    code = "import socket; s = socket.create_server(('0.0.0.0', 0)); print('up', flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not only_loopback(listening(psutil.Process(process.pid)))
        process.communicate("\n", timeout=20)
