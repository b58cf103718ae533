"""What a wait for another deployment is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

from astronomer.deferral import Poller
from astronomer.providers.core.jobs.external import ExternalWait

__all__ = ["DELETED", "LATEST", "DeploymentWait", "RunKey", "moment", "run_url"]

DELETED = "deleted"
"""Why a wait has ended badly, beside those of :mod:`astronomer.providers.core.jobs.external`."""

LATEST = "the latest run"


class RunKey(NamedTuple):
    """One run, as a wait names it.

    :param by: ``run_id``, ``date`` or ``latest``.
    :param name: its id, its logical date, or the moment of which it was the latest.
    """

    dag_id: str
    by: str
    name: str


@dataclass(frozen=True)
class DeploymentWait(ExternalWait):
    """A wait for tasks, a task group or whole runs of one Dag of a deployment that is asked over its REST API.

    The runs are named as in :class:`ExternalWait`, or as the latest one.

    :param conn_id: the Airflow connection that leads there.
    :param address: the deployment's URL, so that a connection that was changed meanwhile answers for no other one.
    :param latest: whether it is about the latest run. With ``run_ids``, that run was found, and the wait stays with it.
    :param as_of: without them: ISO 8601. The latest run is the one of those that were due by then (``run_after``)
        which was due last; if there was none, the first one after it. So every process finds the same one.
    """

    conn_id: str = "astro_cloud_default"
    address: str = ""
    latest: bool = False
    as_of: str | None = None

    connection_fields: ClassVar[tuple[str, ...]] = ("conn_id", "address")

    @property
    def targets(self) -> tuple[str, ...]:
        """The runs: logical dates, run ids, or a word for the latest one."""
        return super().targets or ((LATEST,) if self.latest else ())

    @property
    def name(self) -> str:
        """What is waited for, in which run, and where."""
        return f"{super().name}, at {self.address or self.conn_id}"

    @property
    def about_tasks(self) -> bool:
        """Whether it is about tasks, rather than whole runs."""
        return bool(self.task_ids or self.group_id)

    @property
    def keys(self) -> Mapping[str, RunKey]:
        """The run of each target."""
        if self.logical_dates:
            return {date: RunKey(self.dag_id, "date", moment(date)) for date in self.logical_dates}
        if self.run_ids:
            return {run_id: RunKey(self.dag_id, "run_id", run_id) for run_id in self.run_ids}
        return {LATEST: RunKey(self.dag_id, "latest", moment(self.as_of or ""))}

    def pinned(self, run_id: str) -> DeploymentWait:
        """The same wait, which stays with the latest run that was found."""
        return replace(self, run_ids=(run_id,), as_of=None)

    def poller(self) -> Poller[Any]:
        """One for all waits over the connection."""
        from astronomer.providers.core.jobs.deployment_poller import DeploymentPoller

        return DeploymentPoller(self)


@lru_cache(maxsize=10_000)
def moment(text: str) -> str:
    """A point in time in one spelling, so that two can be compared; without a zone, it is UTC.

    :raises ValueError: it is none.
    """
    # Before Python 3.11, datetime reads no Z.
    found = datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith(("Z", "z")) else text)
    if found.tzinfo is None:
        found = found.replace(tzinfo=timezone.utc)
    return found.astimezone(timezone.utc).isoformat(timespec="microseconds")


def run_url(address: str, dag_id: str, run_id: str | None) -> str:
    """Where a person finds a run of a Dag of a deployment; the Dag itself, without a run."""
    run = f"/runs/{quote(run_id, safe='')}" if run_id else ""
    return f"{address}/dags/{quote(dag_id, safe='')}{run}"
