"""Another deployment in memory, where a transport would send requests, and connections to it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from astronomer.deferral import clock
from astronomer.deferral._compat import PlainConnection
from astronomer.providers.core.hooks.deployment import DeploymentClient
from astronomer.providers.core.hooks.deployment_http import Answer
from astronomer.providers.core.jobs.deployment import DeploymentWait, moment
from astronomer.providers.core.jobs.deployment_poller import DeploymentPoller

URL = "https://airflow.example.com/orders"
PASSWORD = "dose-0123456789"
TOKEN = "token-0123456789"
RUNS, TASKS = "dags/~/dagRuns/list", "dags/~/dagRuns/~/taskInstances/list"
# What Airflow 3.0 takes; it refuses a body with anything else in it.
_PAGING = {"order_by", "page_offset", "page_limit"}
_DATES = {
    f"{name}_{end}"
    for name in ("run_after", "logical_date", "start_date", "end_date")
    for end in ("gte", "lte")
}
_FILTERS = {
    RUNS: _PAGING | _DATES | {"dag_ids", "states"},
    TASKS: _PAGING | _DATES | {"dag_ids", "dag_run_ids", "task_ids", "state", "pool", "queue", "executor"},
}


def connection(conn_id="astro_cloud_default", **fields):
    """An Airflow connection as it is read."""
    given = {"login": None, "password": None, "host": URL, "port": None, "schema": None, "extra_dejson": {}}
    return PlainConnection(conn_id, **(given | fields))


def with_token(token=TOKEN, **fields):
    return connection(password=token, **fields)


def with_password(password=PASSWORD, **fields):
    return connection(login="reader", password=password, **fields)


def wait(dag_id="orders", *, tasks=(), **fields):
    return DeploymentWait(dag_id, tuple(tasks), address=URL, **fields)


def after(seconds):
    """A point in time on a fake clock, as an API writes it."""
    return datetime.fromtimestamp(clock.now() + seconds, timezone.utc)


def reply(status=200, body=None, *, headers=None, asked="GET /api/v2/dags"):
    content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    return Answer(asked, status, headers or {}, content)


@dataclass
class Deployment:
    """Answers as the public REST API v2 does.

    :param script: what becomes of the next questions: ``None``, an answer, an exception, or a status.
    :param most: the most rows that it gives at once.
    :ivar asked: (time, path, body) of each question.
    :ivar alive: when each token ends.
    :ivar early: so many seconds before the time that it says.
    :ivar latency: seconds that an answer takes, by the number of the question.
    """

    version: str = "3.3.2"
    most: int = 100_000
    lasts: float = 3600.0
    early: float = 0.0
    latency: dict[int, float] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)
    script: list[Any] = field(default_factory=list)
    logins: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[float, str, Any]] = field(default_factory=list)
    alive: dict[str, float] = field(default_factory=lambda: {TOKEN: float("inf")})
    runs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    tasks: dict[tuple[str, str], dict[tuple[str, int], str | None]] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    on_question: Callable[[str], object] | None = None
    methods: set[str] = field(default_factory=set)
    opened: int = 0
    closed: int = 0

    # What tests do.

    def client(self, read=None):
        self.opened += 1
        return DeploymentClient(read or with_token(), self)

    def poller(self, read=None):
        return OwnPoller(wait(), self.client(read))

    def start(self, run_id="r1", dag_id="orders", state="running", *, date=None, due=0.0, **tasks):
        """A run; keyword arguments are its tasks' states, with ``m=[...]`` for a mapped one."""
        self.runs[dag_id, run_id] = {
            "dag_id": dag_id,
            "dag_run_id": run_id,
            "state": state,
            "logical_date": date,
            "run_after": (datetime.fromtimestamp(1_800_000_000 + due, timezone.utc)).isoformat(),
            "end_date": None,
            "some_news": {"of": "a later release"},
        }
        self.tasks[dag_id, run_id] = {}
        self.set(run_id, dag_id, **tasks)
        if state in {"success", "failed"}:
            self.end(run_id, dag_id, state)
        return run_id

    def set(self, run_id="r1", dag_id="orders", **tasks):
        for task_id, state in tasks.items():
            if isinstance(state, list):
                for index, one in enumerate(state):
                    self.tasks[dag_id, run_id][task_id, index] = one
            else:
                self.tasks[dag_id, run_id][task_id, -1] = state

    def end(self, run_id="r1", dag_id="orders", state="success"):
        self.runs[dag_id, run_id] |= {"state": state, "end_date": after(0).isoformat()}

    def delete(self, run_id="r1", dag_id="orders"):
        del self.runs[dag_id, run_id], self.tasks[dag_id, run_id]

    def paths(self, since=0.0):
        return [path for at, path, _ in self.asked if at >= since]

    def count(self):
        """(questions for runs, for tasks, and others) since the last count."""
        paths = self.paths()
        self.asked.clear()
        runs, tasks = paths.count(RUNS), paths.count(TASKS)
        return runs, tasks, len(paths) - runs - tasks

    # What a transport does.

    async def send(self, method, url, *, headers=None, **content):
        self.urls.append(url)
        await asyncio.sleep(self.latency.get(len(self.urls), 0.01))
        parts = urlsplit(url)
        if parts.path.endswith("/token"):
            return self._log_in(parts, dict(headers or {}), content)
        assert url.startswith(f"{URL}/api/v2/"), url
        path = unquote(url.removeprefix(f"{URL}/api/v2/"))
        self.asked.append((clock.now(), path, content.get("json")))
        self.methods.add(method)
        if self.on_question is not None:
            self.on_question(path)
        fault = self.script.pop(0) if self.script else None
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            return reply(fault, b"<html>sorry</html>") if isinstance(fault, int) else fault
        ends = self.alive.get(headers["Authorization"].removeprefix("Bearer "))
        if ends is None:
            return reply(403, {"detail": "Invalid JWT token"})
        if ends <= clock.now():
            return reply(401, {"detail": "Token Expired"})
        if method == "POST":
            return self._list(path, content["json"])
        return self._get(
            [unquote(one) for one in parts.path.split("/api/v2/")[1].split("/")], parse_qs(parts.query)
        )

    async def close(self):
        self.closed += 1

    def _log_in(self, parts, headers, content):
        self.logins.append({"url": parts.geturl(), "headers": headers, **content})
        if self.script and isinstance(self.script[0], dict):
            return reply(**self.script.pop(0))
        told = content.get("json") or content.get("data")
        basic = base64.b64encode(f"reader:{PASSWORD}".encode()).decode()
        if PASSWORD not in (told.get("password"), told.get("client_secret")) and basic not in str(headers):
            return reply(401, {"detail": f"Invalid credentials {told}"}, asked="POST /auth/token")
        now = clock.now()
        claims = json.dumps({"iat": now, "exp": now + self.lasts, "n": len(self.logins)}).encode()
        token = f"head.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.tail"
        self.alive[token] = now + self.lasts - self.early
        return reply(201, {"access_token": token})

    def _list(self, path, body):
        wrong = set(body) - _FILTERS.get(path, set())
        if path not in _FILTERS:
            return reply(405, {"detail": "Method Not Allowed"})
        if wrong:
            return reply(422, {"detail": f"extra fields {wrong}"})
        if path == RUNS:
            rows, name = [row for row in self.runs.values() if _fits(row, body)], "dag_runs"
        else:
            rows, name = [row for row in self._instances() if _fits(row, body)], "task_instances"
        if (order := body.get("order_by", "id").lstrip("-")) != "id":
            rows.sort(key=lambda row: row[order])
        if body.get("order_by", "").startswith("-"):
            rows.reverse()
        first = body["page_offset"]
        some = rows[first : first + min(body["page_limit"], self.most)]
        return reply(200, {name: some, "total_entries": len(rows), "some_news": None})

    def _instances(self):
        for (dag_id, run_id), tasks in self.tasks.items():
            run = self.runs[dag_id, run_id]
            for (task_id, index), state in tasks.items():
                yield {
                    "dag_id": dag_id,
                    "dag_run_id": run_id,
                    "task_id": task_id,
                    "map_index": index,
                    "state": state,
                    **{name: run[name] for name in ("logical_date", "run_after")},
                    "rendered_fields": {"sql": "SELECT 1"},
                }

    def _get(self, path, query):
        match path:
            case ["version"]:
                return reply(200, {"version": self.version})
            case ["dags", dag_id, "dagRuns", run_id]:
                run = self.runs.get((dag_id, run_id))
                return (
                    reply(200, run) if run else _missing(f"The DagRun with dag_id: `{dag_id}` was not found")
                )
            case ["dags", dag_id, "dagRuns", run_id, "taskInstances"]:
                return self._group(dag_id, run_id, query)
            case ["dags", dag_id, "tasks", task_id]:
                there = any((task_id, -1) in tasks for (dag, _), tasks in self.tasks.items() if dag == dag_id)
                return reply(200, {}) if there else _missing(f"Task with id {task_id} was not found")
            case ["dags", dag_id]:
                there = any(dag == dag_id for dag, _ in self.runs)
                return reply(200, {}) if there else _missing(f"The Dag with ID: `{dag_id}` was not found")
        return reply(404, {"error": "API route not found"})

    def _group(self, dag_id, run_id, query):
        (group_id,) = query["task_group_id"]
        if run_id != "~" and (dag_id, run_id) not in self.runs:
            return _missing(f"DagRun with dag_id: `{dag_id}` was not found")
        if group_id not in self.groups:
            return reply(
                404, {"detail": {"reason": "not_found", "message": f"Task group {group_id} not found"}}
            )
        indexes = [int(one) for one in query["map_index"]]
        rows = [
            {"task_id": task_id, "map_index": index}
            for task_id, index in self.tasks.get((dag_id, run_id), {})
            if task_id in self.groups[group_id] and index in indexes
        ]
        first = int(query["offset"][0])
        return reply(200, {"task_instances": rows[first : first + 2], "total_entries": len(rows)})


class OwnPoller(DeploymentPoller):
    """Closes the client that a test has lent to it."""

    async def close(self):
        client = self._borrowed
        await super().close()
        await client.close()


def _missing(detail):
    return reply(404, {"detail": detail})


def _fits(row, body):
    chosen = {
        "dag_ids": "dag_id",
        "dag_run_ids": "dag_run_id",
        "task_ids": "task_id",
        "states": "state",
        "state": "state",
    }
    for name, column in chosen.items():
        if body.get(name) and row[column] not in body[name]:  # an empty list is no filter
            return False
    for name in _DATES & set(body):
        column, _, end = name.rpartition("_")
        if row[column] is None:
            return False
        found, limit = moment(row[column]), moment(body[name])
        if found < limit if end == "gte" else found > limit:
            return False
    return True


def date(days):
    """A logical date, as the API writes it."""
    return (
        (datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=days)).isoformat().replace("+00:00", "Z")
    )
