"""What is not the task's own: a scripted job of somebody else, its trigger, and a sensor that waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from astronomer.deferral import JobStatus, JobTrigger, Poller, RemoteJob, WatchSensor
from astronomer.deferral.testing import ScriptedJob
from tests.unit.deferral.fakes import PollerJob

__all__ = ["ForeignJob", "ForeignPollerJob", "ForeignSensor", "ForeignTrigger"]


@dataclass(frozen=True)
class ForeignJob(ScriptedJob):
    """A job of a scripted service that somebody else has started."""

    foreign: ClassVar[bool] = True


@dataclass(frozen=True)
class ForeignPollerJob(PollerJob):
    """Asked about with whatever poller a test has made."""

    foreign: ClassVar[bool] = True


@dataclass(eq=False, repr=False)
class ForeignTrigger(JobTrigger):
    """Waits for a :class:`ForeignJob`."""

    job_type: ClassVar[type[RemoteJob]] = ForeignJob


class ForeignSensor(WatchSensor):
    """Waits for the job ``a``; writes down what it shows to the user.

    :param made: pollers that look in this worker, in place of the job's own.
    """

    trigger_type = ForeignTrigger

    def __init__(self, *, made: list[Poller[Any]] | None = None, wrong: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.made = made
        self.wrong = wrong
        self.shown: list[str] = []

    def job(self, context: Mapping[str, Any]) -> ForeignJob:
        if self.wrong:
            raise ValueError("names no job")
        return ForeignJob("a")

    def poller(self, job: Any) -> Poller[Any]:
        return super().poller(job) if self.made is None else self.made.pop(0)

    def seen(self, context: Mapping[str, Any], job: Any, status: JobStatus) -> None:
        super().seen(context, job, status)
        self.shown.append(status.raw)
