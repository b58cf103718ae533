"""How much work something is, in calls of functions: the same on a busy machine as on a quick one.

What calls nothing, such as a comprehension over attributes, is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Work", "counted"]


class Work:
    """Functions that a thread has called, those of C included."""

    def __init__(self) -> None:
        self.calls = 0

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event in {"call", "c_call"}


@contextmanager
def counted(do: Callable[[Callable[[], object]], object]) -> Iterator[Work]:
    """Count what one thread calls.

    :param do: calls a function in that thread, such as ``do`` of a lab's server.
    """
    work = Work()
    do(lambda: sys.setprofile(work.note))
    try:
        yield work
    finally:
        do(lambda: sys.setprofile(None))
