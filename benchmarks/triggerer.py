"""The measured process: Airflow's own ``TriggerRunner``, with a clock on its loop.

``python -m benchmarks.triggerer SETTINGS OUT``; file descriptor 0 is the socket to the supervisor.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from airflow.jobs.triggerer_job_runner import TriggerRunner
from airflow.sdk.execution_time.supervisor import _configure_logs_over_json_channel

from astronomer.lab.dns import redirected
from benchmarks.shapes import Fired, Report, Stall

__all__ = ["MeasuredRunner"]

_TICK = 0.02
_STALLS = 50  # the longest are enough


class _Events(deque[Any]):
    """The runner's queue of events; notes when each is yielded, and the CPU time used by then."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Fired] = []
        self.cpu = 0.0

    def append(self, entry: Any) -> None:
        self.cpu = time.process_time()
        self.seen.append(Fired(wait=entry[0], at=time.time(), payload=entry[1].payload))
        super().append(entry)


class _Watch:
    """How late the loop wakes up a timer."""

    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self.began: float | None = None
        self.collections: list[float] = []
        self._due = self._cpu = self._collecting = self._collected_in_tick = 0.0

    def start(self) -> None:
        """Begin. Start-up's own garbage goes first, as it has long gone in a triggerer that has run for a while."""
        gc.collect()
        gc.callbacks.append(self._collected)
        self._loop = asyncio.get_running_loop()
        self._again()

    def stop(self) -> None:
        """End."""
        gc.callbacks.remove(self._collected)
        self._alarm.cancel()

    def _again(self) -> None:
        self._due, self._cpu, self._collected_in_tick = self._loop.time() + _TICK, time.process_time(), 0.0
        self._alarm = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        now = self._loop.time()
        late = now - self._due
        if self.began is not None and late > _TICK:
            cpu = time.process_time() - self._cpu
            collecting = min(late, self._collected_in_tick)
            self.stalls.append(Stall(seconds=late, collecting=collecting, cpu=cpu, after=now - self.began))
        self._again()

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        now = time.monotonic()
        if phase == "start":
            self._collecting = now
        elif self.began is not None:
            self._collected_in_tick += now - self._collecting
            self.collections.append(now - self._collecting)


class MeasuredRunner(TriggerRunner):  # type: ignore[misc,unused-ignore]
    """The real runner; only observed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self.events: _Events = _Events()
        self._watch = _Watch()
        self._cpu_before = self._started = 0.0
        self._counted = 0

    async def arun(self) -> None:
        """As the real one, and with a watch on its loop."""
        self._watch.start()
        try:
            await super().arun()  # type: ignore[no-untyped-call,unused-ignore]
        finally:
            self._watch.stop()  # what follows ends the triggers that still wait, all at once

    async def create_triggers(self) -> None:
        """As the real one; what is reported begins with the first trigger."""
        if self.to_create and self._watch.began is None:
            self._cpu_before, self._watch.began = time.process_time(), time.monotonic()
        fresh = bool(self.to_create)
        await super().create_triggers()  # type: ignore[no-untyped-call,unused-ignore]
        if fresh:
            await asyncio.sleep(0)  # the last one's first step
            self._started = time.monotonic()

    def count(self, module: str, name: str) -> None:
        """Count the calls of a function from now on, whoever calls it."""
        place = importlib.import_module(module)
        original = getattr(place, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self._counted += 1
            return original(*args, **kwargs)

        setattr(place, name, counting)

    def report(self, import_seconds: float) -> Report:
        """What was seen."""
        began = self._watch.began or 0.0
        return Report(
            import_seconds=import_seconds,
            started_seconds=self._started - began,
            cpu_seconds=self.events.cpu - self._cpu_before,
            counted=self._counted,
            stalls=sorted(self._watch.stalls, key=lambda one: -one["seconds"])[:_STALLS],
            stall_between_collections=max(
                (one["seconds"] - one["collecting"] for one in self._watch.stalls), default=0.0
            ),
            late_seconds=sum(one["seconds"] for one in self._watch.stalls),
            longest_collection=max(self._watch.collections, default=0.0),
            events=self.events.seen,
        )


def main(settings_file: str, out: str) -> None:
    """Be a triggerer until told to stop, then write the report."""
    settings = json.loads(Path(settings_file).read_text())
    _configure_logs_over_json_channel(settings["log_fd"])
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    runner = MeasuredRunner()
    if settings["count"]:
        runner.count(*settings["count"])
    began = time.monotonic()
    if "classpath" in settings:
        runner.get_trigger_by_classpath(settings["classpath"])
        for module in settings["modules"]:
            importlib.import_module(module)
    import_seconds = time.monotonic() - began
    with redirected(settings["redirect"]):
        runner.run()  # type: ignore[no-untyped-call,unused-ignore]
    Path(out).write_text(json.dumps(runner.report(import_seconds)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
