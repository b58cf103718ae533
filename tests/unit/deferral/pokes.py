"""Pokes of a scripted service: how each of them ends, and what its answer is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from astronomer.deferral import PokeTrigger, RemoteJob, clock
from astronomer.deferral.testing import ScriptedJob, ScriptedService

__all__ = ["PokedJob", "PokedService", "ScriptedPokes"]


@dataclass
class PokedService(ScriptedService):
    """What is not scripted goes well: a poke begins, ends at once, and its answer is yes.

    :ivar weather_at_start: exceptions that the next pokes are refused with, in order; ``None`` lets one begin.
    :ivar script: arguments of ``start`` for the next pokes.
    :ivar answers: to the next pokes; an exception is raised.
    :ivar begun: when each poke began.
    """

    weather_at_start: list[Exception | None] = field(default_factory=list)
    script: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    beginning_takes: float = 0.0
    """Seconds until the service answers that a poke has begun; ``begun`` and ``jobs`` know it before."""

    async def begin(self) -> PokedJob:
        weather = self.weather_at_start.pop(0) if self.weather_at_start else None
        if weather is not None:
            raise weather
        self.begun.append(clock.now())
        name = f"poke-{len(self.begun)}"
        self.start(name, **(self.script.pop(0) if self.script else {}))
        await asyncio.sleep(self.beginning_takes)
        return PokedJob(name, self.name)

    async def answer(self) -> Any:
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass(frozen=True)
class PokedJob(ScriptedJob):
    """A poke that has a page."""

    @property
    def url(self) -> str:
        return f"https://poked/{self.job_id}"


@dataclass(eq=False, repr=False)
class ScriptedPokes(PokeTrigger):
    """Pokes a :class:`PokedService`."""

    job_type: ClassVar[type[RemoteJob]] = PokedJob
    id_field: ClassVar[str] = "job_id"
    remote_side: ClassVar[str] = "The service"

    async def poke(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        service = poller().service
        event = await self.run_job(service.begin, deadline)
        if event is not None or not self.judge:
            return event or {}
        return {"met": True} if await self.patiently(service.answer, deadline) else None
