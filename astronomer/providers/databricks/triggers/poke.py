"""A trigger that starts a poke, waits for it, judges it, and goes on until the answer is yes."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from astronomer.deferral import (
    CredentialsRejected,
    Hub,
    JobFailed,
    JobStatus,
    JobTrigger,
    Outcome,
    Phase,
    Transient,
    clock,
)
from astronomer.deferral._compat import TriggerEvent

__all__ = ["PokeTrigger"]

T = TypeVar("T")

_PAUSE_IN_TROUBLE = 15.0
_REFUSALS = 3  # more would lock the user out


@dataclass(eq=False, repr=False)
class PokeTrigger(JobTrigger):
    """Poke until the answer is yes; or, where a worker has to judge, until one poke has an answer.

    :param job: names the connection, and the poke that runs.
    :param next_poke: epoch seconds of the next poke.
    :param pokes: how many there were.
    :param poke_interval: seconds from the start of one poke to the next.
    :param max_wait: the longest such pause, where it grows.
    :param judge: whether the answer is judged here.
    """

    next_poke: float = 0.0
    pokes: int = 0
    poke_interval: float = 60.0
    exponential_backoff: bool = False
    max_wait: float | None = None
    judge: bool = True

    @abstractmethod
    async def poke(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        """Run one poke; ``None`` when the answer is no.

        :param poller: gives the connection's poller of the moment.
        """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield once: the answer is yes, a worker is needed, the poke failed, or time is up."""
        try:
            event = await self._poke_until_told()
        except Exception as error:
            self.log.exception("Poking failed")
            status = JobStatus(Phase.LOST, message=f"the poke failed: {type(error).__name__}: {error}")
            event = {"outcome": Outcome(status).to_dict()}
        await asyncio.sleep(max(0.0, self.not_before - clock.now()))
        common = {
            "job": self.job,
            "pokes": self.pokes,
            "deadline": self.deadline,
            "started_at": self.next_poke,
        }
        yield TriggerEvent(common | event)  # type: ignore[no-untyped-call,unused-ignore]

    @staticmethod
    def pause_after(pokes: int, interval: float, exponential: bool, max_wait: float | None) -> float:
        """Seconds from the start of the ``pokes``-th poke to the next one."""
        pause = interval * 2.0 ** min(pokes - 1, 30) if exponential and pokes > 0 else interval
        return pause if max_wait is None else min(pause, max_wait)

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

    async def _poke_until_told(self) -> dict[str, Any]:
        deadline = self.deadline if self.deadline is not None else float("inf")
        async with Hub.current().lease(self.remote_job) as poller:
            while True:
                if self.next_poke >= deadline:
                    await asyncio.sleep(max(0.0, deadline - clock.now()))
                    return {"timed_out": True}
                await asyncio.sleep(max(0.0, self.next_poke - clock.now()))
                event = await self._judged(poller, deadline)
                if event is not None:
                    return event
                pause = self.pause_after(
                    self.pokes, self.poke_interval, self.exponential_backoff, self.max_wait
                )
                self.next_poke = max(clock.now(), self.next_poke + pause)

    async def _judged(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        """One poke, with what keeps it from having an answer as an event."""
        try:
            return await self.poke(poller, deadline)
        except JobFailed as error:
            return {"outcome": Outcome(JobStatus(Phase.FAILED, message=str(error))).to_dict()}
        except Transient as error:
            if clock.now() >= deadline:
                return {"timed_out": True, "message": f"Databricks could not be asked: {error}."}
            return {"outcome": Outcome(JobStatus(Phase.LOST, message=str(error))).to_dict()}
