"""Where a synchronous client runs, so that it never blocks the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from astronomer.deferral.errors import Transient

__all__ = ["ClientThreads"]

T = TypeVar("T")


class ClientThreads:
    """A few threads for one connection's synchronous client; every call is bounded in time.

    Airflow's ``sync_to_async`` would put all clients of a triggerer on one shared thread.

    :param size: how many calls run at once.
    :param timeout: seconds after which a call counts as unanswered. Its thread is busy until the client itself
        gives up, so the client needs a timeout of its own.
    """

    def __init__(self, name: str, *, size: int = 4, timeout: float = 60.0) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)
        self._timeout = timeout
        self._closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """The result of ``call``, or :class:`Transient` when it takes too long."""

        def unless_closed() -> T:
            if self._closed:
                raise Transient("the session was closed")
            return call()

        if self._closed:
            return unless_closed()
        future = asyncio.get_running_loop().run_in_executor(self._pool, unless_closed)
        try:
            return await asyncio.wait_for(future, self._timeout)
        except asyncio.TimeoutError:
            raise Transient(f"no answer within {self._timeout:g} s") from None

    def close(self) -> None:
        """Answer new and queued calls with :class:`Transient`. Running ones end by themselves."""
        self._closed = True
        # Without cancel_futures: whoever awaits a cancelled future believes to be cancelled itself.
        self._pool.shutdown(wait=False)
