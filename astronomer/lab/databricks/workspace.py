"""The state of the workspace, and what its Jobs endpoints do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.conductor import Conductor, Ids, Pace
from astronomer.lab.databricks.errors import ApiError, Arguments, invalid
from astronomer.lab.databricks.index import RunIndex
from astronomer.lab.databricks.jobs import Job, Jobs, position
from astronomer.lab.databricks.runs import Run, TaskRun
from astronomer.lab.databricks.specs import (
    check_overrides,
    is_single,
    key_from,
    parameters_of,
    selected,
    task_specs,
)
from astronomer.lab.databricks.work import Worker

__all__ = ["Call", "Endpoint", "Workspace"]

_LONGEST_TOKEN = 64
_LARGEST_PAGE = 25
_DEFAULT_PAGE = 20
_LARGEST_OFFSET = 10_000
_KEPT_SECONDS = 60 * 24 * 3600


@dataclass
class Call:
    """One request of the Jobs API: its arguments, the API's version and who asks."""

    arguments: Arguments
    version: float
    user: str


Endpoint = Callable[["Workspace", Call], "dict[str, Any] | bytes"]
"""Answers one call."""


class Workspace:
    """Jobs and runs. Every method is called in the loop's thread.

    :param origin: returns the workspace's URL.
    """

    def __init__(self, clock: Clock, origin: Callable[[], str], pace: Pace, worker: Worker) -> None:
        self.clock = clock
        self.origin = origin
        self.ids = Ids()
        self.index = RunIndex()
        self.jobs = Jobs()
        self.worker = worker
        worker.workspace = self
        self.conductor = Conductor(clock, self.index, self.ids, worker, pace)
        self._tokens: dict[str, int] = {}

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def create(self, call: Call) -> dict[str, Any]:
        """``jobs/create``."""
        now = self.clock.milliseconds()
        job = self.jobs.create(self.ids.next(), call.arguments, call.user, now, call.version)
        return {"job_id": job.job_id}

    def get_job(self, call: Call) -> dict[str, Any]:
        """``jobs/get``."""
        job = self.jobs.find(call.arguments.number("job_id"))
        return job.as_json(tasks=True, offset=position(call.arguments))

    def list_jobs(self, call: Call) -> dict[str, Any]:
        """``jobs/list``."""
        return self.jobs.list(call.arguments, call.version)

    def update_job(self, call: Call) -> dict[str, Any]:
        """``jobs/update``."""
        self.jobs.update(call.arguments)
        return {}

    def reset_job(self, call: Call) -> dict[str, Any]:
        """``jobs/reset``."""
        self.jobs.reset(call.arguments, call.version)
        return {}

    def delete_job(self, call: Call) -> dict[str, Any]:
        """``jobs/delete``; its runs stay."""
        self.jobs.delete(call.arguments.number("job_id"))
        return {}

    # -- starting ------------------------------------------------------------------------------------------------------

    def run_now(self, call: Call) -> dict[str, Any]:
        """``jobs/run-now``."""
        given = call.arguments
        if known := self._same_token(given):
            return known
        job = self.jobs.find(given.number("job_id"))
        run = self.start_job(job, given, call.user)
        return {"run_id": run.run_id, "number_in_job": run.run_id}

    def start_job(self, job: Job, given: Arguments, user: str) -> Run:
        """Start a run of a job.

        :raises ApiError: the parameters cannot be accepted.
        """
        overrides = check_overrides(given)
        specs = list(job.settings["tasks"])
        if not specs:
            raise invalid(f"Job {job.job_id} has no tasks to run.")
        if only := given.get("only"):
            specs = selected(specs, only)
        queue = job.queues if given.get("queue") is None else bool((given["queue"] or {}).get("enabled"))
        run = self._new_run(job.job_id, job.name, "JOB_RUN", user, job.settings, given)
        run.single = job.single
        run.overriding = overrides
        run.parameters = parameters_of(
            job.settings.get("parameters") or [], given.get("job_parameters") or {}
        )
        self._launch(run, specs, limit=job.concurrency, queue=queue)
        return run

    def submit(self, call: Call) -> dict[str, Any]:
        """``jobs/runs/submit``."""
        given = call.arguments
        if known := self._same_token(given):
            return {"run_id": known["run_id"]}
        name = given.text("run_name") or "Untitled"
        specs = task_specs(given, key_from(name))
        if not specs:
            raise invalid("One of the task types or a list of tasks must be specified.")
        settings = {key: value for key, value in given.items() if key != "access_control_list"}
        run = self._new_run(self.ids.next(), name, "SUBMIT_RUN", call.user, settings, given)
        run.single = is_single(given)
        self._launch(run, specs)
        return {"run_id": run.run_id}

    def _new_run(
        self, job_id: int, name: str, kind: str, user: str, settings: dict[str, Any], given: Arguments
    ) -> Run:
        timeout = Arguments(settings).integer("timeout_seconds", 0)
        return Run(
            run_id=self.ids.next(),
            job_id=job_id,
            name=name,
            kind=kind,
            creator=user,
            origin=self.origin(),
            settings={**settings, "timeout_seconds": timeout},
            start_time=self.clock.milliseconds(),
            token=given.text("idempotency_token"),
        )

    def _launch(self, run: Run, specs: list[dict[str, Any]], *, limit: int = 0, queue: bool = False) -> None:
        if run.token:
            self._tokens[run.token] = run.run_id
        self.conductor.launch(run, specs, limit=limit, queue=queue)

    def _same_token(self, given: Arguments) -> dict[str, Any] | None:
        token = given.text("idempotency_token")
        if len(token) > _LONGEST_TOKEN:
            raise invalid(f"The idempotency token exceeds {_LONGEST_TOKEN} characters.")
        run_id = self._tokens.get(token) if token else None
        if run_id is None:
            return None
        if run_id not in self.index.runs:
            raise invalid(f"The run with idempotency token {token} was deleted.")
        return {"run_id": run_id, "number_in_job": run_id}

    # -- looking -------------------------------------------------------------------------------------------------------

    def find(self, run_id: int) -> Run:
        """Return a run.

        :raises ApiError: there is none with this id.
        """
        self._purge()
        run = self.index.runs.get(run_id)
        if run is None:
            raise invalid(f"Run {run_id} does not exist.")
        return run

    def _purge(self) -> None:
        """Forget the runs that are older than the 60 days for which the service keeps them."""
        since = self.clock.milliseconds() - _KEPT_SECONDS * 1000
        while (oldest := self.index.oldest()) and oldest.start_time < since and oldest.ended:
            self.forget(oldest)

    def find_task(self, run_id: int) -> TaskRun | None:
        """Return a task run."""
        return self.conductor.tasks.get(run_id)

    def get(self, call: Call) -> bytes:
        """``jobs/runs/get``: a run, or a task run by its own id."""
        given = call.arguments
        run_id = given.number("run_id")
        if (task := self.find_task(run_id)) and run_id not in self.index.runs:
            return task.alone()
        run = self.find(run_id)
        return run.full(offset=position(given), history=given.flag("include_history"))

    def list(self, call: Call) -> bytes:
        """``jobs/runs/list``."""
        given = call.arguments
        self._purge()
        limit, offset = _limit(given), position(given)
        which = _which(given)
        group: int | str | None = given.integer("job_id")
        kind = given.text("run_type")
        if kind and group is None:
            group = kind
        since, until = given.integer("start_time_from"), given.integer("start_time_to")
        runs, more = self.index.page(group, which, offset=offset, limit=limit, since=since, until=until)
        if kind:
            runs = [run for run in runs if run.kind == kind]
        tasks = given.flag("expand_tasks")
        fields = []
        if runs:
            fields.append(b'"runs":[' + b",".join([run.brief(tasks=tasks) for run in runs]) + b"]")
        if call.version < 2.2:
            fields.append(b'"has_more":true' if more else b'"has_more":false')
        if more:
            fields.append(b'"next_page_token":"lab%d"' % (offset + limit))
        if offset:
            fields.append(b'"prev_page_token":"lab%d"' % max(offset - limit, 0))
        return b"{" + b",".join(fields) + b"}"

    def output(self, call: Call) -> dict[str, Any]:
        """``jobs/runs/get-output``, of a task run or of a run in the format of API 2.0."""
        run_id = call.arguments.number("run_id")
        task = self.find_task(run_id)
        if task is None:
            run = self.find(run_id)
            if not run.single:
                raise invalid(
                    "Retrieving the output of runs with multiple tasks is not supported. "
                    "Please retrieve the output of each individual task run instead."
                )
            task = run.tasks[-1]
        return {"metadata": task.as_run(), **task.output.as_json()}

    # -- ending --------------------------------------------------------------------------------------------------------

    def cancel(self, call: Call) -> dict[str, Any]:
        """``jobs/runs/cancel``, of a run or of one task run."""
        run_id = call.arguments.number("run_id")
        task = self.find_task(run_id)
        if task is not None and run_id not in self.index.runs:
            self.conductor.cancel_task(task)
        else:
            self.conductor.cancel(self.find(run_id))
        return {}

    def cancel_all(self, call: Call) -> dict[str, Any]:
        """``jobs/runs/cancel-all``."""
        given = call.arguments
        everything = given.flag("all_queued_runs")
        job_id = given.integer("job_id")
        if job_id is not None:
            self.jobs.find(job_id)
        elif not everything:
            raise invalid("Missing required field: job_id")
        for run_id in self.index.active_ids(job_id):
            run = self.index.runs[run_id]
            if not everything or run.state.phase == "QUEUED":
                self.conductor.cancel(run)
        return {}

    def delete(self, call: Call) -> dict[str, Any]:
        """``jobs/runs/delete``."""
        run = self.find(call.arguments.number("run_id"))
        if not run.ended:
            raise ApiError(
                400, "INVALID_STATE", f"Cannot delete the active run {run.run_id}. Cancel it first."
            )
        self.forget(run)
        return {}

    def forget(self, run: Run) -> None:
        """Delete a run; its idempotency token stays reserved."""
        self.conductor.drop(run)


def _limit(given: Arguments) -> int:
    limit = given.integer("limit", _DEFAULT_PAGE) or 0
    if not 0 <= limit <= _LARGEST_PAGE:
        raise invalid(f"Invalid limit {limit}: it must be between 0 and {_LARGEST_PAGE}.")
    if (given.integer("offset", 0) or 0) > _LARGEST_OFFSET:
        raise invalid(f"Invalid offset: it must not exceed {_LARGEST_OFFSET}; use page_token instead.")
    return limit or _LARGEST_PAGE


def _which(given: Arguments) -> str:
    active, completed = given.flag("active_only"), given.flag("completed_only")
    if active and completed:
        raise invalid("active_only and completed_only cannot both be true.")
    if active:
        return "active"
    return "completed" if completed else "all"
