"""Sensors on files in a directory that is really there, on virtual time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.standard.sensors.filesystem import FileSensor as StockFileSensor

from astronomer.deferral import JobStatus, Transient, clock
from astronomer.providers.core.jobs import files
from astronomer.providers.core.sensors.filesystem import FileSensor
from tests.contract.waits import WaitFamily, WaitWorld
from tests.unit.deferral.fakes import Timeline

__all__ = ["FILE_WAITS"]

_FilePoller = files.FilePoller


class FileWorld(WaitWorld):
    """Each thing is a file, which comes and goes."""

    def __init__(self, timeline: Timeline, directory: Path, pattern: str) -> None:
        super().__init__(timeline)
        self.directory = directory
        self.pattern = pattern
        self.hangs: list[str] = []
        self.asked: list[float] = []

    def make(self, thing: int, **arguments: Any) -> Any:
        return FileSensor(filepath=self.pattern.format(thing), **arguments)

    def make_stock(self, thing: int, **arguments: Any) -> Any:
        return StockFileSensor(filepath=self.pattern.format(thing), **arguments)

    def begin(self, thing: int) -> None:
        (self.directory / f"{thing:03}.part").touch()

    def come_true(self, thing: int) -> None:
        (self.directory / f"{thing:03}.csv").touch()

    def vanish(self, thing: int) -> None:
        (self.directory / f"{thing:03}.part").unlink()

    def weather(self, *kinds: str, times: int | None = 1) -> None:
        self.hangs = [kind for kind in kinds for _ in range(10_000 if times is None else times)]

    def clear_up(self) -> None:
        self.hangs = []

    @property
    def questions(self) -> list[float]:
        return self.asked

    def forget(self) -> None:
        self.asked = []


class FileFamily(WaitFamily):
    """A sensor on a file.

    :param pattern: the path of a thing, with its number.
    """

    can_go_wrong = has_states = False
    kinds = ("hangs",)
    pairs = ((FileSensor, StockFileSensor),)

    def __init__(self, name: str, pattern: str) -> None:
        self.name = name
        self.pattern = pattern

    @contextmanager
    def world(self) -> Iterator[WaitWorld]:
        with (
            tempfile.TemporaryDirectory() as directory,
            Timeline().in_place() as timeline,
            pytest.MonkeyPatch.context() as patch,
        ):
            world = FileWorld(timeline, Path(directory), self.pattern)
            connection = {"conn_type": "fs", "extra": {"path": directory}}
            patch.setenv("AIRFLOW_CONN_FS_DEFAULT", json.dumps(connection))
            patch.setattr(files, "FilePoller", _poller(world))
            yield world


def _poller(world: FileWorld) -> type[files.FilePoller]:
    class Poller(_FilePoller):
        """Ours, on a mount that may hang: a thread that does would stop virtual time."""

        async def poll(self, jobs: Sequence[files.FileWait]) -> Mapping[files.FileWait, JobStatus]:
            world.asked.append(clock.now())
            if world.hangs:
                world.hangs.pop(0)
                raise Transient(f"{self._place} could not be read within 60 s")
            return await super().poll(jobs)

    return Poller


FILE_WAITS: tuple[WaitFamily, ...] = (
    FileFamily("file", "{:03}.csv"),
    FileFamily("file-pattern", "{:03}*.[a-c]sv"),
)
