"""Programs in process groups of their own, which end together and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil  # type: ignore[import-untyped]

from tools.demo.signals import Signals


class ProcessEndedError(Exception):
    """A program ended that should not have; the message shows the end of its log."""


@dataclass
class Program:
    """One program that runs, and where its output goes.

    :param once: whether it does one thing and ends.
    :param server: whether others need it until they have ended.
    :param began: how long the log was when it started, in bytes: one that comes back writes on.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    once: bool = False
    server: bool = False
    began: int = 0

    def said(self) -> str:
        """Return what it has written since it was started."""
        return self.log.read_bytes()[self.began :].decode(errors="replace")

    def tail(self, lines: int = 25) -> str:
        found = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join("    " + line for line in found) or "    (it is empty)"

    @property
    def done(self) -> bool:
        """Whether it has done the one thing."""
        return self.once and self.process.poll() == 0

    def check(self) -> None:
        """Raise when it has ended and should not have."""
        code = self.process.poll()
        if code is not None and not self.done:
            how = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
            raise ProcessEndedError(
                f"The {self.name} ended {how}. The end of its log:\n{self.tail()}\nThe full log: {self.log}"
            )


@dataclass
class Processes:
    """Starts programs, each as the leader of a session of its own, and ends all of them with all they started.

    :param logs: one file per program is written there.
    :param record: remembers what runs, so that a later run can end what a killed one left behind.
    :param signals: are held back while a program is being started, or it could be left behind.
    """

    logs: Path
    record: Path
    signals: Signals = field(default_factory=Signals)
    programs: list[Program] = field(default_factory=list)
    _seen: dict[int, float] = field(default_factory=dict)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        cwd: Path,
        *,
        once: bool = False,
        server: bool = False,
        owner: Mapping[str, Any] = MappingProxyType({}),
    ) -> Program:
        """Start one.

        :param owner: who runs it, in ``Popen``'s words, if that is not us.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as sink, self.signals.hold():
            began = sink.tell()
            process = subprocess.Popen(
                [str(word) for word in command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **owner,
            )
            program = Program(name, process, log, once, server, began)
            self.programs.append(program)
            self.look()
        return program

    def check(self) -> None:
        """Raise when a program has ended; remember what the others have started."""
        self.look()
        for program in self.programs:
            program.check()

    def lose(self, program: Program, number: int, *, group: bool = True) -> None:
        """End one program by a signal, and no longer expect it to run.

        :param number: SIGKILL goes to all that it has started as well, as when its machine dies.
        :param group: whether it does.
        """
        self.look()
        self.programs.remove(program)
        if number == signal.SIGKILL and group:
            _signal_group(program.process.pid, number)
        else:
            program.process.send_signal(number)
        program.process.wait()

    def look(self) -> None:
        """Note every descendant: once its parent has gone, it could not be told from a stranger."""
        before = len(self._seen)
        for program in self.programs:
            for one in family(program.process.pid):
                self._seen[one.pid] = one.create_time()
        if len(self._seen) != before:
            self.record.write_text(json.dumps(self._seen))

    def stop(self, patience: float) -> list[str]:
        """End everything, the servers last; returns what had to be killed.

        :param patience: seconds between asking and killing.
        """
        self.look()
        servers = {one.process.pid for one in self.programs if one.server}
        others = {one.process.pid for one in self.programs} - servers
        theirs = {one.pid for server in servers for one in family(server)}
        rest = {pid: at for pid, at in self._seen.items() if pid not in theirs}
        killed = end(rest, patience, others)
        killed += end(self._seen, patience, servers, signal.SIGINT)
        for program in self.programs:
            program.process.wait()
        self.programs.clear()
        self._seen.clear()
        self.record.unlink(missing_ok=True)
        return killed


def end_recorded(record: Path) -> list[str]:
    """End what an earlier run, killed the hard way, has left behind."""
    try:
        seen = {int(pid): float(at) for pid, at in json.loads(record.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return []
    left = [" ".join(one.cmdline())[:100] for one in _living(seen)]
    end(seen, patience=5.0)
    record.unlink(missing_ok=True)
    return left


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    with suppress(psutil.Error):
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    return []


def end(
    seen: Mapping[int, float],
    patience: float,
    groups: Collection[int] = (),
    number: int = signal.SIGTERM,
) -> list[str]:
    """Ask processes and groups to end, once each, then kill those that stay; returns what was killed.

    :param number: the signal that asks; PostgreSQL waits for its clients after a SIGTERM.
    """
    for group in groups:
        _signal_group(group, number)
    for one in _living(seen):
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(one.pid) not in groups:
                one.send_signal(number)
    _wait_for(seen, patience)
    killed = []
    for one in _living(seen):
        with suppress(psutil.Error):
            killed.append(f"{one.pid} {' '.join(one.cmdline())[:100]}")
            one.kill()
    for group in groups:
        _signal_group(group, signal.SIGKILL)
    _wait_for(seen, patience)
    return killed


def _living(seen: Mapping[int, float]) -> list[psutil.Process]:
    """Those that still run; a process id that was given to another program since does not count."""
    found = []
    for pid, created in seen.items():
        with suppress(psutil.Error):
            one = psutil.Process(pid)
            if abs(one.create_time() - created) < 1 and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def _wait_for(seen: Mapping[int, float], patience: float) -> None:
    until = time.monotonic() + patience
    while _living(seen) and time.monotonic() < until:
        time.sleep(0.1)


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group that has only a zombie
        os.killpg(pid, number)


def local_ports(pid: int, remote: int) -> set[int]:
    """The local ports of a program's connections to a port of this machine."""
    found = set()
    for one in family(pid):
        with suppress(psutil.Error):
            connections = one.net_connections(kind="tcp")
            found |= {c.laddr.port for c in connections if c.raddr and c.raddr.port == remote}
    return found
