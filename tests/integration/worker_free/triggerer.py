"""Triggerers' processes, forked: ``python -m tests.integration.worker_free.triggerer``.

Each line of its input is JSON and asks for one process that runs the trigger of one task: the operator and its
arguments, the Dag run, the file that stands for Airflow's database, and the point at which the process sends itself a
signal, if it shall. The answer is the process id.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astronomer.deferral import operator_trigger, recipe, xcom_memory
from astronomer.deferral.transport import Transport
from astronomer.deferral.trigger import JobTrigger
from astronomer.deferral.xcom_memory import XCOM_KEY, XComMemory
from astronomer.providers.databricks.sql import submit
from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from tests.integration.driving import triggerer
from tests.worker_free import Installation, WorkerFreeTask

POINTS = (
    "at its beginning",
    "before the claim",
    "after the claim",
    "before the login",
    "after the login",
    "before the last look",
    "at the request",
    "after the answer",
    "before the link",
    "at the wait",
    "at the result",
    "before the event",
)
UNGUARDED = "at the request"
"""Only there a process that is paused may still send what another one has sent meanwhile."""

CLAIM_LASTS, SUBMITTED_BY = 6.0, 9.0  # in place of 10 and 15 seconds


@dataclass
class Point:
    """Where the process sends itself a signal, once."""

    name: str = ""
    signal: int = signal.SIGKILL

    def passes(self, name: str) -> None:
        if name == self.name:
            self.name = ""
            # To the process, it would come a moment later, when this thread may hold a lock of the file.
            signal.pthread_kill(threading.get_ident(), self.signal)


@dataclass
class SharedInstallation(Installation):
    """Airflow's database is a file, and every process has a supervisor."""

    file: Path = field(default_factory=Path)
    point: Point = field(default_factory=Point)

    def send(self, message: Any) -> Any:
        kind, key = type(message).__name__, getattr(message, "key", "")
        sets = kind == "SetXCom"
        if sets and key == XCOM_KEY:
            self.point.passes("before the claim")
        elif sets and key != "return_value":
            self.point.passes("before the link")
        with self.locked():
            answer = super().send(message)
        if sets and key == XCOM_KEY:
            self.point.passes("after the claim")
        return answer

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self.file.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.xcoms = read_xcoms(self.file)
            yield
            written = self.file.with_suffix(".new")
            written.write_text(json.dumps([[list(place), value] for place, value in self.xcoms.items()]))
            # Not replaced, because the lock is on the file.
            self.file.write_bytes(written.read_bytes())


def read_xcoms(file: Path) -> dict[tuple[Any, ...], Any]:
    """The XComs in the file."""
    text = file.read_text() if file.exists() else ""
    return {tuple(place): value for place, value in json.loads(text or "[]")}


def pass_points(point: Point) -> None:
    """Have the steps of the trigger pass them."""

    def around(
        kind: Any, name: str, before: str, after: str = "", only: Callable[..., bool] | None = None
    ) -> None:
        plain = getattr(kind, name)

        def passing(self: Any, *arguments: Any, **named: Any) -> Any:
            counts = only is None or only(*arguments)
            if counts:
                point.passes(before)
            answer = plain(self, *arguments, **named)
            if counts and after:
                point.passes(after)
            return answer

        async def awaiting(self: Any, *arguments: Any, **named: Any) -> Any:
            counts = only is None or only(*arguments)
            if counts:
                point.passes(before)
            answer = await plain(self, *arguments, **named)
            if counts and after:
                point.passes(after)
            return answer

        setattr(kind, name, awaiting if asyncio.iscoroutinefunction(plain) else passing)

    def submits(method: str, url: str) -> bool:
        return method == "POST" and url.endswith(("/jobs/runs/submit", "/jobs/run-now", "/sql/statements"))

    around(SnowflakeSession, "_log_in", "before the login", "after the login")
    around(SnowflakeSession, "submit", "at the request", "after the answer")
    around(Transport, "send", "before the login", "after the login", lambda method, url: "/oidc/" in url)
    around(Transport, "send", "at the request", "after the answer", submits)
    around(XComMemory, "hold", "before the last look")
    around(JobTrigger, "wait", "at the wait")


def run(spec: dict[str, Any]) -> None:
    """The trigger, up to its event; the first event of a trigger counts."""
    point = Point(spec.get("point", ""), spec.get("signal", signal.SIGKILL))
    point.passes("at its beginning")
    pass_points(point)
    xcom_memory._CLAIM_LASTS = CLAIM_LASTS
    operator_trigger.SUBMITTED_BY = xcom_memory.SUBMITTED_BY = SUBMITTED_BY
    submit.ARRIVES_WITHIN = submit.HISTORY_LAGS = 0.0
    submit._LOOK_AGAIN = submit._PAUSE = 0.05
    directory = Path(spec["directory"])
    airflow = SharedInstallation(run_id=spec["run_id"], file=directory / "xcoms.json", point=point)
    kind = recipe.load(spec["operator"])
    plain_finish = kind.finish

    def finish(self: Any, *arguments: Any) -> Any:
        point.passes("at the result")
        return plain_finish(self, *arguments)

    kind.finish = finish

    async def main() -> Any:
        async with triggerer():
            (event,) = [event async for event in task.trigger().run()]
            return event

    with airflow.in_place():
        task = WorkerFreeTask(
            airflow,
            lambda: kind(task_id="task", start_from_trigger=True, poll_interval=0.1, **spec["arguments"]),
        )
        task.schedule()
        event = asyncio.run(main())
        point.passes("before the event")
        ended = directory / "ended"
        with airflow.locked():
            if not ended.exists():
                ended.write_text(task.take(event).state)


def main() -> None:
    """Fork for each line, until the input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    print("ready", flush=True)
    for line in sys.stdin:
        spec = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            log = os.open(Path(spec["directory"]) / f"log-{os.getpid()}", os.O_CREAT | os.O_WRONLY)
            for stream in (0, 1, 2):
                os.dup2(log, stream)
            code = 0
            try:
                run(spec)
            except BaseException:  # noqa: BLE001 - told, and then the process ends
                traceback.print_exc()
                code = 1
            os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
