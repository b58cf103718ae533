"""What the local services know of the remote jobs that tasks have started, in one form."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from astronomer.lab.databricks import LabClient as DatabricksClient
from astronomer.lab.snowflake import LabClient as SnowflakeClient
from tools.chaos.hits import UNKNOWN

OWNER = re.compile(r"chaos\|([^|]+)\|([^|]+)\|([^|]+)\|(\d*)")
CANCELLED_QUERY = "000604"
OURS = re.compile(r"^/queries/|^/monitoring/queries|/jobs/runs/list$|/sql/history")
"""Only ours use Snowflake's connector here, and ask for many jobs at once."""


def side_of(dag_id: str) -> str:
    """Return whose a Dag is: ``ours`` or ``stock``."""
    return "stock" if dag_id.startswith("chaos_stock") else "ours"


@dataclass(frozen=True)
class Job:
    """One remote job.

    :param owner: the Dag, the run and the task that started it, and the index of a mapped one.
    :param started: epoch seconds; ``ended`` is None while it goes on.
    """

    id: str
    owner: tuple[str, str, str, int]
    state: str
    started: float
    ended: float | None
    cancelled: bool

    @property
    def succeeded(self) -> bool:
        return self.ended is not None and self.state in {"SUCCESS", "SUCCEEDED", "FINISHED", "CLOSED"}


@dataclass
class Remote:
    """All jobs that were ever seen, by their ids: one that was deleted is still remembered.

    :ivar ahead: seconds by which the clock of the local Databricks is ahead.
    """

    snowflake: SnowflakeClient
    databricks: DatabricksClient
    jobs: dict[str, Job] = field(default_factory=dict)
    ahead: float = 0.0

    def look(self) -> None:
        """Take the newest state of each; what is no longer there has been deleted."""
        found = {one.id: one for one in self._all()}
        for job in self.jobs.values():
            if job.id not in found and job.ended is None:
                found[job.id] = replace(job, state="DELETED", ended=time.time())
        self.jobs |= found

    def of(self, dag_id: str, run_id: str, task_id: str, index: int) -> list[Job]:
        """Return the jobs of one task, oldest first."""
        owner = (dag_id, run_id, task_id, index)
        return sorted((one for one in self.jobs.values() if one.owner == owner), key=lambda one: one.started)

    def named(self, request: Mapping[str, Any]) -> Job | None:
        """Return the job that a request to a service names in its address."""
        words = {*request["path"].split("/"), *request["query"].values()}
        return next((one for one in self.jobs.values() if one.id.rpartition(":")[2] in words), None)

    def side(self, request: Mapping[str, Any]) -> str:
        """Return who has sent a request, as far as that can be told."""
        if job := self.named(request):
            return side_of(job.owner[0])
        return "ours" if OURS.search(request["path"]) else UNKNOWN

    def end(self, job: Job) -> None:
        """End one as an administrator."""
        if "run:" in job.id:
            self.databricks.cancel_by_user(int(job.id.removeprefix("run:")))
        elif "statement:" in job.id:
            self.databricks.cancel_statement_by_user(job.id.removeprefix("statement:"))
        else:
            self.snowflake.abort_by_admin(job.id)

    def _all(self) -> Iterator[Job]:
        yield from _read(self.snowflake.queries(), "sql", _query)
        for one in (
            *_read(self.databricks.runs(), "name", _run),
            *_read(self.databricks.statements(), "text", _statement),
        ):
            ended = None if one.ended is None else one.ended - self.ahead
            yield replace(one, started=one.started - self.ahead, ended=ended)


def _read(
    found: list[dict[str, Any]],
    name: str,
    job: Callable[[Mapping[str, Any], tuple[str, str, str, int]], Job | None],
) -> Iterator[Job]:
    for one in found:
        if (match := OWNER.search(str(one[name]))) and (
            read := job(one, (match[1], match[2], match[3], int(match[4] or -1)))
        ):
            yield read


def _query(one: Mapping[str, Any], owner: tuple[str, str, str, int]) -> Job | None:
    if one["parent_id"] is not None:
        return None
    cancelled = one["error_code"] == CANCELLED_QUERY
    return Job(one["id"], owner, one["state"], float(one["started_at"]), one["ended_at"], cancelled)


def _run(one: Mapping[str, Any], owner: tuple[str, str, str, int]) -> Job:
    ended = one["end_time"] / 1000 if one["ended"] else None
    cancelled = one["state"] == "CANCELED"
    return Job(f"run:{one['run_id']}", owner, one["state"], one["start_time"] / 1000, ended, cancelled)


def _statement(one: Mapping[str, Any], owner: tuple[str, str, str, int]) -> Job:
    started = float(one["started_at"] or one["submitted_at"])
    ended = one["ended_at"] if one["ended"] else None
    return Job(f"statement:{one['id']}", owner, one["state"], started, ended, one["state"] == "CANCELED")
