"""Lab time: how fast scripted waits pass, and when a query has used up its statement timeout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from astronomer.lab.snowflake.errors import SnowflakeError, timed_out
from astronomer.lab.snowflake.queries import Query

__all__ = ["Pace"]

Stop = Callable[[Query, SnowflakeError], object]


class Pace:
    """Counts what queries spend against STATEMENT_TIMEOUT_IN_SECONDS.

    :param speed: lab seconds that pass per second, in scripted waits and while queries wait for each other. Real work
        always takes its own time.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed

    async def spend(self, query: Query, seconds: float) -> None:
        """Wait for so many lab seconds.

        :raises SnowflakeError: 000630, the query, or the one it is a statement of, has no more time.
        """
        left = _left(query)
        if seconds >= left:
            await asyncio.sleep(left / self.speed)
            raise timed_out(_tightest(query).timeout)
        await asyncio.sleep(seconds / self.speed)
        _charge(query, seconds)

    @contextmanager
    def metered(self, query: Query, stop: Stop, *, scripted: bool) -> Iterator[None]:
        """Charge the query for the time this block takes, and stop it when it has no more.

        :param scripted: whether the block waits for others, so that ``speed`` applies.
        """
        speed = self.speed if scripted else 1.0
        started = time.monotonic()
        timer = asyncio.get_running_loop().call_later(
            min(_left(query) / speed, 86400.0), lambda: stop(query, timed_out(_tightest(query).timeout))
        )
        try:
            yield
        finally:
            timer.cancel()
            _charge(query, (time.monotonic() - started) * speed)


def _chain(query: Query) -> Iterator[Query]:
    step: Query | None = query
    while step is not None:
        yield step
        step = step.parent


def _tightest(query: Query) -> Query:
    return min(_chain(query), key=lambda one: one.timeout - one.spent)


def _left(query: Query) -> float:
    tightest = _tightest(query)
    return max(tightest.timeout - tightest.spent, 0.0)


def _charge(query: Query, seconds: float) -> None:
    for one in _chain(query):
        one.spent += seconds
