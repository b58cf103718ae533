"""How the process that runs an operator watches and ends a job itself: a worker, or a step in the triggerer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from astronomer.deferral import _compat
from astronomer.deferral._compat import setting
from astronomer.deferral.hub import Hub
from astronomer.deferral.identity import TaskIdentity
from astronomer.deferral.job import JobStatus, Outcome, Poller, RemoteJob
from astronomer.deferral.killing import end_for_user
from astronomer.deferral.pacing import Pacing
from astronomer.deferral.watch import cancel_and_confirm, watch
from astronomer.deferral.worker_free import WorkerFree

__all__ = ["InProcess"]

T = TypeVar("T")

# A wait in the worker has the connection for itself and is short: it polls at once and often.
_IN_WORKER = Pacing(spacing=0.2, gather=0.0)
_QUICK_INTERVAL = 0.5
_KILL_BUDGET = 20.0
_ASKING = 2.0  # of the 5 s after which Airflow's supervisor kills the process


class InProcess(WorkerFree):
    """Watches and ends jobs over the session that a worker has open, or, in a triggerer, over that of all waits."""

    poll_interval: float
    outage_tolerance: float

    # What a family may write.

    def poller(self, job: Any) -> Poller[Any]:
        """The poller for a wait inside this worker, for families that have a session open."""
        own: Poller[Any] = job.poller()
        return own

    # Steps.

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

    def _kill(self, job: RemoteJob, known_to: TaskIdentity | None) -> bool:
        """End a job, unless it is in other hands; whether it is not.

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
            self.log.warning("%s goes on: the task is %s", job.name, *left_alone or ["in an unknown state"])
            return False
        killer.join(_KILL_BUDGET + 5)
        if status == [None]:
            self.log.warning("%s goes on: it is not known whether the task has succeeded by it", job.name)
        else:
            self.log.info(
                "Task ended: %s is %s", job.name, status[0] if status else "not known to have ended"
            )
        return True
