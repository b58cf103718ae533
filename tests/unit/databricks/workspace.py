"""A Databricks workspace in memory, on virtual time, with the methods of the client that asks one.

Its clock differs from Airflow's. Whatever is asked is written down, and answered as the weather allows.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from astronomer.deferral import Transient, clock
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks.client import DatabricksClient

GET, LIST, OUTPUT = "2.2/jobs/runs/get", "2.2/jobs/runs/list", "2.2/jobs/runs/get-output"
RUN_NOW, SUBMIT, REPAIR = "2.2/jobs/run-now", "2.2/jobs/runs/submit", "2.2/jobs/runs/repair"
CANCEL, CANCEL_ALL, UPDATE = "2.2/jobs/runs/cancel", "2.2/jobs/runs/cancel-all", "2.2/jobs/update"

# What the older `state` makes of a code of the newer `status`, where it is not INTERNAL_ERROR and FAILED.
_OLD = {
    "SUCCESS": ("TERMINATED", "SUCCESS"),
    "SUCCESS_WITH_FAILURES": ("TERMINATED", "SUCCESS_WITH_FAILURES"),
    "USER_CANCELED": ("TERMINATED", "CANCELED"),
    "CANCELED": ("TERMINATED", "CANCELED"),
    "TIMEDOUT": ("TERMINATED", "TIMEDOUT"),
    "SKIPPED": ("SKIPPED", None),
    "MAX_CONCURRENT_RUNS_EXCEEDED": ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED"),
}
_NEW = {"SUCCESS_WITH_FAILURES": "SUCCESS", "TIMEDOUT": "CANCELED"}


@dataclass
class Lost:
    """Weather in which the request is done, but its answer does not arrive."""

    error: Exception = field(default_factory=lambda: Transient("the connection was reset"))


@dataclass
class Piece:
    """Something that runs from a moment of the server's clock on: a run, a task of one, a repair of one."""

    number: int
    started: float
    ends: float = math.inf
    code: str = "SUCCESS"
    message: str = ""
    cancelled: float = math.inf
    cancel_takes: float = 0.0
    active_as: str = "RUNNING"
    key: str = ""
    attempt: int = 0

    def state(self, at: float) -> tuple[str, str]:
        """The newer state, and the code once it has ended."""
        if self.cancelled < self.ends and at >= self.cancelled:
            if at < min(self.ends, self.cancelled + self.cancel_takes):
                return "TERMINATING", ""
            return "TERMINATED", "USER_CANCELED"
        return ("TERMINATED", self.code) if at >= self.ends else (self.active_as, "")

    def active(self, at: float) -> bool:
        return self.started <= at and self.state(at)[0] != "TERMINATED"

    def document(self, at: float) -> dict[str, Any]:
        """Both ways in which the API tells a state."""
        state, code = self.state(at)
        new: dict[str, Any] = {"state": state}
        old: dict[str, Any] = {"life_cycle_state": state}
        if code:
            new["termination_details"] = {"code": _NEW.get(code, code), "message": self.message}
            life, result = _OLD.get(code, ("INTERNAL_ERROR", "FAILED"))
            old = {"life_cycle_state": life, "result_state": result, "state_message": self.message}
        return {"status": new, "state": old, "start_time": int(self.started * 1000)}


@dataclass
class Run(Piece):
    """A run of a job, with its repairs, and its tasks where a test wants some."""

    job_id: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    repairs: list[Piece] = field(default_factory=list)
    tasks: list[Piece] = field(default_factory=list)
    deleted: bool = False

    @property
    def run_id(self) -> int:
        return self.number

    @property
    def newest(self) -> Piece:
        return self.repairs[-1] if self.repairs else self

    def active(self, at: float) -> bool:
        return Piece.active(self.newest, at) if self.repairs else super().active(at)

    def document(self, at: float) -> dict[str, Any]:
        found = Piece.document(self.newest, at)
        page = f"https://workspace/run/{self.number}"
        start = int(self.started * 1000)
        return {
            "run_id": self.number,
            "job_id": self.job_id,
            **found,
            "start_time": start,
            "run_page_url": page,
        }


@dataclass
class Request:
    """One request that was sent."""

    path: str
    content: dict[str, Any]
    at: float


class Workspace:
    """The workspace.

    :ivar skew: seconds by which its clock is ahead of Airflow's.
    :ivar latency: seconds that a request takes.
    :ivar staleness: by how many seconds ``runs/list`` lags behind.
    :ivar weather: for each path, what becomes of its next requests: an exception, :class:`Lost`, or ``None``.
    :ivar script: the fields of the next runs; what is not there runs for ever.
    :ivar around: called with each effect; a test may die before it or after it.
    :ivar history: for each run that was started, what else was active at that moment.
    """

    def __init__(self, *, skew: float = 3600.0) -> None:
        self.skew = skew
        self.latency = self.staleness = self.cancel_takes = 0.0
        self.weather: dict[str, list[Any]] = defaultdict(list)
        self.script: list[dict[str, Any]] = []
        self.runs: dict[int, Run] = {}
        self.tokens: dict[str, int] = {}
        self.jobs: dict[int, str] = {}
        self.outputs: dict[int, Any] = {}
        self.requests: list[Request] = []
        self.around: Callable[[Callable[[], Any]], Any] = lambda effect: effect()
        self.before: Callable[[Request], object] = lambda request: None
        self.history: list[tuple[int, list[int]]] = []
        self.clients = self.closed = 0
        self.shut_until = -math.inf
        self._numbers = itertools.count(101)

    @contextmanager
    def in_place(self) -> Iterator[Workspace]:
        """Let everybody who asks for a client of any connection get one of this workspace."""

        async def shared(conn_id: str, read: Any = None) -> Client:
            return self.client()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DatabricksClient, "shared", shared)
            yield self

    def client(self) -> Client:
        self.clients += 1
        return Client(self)

    # What a test looks at, and does.

    @property
    def now(self) -> float:
        return clock.now() + self.skew

    @property
    def active(self) -> list[int]:
        return [run_id for run_id, run in self.runs.items() if run.active(self.now)]

    def asked(self, path: str) -> list[dict[str, Any]]:
        """What was sent to one path."""
        return [request.content for request in self.requests if request.path == path]

    def start(self, job_id: int = 7, *, runs_for: float = math.inf, **fields: Any) -> Run:
        """A run that somebody starts now."""
        number = next(self._numbers)
        run = Run(
            number, self.now, self.now + runs_for, job_id=job_id, cancel_takes=self.cancel_takes, **fields
        )
        self.runs[number] = run
        return run

    def end(self, run_id: int, code: str = "SUCCESS", message: str = "") -> None:
        """Let a run, or its newest repair, end now."""
        piece = self.runs[run_id].newest
        piece.ends, piece.code, piece.message = self.now, code, message

    # The endpoints.

    def answer(self, request: Request) -> dict[str, Any]:
        name = request.path.partition("/jobs/")[2].replace("/", "_").replace("-", "_")
        found: dict[str, Any] = getattr(self, f"_{name}")(**request.content)
        return found

    def _started(self, idempotency_token: str | None, job_id: int, body: dict[str, Any]) -> dict[str, Any]:
        token = idempotency_token
        if token is not None and len(token) > 64:
            raise RequestRejected(400, "INVALID_PARAMETER_VALUE", "idempotency_token is longer than 64")
        if token in self.tokens:
            run = self.runs[self.tokens[token]]
            if run.deleted:
                raise RequestRejected(400, "INVALID_PARAMETER_VALUE", "The run of the token was deleted")
            return {"run_id": run.run_id}
        active = self.active
        run = self.start(job_id, body=body, **(self.script.pop(0) if self.script else {}))
        if token is not None:
            self.tokens[token] = run.run_id
        self.history.append((run.run_id, active))
        return {"run_id": run.run_id}

    def _run_now(self, *, job_id: int, idempotency_token: str | None = None, **body: Any) -> dict[str, Any]:
        if int(job_id) not in self.jobs:
            raise RequestRejected(400, "INVALID_PARAMETER_VALUE", f"Job {job_id} does not exist.")
        return self._started(idempotency_token, int(job_id), {"job_id": job_id, **body})

    def _runs_submit(self, *, idempotency_token: str | None = None, **body: Any) -> dict[str, Any]:
        return self._started(idempotency_token, 900, body)

    def _runs_get(
        self, *, run_id: int, include_history: bool = False, page_token: str | None = None
    ) -> dict[str, Any]:
        run, now = self._run(run_id), self.now
        first = int(page_token or 0)
        tasks = [
            {
                "run_id": task.number,
                "task_key": task.key,
                "attempt_number": task.attempt,
                **task.document(now),
            }
            for task in run.tasks
        ]
        found = run.document(now) | {"tasks": tasks[first : first + 100]}
        if first + 100 < len(tasks):
            found["next_page_token"] = str(first + 100)
        if include_history:
            original = {"type": "ORIGINAL", **Piece.document(run, now)}
            made = [{"type": "REPAIR", "id": one.number, **one.document(now)} for one in run.repairs]
            found["repair_history"] = [original, *made]
        return found

    def _runs_get_output(self, *, run_id: int) -> dict[str, Any]:
        found = self.outputs.get(int(run_id), {})
        if isinstance(found, Exception):
            raise found
        return dict(found)

    def _runs_list(
        self, *, limit: int = 20, active_only: bool = False, job_id: int | None = None, page_token: str = "0"
    ) -> dict[str, Any]:
        if limit > 25:
            raise RequestRejected(400, "INVALID_PARAMETER_VALUE", "limit is more than 25")
        at, first = self.now - self.staleness, int(page_token)
        found = [run for run in self.runs.values() if run.started <= at and not run.deleted]
        if active_only:
            found = [run for run in found if run.active(at)]
        if job_id is not None:
            found = [run for run in found if run.job_id == int(job_id)]
        found.sort(key=lambda run: (run.started, run.run_id), reverse=True)
        answer: dict[str, Any] = {"runs": [run.document(at) for run in found[first : first + limit]]}
        if first + limit < len(found):
            answer["next_page_token"] = str(first + limit)
        return answer

    def _runs_cancel(self, *, run_id: int) -> dict[str, Any]:
        run = self._run(run_id)
        if not run.active(self.now):
            raise RequestRejected(400, "INVALID_STATE", f"Run {run_id} has ended already.")
        run.newest.cancelled = min(run.newest.cancelled, self.now)
        return {}

    def _runs_cancel_all(self, *, job_id: int) -> dict[str, Any]:
        for run in self.runs.values():
            if run.job_id == int(job_id) and run.active(self.now):
                run.newest.cancelled = min(run.newest.cancelled, self.now)
        return {}

    def _runs_repair(self, *, run_id: int, latest_repair_id: int | None = None, **_: Any) -> dict[str, Any]:
        run = self._run(run_id)
        newest = run.repairs[-1].number if run.repairs else None
        if run.active(self.now) or latest_repair_id != newest or run.newest.code == "SUCCESS":
            raise RequestRejected(400, "INVALID_PARAMETER_VALUE", "The run cannot be repaired.")
        fields = {"runs_for": math.inf} | (self.script.pop(0) if self.script else {})
        repair = Piece(next(self._numbers), self.now, self.now + fields.pop("runs_for"), **fields)
        repair.cancel_takes = self.cancel_takes
        run.repairs.append(repair)
        return {"repair_id": repair.number}

    def _update(self, *, job_id: int, new_settings: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def _list(self, *, name: str | None = None, **_: Any) -> dict[str, Any]:
        found = [
            {"job_id": job_id, "settings": {"name": job}} for job_id, job in self.jobs.items() if job == name
        ]
        return {"jobs": found}

    def _run(self, run_id: int) -> Run:
        run = self.runs.get(int(run_id))
        if run is None or run.deleted:
            raise RequestRejected(404, "RESOURCE_DOES_NOT_EXIST", f"Run {run_id} does not exist.")
        return run


class Client:
    """What :class:`~astronomer.providers.databricks.hooks.client.DatabricksClient` is to those who use it."""

    address = "https://workspace"

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.server_time: float | None = None

    async def get(self, path: str, /, **params: Any) -> dict[str, Any]:
        return await self._request(path, {k: v for k, v in params.items() if v is not None})

    async def post(self, path: str, body: Mapping[str, Any], *, check: Any = None) -> dict[str, Any]:
        if check is not None:
            check()
        return await self._request(path, dict(body))

    async def close(self) -> None:
        self.workspace.closed += 1

    async def _request(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        workspace = self.workspace
        if (rest := workspace.shut_until - workspace.now) > 0:
            raise Transient("the workspace asked to be left alone", retry_after=rest)
        request = Request(path, content, workspace.now)
        workspace.requests.append(request)
        if workspace.latency:
            await asyncio.sleep(workspace.latency)
        workspace.before(request)
        weather = workspace.weather[path].pop(0) if workspace.weather[path] else None
        if isinstance(weather, Exception):
            self._note(weather)
            raise weather
        try:
            answer: dict[str, Any] = workspace.around(lambda: workspace.answer(request))
        finally:
            self.server_time = float(int(workspace.now))  # the Date header has whole seconds
        if isinstance(weather, Lost):
            raise weather.error
        return answer

    def _note(self, error: Exception) -> None:
        rest = getattr(error, "retry_after", None)
        if rest is not None:
            self.workspace.shut_until = self.workspace.now + rest
