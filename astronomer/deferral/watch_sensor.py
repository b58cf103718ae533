"""A sensor that looks at something which is not its own: once in the worker, and then in the triggerer."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

from astronomer.deferral import clock
from astronomer.deferral._compat import AirflowException, AirflowSkipException, setting, settling_time
from astronomer.deferral.errors import JobFailed, JobLost, Transient
from astronomer.deferral.job import JobStatus, Outcome, Phase, Poller, RemoteJob
from astronomer.deferral.sensor import NO_TRIGGERER, DeferrableSensor
from astronomer.deferral.settings import seconds
from astronomer.deferral.trigger import JobTrigger

__all__ = ["WatchSensor"]

_POKE_INTERVAL_IN_WORKER = 60.0  # Airflow's own


class WatchSensor(DeferrableSensor):
    """Waits for something that others do; never cancels it, because it is not the task's own.

    A family names its ``trigger_type``, whose job is foreign, and writes :meth:`job`. Airflow's own ``timeout``,
    ``soft_fail``, ``never_fail`` and ``silent_fail`` mean what they mean in any sensor; ``mode``,
    ``exponential_backoff`` and ``max_wait`` count in a worker only, because all waits of a triggerer share an answer.

    :param poke_interval: seconds (or ``timedelta``) between two looks. By default ``poll_interval`` of the
        configuration in the triggerer, and Airflow's minute in a worker.
    """

    trigger_type: ClassVar[type[JobTrigger]]

    def __init__(
        self,
        *,
        deferrable: bool = True,
        poke_interval: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        if poke_interval is None:
            poke_interval = setting("poll_interval", 5.0) if deferrable else _POKE_INTERVAL_IN_WORKER
        pause = seconds(poke_interval, "poke_interval", 0.0)
        super().__init__(deferrable=deferrable, poke_interval=pause, **kwargs)

    # What a family writes.

    @abstractmethod
    def job(self, context: Mapping[str, Any]) -> RemoteJob:
        """What is waited for. Bad input is an error here, before anything is asked."""

    def poller(self, job: Any) -> Poller[Any]:
        """What looks in this worker."""
        own: Poller[Any] = job.poller()
        return own

    def seen(self, context: Mapping[str, Any], job: Any, status: JobStatus) -> None:
        """Show the user what was seen, as a link or an XCom; called before the wait and at its end."""

    def success(self, context: Mapping[str, Any], job: Any, status: JobStatus) -> Any:
        """What the task returns."""
        return None

    def failure(self, context: Mapping[str, Any], job: Any, status: JobStatus) -> Exception:
        """The error of something that has ended in another way than was waited for."""
        return JobFailed(f"{job.name} {status.message or status.raw}")

    # The one life of a sensor.

    def poke(self, context: Any) -> bool:
        """One look in the worker."""
        job = self.job(context)
        status = self.look(job)
        self._last_seen = job, status
        if status is None or not status.done:
            return False
        self.settle(context, job, Outcome(status))
        return True

    def execute(self, context: Any) -> Any:
        """Look once; then wait in the triggerer, unless that was enough."""
        if not self.deferrable:
            return super().execute(context)
        deadline = self.deadline()
        job = self.job(context)
        status = JobStatus(Phase.ACTIVE) if self.in_triggerer is not None else self.look(job)
        if status is not None and status.done:
            with self._softly():
                return self.settle(context, job, Outcome(status))
        if status is not None:
            self.seen(context, job, status)
            self.log.info("Waiting for %s (%s)", job.name, status.raw or "nothing known of it yet")
        limit = timedelta(seconds=max(0.0, deadline - clock.now()) + NO_TRIGGERER)
        trigger = self.make_trigger(job, deadline)
        return self.defer(trigger=trigger, method_name="execute_complete", timeout=limit)

    def execute_complete(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> Any:
        """Settle what the trigger reported."""
        job = self.trigger_type.job_type.from_dict(event["job"])
        return self.settle(context, job, Outcome.from_dict(event["outcome"]))

    def recall(self, event: Mapping[str, Any]) -> None:
        """What was waited for, and how it has ended."""
        job = self.trigger_type.job_type.from_dict(event["job"])
        self._last_seen = job, Outcome.from_dict(event["outcome"]).status

    def settle(self, context: Mapping[str, Any], job: Any, outcome: Outcome) -> Any:
        """The one end of every path."""
        status = outcome.status
        self._last_seen = job, status
        if outcome.timed_out:
            detail = f" {status.message}." if status.message else ""
            state = f" ({status.raw})" if status.raw else ""
            raise self.timed_out(
                f"{self.task_id} has timed out while it waited for {job.name}{state}.{detail}"
            )
        if status.phase is Phase.LOST:
            self.log.error("%s", status.message or status.raw)  # a soft failure does not show it
            raise JobLost(f"{status.message or status.raw} The task can be retried: it starts nothing.")
        self.seen(context, job, status)
        if status.phase is not Phase.SUCCEEDED:
            raise self.failure(context, job, status)
        self.log.info("%s: %s", job.name, status.raw)
        return self.success(context, job, status)

    def look(self, job: RemoteJob) -> JobStatus | None:
        """Ask once in this worker; ``None`` in bad weather, which the wait will outlast."""

        async def once() -> JobStatus | None:
            poller = self.poller(job)
            try:
                return (await poller.poll([job])).get(job)
            except Transient as trouble:
                self.log.warning("%s cannot be asked just now: %s", job.name, trouble)
                return None
            finally:
                await poller.close()

        return asyncio.run(once())

    def make_trigger(self, job: RemoteJob, deadline: float) -> JobTrigger:
        """The trigger that waits on; plain JSON only."""
        return self.trigger_type(
            job=job.to_dict(),
            deadline=deadline,
            poll_interval=self.poke_interval,
            outage_tolerance=self.outage_tolerance,
            not_before=clock.now() + settling_time(),
            cancel_on_kill=False,
        )

    @contextmanager
    def _softly(self) -> Iterator[None]:
        """What Airflow does when it resumes a sensor."""
        try:
            yield
        except AirflowSkipException:
            raise
        except AirflowException as error:
            if self.soft_fail or self.never_fail:
                which = "soft_fail" if self.soft_fail else "never_fail"
                raise AirflowSkipException(f"Skipping because {which} is set: {error}") from error
            raise
