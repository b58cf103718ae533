"""What is known of every task: from Airflow's answers and from the services', put together."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.demo.remote import Job
from tools.demo.work import external, work

SERVICES = ("Snowflake", "Databricks")
FINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
Key = tuple[str, str, int]


@dataclass
class Task:
    """One task instance.

    :param waited: seconds it has spent deferred, without a worker.
    :param woke: epoch seconds at which that was seen to be over; None before.
    :param job: the id of its remote job.
    :param remote: the state of that job, in the service's word.
    """

    instance: Mapping[str, Any]
    state: str = "none"
    waited: float = 0.0
    woke: float | None = None
    job: str | None = None
    remote: str = ""
    _since: float | None = None

    @property
    def key(self) -> Key:
        return key_of(self.instance)

    @property
    def dag(self) -> str:
        return str(self.instance["dag_id"])

    @property
    def name(self) -> str:
        """Its id, with the index of a mapped one."""
        task_id, index = self.instance["task_id"], self.instance["map_index"]
        return f"{task_id}[{index}]" if index >= 0 else str(task_id)

    @property
    def service(self) -> str | None:
        """The service whose job it shows; a sensor asks many, and SQL on Databricks shows none."""
        operator = str(self.instance.get("operator_name") or "")
        if "Sensor" in operator or operator == "DatabricksSqlOperator":
            return None
        return next((name for name in SERVICES if operator.startswith(name)), None)

    @property
    def ended(self) -> bool:
        return self.state in FINAL

    @property
    def waits_for(self) -> str:
        """What has to happen before it goes on."""
        if self.state == "deferred":
            if self.job:
                return f"{self.remote or 'asking'}: {work(self.instance)}"
            return external(self.instance) or f"the answer to {work(self.instance)}"
        return {"none": "the tasks before it", "scheduled": "a worker", "queued": "a worker"}.get(
            self.state, ""
        )

    @property
    def waited_for(self) -> str:
        """What it has waited for, in short."""
        return self.job or external(self.instance) or "an answer"

    def update(self, instance: Mapping[str, Any], now: float) -> None:
        """Take a newer answer of Airflow's.

        :param now: epoch seconds.
        """
        self.instance = instance
        self.state = str(instance["state"] or "none")
        trigger = instance.get("trigger")
        deferred = self.state == "deferred"
        if deferred and self._since is None:
            self._since = epoch(trigger["created_date"]) if trigger else now
        elif not deferred and self._since is not None:
            ended = (
                epoch(instance["end_date"]) if self.state == "failed" and instance.get("end_date") else now
            )
            self.woke = min(now, ended)
            self.waited += max(0.0, self.woke - self._since)
            self._since = None

    def seconds_waited(self, now: float) -> float:
        return self.waited + (max(0.0, now - self._since) if self._since is not None else 0.0)


@dataclass
class Board:
    """Every task instance, in the order of Dags and tasks."""

    tasks: dict[Key, Task] = field(default_factory=dict)
    now: float = 0.0

    def update(self, instances: Iterable[Mapping[str, Any]], now: float) -> list[Task]:
        """Take Airflow's answers; returns the tasks that have ended since the last ones."""
        self.now = now
        ended = []
        for instance in instances:
            task = self.tasks.setdefault(key_of(instance), Task(instance))
            before = task.ended
            task.update(instance, now)
            if task.ended and not before:
                ended.append(task)
        return ended

    def see_jobs(self, jobs: Iterable[Job]) -> None:
        """Take the services' word on the jobs."""
        states = {job.id: job.state for job in jobs}
        for task in self.tasks.values():
            if task.job is not None:
                task.remote = states.get(task.job, "")

    def rows(self) -> list[Task]:
        return sorted(self.tasks.values(), key=lambda task: task.key)

    def counts(self) -> dict[str, int]:
        """Return how many tasks run, wait, are to come, and have ended."""
        groups = {"running": "running", "deferred": "waiting"}
        found = dict.fromkeys(("running", "waiting", "to come", "ended"), 0)
        for task in self.tasks.values():
            found["ended" if task.ended else groups.get(task.state, "to come")] += 1
        return found


def key_of(instance: Mapping[str, Any]) -> Key:
    return str(instance["dag_id"]), str(instance["task_id"]), int(instance["map_index"])


def epoch(moment: str) -> float:
    """Return a moment of Airflow's in epoch seconds."""
    return dt.datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
