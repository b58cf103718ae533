"""Waits for files: one look at a directory answers all waits for what is in it.

What is there is what ``glob`` finds, and what counts is what the stock sensor counts: a file, or a directory with a
file anywhere beneath it. Paths are text here, because that is what ``glob`` reads: a ``Path`` would lose a slash at the
end, which has a meaning.
"""
# ruff: noqa: PTH116, PTH118, PTH207

from __future__ import annotations

import asyncio
import fnmatch
import glob
import os
import random
import re
import stat
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from astronomer.deferral import ClientThreads, JobStatus, Phase, Poller, RemoteJob, Transient

__all__ = ["FilePoller", "FileWait", "look"]

THREAD_NAME = "astronomer-files"

_NOT_THERE = JobStatus(Phase.ACTIVE, "not there yet")
_PATIENCE = 60.0  # for one look; less than the hub gives to one poll
_LONGEST_LOOK = 86_400.0
_NAMES_AT_ONCE = 50
_LOOKS_AT_ONCE = 8
_TURN = 2.0  # after so many seconds a look no longer counts as one of those

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
_overdue: dict[str, threading.Event] = {}
"""By place, the end of a look that had not ended in time: no other one is begun beside it."""


@dataclass(frozen=True)
class FileWait(RemoteJob):
    """A wait for a file, or for a directory with a file anywhere beneath it. Nobody's to cancel.

    :param path: a path or a pattern, as ``glob`` reads it.
    :param recursive: whether ``**`` stands for any number of directories.
    :param root: where a relative path begins; by default, the working directory of the process that looks.
    """

    path: str
    recursive: bool = False
    root: str = ""

    connection_fields: ClassVar[tuple[str, ...]] = ("place",)
    foreign: ClassVar[bool] = True

    @property
    def place(self) -> str:
        """What has to be read for an answer: a directory; or all that a pattern means, where it means several."""
        return os.path.join(self.root, os.path.split(self.path)[0] if self.in_one_directory else self.path)

    @property
    def last(self) -> str:
        """The last part of the path: a name or a pattern of names."""
        return os.path.split(self.path)[1]

    @property
    def in_one_directory(self) -> bool:
        """Whether a listing of one directory answers it."""
        directory, last = os.path.split(self.path)
        if last in {"", os.curdir, os.pardir} or (self.recursive and last == "**"):
            return False
        return not glob.has_magic(directory)

    @property
    def name(self) -> str:
        """The whole path."""
        return f"file {_printable(os.path.join(self.root, self.path))}"

    def poller(self) -> Poller[Any]:
        """One for all waits at the place."""
        return FilePoller(self.place)


class FilePoller(Poller[FileWait]):
    """Looks at one place, on a thread that lives as long as the look.

    A look that takes longer than a poll goes on, and a later poll gives its answer. One that never ends, because a
    mount hangs, costs this one thread, however often and by whom the place is asked about.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._look: asyncio.Task[dict[FileWait, JobStatus]] | None = None
        self._idle = threading.Event()
        self._idle.set()

    async def poll(self, jobs: Sequence[FileWait]) -> Mapping[FileWait, JobStatus]:
        """One look for all of them; then, a rest at least as long as it took."""
        if self._look is None:
            self._look = asyncio.ensure_future(self._begin(jobs))
        await asyncio.wait({self._look}, timeout=_PATIENCE)
        if not self._look.done():
            _overdue[self._place] = self._idle
            raise Transient(f"{_printable(self._place)} could not be read within {_PATIENCE:g} s")
        look, self._look = self._look, None
        answers = look.result()
        self.look_again = not answers.keys() >= set(jobs)  # it was begun for others
        return answers

    async def close(self) -> None:
        """Wait no longer. A thread cannot be ended: it ends with its look."""
        if self._look is not None:
            self._look.cancel()

    async def _begin(self, jobs: Sequence[FileWait]) -> dict[FileWait, JobStatus]:
        overdue = _overdue.get(self._place)
        if overdue is not None and not overdue.is_set():
            raise Transient(f"{_printable(self._place)} is still being read for an earlier question")
        _overdue.pop(self._place, None)
        threads = ClientThreads(THREAD_NAME, size=1, timeout=_LONGEST_LOOK)
        loop = asyncio.get_running_loop()
        try:
            async with _turn(loop):
                begun = loop.time()
                answers = await threads.run(lambda: self._look_at(jobs))
                self.least_interval = 2 * (loop.time() - begun)
                return answers
        finally:
            threads.close()

    def _look_at(self, jobs: Sequence[FileWait]) -> dict[FileWait, JobStatus]:
        self._idle.clear()
        try:
            return look(jobs)
        finally:
            self._idle.set()


@asynccontextmanager
async def _turn(loop: asyncio.AbstractEventLoop) -> AsyncIterator[None]:
    """A few looks at once: the threads of a thousand would crowd out the event loop.

    One that takes long gives its turn away, so that a mount that hangs holds up nobody for long.
    """
    turns = _turns.setdefault(loop, asyncio.Semaphore(_LOOKS_AT_ONCE))
    await turns.acquire()
    with ExitStack() as turn:
        turn.callback(turns.release)
        turn.callback(loop.call_later(_TURN, turn.close).cancel)
        yield


def look(waits: Sequence[FileWait]) -> dict[FileWait, JobStatus]:
    """One look for waits that have their place in common. It blocks, so it is for a thread.

    Patterns, and many names, are matched against one listing. A few names are asked for one by one: that costs less
    than a long listing, and finds what a listing does not show (an automount, another spelling where case is
    ignored). Of many names, some are asked for so at each look.
    """
    names = [wait for wait in waits if wait.in_one_directory and not glob.has_magic(wait.last)]
    alone = set(random.sample(names, min(len(names), _NAMES_AT_ONCE)))
    alone |= {wait for wait in waits if not wait.in_one_directory}
    listing = _Listing(waits[0].place if len(alone) < len(waits) else None)
    what = cache(_what_counts)  # several patterns may match one name
    answers = {}
    for wait in waits:
        paths = _paths(wait) if wait in alone else listing.paths(wait.last)
        found = next((found for found in map(what, paths) if found), None)
        answers[wait] = _NOT_THERE if found is None else JobStatus(Phase.SUCCEEDED, found)
    return answers


def _paths(wait: FileWait) -> Iterator[str]:
    found = glob.iglob(wait.path, root_dir=wait.root, recursive=wait.recursive)
    return (os.path.join(wait.root, path) for path in found)


class _Listing:
    """The names in a directory, matched as ``glob`` does: what it may not list is empty."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory or ""
        self._names: list[str] = []
        if directory is not None:
            with suppress(OSError), os.scandir(directory or os.curdir) as entries:
                self._names.extend(entry.name for entry in entries)
        self._names.sort()

    @cached_property
    def _known(self) -> set[str]:
        return set(self._names)

    def paths(self, pattern: str) -> Iterable[str]:
        """The paths that match a pattern, or are that name."""
        if not glob.has_magic(pattern):
            names = [pattern] if pattern in self._known else []
        elif names := self._candidates(pattern):  # to match means to compile the pattern first
            names = fnmatch.filter(names, pattern)
        hidden = pattern.startswith(".")
        return (os.path.join(self._directory, name) for name in names if hidden or not name.startswith("."))

    def _candidates(self, pattern: str) -> list[str]:
        """Those that begin as the pattern does; with a thousand patterns, to match all takes seconds."""
        prefix = re.split(r"[*?[]", pattern, maxsplit=1)[0]

        def beginning(name: str) -> str:
            return name[: len(prefix)]

        first = bisect_left(self._names, prefix, key=beginning)
        return self._names[first : bisect_right(self._names, prefix, lo=first, key=beginning)]


def _what_counts(path: str) -> str | None:
    """What the stock sensor would have found at a path, if anything."""
    try:
        seen = os.stat(path)
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(seen.st_mode):
        changed = time.strftime("%Y%m%d%H%M%S", time.localtime(seen.st_mtime))
        return f"Found File {_printable(path)} last modified: {changed}"
    if any(files for _, _, files in os.walk(path)):
        return f"Found a file in {_printable(path)}"
    return None


def _printable(path: str) -> str:
    """A name that is no UTF-8 cannot be sent to Airflow as it is."""
    return path.encode("utf-8", "backslashreplace").decode()
