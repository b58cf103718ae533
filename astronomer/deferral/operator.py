"""The working half: submit once, remember, wait a moment, defer, and settle in one place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn, cast

from astronomer.deferral import _compat, clock
from astronomer.deferral._compat import AirflowFailException, AirflowTaskTimeout, setting
from astronomer.deferral.earlier_tries import EarlierTries
from astronomer.deferral.errors import JobCancelled, JobError, JobFailed, JobLost, JobTimedOut
from astronomer.deferral.identity import TaskIdentity
from astronomer.deferral.job import JobStatus, Outcome, Phase, RemoteJob
from astronomer.deferral.lineage import Lineage, job_in_xcom
from astronomer.deferral.memory import Attempt, LastWord, Memory
from astronomer.deferral.settings import seconds
from astronomer.deferral.trigger import JobTrigger

__all__ = ["JobOperator"]


class JobOperator(Lineage, EarlierTries):
    """Runs one remote job per attempt and waits for it without a worker.

    A family subclasses it, names its ``trigger_type``, and writes :meth:`submit`, :meth:`finish` and, where the
    vendor allows it, :meth:`.EarlierTries.find`.

    :param deferrable: ``False`` waits in the worker; everything else stays the same.
    :param poll_interval: seconds between two polls of the connection.
    :param outage_tolerance: how long (seconds or ``timedelta``) the remote side may be out of reach.
    :param quick_wait: how long the worker waits for a quick job before it defers.
    :param cancel_on_kill: whether a user who ends the task also ends the job.
    :param retry_cancelled: ``False`` fails the task without a retry when the job was ended outside Airflow.
    """

    def __init__(
        self,
        *,
        deferrable: bool = True,
        poll_interval: float | timedelta | None = None,
        outage_tolerance: float | timedelta | None = None,
        quick_wait: float | timedelta | None = None,
        cancel_on_kill: bool = True,
        retry_cancelled: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.poll_interval = seconds(poll_interval, "poll_interval", 5.0)
        self.outage_tolerance = seconds(outage_tolerance, "outage_tolerance", 3600.0)
        self.quick_wait = seconds(quick_wait, "quick_wait", 1.5)
        self.cancel_on_kill = cancel_on_kill
        self.retry_cancelled = retry_cancelled
        self._job: RemoteJob | None = None
        self._submitted: RemoteJob | None = None
        self._killed = False
        self._known_to: TaskIdentity | None = None
        self._last_word = LastWord()
        self._settling: tuple[RemoteJob, Outcome] | None = None

    # What a family writes.

    def prepare(self, context: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
        """Reject bad input, and return notes for :meth:`.EarlierTries.find`. They are saved before :meth:`submit` runs."""
        return {}

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> RemoteJob:
        """Start the job, giving the vendor ``attempt.submit_key``."""
        raise NotImplementedError(f"{type(self).__name__}.submit()")

    def finish(self, context: Mapping[str, Any], job: Any, status: JobStatus) -> Any:
        """What the task returns when the job has succeeded."""
        return None

    def failure(self, context: Mapping[str, Any], job: Any, outcome: Outcome) -> JobError:
        """The error of a job that did not succeed; a family adds the vendor's detail and cleans up."""
        return self.error_type(outcome)(self.error_message(job, outcome))

    def make_trigger(self, job: RemoteJob, deadline: float | None) -> JobTrigger:
        """The trigger that waits on; plain JSON only."""
        return self.trigger_type(
            job=job.to_dict(),
            deadline=deadline,
            poll_interval=self.poll_interval,
            outage_tolerance=self.outage_tolerance,
            cancel_confirm_timeout=setting("cancel_confirm_timeout", 60.0),
            not_before=clock.now() + _compat.settling_time(),
            cancel_on_kill=self.cancel_on_kill,
        )

    # The one life of a task.

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Submit or re-attach, wait a moment, then defer; returns what :meth:`finish` returns."""
        memory = self._memory(context)
        attempt, outcome = self._resume(context, memory)
        if attempt.job is None:
            attempt = self._submit(context, memory, attempt)
            outcome = self._glance(attempt)
        return self._go_on(context, attempt, outcome)

    def execute_complete(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> Any:
        """Settle what the trigger reported, if it is about this task's job."""
        job, outcome = self.trigger_type.job_type.from_dict(event["job"]), Outcome.from_dict(event["outcome"])
        attempt = self._waited_for(context)
        if attempt is not None and self._job_of(attempt) != job:
            # On SQLite a new trigger may get the id of one that still runs, and with it that one's event.
            self.log.warning("Ignoring an event about %s, which is not the job of this try", job.name)
            job, seen = self._job_of(attempt), self._glance(attempt)
            outcome = seen or self._defer(context, job, attempt.deadline)
        return self.settle(context, job, outcome)

    def settle(self, context: Mapping[str, Any], job: Any, outcome: Outcome) -> Any:
        """The one end of every path: the result, or the error of the job."""
        self._settling = job, outcome
        if outcome.status.phase is Phase.SUCCEEDED:
            result = self.finish(context, job, outcome.status)
            self._job = None
            self._note_success(context)
            return result
        self._job = None
        error = self.failure(context, job, outcome)
        memory = self._memory(context)
        last = memory.last()
        if last is not None:  # what may still run is looked for, not replaced
            lost = outcome.status.phase is Phase.LOST
            memory.save(last, ended=not lost, lost=lost)
        if isinstance(error, JobCancelled) and not self.retry_cancelled:
            raise AirflowFailException(str(error)) from error
        raise error

    def on_kill(self) -> None:
        """End the job when a user, or the task's timeout, ends the task in the worker.

        Airflow 3 calls it too when a pod is stopped, when its API does not answer, and in a process that was paused
        until a retry had begun elsewhere. Then the job is left to whoever goes on with the task.
        """
        self._killed = True
        job = self._job or self._begun_elsewhere()
        if job is None or not self.cancel_on_kill:
            return
        # A timeout may have cut an answer of Airflow in two: then no question is answered any more.
        timed_out = isinstance(sys.exc_info()[1], AirflowTaskTimeout)
        if not self._kill(job, None if timed_out else self._known_to):
            self._killed = False

    def _begun_elsewhere(self) -> RemoteJob | None:
        """The job that another trigger of this task has begun, where this one has not come to it yet."""
        known = self.in_triggerer and self._settling is None and self.in_triggerer.memory.unsettled()
        return self.trigger_type.job_type.from_dict(known.job) if known and known.job else None

    # Words for what went wrong.

    @staticmethod
    def error_type(outcome: Outcome) -> type[JobError]:
        """The branch of the error tree that an outcome belongs to."""
        if outcome.timed_out:
            return JobTimedOut
        by_phase = {Phase.CANCELLED: JobCancelled, Phase.LOST: JobLost}
        return by_phase.get(outcome.status.phase, JobFailed)

    def error_message(self, job: RemoteJob, outcome: Outcome) -> str:
        """What happened, to which job, what is known of it now, and what to do."""
        status = outcome.status
        said = ": ".join(part.rstrip(".") for part in (status.code, status.message) if part)
        state = status.raw or status.phase.value
        where = f" See {status.url}" if status.url else ""
        if outcome.timed_out:
            ended = "it was cancelled" if status.phase is not Phase.LOST else "its end is NOT confirmed"
            what = f"{job.name} did not end before the task's execution_timeout; {ended} ({said or state})."
        elif status.phase is Phase.CANCELLED:
            what = f"{job.name} was cancelled outside Airflow ({said or state})."
        elif status.phase is Phase.LOST:
            what = f"{said or state}. A retry looks for {job.name} again; clear the task to start a new one."
        else:
            what = f"{job.name} failed ({said or state})."
        return what + where

    # Steps.

    @classmethod
    def needs_worker(cls, arguments: Mapping[str, Any], task: Any) -> str | None:
        """A wait that is not deferrable is a worker's."""
        if not arguments.get("deferrable", True):
            return "it waits in a worker: deferrable=False"
        return super().needs_worker(arguments, task)

    def to_resume(self) -> dict[str, Any] | None:
        """What a worker needs to settle a job whose end is known."""
        if self._settling is None:
            return None
        job, outcome = self._settling
        event = {"job": job.to_dict(), "outcome": outcome.to_dict()}
        return {"method": "execute_complete", "event": event}

    def recall(self, event: Mapping[str, Any]) -> None:
        """The job, and how it has ended."""
        job = self.trigger_type.job_type.from_dict(event["job"])
        self._settling = job, Outcome.from_dict(event["outcome"])

    def last_seen(self) -> tuple[RemoteJob, JobStatus | None] | None:
        """The job that this process has settled, or else watched or submitted; for lineage."""
        if self._settling is not None:
            return self._settling[0], self._settling[1].status
        job = self._job or self._submitted
        return None if job is None else (job, None)

    def remembered(self, task_instance: Any) -> RemoteJob | None:
        """The job that Airflow remembers of this try, in the store or in the XCom of a trigger; for lineage."""
        attempt = self._waited_for(task_instance.get_template_context())
        known = attempt is not None and not attempt.ended and attempt.settled is None
        found = attempt.job if attempt is not None and known else job_in_xcom(task_instance)
        return None if found is None else self.trigger_type.job_type.from_dict(found)

    def _note_success(self, context: Mapping[str, Any]) -> None:
        if self.in_triggerer is not None:  # the event that ends the task says it
            return
        memory, clears = self._memory(context), self._clears(context)
        last = memory.last()
        if last is not None and clears is not None:
            memory.save(last, settled=clears)

    def _go_on(self, context: Mapping[str, Any], attempt: Attempt, outcome: Outcome | None) -> Any:
        """Settle the outcome, if it is known; else wait for it, here or in the triggerer."""
        job = self._job_of(attempt)
        if outcome is None:
            if self.deferrable:
                self._defer(context, job, attempt.deadline)
            outcome = cast("Outcome", self._wait(job, attempt.deadline, None))
        return self.settle(context, job, outcome)

    def _submit(self, context: Mapping[str, Any], memory: Memory, attempt: Attempt) -> Attempt:
        self._unless_ended(context)
        attempt = replace(attempt, notes=self.prepare(context, attempt))
        attempt = memory.save(attempt)
        memory.confirm(attempt)
        job = self.submit(context, attempt)
        attempt = self._keep(memory, attempt, job)
        self.announce(context, job)
        return attempt

    def _unless_ended(self, context: Mapping[str, Any]) -> None:
        """Start nothing for a task that a user has ended while an earlier try's job was being looked for."""
        if not self._killed or self.in_triggerer is not None:
            return
        self._killed = _compat.in_other_hands_in_worker(TaskIdentity.of(context["ti"])) is None
        if self._killed:
            raise JobCancelled("The task was ended before its job was started. Nothing was started.")

    def _defer(self, context: Mapping[str, Any], job: RemoteJob, deadline: float | None) -> NoReturn:
        # Of a mark Airflow tells a worker at a heartbeat only, and it refuses the deferral without a word to us.
        if self.in_triggerer is None and _compat.was_ended_in_worker(TaskIdentity.of(context["ti"])):
            self.on_kill()
        self._job = None  # from here on the trigger owns it
        self.defer(trigger=self.make_trigger(job, deadline), method_name="execute_complete")
