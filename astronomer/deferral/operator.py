"""The working half: submit once, remember, wait a moment, defer, and settle in one place."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, NoReturn, TypeVar, cast

from astronomer.deferral import _compat, clock
from astronomer.deferral._compat import AirflowFailException, AirflowTaskTimeout, setting
from astronomer.deferral.errors import JobCancelled, JobError, JobFailed, JobLost, JobTimedOut, Transient
from astronomer.deferral.hub import Hub
from astronomer.deferral.identity import TaskIdentity
from astronomer.deferral.job import JobStatus, Outcome, Phase, Poller, RemoteJob
from astronomer.deferral.killing import end_for_user
from astronomer.deferral.lineage import Lineage, job_in_xcom
from astronomer.deferral.memory import Attempt, LastWord, Memory
from astronomer.deferral.pacing import Pacing
from astronomer.deferral.settings import seconds
from astronomer.deferral.trigger import JobTrigger
from astronomer.deferral.watch import cancel_and_confirm, watch
from astronomer.deferral.worker_free import WorkerFree

__all__ = ["JobOperator"]

T = TypeVar("T")

# A wait in the worker has the connection for itself and is short: it polls at once and often.
_IN_WORKER = Pacing(spacing=0.2, gather=0.0)
_QUICK_INTERVAL = 0.5
_SURE_LOOK = 10.0
_KILL_BUDGET = 20.0
_ASKING = 2.0  # of the 5 s after which Airflow's supervisor kills the process


class JobOperator(Lineage, WorkerFree):
    """Runs one remote job per attempt and waits for it without a worker.

    A family subclasses it, names its ``trigger_type``, and writes :meth:`submit`, :meth:`finish` and, where the
    vendor allows it, :meth:`find`.

    :param deferrable: ``False`` waits in the worker; everything else stays the same.
    :param poll_interval: seconds between two polls of the connection.
    :param outage_tolerance: how long (seconds or ``timedelta``) the remote side may be out of reach.
    :param quick_wait: how long the worker waits for a quick job before it defers.
    :param cancel_on_kill: whether a user who ends the task also ends the job.
    :param retry_cancelled: ``False`` fails the task without a retry when the job was ended outside Airflow.
    """

    trigger_type: ClassVar[type[JobTrigger]]
    remembers = True

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
        """Reject bad input, and return notes for :meth:`find`. They are saved before :meth:`submit` runs."""
        return {}

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> RemoteJob:
        """Start the job, giving the vendor ``attempt.submit_key``."""
        raise NotImplementedError(f"{type(self).__name__}.submit()")

    def find(self, context: Mapping[str, Any], attempt: Attempt) -> RemoteJob | None:
        """The job of a submit whose answer was never heard, or ``None`` when there is none."""
        return None

    def finish(self, context: Mapping[str, Any], job: Any, status: JobStatus) -> Any:
        """What the task returns when the job has succeeded."""
        return None

    def failure(self, context: Mapping[str, Any], job: Any, outcome: Outcome) -> JobError:
        """The error of a job that did not succeed; a family adds the vendor's detail and cleans up."""
        return self.error_type(outcome)(self.error_message(job, outcome))

    def announce(self, context: Mapping[str, Any], job: Any) -> None:
        """Show the job to the user, as a link or an XCom, before the first poll."""

    def poller(self, job: Any) -> Poller[Any]:
        """The poller for a wait inside this worker, for families that have a session open."""
        own: Poller[Any] = job.poller()
        return own

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
            outcome = seen or self._defer(job, attempt.deadline)
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
        self._kill(job, None if timed_out else self._known_to)

    def _kill(self, job: RemoteJob, known_to: TaskIdentity | None) -> None:
        """End a job, unless it is in other hands.

        :param known_to: the task whose next try would know of the job; ``None`` for one that is ended in any case.
        """
        left_alone: list[str | None] = []
        status: list[JobStatus | None] = []
        answered = threading.Event()

        def end() -> None:
            left_alone.append(_compat.in_other_hands_in_worker(known_to) if known_to else None)
            answered.set()
            if left_alone == [None]:
                status.append(self._run(lambda: self._end_for_user(job, known_to)))

        # A thread, because in a worker this runs as a signal handler, maybe inside a running event loop, or in the
        # middle of another question to Airflow. With a late answer it goes on when the handler has returned.
        killer = threading.Thread(target=end, daemon=True)
        killer.start()
        answered.wait(_ASKING)
        if left_alone != [None]:
            self._killed = False
            self.log.warning("%s goes on: the task is %s", job.name, *left_alone or ["in an unknown state"])
            return
        killer.join(_KILL_BUDGET + 5)
        if status == [None]:
            self.log.warning("%s goes on: it is not known whether the task has succeeded by it", job.name)
        else:
            self.log.info(
                "Task ended: %s is %s", job.name, status[0] if status else "not known to have ended"
            )

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

    def take_up(self, context: Mapping[str, Any], attempt: Mapping[str, Any], generation: int) -> None:
        """As in the base class; what a worker has begun since the last clear is newer."""
        memory, begun = self._memory(context), Attempt.from_dict(attempt)
        last, mine = memory.last(), memory.identity.generation
        if last is None or last.generation != mine:
            if last is not None and last.submit_key != begun.submit_key:
                self._end_superseded(context, last)
            generation = mine if begun.generation == generation else begun.generation
            memory.save(replace(begun, generation=generation, try_number=None, owner=""))

    def _begun_elsewhere(self) -> RemoteJob | None:
        """The job that another trigger of this task has begun, where this one has not come to it yet."""
        known = self.in_triggerer and self._settling is None and self.in_triggerer.memory.unsettled()
        return self.trigger_type.job_type.from_dict(known.job) if known and known.job else None

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

    def _note_success(self, context: Mapping[str, Any]) -> None:
        if self.in_triggerer is not None:  # the event that ends the task says it
            return
        memory, clears = self._memory(context), self._clears(context)
        last = memory.last()
        if last is not None and clears is not None:
            memory.save(last, settled=clears)

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
            attempt = memory.save(attempt, job=found.to_dict())
        job = self._job_of(attempt)
        self.log.info("Re-attaching to %s of an earlier try", job.name)
        self.announce(context, job)
        return attempt

    def _go_on(self, context: Mapping[str, Any], attempt: Attempt, outcome: Outcome | None) -> Any:
        """Settle the outcome, if it is known; else wait for it, here or in the triggerer."""
        job = self._job_of(attempt)
        if outcome is None:
            if self.deferrable:
                self._defer(job, attempt.deadline)
            outcome = cast("Outcome", self._wait(job, attempt.deadline, None))
        return self.settle(context, job, outcome)

    def _glance(self, attempt: Attempt) -> Outcome | None:
        """The outcome, if it comes within the time a worker waits."""
        if self.in_triggerer is not None:
            return None
        return self._wait(self._job_of(attempt), attempt.deadline, self.quick_wait)

    def _submit(self, context: Mapping[str, Any], memory: Memory, attempt: Attempt) -> Attempt:
        attempt = replace(attempt, notes=self.prepare(context, attempt))
        attempt = memory.save(attempt)
        memory.confirm(attempt)
        job = self.submit(context, attempt)
        attempt = self._keep(memory, attempt, job)
        self.announce(context, job)
        return attempt

    def _keep(self, memory: Memory, attempt: Attempt, job: RemoteJob) -> Attempt:
        """Remember the job that has just been started; end it if a user has ended the task meanwhile."""
        self._submitted = job
        try:
            attempt = memory.save(attempt, job=job.to_dict())
        except BaseException:  # whoever ends the task wants the job to end, even if nobody may write any more
            self._job = job
            if self._killed:
                self.on_kill()
            raise
        self._job = job
        if self._killed:
            self.on_kill()
        if self._killed:
            raise JobCancelled(f"The task was ended while {job.name} was being submitted.")
        return attempt

    def _job_of(self, attempt: Attempt) -> RemoteJob:
        job = self.trigger_type.job_type.from_dict(attempt.job or {})
        self._job = job
        return job

    def _wait(self, job: RemoteJob, deadline: float | None, at_most: float | None) -> Outcome | None:
        """Watch in this worker; ``None`` when ``at_most`` seconds have passed first."""
        interval = self.poll_interval if at_most is None else _QUICK_INTERVAL

        async def wait() -> Outcome | None:
            async with self._hub() as hub:
                watching = watch(
                    job,
                    hub=hub,
                    deadline=deadline,
                    outage_tolerance=self.outage_tolerance,
                    poll_interval=interval,
                    cancel_confirm_timeout=setting("cancel_confirm_timeout", 60.0),
                    log=cast("logging.Logger", self.log),
                )
                try:
                    return await asyncio.wait_for(watching, at_most)
                except asyncio.TimeoutError:
                    return None

        return self._run(wait)

    def _defer(self, job: RemoteJob, deadline: float | None) -> NoReturn:
        self._job = None  # from here on the trigger owns it
        self.defer(trigger=self.make_trigger(job, deadline), method_name="execute_complete")

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

    async def _end(self, job: RemoteJob, timeout: float) -> JobStatus:
        async with self._hub() as hub:
            return await cancel_and_confirm(job, hub=hub, timeout=timeout)

    async def _end_for_user(self, job: RemoteJob, known_to: TaskIdentity | None) -> JobStatus | None:
        if self.in_triggerer is not None:
            task, ask = self.in_triggerer.memory.identity, _compat.ask_supervisor
        elif known_to is not None and _compat.is_supervised():
            task, ask = known_to, _compat.ask_supervisor_in_worker
        else:
            return await self._end(job, _KILL_BUDGET)
        async with self._hub() as hub:
            return await end_for_user(
                job, task, hub=hub, look_for=_KILL_BUDGET, go_on_for=_KILL_BUDGET, ask=ask
            )

    @asynccontextmanager
    async def _hub(self) -> AsyncIterator[Hub]:
        """This worker's own, over the session that it has open; in a triggerer, the one of all waits."""
        if self.in_triggerer is not None:
            yield Hub.current()
        else:
            async with Hub(self.poller, _IN_WORKER) as hub:
                yield hub

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run(call()) if self.in_triggerer is None else self.in_triggerer.run(call)
