"""Python tasks as processes, each with those it starts in a group of its own.

Nothing outlives its task, and no task the lab: however the lab's process ends, the pipe ends that each task watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from astronomer.lab import files
from astronomer.lab.databricks import states, task_runner
from astronomer.lab.databricks.runs import Output
from astronomer.lab.databricks.states import State

__all__ = ["Order", "Processes"]

_LONGEST_TEXT = 5 * 1024 * 1024
_SHUTDOWN_SECONDS = 10.0


@dataclass
class Order:
    """What a process shall run.

    :param widgets: the parameters of a notebook; ``arguments``: those of a plain file.
    :param upstream: the values that earlier tasks told, by task.
    """

    path: str
    notebook: bool
    arguments: list[str] = field(default_factory=list)
    widgets: dict[str, str] = field(default_factory=dict)
    upstream: dict[str, dict[str, Any]] = field(default_factory=dict)


Ended = Callable[[State, Output, "dict[str, Any]"], None]
"""Told how a process ended and which values it set, in the loop's thread; never after it was stopped."""


class Processes:
    """The processes of the workspace; every method is called in the loop's thread."""

    def __init__(self) -> None:
        self._running: set[_Process] = set()
        self._life: tuple[int, int] | None = None

    def start(self, order: Order, ended: Ended) -> Callable[[], None]:
        """Start a process and return what ends it."""
        self._life = self._life or os.pipe()
        process = _Process(order, ended, self._running.discard, self._life[0])
        self._running.add(process)
        return process.stop

    def close(self) -> None:
        """End all of them and return when they are gone."""
        running = list(self._running)
        for process in running:
            process.stop()
        for process in running:
            process.bury()
        self._running.clear()
        for end in self._life or ():
            os.close(end)
        self._life = None


class _Process:
    def __init__(self, order: Order, ended: Ended, gone: Callable[[_Process], None], life: int) -> None:
        self._order = order
        self._ended: Ended | None = ended
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._directory = files.temporary("task-")
        order_file, self._answer = self._directory / "order.json", self._directory / "answer.json"
        order_file.write_text(json.dumps(asdict(order)), encoding="utf-8")
        self._log = self._directory / "output.log"
        self._reaped = False
        command = [sys.executable, "-u", task_runner.__file__, str(order_file), str(self._answer), str(life)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the lab's user decides what its tasks run
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[life],
                start_new_session=True,
            )
        threading.Thread(target=self._watch, name="astronomer.lab.task", daemon=True).start()

    def stop(self) -> None:
        """End it and whatever it started, and say nothing."""
        self._ended = None
        if not self._reaped:
            self._kill()

    def bury(self) -> None:
        """Return when it is gone."""
        self._process.wait(_SHUTDOWN_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        self._process.wait()
        self._kill()  # what it has left running, at once: its id may soon be another's
        self._reaped = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: the lab stops
            self._loop.call_soon_threadsafe(self._exited)

    def _exited(self) -> None:
        self._gone(self)
        ended, self._ended = self._ended, None
        try:
            if ended is not None:
                ended(*self._outcome())
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _outcome(self) -> tuple[State, Output, dict[str, Any]]:
        answer = json.loads(self._answer.read_text(encoding="utf-8")) if self._answer.is_file() else None
        output = Output()
        if not self._order.notebook:
            output.logs, output.logs_truncated = self._tail()
        if answer is None:
            output.error = f"The Python process exited with code {self._process.returncode}."
            return states.failed(), output, {}
        output.error, output.error_trace = answer.get("error", ""), answer.get("error_trace", "")
        if self._order.notebook and "result" in answer:
            result = str(answer["result"])
            shown = {"result": result[:_LONGEST_TEXT], "truncated": len(result) > _LONGEST_TEXT}
            output.more["notebook_output"] = shown
        elif self._order.notebook and not output.error:
            output.more["notebook_output"] = {}
        return (states.failed() if output.error else states.SUCCESS), output, answer["values"]

    def _tail(self) -> tuple[str, bool]:
        size = self._log.stat().st_size
        with self._log.open("rb") as log:
            log.seek(max(size - _LONGEST_TEXT, 0))
            return log.read().decode(errors="replace"), size > _LONGEST_TEXT
