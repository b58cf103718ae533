"""The demo's user of Airflow, at an API server that does not always do what it is asked."""

import json
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tools.demo import airflow
from tools.demo.airflow import TRIES, Airflow

LOCKED = 500, {"detail": {"reason": "Database error", "statement": "hidden", "message": "Serious error"}}
BROKEN = 500, {"detail": {"reason": "another one"}}
TASK = {"dag_id": "a", "dag_run_id": "r", "task_id": "t", "map_index": -1}


@contextmanager
def api_server(*answers):
    """Give these answers in turn, the last one for ever; yields the user and what was asked."""
    asked, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            status, answer = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer, separators=(",", ":")).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with closing(Airflow(f"http://127.0.0.1:{server.server_port}", "admin", "secret")) as user:
                yield user, asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(airflow, "PAUSE", 0.0)


def test_a_locked_database_is_asked_again():
    with api_server(LOCKED, LOCKED, (200, {})) as (user, asked):
        user.mark_failed(TASK)
    assert asked == 3 * [("/api/v2/dags/a/dagRuns/r/taskInstances/t", {"new_state": "failed"})]


def test_but_not_for_ever():
    with (
        api_server(LOCKED) as (user, asked),
        pytest.raises(httpx.HTTPStatusError, match=r"PATCH dags/a.*500.*Database error"),
    ):
        user.mark_failed(TASK)
    assert len(asked) == TRIES


def test_any_other_error_is_told_at_once():
    with api_server(BROKEN) as (user, asked), pytest.raises(httpx.HTTPStatusError, match="another one"):
        user.mark_failed(TASK)
    assert len(asked) == 1
