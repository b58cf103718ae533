"""What earlier tries of a task have left: a job to go on with, to find, or to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

from astronomer.deferral import _compat, clock
from astronomer.deferral._compat import setting
from astronomer.deferral.errors import JobCancelled, JobLost, Transient
from astronomer.deferral.identity import TaskIdentity
from astronomer.deferral.in_process import InProcess
from astronomer.deferral.job import Outcome, Phase, RemoteJob
from astronomer.deferral.memory import Attempt, LastWord, Memory
from astronomer.deferral.trigger import JobTrigger

__all__ = ["EarlierTries"]

_SURE_LOOK = 10.0


class EarlierTries(InProcess):
    """Finds, before anything is started, what has been started already."""

    trigger_type: ClassVar[type[JobTrigger]]
    remembers = True

    quick_wait: float
    _job: RemoteJob | None
    _submitted: RemoteJob | None
    _killed: bool
    _known_to: TaskIdentity | None
    _last_word: LastWord

    # What a family may write.

    def find(self, context: Mapping[str, Any], attempt: Attempt) -> RemoteJob | None:
        """The job of a submit whose answer was never heard, or ``None`` when there is none."""
        return None

    def announce(self, context: Mapping[str, Any], job: Any) -> None:
        """Show the job to the user, as a link or an XCom, before the first poll."""

    # Steps.

    def take_up(self, context: Mapping[str, Any], attempt: Mapping[str, Any], generation: int) -> None:
        """As in the base class; what a worker has begun since the last clear is newer."""
        memory, begun = self._memory(context), Attempt.from_dict(attempt)
        last, mine = memory.last(), memory.identity.generation
        if last is None or last.generation != mine:
            if last is not None and last.submit_key != begun.submit_key:
                self._end_superseded(context, last)
            generation = mine if begun.generation == generation else begun.generation
            memory.save(replace(begun, generation=generation, try_number=None, owner=""))

    def _memory(self, context: Mapping[str, Any]) -> Memory:
        if self.in_triggerer is not None:
            return self.in_triggerer.memory
        store, identity = _compat.task_state_store(context), TaskIdentity.of(context["ti"])
        memory = Memory(store, identity, self._last_word)
        self._known_to = memory.identity if memory.lasting else None
        return memory

    def _waited_for(self, context: Mapping[str, Any]) -> Attempt | None:
        """The attempt that this task deferred for, where Airflow remembers it."""
        memory = self._memory(context)
        last = memory.last()
        mine = last is not None and last.generation == memory.identity.generation and last.job is not None
        return last if mine else None

    def _glance(self, attempt: Attempt) -> Outcome | None:
        """The outcome, if it comes within the time a worker waits."""
        if self.in_triggerer is not None:
            return None
        return self._wait(self._job_of(attempt), attempt.deadline, self.quick_wait)

    @staticmethod
    def _clears(context: Mapping[str, Any]) -> int | None:
        """How often something in the Dag run was cleared."""
        found: int | None = getattr(context.get("dag_run"), "clear_number", None)
        return found

    def _deadline(self) -> float | None:
        if self.in_triggerer is not None:
            return self.in_triggerer.deadline
        timeout: timedelta | None = self.execution_timeout
        return None if timeout is None else clock.now() + timeout.total_seconds()

    def _resume(self, context: Mapping[str, Any], memory: Memory) -> tuple[Attempt, Outcome | None]:
        """The attempt to go on with: one without a job is to be submitted; an outcome, if known already."""
        last = memory.last()
        if last is not None and self._end_cleared(context, memory, last):
            last = None
        if last is not None and last.settled is not None and last.settled != self._clears(context):
            return memory.next(last, self._deadline()), None
        if last is None and (memory.lasting or context["ti"].try_number == 1):
            return memory.first(self._deadline()), None
        attempt = last or self._newest(context, memory)
        if attempt.ended and memory.is_new_try(attempt):  # else its failure is still to be reported
            return memory.next(attempt, self._deadline()), None
        attempt = self._find_again(context, memory, attempt)
        if attempt.job is None:
            return attempt, None
        # Where nothing is remembered, a failure that was reported must not pass for a job that runs.
        at_most = self._look_back(memory, attempt)
        outcome = self._wait(self._job_of(attempt), attempt.deadline, at_most) if at_most else None
        if outcome is None or outcome.status.phase in (Phase.SUCCEEDED, Phase.LOST):
            return attempt, outcome
        return memory.next(attempt, self._deadline()), None

    def _look_back(self, memory: Memory, attempt: Attempt) -> float:
        """Seconds for which a job of an earlier try is looked at, before it is waited for."""
        if self.in_triggerer is not None:  # whose restart must not hold up a thousand waits
            return _SURE_LOOK if memory.is_new_try(attempt) else 0.0
        return self.quick_wait if memory.lasting else max(self.quick_wait, _SURE_LOOK)

    def _newest(self, context: Mapping[str, Any], memory: Memory) -> Attempt:
        """The newest attempt that the vendor knows of, where Airflow remembers none; only it may still run."""
        newest = attempt = memory.first(self._deadline())
        while (found := self.find(context, attempt)) is not None:
            newest = replace(attempt, job=found.to_dict())
            attempt = memory.next(attempt, self._deadline())
        return newest

    def _find_again(self, context: Mapping[str, Any], memory: Memory, attempt: Attempt) -> Attempt:
        """The attempt with its job, if an earlier try got as far as to start one."""
        if attempt.job is None:
            found = self.find(context, attempt)
            if found is None:  # it was never submitted, so its time has not begun
                return replace(attempt, deadline=self._deadline())
            attempt = self._keep(memory, attempt, found)
        job = self._job_of(attempt)
        self._end_if_killed(job)
        self.log.info("Re-attaching to %s of an earlier try", job.name)
        self.announce(context, job)
        return attempt

    def _keep(self, memory: Memory, attempt: Attempt, job: RemoteJob) -> Attempt:
        """Remember a job that has just been started or found; end it if a user has ended the task meanwhile."""
        self._submitted = job
        try:
            attempt = memory.save(attempt, job=job.to_dict())
        except BaseException:  # whoever ends the task wants the job to end, even if nobody may write any more
            self._job = job
            if self._killed:
                self.on_kill()
            raise
        self._end_if_killed(job)
        return attempt

    def _end_if_killed(self, job: RemoteJob) -> None:
        """Do for a job what ``on_kill`` could not do before it was known.

        :raises JobCancelled: a user has ended the task.
        """
        self._job = job
        if self._killed:
            self.on_kill()
        if self._killed:
            raise JobCancelled(f"The task was ended before {job.name} could be waited for.")

    def _job_of(self, attempt: Attempt) -> RemoteJob:
        job = self.trigger_type.job_type.from_dict(attempt.job or {})
        self._job = job
        return job

    def _end_cleared(self, context: Mapping[str, Any], memory: Memory, last: Attempt) -> bool:
        """End what runs of the generation before a clear; whether the last attempt is of that one."""
        if last.generation == memory.identity.generation:
            return False
        self._end_superseded(context, last)
        return True

    def end_earlier(self, context: Mapping[str, Any]) -> None:
        """Do so for a task that goes on without the engine: what it once deferred for must not run beside it."""
        memory = self._memory(context)
        last = memory.last()
        if last is not None and self._end_cleared(context, memory, last):
            memory.save(last, ended=True)

    def _end_superseded(self, context: Mapping[str, Any], attempt: Attempt) -> None:
        """The task was cleared: the job of the generation before must not run beside the new one."""
        if attempt.ended:
            return
        job = self._job_of(attempt) if attempt.job else self.find(context, attempt)
        if job is None:
            return
        job = job.whole
        if (outcome := self._wait(job, attempt.deadline, self.quick_wait)) is not None:
            status = outcome.status
        else:
            patience = max(setting("cancel_confirm_timeout", 60.0), self.outage_tolerance)
            status = self._run(lambda: self._end(job, patience))
        if status.phase is Phase.LOST and not status.raw:  # not even the remote side says that it is gone
            raise JobLost(
                f"The task was cleared, and {job.name} of the earlier run may still be running: {status.message} "
                "Nothing was started. The next try asks again."
            ) from Transient(status.message or "")
        self.log.info("The task was cleared: %s of the earlier run is %s", job.name, status.phase.value)
        if status.phase is Phase.LOST:
            self.log.warning("%s", status.message)
