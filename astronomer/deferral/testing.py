"""An in-memory world for testing operators and Dags: virtual time, and a remote service that does as told.

::

    service = ScriptedService("reports")
    service.start("job-1", runs_for=3600)
    outcome = FakeClock().run(lambda: watch(ScriptedJob("job-1", service="reports")))
    assert outcome.status.phase is Phase.SUCCEEDED          # an hour of waiting, in milliseconds
"""

from __future__ import annotations

import asyncio
import gc
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from astronomer.deferral import clock
from astronomer.deferral.job import JobStatus, Phase, Poller, RemoteJob
from astronomer.deferral.operator import JobOperator
from astronomer.deferral.trigger import JobTrigger

__all__ = ["FakeClock", "ScriptedJob", "ScriptedOperator", "ScriptedService", "ScriptedTrigger"]

T = TypeVar("T")

_GRAIN = 1e-6


class _SkippingSelector(selectors.DefaultSelector):
    """Waits for nothing but real events: where a loop would sleep, the clock jumps."""

    loop: _VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.loop.in_threads:
            return super().select(0.05)
        if timeout is None:
            raise RuntimeError("everything waits and nothing is scheduled: a wake-up was lost")
        self.loop.skip(timeout)
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, start: float) -> None:
        self._virtual = 0.0
        self._start = start
        self.in_threads = 0
        selector = _SkippingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual

    def epoch(self) -> float:
        return self._start + self._virtual

    def skip(self, seconds: float) -> None:
        self._virtual += seconds

    def call_later(self, delay: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:  # type: ignore[override]  # takes what the base takes
        # A pause too short to move the clock at all would be asked for again at the same moment, for ever.
        return super().call_later(max(delay, _GRAIN) if delay > 0 else delay, *args, **kwargs)

    def run_in_executor(self, executor: Executor | None, func: Any, *args: Any) -> Any:  # type: ignore[override]  # takes what the base takes
        future = super().run_in_executor(executor, func, *args)
        self.in_threads += 1
        future.add_done_callback(lambda _: setattr(self, "in_threads", self.in_threads - 1))
        return future


class FakeClock:
    """Runs coroutines on an event loop whose time jumps: hours of waiting take milliseconds.

    :param start: epoch seconds at which each :meth:`run` begins.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.start = start

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of ``main()``. Raises ``RuntimeError`` when everything waits and nothing is scheduled."""
        loop = _VirtualLoop(self.start)
        try:
            return loop.run_until_complete(main())
        finally:
            self._close(loop)

    @staticmethod
    def _close(loop: _VirtualLoop) -> None:
        async def end(tasks: set[asyncio.Task[Any]]) -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        loop.run_until_complete(end(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        gc.collect(0)


@dataclass
class _Entry:
    runs_for: float
    ends: Phase
    message: str | None
    started_at: float | None = None
    cancelled_at: float | None = None
    obeys_cancel: bool = True


@dataclass
class ScriptedService:
    """A remote service in memory: jobs that run for a while, polls that fail on demand, and counters.

    :param name: what :class:`ScriptedJob` refers to; a new service of the same name replaces the old one.
    :param max_jobs: how many jobs one poll answers for.
    :ivar weather: exceptions that the next polls raise, in order; ``None`` lets one poll through.
    """

    name: str
    max_jobs: int | None = None
    weather: list[Exception | None] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    logins: int = 0
    closed: int = 0
    submits: list[str] = field(default_factory=list)

    _known: ClassVar[dict[str, ScriptedService]] = {}

    def __post_init__(self) -> None:
        self._known[self.name] = self
        self._jobs: dict[str, _Entry] = {}
        self._keys: dict[str, str] = {}

    @classmethod
    def named(cls, name: str) -> ScriptedService:
        """The service of that name."""
        return cls._known[name]

    def start(
        self,
        job_id: str,
        *,
        runs_for: float = 0.0,
        ends: Phase = Phase.SUCCEEDED,
        message: str | None = None,
        obeys_cancel: bool = True,
    ) -> ScriptedJob:
        """Start a job that ends after ``runs_for`` seconds, counted from the first time anybody looks."""
        self._jobs[job_id] = _Entry(runs_for, Phase(ends), message, obeys_cancel=obeys_cancel)
        return ScriptedJob(job_id, self.name)

    def submit(self, submit_key: str, **job: Any) -> ScriptedJob:
        """Start a job unless one with this key exists, as a vendor with idempotent submits does."""
        self.submits.append(submit_key)
        if submit_key not in self._keys:
            self._keys[submit_key] = f"job-{len(self._jobs) + 1}"
            self.start(self._keys[submit_key], **job)
        return ScriptedJob(self._keys[submit_key], self.name)

    def with_key(self, submit_key: str) -> ScriptedJob | None:
        """The job that was submitted with this key."""
        found = self._keys.get(submit_key)
        return None if found is None else ScriptedJob(found, self.name)

    @property
    def jobs(self) -> list[str]:
        """The ids of all jobs ever started."""
        return list(self._jobs)

    def status(self, job_id: str) -> JobStatus:
        """What the service says of a job now."""
        entry = self._jobs.get(job_id)
        if entry is None:
            return JobStatus(Phase.LOST, raw="UNKNOWN", message=f"no job {job_id}. ")
        now = clock.now()
        entry.started_at = now if entry.started_at is None else entry.started_at
        ends_at = entry.started_at + entry.runs_for
        if entry.cancelled_at is not None and entry.obeys_cancel and entry.cancelled_at < ends_at:
            return JobStatus(Phase.CANCELLED, raw="CANCELED", ended_at=entry.cancelled_at)
        if now >= ends_at:
            return JobStatus(entry.ends, raw=entry.ends.name, message=entry.message, ended_at=ends_at)
        return JobStatus(Phase.ACTIVE, raw="RUNNING")

    def cancel(self, job_id: str) -> None:
        """Ask a job to end."""
        self.cancels.append(job_id)
        entry = self._jobs.get(job_id)
        if entry is not None and entry.cancelled_at is None:
            entry.cancelled_at = clock.now()


@dataclass(frozen=True)
class ScriptedJob(RemoteJob):
    """A job of a :class:`ScriptedService`."""

    job_id: str
    service: str = "scripted"

    connection_fields: ClassVar[tuple[str, ...]] = ("service",)

    @property
    def name(self) -> str:
        """How log lines call it."""
        return f"scripted job {self.job_id}"

    def poller(self) -> Poller[ScriptedJob]:
        """A poller on the service of that name."""
        return _ScriptedPoller(ScriptedService.named(self.service))


class _ScriptedPoller(Poller[ScriptedJob]):
    def __init__(self, service: ScriptedService) -> None:
        self.service = service
        self.max_jobs = service.max_jobs
        service.logins += 1

    async def poll(self, jobs: Sequence[ScriptedJob]) -> Mapping[ScriptedJob, JobStatus]:
        self.service.polls.append(clock.now())
        await asyncio.sleep(0)
        weather = self.service.weather.pop(0) if self.service.weather else None
        if weather is not None:
            raise weather
        self.service.asked.extend(job.job_id for job in jobs)
        return {job: self.service.status(job.job_id) for job in jobs}

    async def cancel(self, job: ScriptedJob) -> None:
        self.service.cancel(job.job_id)

    async def result(self, job: ScriptedJob) -> Any:
        return {"job_id": job.job_id}

    async def close(self) -> None:
        self.service.closed += 1


@dataclass(eq=False, repr=False)
class ScriptedTrigger(JobTrigger):
    """Waits for a :class:`ScriptedJob`."""

    job_type: ClassVar[type[RemoteJob]] = ScriptedJob


class ScriptedOperator(JobOperator):
    """Runs a job on a :class:`ScriptedService`; use it to test a Dag's shape without any vendor.

    :param service: the name of the service.
    :param script: arguments of :meth:`ScriptedService.start` for the job.
    """

    trigger_type = ScriptedTrigger

    def __init__(self, *, service: str, script: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.script = script or {}

    def submit(self, context: Mapping[str, Any], attempt: Any) -> ScriptedJob:
        """Start the scripted job under the submit key."""
        return ScriptedService.named(self.service).submit(attempt.submit_key, **self.script)

    def find(self, context: Mapping[str, Any], attempt: Any) -> ScriptedJob | None:
        """The job with the submit key."""
        return ScriptedService.named(self.service).with_key(attempt.submit_key)

    def finish(self, context: Mapping[str, Any], job: Any, status: JobStatus) -> Any:
        """The id of the job."""
        return job.job_id
