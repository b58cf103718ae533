"""``python -m astronomer.lab up``."""

import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import urllib.request

import pytest

from tests.lab.conftest import until


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "astronomer.lab", "up", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def introduction(running: subprocess.Popen) -> dict[str, str]:
    """Read until the lab is up and return the variables it printed."""
    lines = []
    while not (lines and lines[-1].startswith("# Ctrl-C")):
        lines.append(running.stdout.readline())
        assert lines[-1], running.stderr.read()
    exports = [shlex.split(line)[1] for line in lines if line.startswith("export ")]
    return dict(export.split("=", 1) for export in exports)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_what_to_paste_and_stops_on_a_signal(tmp_path, sent):
    running = start("--directory", str(tmp_path))
    try:
        variables = introduction(running)
        connection = json.loads(variables["AIRFLOW_CONN_SNOWFLAKE_DEFAULT"])
        assert (connection["conn_type"], connection["login"]) == ("snowflake", "LAB_USER")
        context = ssl.create_default_context(cafile=variables["SSL_CERT_FILE"])
        port = connection["extra"]["port"]
        url = f"https://localhost:{port}"
        assert urllib.request.urlopen(f"{url}/_lab/health", context=context, timeout=60).status == 200
        workspace = json.loads(variables["AIRFLOW_CONN_DATABRICKS_DEFAULT"])
        assert (workspace["conn_type"], workspace["host"]) == ("databricks", "localhost")
        who = urllib.request.Request(
            f"https://localhost:{workspace['port']}/api/2.0/preview/scim/v2/Me",
            headers={"authorization": f"Bearer {workspace['password']}"},
        )
        answer = urllib.request.urlopen(who, context=context, timeout=60)
        assert json.loads(answer.read())["userName"] == "lab@example.com"
        request = urllib.request.Request(f"{url}/telemetry/send", b"{}", method="POST")
        assert urllib.request.urlopen(request, context=context, timeout=60).status == 200
        if sent == signal.SIGINT:
            second = start("--port", str(port))
            _, errors = second.communicate(timeout=30)
            assert second.returncode == 1
            assert errors == (
                f"astronomer.lab: port {port} on 127.0.0.1 is already in use; choose another with --port\n"
            )
    finally:
        running.send_signal(sent)
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 0
    assert (output, errors.count("\n")) == ("", 2)
    assert "POST /telemetry/send 200" in errors


TASK = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid} ")
time.sleep(300)
"""


def runs(pid: str) -> bool:
    """Whether a process runs; a dead one that nobody has asked for does not."""
    asked = subprocess.run(["ps", "-o", "stat=", "-p", pid], check=False, capture_output=True, text=True)
    return asked.stdout.strip()[:1] not in {"", "Z"}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_task_outlives_it(tmp_path, monkeypatch, sent):
    directory, temporary, told = tmp_path / "lab", tmp_path / "temporary", tmp_path / "pids"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    running = start("--directory", str(directory), "--quiet")
    try:
        variables = introduction(running)
        workspace = json.loads(variables["AIRFLOW_CONN_DATABRICKS_DEFAULT"])
        (directory / "workspace" / "task.py").write_text(TASK)
        task = {"task_key": "a", "spark_python_task": {"python_file": "/task.py", "parameters": [str(told)]}}
        submit = urllib.request.Request(
            f"https://localhost:{workspace['port']}/api/2.2/jobs/runs/submit",
            json.dumps({"tasks": [task]}).encode(),
            {"authorization": f"Bearer {workspace['password']}"},
        )
        context = ssl.create_default_context(cafile=variables["SSL_CERT_FILE"])
        urllib.request.urlopen(submit, context=context, timeout=60).close()
        until(lambda: told.exists() and told.read_text().endswith(" "))
        pids = told.read_text().split()
        assert all(runs(pid) for pid in pids)
    finally:
        running.send_signal(sent)
        _, errors = running.communicate(timeout=60)
    until(lambda: not any(runs(pid) for pid in pids))
    if sent != signal.SIGKILL:
        assert (running.returncode, errors) == (0, "")
        assert list(temporary.iterdir()) == []


def test_help_names_the_command():
    output = subprocess.run(
        [sys.executable, "-m", "astronomer.lab", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "start the stand-ins and print the Airflow connections to use" in output
