"""How many requests one triggerer may send to one workspace: fair, adaptive, and silent when told to be.

The quotas are the workspace's, shared with every other client of it: 30 ``runs/list``, 100 ``runs/get`` and 10
``runs/cancel`` a second. Source: docs.databricks.com/resources/limits.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from astronomer.deferral import Transient
from astronomer.providers.databricks.errors import NothingDone

__all__ = ["RequestBudget", "Turn"]

_NEVER_FASTER = 25.0
_CANCELS = 5.0
_CANCELS_NEVER_FASTER = 8.0
_SLOWEST = 0.5
_LONGEST_BURST = 5.0
_SPEEDS_UP = 0.1  # requests a second, each second of full use
_CALM = 10.0  # seconds after too many requests before it speeds up again
_JITTER = 0.1
_ENOUGH = 1 - 1e-9


@dataclass
class Turn:
    """The right to send one request.

    :param at: the loop's time at which it was given.
    :param scarce: whether the next one has to wait for it.
    """

    lane: Lane
    at: float
    scarce: bool

    def throttled(self) -> None:
        """The server said that there are too many requests."""
        self.lane.slow_down(self.at)

    def well(self) -> None:
        """The server had no complaint."""
        if self.scarce:
            self.lane.speed_up()


class Lane:
    """A token bucket whose waiters are served in the order they came.

    :param rate: requests a second, to begin with.
    :param ceiling: the most it speeds up to.
    :param at_once: how many requests may be on their way together.
    """

    def __init__(self, rate: float, ceiling: float, at_once: int) -> None:
        self.ceiling = max(_SLOWEST, ceiling)
        self.rate = min(max(_SLOWEST, rate), self.ceiling)
        self.burst = max(1.0, min(_LONGEST_BURST, self.rate / 2))
        self._at_once = at_once
        self._on_their_way = 0
        self._tokens = self.burst
        self._filled_at = self._slowed_at = float("-inf")
        self._waiting: deque[asyncio.Future[Turn]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not waiter.done() for waiter in self._waiting)

    async def enter(self) -> Turn:
        """Wait for a turn; :meth:`leave` must follow."""
        waiter: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._serve()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._tokens = min(self.burst, self._tokens + 1)  # it had a turn, and did not use it
                self.leave()
            raise

    def leave(self) -> None:
        """The request is over."""
        self._on_their_way -= 1
        self._serve()

    def slow_down(self, asked_at: float) -> None:
        """Halve the rate, once for all requests that were on their way."""
        if asked_at >= self._slowed_at:
            self._fill()
            self._slowed_at = asyncio.get_running_loop().time()
            self.rate = max(_SLOWEST, self.rate / 2)

    def speed_up(self) -> None:
        """Add a little, unless it was slowed down just now."""
        if asyncio.get_running_loop().time() - self._slowed_at >= _CALM:
            self._fill()
            self.rate = min(self.ceiling, self.rate + _SPEEDS_UP / self.rate)

    def shut(self, until: float, trouble: Transient) -> None:
        """Send all waiters away, and save nothing up until then."""
        self._tokens, self._filled_at = 0.0, until
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(trouble)

    def _fill(self) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._filled_at:
            self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now

    def _serve(self) -> None:
        self._fill()
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._waiting:
            if self._waiting[0].done():  # cancelled
                self._waiting.popleft()
            elif self._on_their_way >= self._at_once:
                return
            elif self._tokens < _ENOUGH:
                due = max(loop.time(), self._filled_at) + (1 - self._tokens) / self.rate
                self._alarm = loop.call_at(due, self._serve)
                return
            else:
                self._tokens -= 1
                self._on_their_way += 1
                self._waiting.popleft().set_result(Turn(self, loop.time(), self._tokens < _ENOUGH))


class RequestBudget:
    """The requests to one workspace from one event loop. Cancels have a lane of their own, and wait for no poll.

    The rate is halved when the server says that there are too many requests, and grows again, step by step, while
    it is used to the full.

    :param rate: questions a second, to begin with; at most 25, because of ``runs/list``.
    :param ceiling: the most that it grows to; twice the ``rate`` unless told.
    """

    def __init__(
        self, rate: float = 10.0, *, ceiling: float | None = None, rng: random.Random | None = None
    ) -> None:
        ceiling = min(_NEVER_FASTER, 2 * rate if ceiling is None else ceiling)
        self.questions = Lane(rate, ceiling, at_once=6)
        self.cancels = Lane(_CANCELS, _CANCELS_NEVER_FASTER, at_once=2)
        self._random = rng or random.Random()  # noqa: S311  # spreads requests, and keeps no secret
        self._shut_until = float("-inf")

    @asynccontextmanager
    async def turn(self, *, cancel: bool = False) -> AsyncIterator[Turn]:
        """Send one request inside the block.

        :raises NothingDone: the workspace wants to be left alone for now.
        """
        rest = self.rest
        if rest > 0:
            raise _left_alone(rest)
        lane = self.cancels if cancel else self.questions
        turn = await lane.enter()
        try:
            yield turn
        finally:
            lane.leave()

    @property
    def rest(self) -> float:
        """Seconds for which nothing is sent."""
        return max(0.0, self._shut_until - asyncio.get_running_loop().time())

    def shut(self, seconds: float) -> None:
        """Send nothing for that long, and a little longer: not all clients may come back at the same moment."""
        until = asyncio.get_running_loop().time() + seconds * (1 + _JITTER * self._random.random())
        if until > self._shut_until:
            self._shut_until = until
            for lane in (self.questions, self.cancels):
                lane.shut(until, _left_alone(self.rest))


def _left_alone(rest: float) -> NothingDone:
    return NothingDone(f"the workspace asked to be left alone for {rest:.1f} s more", retry_after=rest)
