"""The trigger of the sensor: starts a poke, waits for it, judges it, and goes on until the answer is yes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from astronomer.deferral import (
    CredentialsRejected,
    Hub,
    JobFailed,
    JobStatus,
    JobTrigger,
    Outcome,
    Phase,
    RemoteJob,
    Transient,
    clock,
)
from astronomer.deferral._compat import TriggerEvent
from astronomer.providers.snowflake.arguments import tag_of
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery

__all__ = ["SnowflakeSensorTrigger"]

_PAUSE_IN_TROUBLE = 15.0
_REFUSALS = 3  # more would lock the account


@dataclass(eq=False, repr=False)
class SnowflakeSensorTrigger(JobTrigger):
    """Poke until the first cell says yes; or, where a worker has to judge, until one poke has an answer.

    :param job: names the connection; its query id is empty until a poke runs.
    :param sql: the query.
    :param parameters: its parameters, plain values.
    :param next_poke: epoch seconds of the next poke.
    :param pokes: how many there were.
    :param poke_interval: seconds from the start of one poke to the next.
    :param judge: whether the stock rule (the first cell is true) is applied here.
    :param fail_on_empty: whether no rows end the task.
    """

    sql: str = ""
    parameters: Any = None
    next_poke: float = 0.0
    pokes: int = 0
    poke_interval: float = 60.0
    exponential_backoff: bool = False
    max_wait: float | None = None
    judge: bool = True
    fail_on_empty: bool = False

    job_type: ClassVar[type[RemoteJob]] = SnowflakeQuery

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

    async def on_kill(self) -> None:
        """Cancel the poke that runs, if there is one."""
        if self.job["query_id"]:
            await super().on_kill()

    async def _poke_until_told(self) -> dict[str, Any]:
        deadline = self.deadline if self.deadline is not None else float("inf")
        async with Hub.current().lease(self.remote_job) as poller:
            while True:
                if self.next_poke >= deadline:
                    await asyncio.sleep(max(0.0, deadline - clock.now()))
                    return {"timed_out": True}
                await asyncio.sleep(max(0.0, self.next_poke - clock.now()))
                event = await self._poke(poller, deadline)
                if event is not None:
                    return event
                self.next_poke = max(clock.now(), self.next_poke + self._pause())

    async def _poke(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        """Run one poke; ``None`` when the answer is no."""
        how = {
            "request_id": str(uuid.uuid4()),
            "tag": {} if self.task_instance is None else tag_of(self.task_instance),
            "deadline": self.deadline,
        }
        try:
            started = await self._insist(
                poller, lambda one: one.start(self.sql, self.parameters, **how), deadline
            )
        except JobFailed as error:
            return {"outcome": Outcome(JobStatus(Phase.FAILED, message=str(error))).to_dict()}
        except Transient as error:
            if clock.now() >= deadline:
                return {"timed_out": True, "message": f"Snowflake could not be asked: {error}."}
            return {"outcome": Outcome(JobStatus(Phase.LOST, message=str(error))).to_dict()}
        self.pokes += 1
        self.job = started.to_dict()
        outcome = await self.wait()
        if outcome.timed_out:
            return {"timed_out": True, "message": outcome.status.message or ""}
        if outcome.status.phase is not Phase.SUCCEEDED or not self.judge:
            return {"outcome": outcome.to_dict()}
        row = await self._insist(poller, lambda one: one.first_row(started), deadline)
        if row is None and self.fail_on_empty:
            return {"met": False, "empty": True}
        return {"met": True} if row is not None and bool(row[0]) else None

    async def _insist(self, poller: Callable[[], Any], call: Callable[[Any], Any], deadline: float) -> Any:
        """Repeat a call through bad weather, for as long as an outage is tolerated."""
        give_up, refusals = min(deadline, clock.now() + self.outage_tolerance), 0
        while True:
            try:
                return await call(poller())
            except Transient as trouble:
                refusals += isinstance(trouble, CredentialsRejected)
                if clock.now() >= give_up or refusals >= _REFUSALS:
                    raise
                pause = max(_PAUSE_IN_TROUBLE, trouble.retry_after or 0.0)
                await asyncio.sleep(min(pause, max(0.0, give_up - clock.now())))

    def _pause(self) -> float:
        return self.pause_after(self.pokes, self.poke_interval, self.exponential_backoff, self.max_wait)
