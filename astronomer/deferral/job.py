"""One remote piece of work, what is known about it, and how a whole connection is asked at once."""

from __future__ import annotations

import asyncio
import json
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

from typing_extensions import Self

from astronomer.deferral.errors import Transient

__all__ = ["JobStatus", "Outcome", "Phase", "Poller", "RemoteJob", "known_fields"]


class Phase(str, Enum):
    """What the engine does next, whatever the vendor calls its states."""

    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


def known_fields(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what this version does not know: a newer release may have written it (rolling upgrade)."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in data.items() if name in names}


@dataclass(frozen=True)
class JobStatus:
    """What the remote side said about one job, once.

    :param phase: the engine's reading of it. A state that the vendor added later is ``ACTIVE``.
    :param raw: the vendor's own word for the state.
    :param message: the vendor's error text, if any.
    :param url: where a person can look at the job.
    :param started_at: epoch seconds, if the vendor tells.
    :param ended_at: epoch seconds, if the vendor tells.
    :param code: the vendor's error code, if any.
    """

    phase: Phase
    raw: str = ""
    message: str | None = None
    url: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    code: str | None = None

    @property
    def done(self) -> bool:
        """Whether waiting any longer is pointless."""
        return self.phase is not Phase.ACTIVE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without the fields that are not set."""
        return {name: value for name, value in asdict(self).items() if value is not None} | {
            "phase": self.phase.value
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobStatus:
        """The inverse of :meth:`to_dict`."""
        return cls(**known_fields(cls, data) | {"phase": Phase(data["phase"])})


@dataclass(frozen=True)
class Outcome:
    """The one result of a wait: the last status, and whether the deadline ended it."""

    status: JobStatus
    timed_out: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, as it crosses from the triggerer to the worker."""
        return {"status": self.status.to_dict(), "timed_out": self.timed_out}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """The inverse of :meth:`to_dict`."""
        return cls(JobStatus.from_dict(data["status"]), bool(data.get("timed_out", False)))


@dataclass(frozen=True)
class RemoteJob(ABC):
    """Names one remote piece of work with plain JSON fields, and can ask about it, stop it and read it.

    A family subclasses it as a frozen dataclass, says which fields name the connection, and opens the poller.
    """

    connection_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that two jobs share when they can share one session and one poller."""

    foreign: ClassVar[bool] = False
    """Whether it is somebody else's: it is only looked at, and never cancelled."""

    @abstractmethod
    def poller(self) -> Poller[Any]:
        """Open nothing yet: an object that will ask about all jobs on this job's connection."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How a person refers to the job in a log line: product, noun and remote id."""

    @property
    def connection_key(self) -> str:
        """Equal for jobs that share a session; holds no secret."""
        shared = {name: getattr(self, name) for name in self.connection_fields}
        return f"{type(self).__module__}.{type(self).__qualname__} {json.dumps(shared, sort_keys=True)}"

    @property
    def whole(self) -> RemoteJob:
        """What a cancel ends, and sees end: the job itself, unless it stands for a part of a longer life."""
        return self

    async def status(self) -> JobStatus:
        """Ask once, over a session of its own. A wait goes through the hub instead."""
        async with self._own_poller() as poller:
            return (await poller.poll([self]))[self]

    async def cancel(self) -> None:
        """Ask the remote side to stop the job; harmless when it has ended or was cancelled before."""
        async with self._own_poller() as poller:
            await poller.cancel(self)

    async def result(self) -> Any:
        """The job's result as plain JSON; only for results small enough for an XCom."""
        async with self._own_poller() as poller:
            return await poller.result(self)

    @asynccontextmanager
    async def _own_poller(self) -> AsyncIterator[Poller[Any]]:
        poller = self.poller()
        try:
            yield poller
        finally:
            await poller.close()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, derived from the dataclass fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`; ignores fields of a newer release."""
        return cls(**known_fields(cls, data))


J = TypeVar("J", bound=RemoteJob)


class Poller(ABC, Generic[J]):
    """Asks one connection about many jobs. The only thing a family writes to be watched in bulk.

    Every method may raise :class:`~astronomer.deferral.errors.Transient`: the engine waits and asks again.
    """

    max_jobs: int | None = None
    """At most so many jobs are handed to one :meth:`poll`; ``None`` where one request answers for all."""

    least_interval: float = 0.0
    """Seconds that at least lie between two polls about all jobs; a poller sets it to what its last poll has cost."""

    timeout: float = 120.0
    """Seconds after which a :meth:`poll` counts as unanswered."""

    look_again: bool = False
    """Set by a poll that has seen a change, where others often follow at once: the next poll comes soon."""

    unanswered: Mapping[J, Transient | None] = MappingProxyType({})
    """Why the last poll has left out a job; ``None`` where its turn is still to come, which is no trouble."""

    listener: Callable[[Mapping[J, JobStatus]], object] | None = None
    """Hears what :meth:`tell` tells; the engine sets it."""

    @abstractmethod
    async def poll(self, jobs: Sequence[J]) -> Mapping[J, JobStatus]:
        """What is known now. Jobs left out stay as they were and come first in the next call."""

    async def cancel(self, job: J) -> None:
        """Ask for the end of one job; harmless when it has ended. One that is foreign is never asked to end."""
        raise NotImplementedError(f"{type(self).__name__} has no jobs of its own to end: override cancel()")

    def tell(self, answers: Mapping[J, JobStatus]) -> None:
        """Pass on what is known in the middle of a long poll, so that no wait has to wait for the rest of it.

        The poll returns it all the same.
        """
        if self.listener is not None:
            self.listener(answers)

    async def ask_each(
        self,
        jobs: Sequence[J],
        ask: Callable[[J], Awaitable[JobStatus]],
        *,
        at_once: int,
        known: Mapping[J, JobStatus] | None = None,
        seconds: float = math.inf,
    ) -> dict[J, JobStatus]:
        """Ask for each job by itself, a few at once; for vendors without a question about many.

        In the order given, but for those that failed the last time: some that always fail must not stand before the
        others every time. Bad weather in the middle ends the round and keeps what is known by then, unless the
        vendor has asked to be left alone, has refused the login, or nothing is known.

        :param known: answers that were found in another way.
        :param seconds: so long after the first questions no further ones are begun; what is known has waiters.
        :returns: the known answers and the new ones.
        """
        answers = dict(known or {})
        failed: dict[J, BaseException] = {}
        over = asyncio.get_running_loop().time() + seconds
        order = sorted(jobs, key=lambda job: self.unanswered.get(job) is not None)
        for first in range(0, len(order), at_once):
            if first and asyncio.get_running_loop().time() >= over:
                break
            group = order[first : first + at_once]
            found = await asyncio.gather(*(ask(job) for job in group), return_exceptions=True)
            pairs = list(zip(group, found, strict=True))
            fresh = {job: status for job, status in pairs if isinstance(status, JobStatus)}
            self.tell(fresh)
            answers |= fresh
            errors = {job: error for job, error in pairs if isinstance(error, BaseException)}
            failed |= errors
            if _is_outage(list(errors.values()), len(group)):
                break
        left_out = [job for job in order if job not in answers]
        self.unanswered = {job: _why(failed[job]) if job in failed else None for job in left_out}
        asked_to_leave = [one for one in failed.values() if isinstance(one, Transient) and one.final]
        if asked_to_leave or (failed and not answers):
            raise [*asked_to_leave, *failed.values()][0]
        return answers

    async def result(self, job: J) -> Any:
        """The result of a succeeded job as plain JSON."""
        raise NotImplementedError(f"{type(self).__name__} has no results to read: override result()")

    async def close(self) -> None:  # a poller without a session has nothing to close
        """Give back the session. Called once, after the last wait on the connection has ended."""


def _is_outage(errors: Sequence[BaseException], asked: int) -> bool:
    """Whether a group of jobs of which so many were asked says that the next ones need not be asked now."""
    weather = [one for one in errors if isinstance(one, Transient)]
    return len(weather) == asked or any(one.final for one in weather)


def _why(error: BaseException) -> Transient:
    return error if isinstance(error, Transient) else Transient(f"{type(error).__name__}: {error}")
