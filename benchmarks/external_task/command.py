"""One of Airflow's own commands, as it is, for the time of one phase."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["Command", "family", "used"]

_STOPPING = 60.0


class Command:
    """A running one, started when this is made.

    :param words: what comes after ``airflow``.
    :param directory: where it writes what it says.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self._name = words[0]
        self.output = directory / f"{self._name}.log"
        with self.output.open("wb") as written:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *words],
                env=dict(env),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is ours to answer
            )
        self.main = psutil.Process(self._process.pid)

    def children(self) -> list[psutil.Process]:
        """All processes that its first one has started, and theirs."""
        with suppress(psutil.NoSuchProcess):
            return self.main.children(recursive=True)
        return []

    def check(self) -> None:
        """:raises RuntimeError: it has died."""
        if self._process.poll() is not None:
            raise RuntimeError(f"airflow {self._name} has died:\n{self.said()}")

    def said(self) -> str:
        """Its last words."""
        return "\n".join(self.output.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])

    def stop(self) -> None:
        """As an operator would; what is left then is killed."""
        left = [self.main, *self.children()]
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOPPING)
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait(_STOPPING)


def used(process: psutil.Process) -> float:
    """Seconds of CPU."""
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def family(process: psutil.Process) -> float:
    """Seconds of CPU, with the children, also those that have ended."""
    times = process.cpu_times()
    ended = times.children_user + times.children_system
    return float(ended) + sum(used(one) for one in [process, *process.children(recursive=True)])
