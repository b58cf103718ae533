"""A user of Airflow: everything here goes through the public REST API."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

# The XComs in which tasks show their remote job, and the id in each.
SHOWN = {
    "Snowflake": ("snowsight_query", re.compile(r"/queries/([0-9a-f-]+)/")),
    "Databricks": ("run_id", re.compile(r"(\d+)")),
}
PARTS = ("scheduler", "triggerer", "dag_processor")
PAGE = 100
TRIES = 5
PAUSE = 1.0  # seconds between them


class Airflow:
    """One Airflow, and the user who is logged in to it.

    :param url: without a path.
    :param parts: those that have to work, beside the API server.
    """

    def __init__(self, url: str, user: str, password: str, parts: Collection[str] = PARTS) -> None:
        self._user, self._password, self._parts = user, password, parts
        self._http = httpx.Client(base_url=url, timeout=60.0, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def unhealthy(self) -> list[str]:
        """Return the parts that do not work, or do not work yet."""
        try:
            health = self._http.get("/api/v2/monitor/health", timeout=15.0).json()
        except (httpx.HTTPError, ValueError):
            return ["api_server"]
        return [
            part for part in ("metadatabase", *self._parts) if health.get(part, {}).get("status") != "healthy"
        ]

    def log_in(self) -> None:
        answer = self._http.post(
            "/auth/token", json={"username": self._user, "password": self._password}
        ).raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def dags(self) -> set[str]:
        return {str(dag["dag_id"]) for dag in self._pages("dags", "dags")}

    def import_errors(self) -> dict[str, str]:
        """Return file -> traceback."""
        found = self._pages("importErrors", "import_errors")
        return {str(one["filename"]): str(one["stack_trace"]) for one in found}

    def unpause(self, dag_id: str) -> None:
        self._call("PATCH", f"dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any], logical_date: str | None = None) -> str:
        """Start a run of a Dag; returns the run's id.

        :param logical_date: in ISO 8601, with a zone.
        """
        answer = self._call("POST", f"dags/{dag_id}/dagRuns", {"logical_date": logical_date, "conf": conf})
        return str(answer["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return what Airflow knows of a run."""
        return self._call("GET", f"dags/{dag_id}/dagRuns/{run_id}")

    def task_instances(self) -> list[dict[str, Any]]:
        return list(self._pages("dags/~/dagRuns/~/taskInstances", "task_instances"))

    def job_id(self, instance: Mapping[str, Any], service: str) -> str | None:
        """Return the id of a task's remote job, once the task shows one."""
        key, pattern = SHOWN[service]
        params = {"map_index": instance["map_index"]}
        answer = self._http.get(f"/api/v2/{_path(instance)}/xcomEntries/{key}", params=params)
        if answer.status_code == 404:
            return None
        found = pattern.search(str(answer.raise_for_status().json()["value"]))
        return found[1] if found else None

    def mark_failed(self, instance: Mapping[str, Any]) -> None:
        """Do what "Mark as failed" on the task's page does."""
        self.mark(instance, "failed")

    def add_connection(self, name: str, connection: Mapping[str, Any]) -> None:
        """Save a connection.

        :param connection: in the words of Airflow's JSON form.
        """
        self._call("POST", "connections", _connection(name, connection))

    def edit_connection(self, name: str, connection: Mapping[str, Any]) -> None:
        """Do what the page of a connection does."""
        self._call("PATCH", f"connections/{name}", _connection(name, connection))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of one run."""
        return list(self._pages(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances"))

    def mark(self, instance: Mapping[str, Any], state: str) -> None:
        """Do what "Mark as …" on the task's page does."""
        mapped = f"/{instance['map_index']}" if instance["map_index"] >= 0 else ""
        self._call("PATCH", f"{_path(instance)}{mapped}", {"new_state": state})

    def version(self, dag_id: str) -> int:
        """Return the number of the newest version of a Dag."""
        return int(self._call("GET", f"dags/{dag_id}/dagVersions?limit=1")["total_entries"])

    def events(self, dag_id: str, run_id: str, task_id: str) -> set[str]:
        """Return what the audit log has of a task, by its words."""
        found = self._pages(
            f"eventLogs?dag_id={dag_id}&run_id={quote(run_id)}&task_id={task_id}", "event_logs"
        )
        return {str(one["event"]) for one in found}

    def log(self, dag_id: str, run_id: str, task_id: str, index: int, number: int) -> list[str]:
        """Return the lines of the log of one try of a task, each as JSON where Airflow has it in parts."""
        one = {"dag_id": dag_id, "dag_run_id": run_id, "task_id": task_id}
        answer = self._call("GET", f"{_path(one)}/logs/{number}?map_index={index}&full_content=true")
        content = answer.get("content") or []
        return [line if isinstance(line, str) else json.dumps(line) for line in content]

    def clear(self, dag_id: str, run_id: str, task_ids: Collection[str]) -> None:
        """Do what "Clear" on a task's page does."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": list(task_ids)}
        self._call("POST", f"dags/{dag_id}/clearTaskInstances", body)

    def pause(self, dag_id: str) -> None:
        self._call("PATCH", f"dags/{dag_id}", {"is_paused": True})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Do what "Delete" on the page of a run does; one that goes on has to be marked first."""
        self._call("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})
        self._call("DELETE", f"dags/{dag_id}/dagRuns/{run_id}")

    def _pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        offset, total = 0, 1
        while offset < total:
            answer = self._call("GET", f"{path}{'&' if '?' in path else '?'}limit={PAGE}&offset={offset}")
            total = int(answer["total_entries"])
            yield from answer[key]
            offset += PAGE

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        for number in range(TRIES):
            if number:
                time.sleep(PAUSE)
            answer = self._http.request(method, f"/api/v2/{path}", json=body)
            if not _database_was_locked(answer):
                break
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {answer.status_code} {answer.text[:500]}",
                request=answer.request,
                response=answer,
            )
        return dict(answer.json()) if answer.content else {}


def _database_was_locked(answer: httpx.Response) -> bool:
    """Whether the API server gave up on its database, before it did what was asked: a person would press again.

    Over SQLite it does so now and then, after five seconds, for a lock that one of its own threads holds.
    """
    return answer.status_code == 500 and '"Database error"' in answer.text


def _connection(name: str, connection: Mapping[str, Any]) -> dict[str, Any]:
    return {"connection_id": name, **connection, "extra": json.dumps(connection.get("extra") or {})}


def _path(instance: Mapping[str, Any]) -> str:
    return f"dags/{instance['dag_id']}/dagRuns/{instance['dag_run_id']}/taskInstances/{instance['task_id']}"
