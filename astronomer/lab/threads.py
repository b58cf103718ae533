"""Threads for what blocks, which the end of a program does not wait for."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["DaemonThreads"]

T = TypeVar("T")
ENDING_SECONDS = 10.0


class DaemonThreads(Executor):
    """An executor like ``ThreadPoolExecutor``, but of daemons.

    The interpreter waits for the threads of a ``ThreadPoolExecutor`` before anybody can tell them that it ends. A
    statement that computes for hours would keep a program from ending that long.

    :param size: how many calls run at once; a thread is started when all others are busy.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._ended = False

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run a call in a thread; RuntimeError after ``shutdown``."""
        future: Future[T] = Future()
        with self._lock:
            if self._ended:
                raise RuntimeError("these threads have ended")
            self._unfinished += 1
            if len(self._threads) < min(self._size, self._unfinished):
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._threads.append(thread)
            self._calls.put((future, functools.partial(call, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once the calls have ended, or at least those that run; do not wait for ever."""
        with self._lock:
            self._ended = True
            if cancel_futures:
                self._cancel()
            for _ in self._threads:
                self._calls.put(None)
        if wait:
            for thread in self._threads:
                thread.join(ENDING_SECONDS)

    def _cancel(self) -> None:
        try:
            while True:
                if call := self._calls.get_nowait():
                    call[0].cancel()
        except Empty:
            return

    def _run(self) -> None:
        while call := self._calls.get():
            _do(*call)
            del call  # the thread must not keep what the call has held
            with self._lock:
                self._unfinished -= 1


def _do(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)
