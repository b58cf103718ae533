"""Runs and their task runs: the records, and how the API shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from astronomer.lab.databricks.states import PENDING, State

__all__ = ["PAGE", "Output", "Repair", "Run", "TaskRun"]

PAGE = 100
"""Elements of an array that one answer shows."""

_ECHOED_BY_RUN = ("description", "git_source", "job_clusters")


@dataclass
class Output:
    """What a task run left behind.

    :param more: fields of its own kind of task, such as ``notebook_output``.
    """

    error: str = ""
    error_trace: str = ""
    logs: str | None = None
    logs_truncated: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the API."""
        shown: dict[str, Any] = dict(self.more)
        if self.error:
            shown["error"] = self.error
        if self.error_trace:
            shown["error_trace"] = self.error_trace
        if self.logs is not None:
            shown.update(logs=self.logs, logs_truncated=self.logs_truncated)
        return shown


@dataclass(eq=False)
class TaskRun:
    """One attempt of one task.

    :param spec: the task as it was given, parameters of the run applied.
    :param retries: how many attempts before it failed since the run began or was repaired.
    :param started: when its work began, milliseconds, or 0.
    :param stop: ends its work; None while there is none.
    :param values: what it set with ``dbutils.jobs.taskValues``.
    """

    run_id: int
    run: Run
    spec: dict[str, Any]
    attempt: int = 0
    state: State = PENDING
    start_time: int = 0
    retries: int = 0
    started: int = 0
    end_time: int = 0
    output: Output = field(default_factory=Output)
    values: dict[str, Any] = field(default_factory=dict)
    stop: Callable[[], None] | None = None
    timers: list[Any] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The task's name in its run."""
        return str(self.spec["task_key"])

    @property
    def upstream(self) -> list[dict[str, Any]]:
        """Which tasks it depends on."""
        return list(self.spec.get("depends_on") or [])

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows in ``tasks``."""
        ended = self.end_time
        spec = self.spec
        if "condition_task" in spec and "outcome" in self.values:
            spec = {**spec, "condition_task": {**spec["condition_task"], "outcome": self.values["outcome"]}}
        return {
            **spec,
            "run_id": self.run_id,
            "run_page_url": f"{self.run.origin}/?o=900800700600#job/{self.run.job_id}/run/{self.run_id}",
            "run_if": self.spec.get("run_if", "ALL_SUCCESS"),
            "attempt_number": self.attempt,
            "state": self.state.old(),
            "status": self.state.new(),
            "start_time": self.start_time,
            "end_time": ended,
            "setup_duration": max(self.started - self.start_time, 0) if self.started else 0,
            "execution_duration": ended - self.started if ended and self.started else 0,
            "cleanup_duration": 0,
            "cluster_instance": {"cluster_id": self.spec.get("existing_cluster_id", "0000-000000-lab")},
        }

    def as_run(self) -> dict[str, Any]:
        """Return what the API shows when it is asked for by its own id."""
        run = self.run
        return {
            **self.as_json(),
            "job_id": run.job_id,
            "job_run_id": run.run_id,
            "parent_run_id": run.run_id,
            "number_in_job": self.run_id,
            "original_attempt_run_id": self.run_id,
            "creator_user_name": run.creator,
            "run_name": self.key,
            "run_type": run.kind,
            "format": "SINGLE_TASK",
            "trigger": "ONE_TIME",
            "run_duration": self.end_time - self.start_time if self.end_time else 0,
            "tasks": [self.as_json()],
        }

    def alone(self) -> bytes:
        """Return that as JSON."""
        return _dump(self.as_run())


@dataclass
class Repair:
    """One entry of the repair history; ``id`` is 0 for the original run."""

    id: int
    start_time: int
    tasks: list[TaskRun]
    end_time: int = 0
    state: State = PENDING

    def as_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        shown = {
            "type": "REPAIR" if self.id else "ORIGINAL",
            "start_time": self.start_time,
            "end_time": self.end_time,
            "state": self.state.old(),
            "status": self.state.new(),
            "task_run_ids": [task.run_id for task in self.tasks],
        }
        return {"id": self.id, **shown} if self.id else shown


@dataclass(eq=False)
class Run:
    """One run of a job, or one that was submitted.

    :param settings: the job's settings as they were when the run began, or the request that submitted it.
    :param kind: ``JOB_RUN`` or ``SUBMIT_RUN``.
    :param single: whether it was given as one task without a name, the format of API 2.0.
    :param tasks: every attempt of every task, oldest first.
    :param began: when it left the queue, milliseconds, or 0.
    """

    run_id: int
    job_id: int
    name: str
    kind: str
    creator: str
    origin: str
    settings: dict[str, Any]
    start_time: int
    single: bool = False
    token: str = ""
    state: State = PENDING
    tasks: list[TaskRun] = field(default_factory=list)
    began: int = 0
    end_time: int = 0
    parameters: list[dict[str, Any]] = field(default_factory=list)
    overriding: dict[str, Any] = field(default_factory=dict)
    repairs: list[Repair] = field(default_factory=list)
    canceled: bool = False
    timed_out: bool = False
    timers: list[Any] = field(default_factory=list)
    watchers: list[Callable[[Run], None]] = field(default_factory=list)
    _pages: dict[tuple[Any, ...], bytes] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it has reached a final state."""
        return self.state.ended

    @property
    def url(self) -> str:
        """The page a person looks at."""
        return f"{self.origin}/?o=900800700600#job/{self.job_id}/run/{self.run_id}"

    def latest(self) -> dict[str, TaskRun]:
        """Return the newest attempt of each task, by its key."""
        return {task.key: task for task in self.tasks}

    def touch(self) -> None:
        """Forget how it looked: something changed."""
        self._pages.clear()

    def _shape(self) -> dict[str, Any]:
        begun, ended = self.began, self.end_time
        shown: dict[str, Any] = {
            "job_id": self.job_id,
            "run_id": self.run_id,
            "job_run_id": self.run_id,
            "number_in_job": self.run_id,
            "original_attempt_run_id": self.run_id,
            "attempt_number": 0,
            "creator_user_name": self.creator,
            "run_name": self.name,
            "run_type": self.kind,
            "run_page_url": self.url,
            "format": "SINGLE_TASK" if self.single else "MULTI_TASK",
            "trigger": "ONE_TIME",
            "state": self.state.old(),
            "status": self.state.new(),
            "start_time": self.start_time,
            "end_time": ended,
            "queue_duration": max((begun or ended) - self.start_time, 0) if begun or ended else 0,
            "setup_duration": 0,
            "execution_duration": 0,
            "cleanup_duration": 0,
            "run_duration": ended - self.start_time if ended else 0,
            "cluster_spec": {},
        }
        if self.single:
            shown["execution_duration"] = ended - begun if ended and begun else 0
            shown["cluster_instance"] = {"cluster_id": "0000-000000-lab"}
        shown.update({name: self.settings[name] for name in _ECHOED_BY_RUN if name in self.settings})
        if self.overriding:
            shown["overriding_parameters"] = self.overriding
        return shown

    def brief(self, *, tasks: bool) -> bytes:
        """Return it as JSON, as a list shows it: with the first tasks or without any."""
        known = self._pages.get(("brief", tasks))
        if known is None:
            shown = self._shape()
            if tasks:
                shown["tasks"] = [task.as_json() for task in self.tasks[:PAGE]]
                if self.parameters:
                    shown["job_parameters"] = self.parameters[:PAGE]
                if len(self.tasks) > PAGE:
                    shown["has_more"] = True
            else:
                shown.pop("job_clusters", None)
            known = self._pages["brief", tasks] = _dump(shown)
        return known

    def full(self, *, offset: int = 0, history: bool = False) -> bytes:
        """Return it as JSON, as ``runs/get`` shows it, the elements of its arrays from ``offset`` on."""
        known = self._pages.get(("full", offset, history))
        if known is None:
            known = self._pages["full", offset, history] = _dump(self._page(offset, history=history))
        return known

    def as_json(self) -> dict[str, Any]:
        """Return it whole."""
        shown = self._shape()
        shown["tasks"] = [task.as_json() for task in self.tasks]
        return shown

    def _page(self, offset: int, *, history: bool) -> dict[str, Any]:
        shown = self._shape()
        arrays: dict[str, list[Any]] = {
            "tasks": self.tasks,
            "job_clusters": list(self.settings.get("job_clusters") or []),
            "job_parameters": self.parameters,
        }
        if history:
            original = Repair(0, self.start_time, self.tasks, self.end_time, self.state)
            arrays["repair_history"] = list(self.repairs) or [original]
        shown.pop("job_clusters", None)
        for name, array in arrays.items():
            part = array[offset : offset + PAGE]
            if part:
                shown[name] = [one.as_json() if hasattr(one, "as_json") else one for one in part]
        if any(len(array) > offset + PAGE for array in arrays.values()):
            shown["next_page_token"] = f"lab{offset + PAGE}"
        return shown


def _dump(shown: Any) -> bytes:
    return json.dumps(shown, separators=(",", ":")).encode()
