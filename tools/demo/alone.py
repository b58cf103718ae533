"""One user of a state folder at a time: the next would end the first one's processes as left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class BusyError(Exception):
    """Another one uses the folder."""


@contextlib.contextmanager
def alone(state: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder for the block; ``make clean`` respects it.

    :param what: what may run there, such as ``demo``.
    :raises BusyError: it does already; the message says which process.
    """
    with (state / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BusyError(
                f"A {what} runs in {state} already (process {lock.read().strip()}). Stop it first with Ctrl-C."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
