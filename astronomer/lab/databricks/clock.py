"""The workspace's clock: it may run fast or be advanced, and everything that waits in the workspace waits for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Clock", "Timer"]

log = logging.getLogger(__name__)

PATIENCE = 30.0


class Timer:
    """Something to do at a time, until cancelled."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never do it."""
        self.callback = None

    def ring(self) -> None:
        """Do it now, in the loop's thread, and not again."""
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class Clock:
    """Epoch seconds, and timers that are called in the loop of ``attach``, in order of their time.

    While a timer is called, ``now()`` in the loop's thread is the time it was set for, so that whatever follows from
    it has the right time even when the clock was advanced by hours.

    :param speed: seconds of the workspace that pass per second.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._epoch = time.time()
        self._origin = time.monotonic()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._instant: float | None = None

    def now(self) -> float:
        """Return the time, epoch seconds."""
        if self._instant is not None and threading.get_ident() == self._thread:
            return self._instant
        return self._epoch + (time.monotonic() - self._origin) * self._speed

    def milliseconds(self) -> int:
        """Return the time as the API writes it."""
        return int(self.now() * 1000)

    @property
    def speed(self) -> float:
        """Seconds of the workspace that pass per second."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        with self._lock:
            self._epoch, self._origin = self.now(), time.monotonic()
            self._speed = speed
        self._in_loop(self._arm)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call the timers in this loop from now on; called in its thread."""
        self._loop, self._thread = loop, threading.get_ident()
        self._arm()

    def detach(self) -> None:
        """Call no timer any more."""
        with self._lock:
            self._timers.clear()
        self._loop = None

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call something at a time, or as soon as possible after it; from any thread."""
        timer = Timer(when, callback)
        with self._lock:
            heapq.heappush(self._timers, (when, next(self._order), timer))
            first = self._timers[0][2] is timer
        if first and self._instant is None:
            self._in_loop(self._arm)
        return timer

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call something after so many seconds of the workspace."""
        return self.call_at(self.now() + seconds, callback)

    def advance(self, seconds: float) -> None:
        """Let time pass at once, and return when every timer that became due was called; from any thread."""
        with self._lock:
            self._epoch += seconds
        if self._loop is None:
            return
        if threading.get_ident() == self._thread:
            self._ring()
            return
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def ring() -> None:
            self._ring()
            done.set_result(None)

        self._loop.call_soon_threadsafe(ring)
        done.result(PATIENCE)

    def _in_loop(self, work: Callable[[], None]) -> None:
        loop = self._loop
        if loop is None:
            return
        if threading.get_ident() == self._thread:
            work()
        else:
            loop.call_soon_threadsafe(work)

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        with self._lock:
            when = self._timers[0][0] if self._timers else None
        if when is not None and self._loop is not None:
            self._alarm = self._loop.call_later(max((when - self.now()) / self._speed, 0.0), self._ring)

    def _ring(self) -> None:
        """Call every timer that is due, those they set included."""
        if self._instant is not None:
            return
        due = self.now()
        try:
            while timer := self._next(due):
                self._instant = timer.when
                if timer.callback is not None:
                    try:
                        timer.callback()
                    except Exception:
                        log.exception("a timer of the workspace failed")
        finally:
            self._instant = None
        self._arm()

    def _next(self, due: float) -> Timer | None:
        with self._lock:
            if self._timers and self._timers[0][0] <= due:
                return heapq.heappop(self._timers)[2]
        return None
