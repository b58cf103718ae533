"""A trigger that starts a poke, waits for it, judges it, and goes on until the answer is yes."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from astronomer.deferral import clock
from astronomer.deferral._compat import TriggerEvent
from astronomer.deferral.errors import CredentialsRejected, JobFailed, Transient
from astronomer.deferral.hub import Hub
from astronomer.deferral.job import JobStatus, Outcome, Phase, RemoteJob
from astronomer.deferral.trigger import JobTrigger, hold_until

__all__ = ["PokeTrigger"]

T = TypeVar("T")

_PAUSE_IN_TROUBLE = 15.0
_REFUSALS = 3  # more would lock the user out
_KILL_COMES_WITHIN = 1.0  # seconds after the cancel that Airflow begins it with


@dataclass(eq=False, repr=False)
class PokeTrigger(JobTrigger):
    """Poke until the answer is yes; or, where a worker has to judge, until one poke has an answer.

    A family names its ``job_type``, ``id_field`` and ``remote_side``, and writes :meth:`poke`.

    :param job: names the connection, and the job of the newest poke; its id is empty until there is one.
    :param next_poke: epoch seconds of the next poke.
    :param pokes: how many there were.
    :param poke_interval: seconds from the start of one poke to the next.
    :param exponential_backoff: whether that pause doubles with each poke.
    :param max_wait: the longest such pause, where it grows.
    :param judge: whether the answer is judged here.
    """

    next_poke: float = 0.0
    pokes: int = 0
    poke_interval: float = 60.0
    exponential_backoff: bool = False
    max_wait: float | None = None
    judge: bool = True

    remembered: ClassVar[bool] = False

    id_field: ClassVar[str]
    """The field of the job that holds the vendor's id."""
    remote_side: ClassVar[str]
    """How a message calls whom the pokes ask."""

    @abstractmethod
    async def poke(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        """One poke: what to report of it, or ``None`` when the answer is no.

        :param poller: gives the connection's poller of the moment.
        :param deadline: epoch seconds; infinite where there is none.

        :raises JobFailed: it was refused, or failed.
        :raises Transient: the weather was worse than is tolerated.
        """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._status: JobStatus | None = None
        self._starting: asyncio.Future[RemoteJob] | None = None
        self._killed = False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield once: the answer is yes, a worker is needed, the poke failed, or time is up."""
        try:
            event = await self._poke_until_told()
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(_KILL_COMES_WITHIN, self._abandon_start)
            raise
        except Exception as error:  # a defect must not leave the task without an event
            self.log.exception("Poking failed")
            event = _lost(f"the poke failed: {type(error).__name__}: {error}")
        await hold_until(self.not_before)
        common = {
            "job": self.job,
            "pokes": self.pokes,
            "deadline": self.deadline,
            "started_at": self.next_poke,
            "status": self._status and self._status.to_dict(),
        }
        yield TriggerEvent(common | event)  # type: ignore[no-untyped-call,unused-ignore]

    async def _end_job(self) -> None:
        """End the poke that runs, if there is one; of one that is being started, the answer is waited for."""
        self._killed = True
        if self._starting is not None:
            await asyncio.wait({self._starting})
            if not self._starting.cancelled() and self._starting.exception() is None:
                self.job = self._starting.result().to_dict()
        if self.job[self.id_field]:
            await super()._end_job()

    def _abandon_start(self) -> None:
        """A trigger that only moves is no longer the one to start anything."""
        if self._starting is not None and not self._killed:
            self._starting.cancel()

    @staticmethod
    def pause_after(pokes: int, interval: float, exponential: bool, max_wait: float | None) -> float:
        """Seconds from the start of the ``pokes``-th poke to the next one."""
        pause = interval * 2.0 ** min(pokes - 1, 30) if exponential and pokes > 0 else interval
        return pause if max_wait is None else min(pause, max_wait)

    # What a poke is made of.

    async def run_job(
        self, start: Callable[[], Awaitable[RemoteJob]], deadline: float
    ) -> dict[str, Any] | None:
        """Start a job and wait for its end; ``None`` when it has succeeded, else what to report.

        :param start: harmless to repeat, because bad weather repeats it.
        """
        self.job, self._status = self.job | {self.id_field: ""}, None  # what has ended is nobody's to cancel

        async def begin() -> RemoteJob:
            self._starting = asyncio.ensure_future(start())
            return await asyncio.shield(self._starting)

        self.job, self._starting = (await self.patiently(begin, deadline)).to_dict(), None
        outcome = await self.noted_wait()
        self._status = outcome.status
        if outcome.timed_out:
            return {"timed_out": True, "message": outcome.status.message or ""}
        return None if outcome.status.phase is Phase.SUCCEEDED else {"outcome": outcome.to_dict()}

    async def patiently(self, call: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Repeat a call through bad weather, for as long as an outage is tolerated."""
        give_up, refusals = min(deadline, clock.now() + self.outage_tolerance), 0
        while True:
            try:
                return await call()
            except Transient as trouble:
                refusals += isinstance(trouble, CredentialsRejected)
                if clock.now() >= give_up or refusals >= _REFUSALS:
                    raise
                pause = max(_PAUSE_IN_TROUBLE, trouble.retry_after or 0.0)
                await asyncio.sleep(min(pause, max(0.0, give_up - clock.now())))

    # The loop.

    async def _poke_until_told(self) -> dict[str, Any]:
        deadline = self.deadline if self.deadline is not None else float("inf")
        async with Hub.current().lease(self.remote_job) as poller:
            while True:
                # Who has named these moments may have had another clock.
                until = min(self.next_poke, deadline)
                await asyncio.sleep(min(max(0.0, until - clock.now()), self._pause()))
                if self.next_poke >= deadline:
                    return {"timed_out": True}
                event = await self._told(poller, deadline)
                if event is not None:
                    return event
                self.next_poke = max(clock.now(), self.next_poke + self._pause())

    def _pause(self) -> float:
        return self.pause_after(self.pokes, self.poke_interval, self.exponential_backoff, self.max_wait)

    async def _told(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        """One poke, with what keeps it from having an answer as something to report."""
        try:
            return await self.poke(poller, deadline)
        except JobFailed as error:
            return {"outcome": Outcome(JobStatus(Phase.FAILED, message=str(error))).to_dict()}
        except Transient as error:
            if clock.now() >= deadline:
                return {"timed_out": True, "message": f"{self.remote_side} could not be asked: {error}."}
            return _lost(str(error))
        finally:
            self.pokes += 1


def _lost(message: str) -> dict[str, Any]:
    return {"outcome": Outcome(JobStatus(Phase.LOST, message=message)).to_dict()}
