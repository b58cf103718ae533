"""What a triggerer's processes hold at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

__all__ = ["Process", "Sample", "Sampler"]

MEGABYTE = 1 << 20
SUPERVISOR, RUNNER = "supervisor", "runner"


@dataclass(frozen=True)
class Process:
    """One process, or several together.

    :param memory: resident, MB.
    :param own: resident and shared with nobody, MB.
    :param files: descriptors that are open, but for the logs of waits: Airflow keeps each open while its trigger runs.
        That of one that has ended counts.
    :param cpu: seconds of it used so far.
    """

    memory: float = 0.0
    own: float = 0.0
    files: int = 0
    threads: int = 0
    cpu: float = 0.0

    def __add__(self, other: Process) -> Process:
        return Process(
            self.memory + other.memory,
            self.own + other.own,
            self.files + other.files,
            self.threads + other.threads,
            self.cpu + other.cpu,
        )


@dataclass(frozen=True)
class Sample:
    """A moment.

    :param at: seconds since the soak began.
    :param waiting: how many waits there were.
    :param supervisor: the process that Airflow's command is; :param runner: those that it has started: the triggers'.
    :param connections: TCP connections to each service, whatever their state.
    :param requests: since the sample before, by service; likewise ``logins``.
    """

    at: float
    waiting: int
    supervisor: Process
    runner: Process
    connections: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    logins: Mapping[str, int] = field(default_factory=dict)

    @property
    def both(self) -> Process:
        """All processes together."""
        return self.supervisor + self.runner


class Sampler:
    """Looks at a triggerer.

    :param pid: of its first process.
    :param ports: the port of each service.
    :param logs: the folder of the logs of waits.
    """

    def __init__(self, pid: int, ports: Mapping[str, int], logs: Path) -> None:
        self._main = psutil.Process(pid)
        self._logs = logs.resolve()
        self._names = {port: name for name, port in ports.items()}

    def processes(self) -> tuple[Process, Process]:
        """The supervisor, and the runner."""
        runner = Process()
        for child in self._children():
            runner += self._look(child)
        return self._look(self._main), runner

    def connections(self) -> dict[str, int]:
        """How many there are to each service."""
        found = dict.fromkeys(self._names.values(), 0)
        for process in (self._main, *self._children()):
            with suppress(psutil.Error):
                for one in process.net_connections(kind="tcp"):
                    if one.raddr and one.raddr.port in self._names and one.status != psutil.CONN_LISTEN:
                        found[self._names[one.raddr.port]] += 1
        return found

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        for process in (self._main, *self._children()):
            with suppress(psutil.Error):
                process.send_signal(number)

    def _children(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return list(self._main.children(recursive=True))
        return []

    def _look(self, process: psutil.Process) -> Process:
        try:
            with process.oneshot():
                memory, times = process.memory_full_info(), process.cpu_times()
                return Process(
                    round(memory.rss / MEGABYTE, 2),
                    round(memory.uss / MEGABYTE, 2),
                    self._files(process),
                    process.num_threads(),
                    round(times.user + times.system, 2),
                )
        except psutil.Error:
            return Process()

    def _files(self, process: psutil.Process) -> int:
        """How many descriptors are open that are no log of a wait; a log that was removed is no file any more."""
        logs = sum(self._logs in Path(one.path).parents for one in process.open_files())
        return int(process.num_fds()) - logs
