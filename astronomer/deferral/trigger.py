"""The waiting half of an operator: lives in the triggerer, yields one event, and returns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

from astronomer.deferral import _compat, clock
from astronomer.deferral._compat import BaseTrigger, TriggerEvent
from astronomer.deferral.hub import Hub
from astronomer.deferral.job import JobStatus, Outcome, Phase, RemoteJob
from astronomer.deferral.killing import end_for_user, in_spite_of_cancels
from astronomer.deferral.ledger import Ledger, Line
from astronomer.deferral.watch import watch

__all__ = ["JobTrigger", "hold_until"]

_LONGEST_HOLD = 60.0  # workers may be configured to settle later than triggerers know
_KILL_GOES_ON = 600.0  # hundreds of kills at once take a vendor that limits cancels longer than that


async def hold_until(moment: float) -> None:
    """Wait for a moment that a worker has named, and no longer than it can have meant: its clock may be another one."""
    await asyncio.sleep(min(max(0.0, moment - clock.now()), max(_LONGEST_HOLD, _compat.settling_time())))


@dataclass(eq=False, repr=False)
class JobTrigger(BaseTrigger):
    """Wait for one remote job and yield its outcome, once. A family names its ``job_type``, nothing more.

    The arguments are plain JSON, because Airflow stores them, restarts the trigger from them, and does not
    deserialise classes it does not know. What they say is absolute, so a restart renews nothing.

    :param job: the fields of the remote job.
    :param deadline: epoch seconds at which the job is cancelled, or ``None``.
    :param poll_interval: seconds between two polls.
    :param outage_tolerance: seconds of silence after which the job counts as lost.
    :param cancel_confirm_timeout: seconds to wait for the confirmation of a cancel at the deadline.
    :param not_before: epoch seconds before which no event is yielded. Airflow 3.3 may take a worker's exit that
        is reported late for the end of a task whose event came at once (apache/airflow#72716).
    :param cancel_on_kill: whether a user who ends the task also ends the job.
    """

    job: dict[str, Any]
    deadline: float | None = None
    poll_interval: float = 5.0
    outage_tolerance: float = 3600.0
    cancel_confirm_timeout: float = 60.0
    not_before: float = 0.0
    cancel_on_kill: bool = True

    job_type: ClassVar[type[RemoteJob]]

    remembered: ClassVar[bool] = True
    """Whether the task's next step knows of the job."""

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the fields, derived and never listed."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {field.name: getattr(self, field.name) for field in fields(self)}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield ``{"job": …, "outcome": …}`` when the job has ended, timed out or been lost."""
        try:
            outcome = await self.noted_wait()
        except Exception as error:  # a defect must not leave the task without an event
            self.log.exception("Waiting for %s failed", self.job)
            message = f"the wait failed: {type(error).__name__}: {error}. The job may still be running."
            outcome = Outcome(JobStatus(Phase.LOST, message=message))
        await hold_until(self.not_before)
        yield TriggerEvent({"job": self.job, "outcome": outcome.to_dict()})  # type: ignore[no-untyped-call]

    async def noted_wait(self) -> Outcome:
        """Watch the job to its end, with a line in the ledger for as long."""
        ledger = Ledger.current() if self._ends_its_job else None
        if ledger is None or getattr(self, "task_instance", None) is None:
            return await self.wait()
        with ledger.noted(self.remote_job, self.task_instance):
            outcome = await self.wait()
        if outcome.timed_out and outcome.status.phase is Phase.LOST:  # its task is over, and it may go on
            ledger.leave(self.remote_job, self.task_instance)
        return outcome

    @property
    def _ends_its_job(self) -> bool:
        """Whether a user who ends the task ends the job."""
        return self.cancel_on_kill and not self.job_type.foreign

    async def wait(self) -> Outcome:
        """Watch the job to its end."""
        return await watch(
            self.remote_job,
            deadline=self.deadline,
            outage_tolerance=self.outage_tolerance,
            poll_interval=self.poll_interval,
            cancel_confirm_timeout=self.cancel_confirm_timeout,
            log=cast("logging.Logger", self.log),
        )

    @property
    def remote_job(self) -> RemoteJob:
        """The job that the arguments name."""
        return self.job_type.from_dict(self.job)

    async def on_kill(self) -> None:
        """End the job because a user ended the task; leave it alone when the trigger only moved."""
        if self._ends_its_job and not await in_spite_of_cancels(self._end_job()):
            self.log.warning("%s has not ended yet; its end is still being asked for", self.remote_job.name)

    async def _end_job(self) -> None:
        job = self.remote_job
        left_alone = await _compat.in_other_hands(self.task_instance, remembered=self.remembered)
        if left_alone is not None:
            self.log.warning("%s goes on: the task is %s", job.name, left_alone)
            return
        status = await end_for_user(
            job, self.task_instance, hub=Hub.current(), look_for=_KILL_GOES_ON, go_on_for=_KILL_GOES_ON
        )
        if status is None:  # its line in the ledger stays, and is looked at again
            self.log.warning("%s goes on: it is not known whether the task has succeeded by it", job.name)
            return
        if status.phase is Phase.SUCCEEDED:
            self.log.info("%s is %s: there is nothing to end", job.name, status.phase.value)
        else:  # without the remote side's words: they may quote the SQL, and no secret is known here to be masked
            self.log.info("Task ended by a user: %s is %s", job.name, status.phase.value)
        ledger = Ledger.current()
        if ledger is not None and status.phase is not Phase.LOST:
            ledger.strike(Line.of(job, self.task_instance))
