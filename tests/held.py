"""Work at the local Snowflake that lasts for as long as a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

__all__ = ["held"]


@contextmanager
def held(lab: Any) -> Iterator[Callable[[], object]]:
    """The scripted waits that begin in this context end with it, or when what it yields is called."""
    over = asyncio.Event()

    async def spend(query: Any, seconds: float) -> None:
        if seconds:
            await over.wait()

    def let_go() -> None:
        lab._do(over.set)

    with mock.patch.object(lab.account_state.pace, "spend", spend):
        try:
            yield let_go
        finally:
            let_go()
