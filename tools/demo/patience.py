"""Waiting for programs, and saying so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from tools.demo.processes import ProcessEndedError, Processes, Program

READY_SECONDS = 300.0
SAY_AGAIN = 20.0


@dataclass(frozen=True)
class Patience:
    """Waits as long as all programs run."""

    processes: Processes
    console: Console

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say what is being done, and how long it took."""
        started = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(f"{what} …"):
                yield
        else:
            self.console.print(f"{what} …")
            yield
        self.console.print(f"{what}: {time.monotonic() - started:.0f} s")

    def until(
        self,
        ready: Callable[[], bool],
        what: str,
        missing: Callable[[], str] = lambda: "it has not answered yet",
        *,
        by: Program | None = None,
    ) -> None:
        """Wait for something that a program has to do.

        :param by: that program, where others may end meanwhile: some of Airflow do while their database is away.
        """
        started = time.monotonic()
        said = started
        while True:
            (by or self.processes).check()
            if ready():
                return
            now = time.monotonic()
            if now - started > READY_SECONDS:
                logs = ", ".join(str(one.log) for one in self.processes.programs)
                raise ProcessEndedError(
                    f"{what} was not ready after {READY_SECONDS:.0f} s: {missing()}. See {logs}"
                )
            if now - said > SAY_AGAIN:
                said = now
                self.console.print(f"  still waiting for {what}: {missing()}")
            time.sleep(0.5)
