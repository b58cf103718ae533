"""Notices in the UI and in the log: a real API server's application is asked for what the UI asks for."""

from __future__ import annotations

import json
import logging
import os
import runpy
import secrets
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from airflow import settings
from airflow.api_fastapi.common.types import UIAlert
from airflow.version import version as airflow_version

from astronomer.runtime import board as module
from astronomer.runtime import plugin
from astronomer.runtime.board import Board
from astronomer.runtime.plugin import NoticeMiddleware
from astronomer.runtime.versions import Manifest, Tag
from tests.unit.runtime.releases import entry, manifest, text

if not airflow_version.startswith("3.3."):
    pytest.skip("tried with Airflow 3.3", allow_module_level=True)

LIVING = {"endOfMaintenance": "2126-01-01"}
OLD = manifest({"3.3-1": entry(**LIVING)})
NEWER = manifest({"3.3-1": entry(**LIVING), "3.3-2": entry(**LIVING)})
WITHDRAWN = manifest({"3.3-1": entry(yanked=True, yankedReason="[x](https://evil.example)", **LIVING)})
OFFER = "Runtime 3.3-2 is available, with fixes for yours (Airflow 3.3.2)."


@pytest.fixture
def shown(monkeypatch):
    """What the UI shows, with an alert of the deployment's own."""
    alerts = [UIAlert(text="Welcome", category="info")]
    monkeypatch.setattr(settings, "DASHBOARD_UIALERTS", alerts)
    return alerts


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, logger=module.__name__)


def lines(caplog):
    return [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == module.__name__
    ]


def test_a_notice_comes_and_goes(shown, caplog):
    known = [OLD, NEWER, NEWER, WITHDRAWN, OLD]
    board = Board(Tag(3, 3, 1), lambda: known.pop(0), 1.0)
    seen = []
    while known:
        board.look()
        seen.append([(alert.category, alert.text) for alert in shown[1:]])
    assert shown[0].text == "Welcome"
    assert seen[0] == seen[4] == []
    assert seen[1] == seen[2] == [("info", OFFER)]
    ((level, words),) = seen[3]
    assert level == "error"
    assert words.endswith("Its makers say: `[x](https://evil.example)`")
    assert [level for level, _ in lines(caplog)] == ["INFO", "ERROR"]  # once each


def test_the_same_words_of_the_deployment_stay(shown):
    shown.append(UIAlert(text=OFFER, category="info"))
    known = [NEWER, OLD]
    board = Board(Tag(3, 3, 1), lambda: known.pop(0), 1.0)
    board.look()
    assert len(shown) == 3
    board.look()
    assert [alert.text for alert in shown] == ["Welcome", OFFER]


def test_it_looks_at_once_and_ends_with_its_context(shown, caplog):
    looked = threading.Event()

    def known():
        looked.set()
        return OLD

    with Board(Tag(3, 3, 1), known, 1e9):
        assert looked.wait(30)
        (thread,) = [one for one in threading.enumerate() if one.name == "runtime-notices"]
        assert thread.daemon
    thread.join(30)
    assert not thread.is_alive()
    assert lines(caplog) == [("INFO", "Runtime 3.3-1")]


def test_the_end_does_not_wait_for_an_answer(shown):
    answer = threading.Event()
    with Board(Tag(3, 3, 1), lambda: answer.wait(60) and OLD, 1.0):
        (thread,) = [one for one in threading.enumerate() if one.name == "runtime-notices"]
    assert thread.is_alive()
    answer.set()
    thread.join(30)


def test_outside_an_image_there_is_no_thread(shown, monkeypatch):
    monkeypatch.delenv("ASTRONOMER_RUNTIME_VERSION", raising=False)
    with Board.configured():
        assert not [one for one in threading.enumerate() if one.name == "runtime-notices"]


def test_an_unreadable_tag_is_one_warning(monkeypatch, caplog):
    monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSION", "latest")
    with Board.configured():
        pass
    ((level, words),) = lines(caplog)
    assert level == "WARNING"
    assert "'latest' is no tag" in words


async def test_an_interval_that_is_no_number_does_not_keep_the_server_from_starting(shown, monkeypatch):
    monkeypatch.setenv("AIRFLOW__ASTRONOMER_RUNTIME__CHECK_INTERVAL", "daily")
    monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSION", "3.3-1")
    started = []

    async def app(scope, receive, send):
        started.append(scope)

    await NoticeMiddleware(app)({"type": "lifespan"}, None, None)
    assert started


@pytest.mark.parametrize(("wanted", "interval"), [(0.0, 60.0), (3600.0, 3600.0), (1e9, 86400.0)])
def test_how_often_it_looks(wanted, interval):
    assert Board(None, lambda: Manifest({}), wanted)._interval == interval


async def test_requests_pass_the_middleware_untouched():
    passed = []

    async def app(scope, receive, send):
        passed.append((scope, receive, send))

    scope = {"type": "http"}
    await NoticeMiddleware(app)(scope, "receive", "send")
    assert passed == [(scope, "receive", "send")]


SERVER = """
import json, time
from fastapi.testclient import TestClient
from airflow.api_fastapi.app import create_app
from airflow.utils.db import initdb

initdb()
with TestClient(create_app("core")) as client:
    token = client.get("/auth/token").json()["access_token"]
    deadline = time.monotonic() + 60
    while True:
        answer = client.get("/ui/config", headers={"Authorization": f"Bearer {token}"})
        alerts = answer.json()["dashboard_alert"]
        if len(alerts) == 3 or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    print(json.dumps({"status": answer.status_code, "alerts": alerts}))
"""


@pytest.mark.long
def test_what_the_ui_is_told(tmp_path):
    (tmp_path / "versions.json").write_text(
        text(
            {"3.3-1": entry(yanked=True, yankedReason="It `loses` logs.", **LIVING), "3.3-2": entry(**LIVING)}
        )
    )
    for name in ("plugins", "config"):
        (tmp_path / name).mkdir()
    if "astronomer_runtime" not in _installed_plugins():
        (tmp_path / "plugins" / "runtime.py").write_text(
            "from astronomer.runtime.plugin import RuntimePlugin\n"
        )
    (tmp_path / "config" / "airflow_local_settings.py").write_text(
        "from airflow.api_fastapi.common.types import UIAlert\n"
        "DASHBOARD_UIALERTS = [UIAlert(text='Welcome', category='info')]\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "ASTRONOMER_"))
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SERVER],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            **environment,
            "ASTRONOMER_RUNTIME_VERSION": "3.3-1",
            "ASTRONOMER_RUNTIME_VERSIONS": str(tmp_path / "versions.json"),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "PYTHONPATH": str(Path(module.__file__).parents[2]),
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    *_, answer = done.stdout.splitlines()
    found = json.loads(answer)
    assert found["status"] == 200
    withdrawn = (
        "Runtime 3.3-1 has been withdrawn. Change to another release. Its makers say: `It 'loses' logs.`"
    )
    ours = [{"category": "error", "text": withdrawn}, {"category": "info", "text": OFFER}]
    assert found["alerts"] == [{"category": "info", "text": "Welcome"}, *ours]
    assert OFFER in done.stdout.removesuffix(answer + "\n") + done.stderr  # in the log, too


@pytest.mark.parametrize(("text", "count"), [("3.3-1", 1), ("", 0), (None, 0)])
def test_the_plugin_is_empty_outside_an_image(monkeypatch, text, count):
    monkeypatch.delenv("ASTRONOMER_RUNTIME_VERSION", raising=False)
    if text is not None:
        monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSION", text)
    found = runpy.run_path(plugin.__file__)
    assert len(found["RuntimePlugin"].fastapi_root_middlewares) == count


def _installed_plugins():
    return {one.name for one in entry_points(group="airflow.plugins")}
