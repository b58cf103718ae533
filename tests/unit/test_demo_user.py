"""The demo's user of Airflow, at an API server that does not always do what it is asked."""

from contextlib import closing, contextmanager

import httpx
import pytest

from tests.unit.servers import serving
from tools.demo import airflow
from tools.demo.airflow import TRIES, Airflow

LOCKED = 500, b'{"detail":{"reason":"Database error","statement":"hidden","message":"Serious error"}}'
BROKEN = 500, b'{"detail":{"reason":"another one"}}'
TASK = {"dag_id": "a", "dag_run_id": "r", "task_id": "t", "map_index": -1}


@contextmanager
def api_server(*first):
    """Give these answers in turn, then the right one; yields the user and the server."""
    with serving(b"{}") as server:
        server.first += first
        with closing(Airflow(f"http://127.0.0.1:{server.server_port}", "admin", "secret")) as user:
            yield user, server


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(airflow, "PAUSE", 0.0)


def test_a_locked_database_is_asked_again():
    with api_server(LOCKED, LOCKED) as (user, server):
        user.mark_failed(TASK)
    assert server.questions == 3 * [
        ("PATCH", "/api/v2/dags/a/dagRuns/r/taskInstances/t", b'{"new_state":"failed"}')
    ]


def test_but_not_for_ever():
    with (
        api_server(*[LOCKED] * 2 * TRIES) as (user, server),
        pytest.raises(httpx.HTTPStatusError, match=r"PATCH dags/a.*500.*Database error"),
    ):
        user.mark_failed(TASK)
    assert server.asked == TRIES


def test_any_other_error_is_told_at_once():
    with api_server(BROKEN) as (user, server), pytest.raises(httpx.HTTPStatusError, match="another one"):
        user.mark_failed(TASK)
    assert server.asked == 1
