"""Ctrl-C, SIGTERM and SIGHUP as one exception, never in the middle of starting a program."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody wants us to end; like KeyboardInterrupt, no `except Exception` may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that a shell expects."""
        return 128 + self.number


class Signals:
    """Turns the first signal into :class:`Interrupted`; further ones change nothing, since we are ending already."""

    def __init__(self) -> None:
        self._held = 0
        self._came: int | None = None
        self._raised = False

    def watch(self) -> None:
        for number in WATCHED:
            signal.signal(number, self._note)

    def ignore(self) -> None:
        """From here on nothing may disturb the clean-up."""
        for number in WATCHED:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let a signal wait until the block has ended."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._deliver()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._came = self._came or number
        self._deliver()

    def _deliver(self) -> None:
        if self._came and not self._held and not self._raised:
            self._raised = True
            raise Interrupted(self._came)
