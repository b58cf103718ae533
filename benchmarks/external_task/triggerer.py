"""The triggerer: Airflow's own command, as it is, and what its processes use."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Cpu", "Triggerer", "running"]

_COMMAND = (sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs")
_LOOK_EVERY = 1.0
_STARTING = 120.0
_STARTING_EACH = 1.0
_STOPPING = 60.0
_SPARE_FILES = 1000


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU that processes have used so far.

    :param database: ``None`` if the server is not ours.
    """

    supervisor: float
    runner: float
    database: float | None

    def since(self, before: Cpu) -> Cpu:
        """What has been used since."""
        database = None
        if self.database is not None and before.database is not None:
            database = self.database - before.database
        return Cpu(self.supervisor - before.supervisor, self.runner - before.runner, database)


class Triggerer:
    """A running one.

    :param logs: where it writes the log of each trigger.
    :param output: where it writes its own.
    """

    def __init__(self, process: subprocess.Popen[bytes], logs: Path, output: Path) -> None:
        self._process, self._logs, self._output = process, logs, output
        self._main = psutil.Process(process.pid)

    def await_triggers(self, number: int) -> float:
        """Return when so many triggers have begun to run, and how many seconds that took.

        A trigger's first line in its own log says that it has begun.
        """
        began = time.monotonic()
        while not self._children() or self._begun() < number:
            self.check()
            if time.monotonic() > began + _STARTING + _STARTING_EACH * number:
                raise RuntimeError(f"only {self._begun()} of {number} triggers have begun\n{self._said()}")
            time.sleep(_LOOK_EVERY)
        return time.monotonic() - began

    def check(self) -> None:
        """:raises RuntimeError: it has died."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the triggerer has died:\n{self._said()}")

    def cpu(self, server: int | None) -> Cpu:
        """What its two processes have used, and those of the server whose first process is named."""
        runner = sum(_used(child) for child in self._children())
        return Cpu(_used(self._main), runner, None if server is None else _family(server))

    def stop(self) -> None:
        """As an operator would; what is left then is killed."""
        left = [self._main, *self._children()]
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOPPING)
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait(_STOPPING)

    def _begun(self) -> int:
        return sum(1 for _ in self._logs.rglob("*.trigger.*.log"))

    def _children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return self._main.children(recursive=True)
        return []

    def _said(self) -> str:
        return "\n".join(self._output.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


@contextmanager
def running(env: Mapping[str, str], directory: Path, triggers: int) -> Iterator[Triggerer]:
    """Run one for the block.

    :param triggers: how many it will have; Airflow keeps a log file of each open.
    """
    _allow_files(triggers + _SPARE_FILES)
    logs, output = directory / "logs", directory / "triggerer.log"
    logs.mkdir(parents=True)
    with output.open("wb") as written:
        process = subprocess.Popen(
            _COMMAND,
            env={**env, "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs)},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours to answer
        )
    triggerer = Triggerer(process, logs, output)
    try:
        yield triggerer
    finally:
        triggerer.stop()


def _allow_files(number: int) -> None:
    """Raise the limit of open files, which child processes inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise RuntimeError(f"so many triggers need {number} open files, and the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def _used(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _family(pid: int) -> float:
    """With the children, also those that have ended."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    ended = times.children_user + times.children_system
    return float(ended) + sum(_used(one) for one in [process, *process.children(recursive=True)])
