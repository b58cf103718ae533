"""What the local services know of the remote jobs: the other half of what the demo shows and checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from astronomer.lab.client import LabClient
from astronomer.lab.databricks.client import LabClient as DatabricksClient
from astronomer.lab.snowflake.client import LabClient as SnowflakeClient

__all__ = ["Databricks", "Job", "Service", "Snowflake", "by_id"]

_CANCELLED_QUERY = "000604"
_RUNNING_QUERY = frozenset(
    {
        "RUNNING",
        "QUEUED",
        "BLOCKED",
        "RESTARTED",
        "RESUMING_WAREHOUSE",
        "QUEUED_REPARING_WAREHOUSE",
        "ABORTING",
    }
)


@dataclass(frozen=True)
class Job:
    """One piece of work on a service.

    :param state: in the service's own word.
    :param owner: what tells apart the jobs that one task may start; two jobs of one owner are one too many. None for
        work that no task submitted by itself, such as a part of a block.
    :param started: epoch seconds; ``ended`` is None while it goes on.
    """

    id: str
    state: str
    owner: str | None
    started: float
    ended: float | None
    running: bool
    cancelled: bool

    @property
    def seconds(self) -> float:
        """How long it ran; what has not ended counts nothing."""
        return (self.ended or self.started) - self.started


class Service(Protocol):
    """One stand-in, as the demo sees it."""

    name: str
    url: str
    login: str

    @property
    def client(self) -> LabClient:
        """What steers it."""

    def jobs(self) -> list[Job]:
        """Everything that was ever started."""

    def requests(self) -> list[dict[str, Any]]:
        """Every request, with ``path`` and ``client_port``."""

    def left_open(self) -> list[str]:
        """What was begun and neither finished nor undone."""


class Snowflake:
    """The local Snowflake."""

    name = "Snowflake"
    login = "/session/v1/login-request"

    def __init__(self, client: SnowflakeClient) -> None:
        self.client: SnowflakeClient = client
        self.url = client.url

    def jobs(self) -> list[Job]:
        return [_query(one) for one in self.client.queries()]

    def requests(self) -> list[dict[str, Any]]:
        return self.client.requests()

    def left_open(self) -> list[str]:
        return [f"transaction {one['id']}" for one in self.client.open_transactions()]


class Databricks:
    """The local Databricks workspace."""

    name = "Databricks"
    login = "/oidc/v1/token"

    def __init__(self, client: DatabricksClient) -> None:
        self.client: DatabricksClient = client
        self.url = client.url

    def jobs(self) -> list[Job]:
        return [_run(one) for one in self.client.runs()]

    def requests(self) -> list[dict[str, Any]]:
        return self.client.requests()

    def left_open(self) -> list[str]:
        return []


def _query(one: Mapping[str, Any]) -> Job:
    """Of a block the whole and not its statements; of a sensor none of its pokes."""
    tag = _tag(one)
    submitted = one["parent_id"] is None and bool(tag)
    names = [str(tag.get(f"airflow_{name}")) for name in ("dag_id", "task_id", "map_index")]
    return Job(
        id=str(one["id"]),
        state=str(one["state"]),
        owner=" ".join(names) if submitted else None,
        started=float(one["started_at"]),
        ended=float(one["ended_at"]) if one["ended_at"] else None,
        running=one["state"] in _RUNNING_QUERY,
        cancelled=one["error_code"] == _CANCELLED_QUERY,
    )


def _run(one: Mapping[str, Any]) -> Job:
    """The stock operators name a run after its task, which is unique in the examples."""
    return Job(
        id=str(one["run_id"]),
        state=str(one["state"]),
        owner=str(one["name"]),
        started=one["start_time"] / 1000,
        ended=one["end_time"] / 1000 if one["ended"] else None,
        running=not one["ended"],
        cancelled=one["state"] == "CANCELED",
    )


def _tag(query: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(query["tag"] or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "submit_key" in found else {}


def by_id(jobs: Sequence[Job]) -> dict[str, Job]:
    """The jobs, to be looked up."""
    return {job.id: job for job in jobs}
