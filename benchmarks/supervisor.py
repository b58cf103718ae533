"""The supervisor's half: hands triggers to a triggerer process as Airflow's does, and answers at once.

Airflow's own supervisor answers later, because it asks its database in between; that would slow down the side that
talks to it more, so what is measured here flatters the stock trigger.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.shapes import Report, Wait
from benchmarks.sides import Side

__all__ = ["Triggerer"]

_READY = 120.0
_GRACE = 90.0
_LONGEST_REASON = 160


class Triggerer:
    """A triggerer process for one side, started but idle until :meth:`hand_over`.

    :param name: distinguishes its files in ``directory``.
    :param redirect: host name -> port on this machine.
    :param count: module and name of the function whose calls are counted.
    :param warm: imports beforehand what the first wait needs, as if there had been one.
    """

    def __init__(
        self,
        side: Side,
        directory: Path,
        name: str,
        env: Mapping[str, str],
        *,
        redirect: Mapping[str, int],
        count: tuple[str, str] | None = None,
        warm: bool = True,
    ) -> None:
        self.log_lines = 0
        self.questions = 0
        self.failures: dict[int, str] = {}
        self.started_at: float | None = None
        self._report = directory / f"{name}.report.json"
        self._errors = directory / f"{name}.stderr"
        self._finished: set[int] = set()
        self._given: deque[dict[str, Any]] = deque()
        self._per_sync = 0
        self._ready, self._all_given = threading.Event(), threading.Event()
        self._changed = threading.Condition()
        self._socket, theirs = socket.socketpair()
        logs, log_fd = os.pipe()
        settings = directory / f"{name}.settings.json"
        warming = {"classpath": side.classpath, "modules": side.later} if warm else {}
        told = {"log_fd": log_fd, "redirect": redirect, "count": count, **warming}
        settings.write_text(json.dumps(told))
        with theirs, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.triggerer", str(settings), str(self._report)],
                stdin=theirs.fileno(),
                stdout=errors,
                stderr=errors,
                pass_fds=[log_fd],
                env=dict(env),
            )
        os.close(log_fd)
        self._threads = [
            threading.Thread(target=self._serve, daemon=True),
            threading.Thread(target=self._count_lines, args=(logs,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._send(0, {"type": "StartTriggerer"})

    def wait_until_ready(self) -> None:
        """Return when its loop runs.

        :raises RuntimeError: it does not start; with what it printed.
        """
        if not self._ready.wait(_READY):
            raise self._broken("did not start")

    def hand_over(self, waits: Sequence[Wait], per_sync: int) -> None:
        """Give it the triggers, so many each time that it asks."""
        made = [
            {
                "type": "RunTrigger",
                "id": number + 1,
                "classpath": wait["classpath"],
                "encrypted_kwargs": wait["encrypted_kwargs"],
            }
            for number, wait in enumerate(waits)
        ]
        with self._changed:
            self._per_sync = per_sync
            self._given.extend(made)

    def wait_until_finished(self, numbers: Collection[int], timeout: float) -> bool:
        """Whether these triggers, counted from 1, have ended within so many seconds, well or not."""
        with self._changed:
            return self._changed.wait_for(lambda: self._finished.issuperset(numbers), timeout)

    def stop(self) -> Report:
        """End the process; what it saw."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            raise self._broken("did not stop") from None
        finally:
            self.close()
        if not self._report.is_file():
            raise self._broken("left no report")
        report: Report = json.loads(self._report.read_text())
        return report

    def close(self) -> None:
        """End the process if it still runs, and give back what it used."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._socket.close()
        for thread in self._threads:
            thread.join(5.0)

    def _broken(self, what: str) -> RuntimeError:
        return RuntimeError(f"the triggerer {what}:\n{self._errors.read_text()[-4000:]}")

    # The protocol: frames of four bytes of length and a msgpack list. Source: airflow.sdk.execution_time.comms.

    def _serve(self) -> None:
        with suppress(OSError):
            while (length := self._read(4)) is not None:
                body = self._read(int.from_bytes(length, "big"))
                if body is None:
                    return
                number, message, *_ = msgspec.msgpack.decode(body)
                self._send(number, self._answer(message or {}))

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if message.get("type") != "TriggerStateChanges":
            self.questions += 1
            return None
        self._ready.set()
        with self._changed:
            self._finished.update(message.get("finished") or ())
            self.failures.update((number, _reason(trace)) for number, trace in message.get("failures") or ())
            fresh = [self._given.popleft() for _ in range(min(self._per_sync, len(self._given)))]
            if fresh:
                self._all_given.clear() if self._given else self._all_given.set()
            elif self._all_given.is_set() and self.started_at is None:
                self.started_at = time.time()
            self._changed.notify_all()
        return {"type": "TriggerStateSync", "to_create": fresh, "to_cancel": []}

    def _send(self, number: int, body: dict[str, Any] | None) -> None:
        frame = msgspec.msgpack.encode([number, body, None])
        self._socket.sendall(len(frame).to_bytes(4, "big") + frame)

    def _read(self, length: int) -> bytes | None:
        found = bytearray()
        while len(found) < length:
            more = self._socket.recv(length - len(found))
            if not more:
                return None
            found += more
        return bytes(found)

    def _count_lines(self, logs: int) -> None:
        with os.fdopen(logs, "rb") as lines:
            for _ in lines:
                self.log_lines += 1


def _reason(trace: Sequence[str] | None) -> str:
    """The last line of a traceback."""
    lines = "".join(trace or ()).strip().splitlines()
    return lines[-1][:_LONGEST_REASON] if lines else "no reason given"
