"""What stands in for a worker in a triggerer: threads for an operator's steps, and the loop for its requests."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from astronomer.deferral import _compat
from astronomer.deferral._compat import PlainConnection
from astronomer.deferral.xcom_memory import XComMemory

__all__ = ["THREAD_NAME", "InTriggerer", "NeedsWorker", "Steps", "lineage_sender"]

T = TypeVar("T")

THREAD_NAME = "astronomer-worker-free"

_CONNECTION_LASTS = 60.0
_LOOP_MAY_END = 1.0  # seconds after which it is looked whether it has


class NeedsWorker(Exception):
    """The rest of the task is for a worker. Raise it in an operator's step; the message says why."""


def lineage_sender(in_triggerer: InTriggerer | None, send: Callable[..., object]) -> Callable[..., object]:
    """What tells of lineage: ``send`` itself in a worker, else what keeps it for the end of the task."""
    return send if in_triggerer is None else functools.partial(in_triggerer.report, send)


def _within_its_task(step: Callable[[], T]) -> T:
    """Run a step; what would end the triggerer, or could not be told to the loop, is an error of its task only."""
    try:
        return step()
    except (SystemExit, KeyboardInterrupt, StopIteration) as error:
        raise RuntimeError(f"the step has raised {error!r}") from error


class Steps:
    """The threads of one event loop that run the steps of operators: rendering, submit, reading of results.

    They are not those of the pollers, so that a slow submit delays no answer about what runs; and what listeners are
    told has as many of its own, because a backend of lineage may be slow.
    """

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Steps]] = WeakKeyDictionary()

    def __init__(self) -> None:
        size = int(_compat.setting("worker_free_threads", 8))
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=THREAD_NAME)
        self._telling = ThreadPoolExecutor(size, thread_name_prefix=f"{THREAD_NAME}-telling")
        self.loop_thread = threading.get_ident()
        self._connections: dict[str, tuple[float, asyncio.Future[PlainConnection]]] = {}

    @classmethod
    def current(cls) -> Steps:
        """Those of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in cls._of_loop:
            cls._of_loop[loop] = cls()
        return cls._of_loop[loop]

    def run(self, step: Callable[[], T]) -> asyncio.Future[T]:
        """Run a step in the log context of the caller. Who stops to wait for it does not stop it."""
        return self._run(self._pool, step)

    def tell(self, telling: Callable[[], T]) -> asyncio.Future[T]:
        """The same for what listeners are told."""
        return self._run(self._telling, telling)

    @staticmethod
    def _run(pool: ThreadPoolExecutor, step: Callable[[], T]) -> asyncio.Future[T]:
        call = functools.partial(contextvars.copy_context().run, _within_its_task, step)
        return asyncio.get_running_loop().run_in_executor(pool, call)

    async def connection(self, conn_id: str) -> PlainConnection:
        """An Airflow connection, read once a minute for all tasks of the triggerer."""
        now = time.monotonic()
        found = self._connections.get(conn_id)
        if found is None or now - found[0] > _CONNECTION_LASTS:
            found = now, asyncio.ensure_future(_compat.read_connection(conn_id))
            self._connections[conn_id] = found
        try:
            return await asyncio.shield(found[1])
        except Exception:
            self._connections.pop(conn_id, None)
            raise

    def forget(self, conn_id: str) -> None:
        """Read an Airflow connection anew at its next use."""
        self._connections.pop(conn_id, None)


class InTriggerer:
    """What an operator that runs without a worker uses in its place; given to it as ``in_triggerer``.

    :param loop: the triggerer's.
    :param memory: what the task remembers.
    :param started_at: epoch seconds at which the try began, whichever triggerer it began in.
    :param deadline: epoch seconds by which it has to have ended, before Airflow ends it without a word.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        steps: Steps,
        memory: XComMemory,
        started_at: float,
        deadline: float | None,
    ) -> None:
        self._loop = loop
        self._loop_thread = steps.loop_thread
        self._steps = steps
        self.memory = memory
        self.started_at = started_at
        self.deadline = deadline
        self.lineage: list[Callable[[], object]] = []
        self._used: dict[str, PlainConnection] = {}
        self.result_limit = int(_compat.setting("worker_free_result_bytes", 48 * 1024))

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the triggerer's loop, where sessions, tokens and quotas are shared; for a step's thread.

        :raises RuntimeError: it would be waited for without end: by the loop itself, or on a loop that has ended.
        """
        if threading.get_ident() == self._loop_thread:
            raise RuntimeError("a step of an operator waits for the event loop in the event loop")
        coroutine = call()
        try:
            found = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._wait_for(found)
        except RuntimeError:
            coroutine.close()
            raise
        return found.result()

    def _wait_for(self, found: Future[Any]) -> None:
        # What is handed to a loop in its last moments is never run, and nobody says so.
        while not wait([found], _LOOP_MAY_END).done:
            if self._loop.is_closed():
                raise RuntimeError("the event loop of the triggerer has ended")

    def connection(self, conn_id: str) -> PlainConnection:
        """An Airflow connection; for a step's thread.

        :raises AirflowNotFoundException: there is no such connection.
        """
        return self.run(lambda: self.read_connection(conn_id))

    async def read_connection(self, conn_id: str) -> PlainConnection:
        """The same for the loop."""
        self._used[conn_id] = found = await self._steps.connection(conn_id)
        return found

    def forget(self, conn_id: str) -> None:
        """Read the connection anew at its next use: its login was refused, and somebody may be correcting it."""
        self._steps.forget(conn_id)

    async def were_corrected(self) -> bool:
        """Whether a connection that was used has been changed since it was read, which may be a minute ago."""
        return any([await self._steps.connection(conn_id) != used for conn_id, used in self._used.items()])

    def report(self, send: Callable[..., object], **what: Any) -> None:
        """Keep what a hook tells of its lineage for the end of the task; a process has one collector for all tasks.

        :param what: the arguments of ``send``; of a cursor, only what it says now is kept.
        """
        if (cursor := what.get("cur")) is not None:
            what["cur"] = SimpleNamespace(rowcount=cursor.rowcount)
        self.lineage.append(functools.partial(send, **what))

    def no_more_than(self, size: int, what: str) -> None:
        """Leave a result to a worker when it is too large.

        :param size: in bytes.
        :raises NeedsWorker: it is.
        """
        if size > self.result_limit:
            raise NeedsWorker(
                f"{what} has {size} bytes, and the triggerer reads up to {self.result_limit} "
                "([astronomer_providers] worker_free_result_bytes)"
            )
