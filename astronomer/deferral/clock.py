"""The one place the engine reads the time from."""

from __future__ import annotations

import asyncio
import time

__all__ = ["now"]


def now() -> float:
    """Epoch seconds; on the loop of a :class:`~astronomer.deferral.testing.FakeClock`, its virtual time."""
    try:
        virtual = getattr(asyncio.get_running_loop(), "epoch", None)
    except RuntimeError:
        virtual = None
    return virtual() if virtual is not None else time.time()
