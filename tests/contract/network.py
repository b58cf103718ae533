"""A world that is a local stand-in: over the network and in real time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

from astronomer.deferral import Hub, JobOperator, Pacing
from astronomer.lab.request_log import Entry
from tests.contract.world import World

__all__ = ["LabWorld", "started", "stop_labs"]

T = TypeVar("T")
_labs: list[Any] = []


def started(lab: Any) -> Any:
    """The lab, to be stopped at the end of the session."""
    _labs.append(lab.start())
    return lab


def stop_labs() -> None:
    """Stop what has been started."""
    while _labs:
        _labs.pop().stop()


class LabWorld(World):
    """A stand-in that counts and disturbs requests.

    :cvar poll_path: matches the requests for states, and ``submit_path`` those that start something.
    """

    beat = 0.4
    poll_path: ClassVar[str]
    poll_method: ClassVar[str] = "GET"
    submit_path: ClassVar[str]

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.forget()

    def make(self, **arguments: Any) -> JobOperator:
        pace = {"poll_interval": 0.25 * self.beat, "quick_wait": 0}
        return self.operator_type(**pace | arguments)

    def triggerer(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        beat = self.beat
        brisk = Pacing(
            spacing=beat / 8, gather=beat / 20, backoff=beat / 8, max_backoff=beat, rejection=beat / 4
        )

        async def main() -> T:
            async with Hub(pacing=brisk) as hub:
                Hub._of_loop[asyncio.get_running_loop()] = hub
                return await call()

        return asyncio.run(main())

    def now(self) -> float:
        return time.time()

    def weather(self, *kinds: str, times: int | None = 1) -> None:
        where = {"path": self.poll_path, "method": self.poll_method, "times": times}
        faults = {
            "throttled": lambda: self.lab.faults.status(429, retry_after=0.1, **where),
            "unavailable": lambda: self.lab.faults.status(503, **where),
            "reset": lambda: self.lab.faults.reset(**where),
            "expired": lambda: self.lab.faults.expired(**where),
        }
        for kind in kinds:
            faults[kind]()

    def throttle(self, beats: float) -> None:
        self.lab.faults.status(
            429, self.poll_path, method=self.poll_method, retry_after=math.ceil(beats * self.beat), times=1
        )

    def clear_up(self) -> None:
        self.lab.faults.clear()

    def lose_the_answer(self) -> None:
        self.lab.faults.lose_answer(self.submit_path, method="POST", times=1)

    def ignore_a_cancel(self) -> None:
        self.lab.faults.status(200, r"abort-request|/cancel$", method="POST", times=1)

    @property
    def logins(self) -> int:
        return self.lab.requests.logins - self._logins

    @property
    def _asked(self) -> list[Entry]:
        return self.lab.requests.select(self.poll_path, method=self.poll_method)[self._polls :]

    @property
    def polls(self) -> list[float]:
        return [entry.at for entry in self._asked]

    @property
    def throttled_at(self) -> float:
        return self.lab.requests.select(self.poll_path, status=429)[-1].at

    def forget(self) -> None:
        self._logins = self._polls = 0
        self._logins, self._polls = self.logins, len(self.polls)
