"""The triggerer: Airflow's own command, as it is, and what its processes use."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.external_task.command import Command, family, used

__all__ = ["Cpu", "Triggerer", "running"]

_LOOK_EVERY = 1.0
_STARTING = 120.0
_STARTING_EACH = 1.0
_SPARE_FILES = 1000


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU that processes have used so far.

    :param database: ``None`` if the server is not ours.
    :param api_server: ``None`` if there is none.
    """

    supervisor: float
    runner: float
    database: float | None
    api_server: float | None = None

    def since(self, before: Cpu) -> Cpu:
        """What has been used since."""
        return Cpu(
            self.supervisor - before.supervisor,
            self.runner - before.runner,
            _less(self.database, before.database),
            _less(self.api_server, before.api_server),
        )


def _less(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before


class Triggerer:
    """A running one.

    :param logs: where it writes the log of each trigger.
    """

    def __init__(self, command: Command, logs: Path) -> None:
        self._command, self._logs = command, logs

    def await_triggers(self, number: int) -> float:
        """Return when so many triggers have begun to run, and how many seconds that took.

        A trigger's first line in its own log says that it has begun.
        """
        began = time.monotonic()
        while not self._command.children() or self._begun() < number:
            self.check()
            if time.monotonic() > began + _STARTING + _STARTING_EACH * number:
                raise RuntimeError(
                    f"only {self._begun()} of {number} triggers have begun\n{self._command.said()}"
                )
            time.sleep(_LOOK_EVERY)
        return time.monotonic() - began

    def check(self) -> None:
        """:raises RuntimeError: it has died."""
        self._command.check()

    def cpu(self, server: int | None) -> Cpu:
        """What its two processes have used, and those of the server whose first process is named."""
        runner = sum(used(child) for child in self._command.children())
        return Cpu(
            used(self._command.main), runner, None if server is None else family(psutil.Process(server))
        )

    def _begun(self) -> int:
        return sum(1 for _ in self._logs.rglob("*.trigger.*.log"))


@contextmanager
def running(env: Mapping[str, str], directory: Path, triggers: int) -> Iterator[Triggerer]:
    """Run one for the block.

    :param triggers: how many it will have; Airflow keeps a log file of each open.
    """
    _allow_files(triggers + _SPARE_FILES)
    logs = directory / "logs"
    logs.mkdir(parents=True)
    settings = {"AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs)}
    command = Command(["triggerer", "--skip-serve-logs"], {**env, **settings}, directory)
    try:
        yield Triggerer(command, logs)
    finally:
        command.stop()


def _allow_files(number: int) -> None:
    """Raise the limit of open files, which child processes inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise RuntimeError(f"so many triggers need {number} open files, and the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
