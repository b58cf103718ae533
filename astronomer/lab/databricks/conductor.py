"""Brings runs from their start to their end: queue, dependencies, retries, timeouts, cancelling."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from astronomer.lab.databricks import states
from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.dependencies import outcome, verdict
from astronomer.lab.databricks.index import RunIndex
from astronomer.lab.databricks.runs import Output, Run, TaskRun
from astronomer.lab.databricks.states import State

__all__ = ["Conductor", "Done", "Ids", "Pace", "Work"]

Done = Callable[[State, Output], None]
"""Told once how the work of a task run ended, in the loop's thread."""


class Work(Protocol):
    """What a task run does."""

    def start(self, task: TaskRun, done: Done) -> Callable[[], None]:
        """Begin it and return what ends it early, after which ``done`` is not called."""


class Ids:
    """Ids as the service makes them: large, rising, never the same twice."""

    def __init__(self, first: int = 415_000_000_000_001) -> None:
        self._last = first

    def next(self) -> int:
        """Return a new one."""
        self._last += 7919
        return self._last


@dataclass
class Pace:
    """How long the platform itself takes, in seconds of the workspace's clock.

    :param startup_seconds: a task is PENDING for so long, as while a cluster starts.
    :param cancel_seconds: a cancelled run is TERMINATING for so long.
    """

    startup_seconds: float = 0.0
    cancel_seconds: float = 0.2


class Conductor:
    """Every method is called in the loop's thread.

    :param work: what the tasks do. ``tasks`` are the task runs by their id.
    """

    def __init__(self, clock: Clock, index: RunIndex, ids: Ids, work: Work, pace: Pace) -> None:
        self._clock = clock
        self._index = index
        self._ids = ids
        self._work = work
        self.pace = pace
        self.tasks: dict[int, TaskRun] = {}
        self._running: Counter[int] = Counter()
        self._queues: dict[int, deque[Run]] = {}

    # -- runs ----------------------------------------------------------------------------------------------------------

    def launch(
        self, run: Run, specs: Iterable[dict[str, Any]], *, limit: int = 0, queue: bool = False
    ) -> None:
        """Start a run, or let it wait for its turn, or skip it.

        :param limit: how many runs of its job may go on at once; 0 for any number.
        :param queue: whether it waits when there are as many.
        """
        for spec in specs:
            run.tasks.append(self._attempt(run, spec))
        self._index.add(run)
        if not limit or self._running[run.job_id] < limit:
            self._begin(run)
        elif queue:
            run.state = states.queued()
            self._queues.setdefault(run.job_id, deque()).append(run)
        else:
            self._end(run, states.skipped(limit))

    def cancel(self, run: Run) -> None:
        """Cancel a run; one that has ended is left alone."""
        if run.ended or run.canceled or run.timed_out:
            return
        run.canceled = True
        if run.state.phase == "QUEUED":
            self._queues[run.job_id].remove(run)
            self._end(run, states.CANCELED)
        else:
            self._terminate(run, states.CANCELED)

    def cancel_task(self, task: TaskRun) -> None:
        """Cancel one task of a run that goes on."""
        if task.state.ended or task.state.phase == "TERMINATING":
            return
        self._stop(task)
        self._set(task, states.TERMINATING)
        ending = self._clock.call_later(
            self.pace.cancel_seconds, lambda: self._task_ended(task, states.CANCELED, Output())
        )
        task.timers.append(ending)

    def resume(self, run: Run, tasks: list[tuple[dict[str, Any], int]]) -> list[TaskRun]:
        """Go on with an ended run, with these tasks and attempt numbers, and return the new attempts."""
        self._index.resumed(run)
        run.end_time = 0
        run.canceled = run.timed_out = False
        again = [self._attempt(run, spec, number) for spec, number in tasks]
        run.tasks.extend(again)
        self._begin(run)
        return again

    def drop(self, run: Run) -> None:
        """End a run and its work at once, and forget both."""
        if run.state.phase == "QUEUED":
            self._queues[run.job_id].remove(run)
        run.canceled = True
        self._end(run, states.CANCELED)
        self._index.remove(run)
        for task in run.tasks:
            self.tasks.pop(task.run_id, None)

    def stop(self) -> None:
        """End the work of every run, without a word to anyone."""
        for run_id in self._index.active_ids():
            for task in self._index.runs[run_id].tasks:
                self._stop(task)

    def _attempt(self, run: Run, spec: dict[str, Any], number: int = 0) -> TaskRun:
        task = TaskRun(self._ids.next(), run, spec, number, states.BLOCKED, self._clock.milliseconds())
        self.tasks[task.run_id] = task
        return task

    def _begin(self, run: Run) -> None:
        self._running[run.job_id] += 1
        run.began = run.began or self._clock.milliseconds()
        run.state = states.PENDING
        if seconds := _number(run.settings, "timeout_seconds"):
            run.timers.append(self._clock.call_later(seconds, lambda: self._run_timeout(run, seconds)))
        self._proceed(run)

    def _run_timeout(self, run: Run, seconds: float) -> None:
        if not run.ended and not run.canceled:
            run.timed_out = True
            self._terminate(run, states.timed_out(seconds))

    def _terminate(self, run: Run, end: State) -> None:
        """Stop all work now, and say so a little later."""
        for task in run.tasks:
            if not task.state.ended:
                self._stop(task)
                self._set(task, states.TERMINATING)
        run.state = states.TERMINATING
        run.touch()
        run.timers.append(self._clock.call_later(self.pace.cancel_seconds, lambda: self._end(run, end)))

    def _end(self, run: Run, state: State) -> None:
        if run.ended:
            return
        now = self._clock.milliseconds()
        for task in run.tasks:
            if not task.state.ended:
                self._stop(task)
                task.state, task.end_time = state, now
        run.state, run.end_time = state, now
        for timer in run.timers:
            timer.cancel()
        run.timers.clear()
        if run.repairs:
            run.repairs[-1].state, run.repairs[-1].end_time = state, now
        run.touch()
        self._index.ended(run)
        if run.began:
            self._running[run.job_id] -= 1
        self._next_of(run.job_id)
        watchers, run.watchers = run.watchers, []
        for watcher in watchers:
            watcher(run)

    def _next_of(self, job_id: int) -> None:
        queue = self._queues.get(job_id)
        if queue:
            self._begin(queue.popleft())

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def _proceed(self, run: Run) -> None:
        """Start or end every task whose turn has come, and the run when all have ended."""
        latest = run.latest()
        changed = True
        while changed and not run.ended:
            changed = False
            for task in latest.values():
                if task.state is not states.BLOCKED:
                    continue
                decided = verdict(task, latest)
                if decided is None:
                    continue
                changed = True
                if isinstance(decided, State):
                    self._set(task, decided)
                    task.end_time = self._clock.milliseconds()
                else:
                    self._pend(task)
        if not run.ended and all(task.state.ended for task in latest.values()):
            self._end(run, outcome(run, latest))

    def _pend(self, task: TaskRun) -> None:
        task.start_time = self._clock.milliseconds()
        if self.pace.startup_seconds:
            self._set(task, states.PENDING)
            task.timers.append(self._clock.call_later(self.pace.startup_seconds, lambda: self._start(task)))
        else:
            self._start(task)

    def _start(self, task: TaskRun) -> None:
        task.started = self._clock.milliseconds()
        if task.run.state is states.PENDING:
            task.run.state = states.RUNNING
        self._set(task, states.RUNNING)
        if seconds := _number(task.spec, "timeout_seconds"):
            task.timers.append(self._clock.call_later(seconds, lambda: self._task_timeout(task, seconds)))
        task.stop = self._work.start(task, lambda state, output: self._task_ended(task, state, output))

    def _task_timeout(self, task: TaskRun, seconds: float) -> None:
        if not task.state.ended:
            self._stop(task)
            self._task_ended(task, states.timed_out(seconds), Output())

    def _task_ended(self, task: TaskRun, state: State, output: Output) -> None:
        if task.state.ended:
            return
        task.stop = None
        self._stop(task)
        task.end_time, task.output = self._clock.milliseconds(), output
        self._set(task, state)
        if self._may_retry(task):
            self._retry(task)
        if not task.run.canceled and not task.run.timed_out:
            self._proceed(task.run)

    def _may_retry(self, task: TaskRun) -> bool:
        run = task.run
        if run.canceled or run.timed_out:
            return False
        wanted = task.state.result == "FAILED" or (
            task.state.result == "TIMEDOUT" and str(task.spec.get("retry_on_timeout", "")).lower() == "true"
        )
        limit = int(task.spec.get("max_retries") or 0)
        return wanted and (limit < 0 or task.retries < limit)

    def _retry(self, task: TaskRun) -> None:
        again = self._attempt(task.run, task.spec, task.attempt + 1)
        again.retries = task.retries + 1
        again.state = states.WAITING
        task.run.tasks.append(again)
        task.run.touch()
        wait = _number(task.spec, "min_retry_interval_millis") / 1000
        again.timers.append(self._clock.call_later(wait, lambda: self._pend(again)))

    def _stop(self, task: TaskRun) -> None:
        for timer in task.timers:
            timer.cancel()
        task.timers.clear()
        if task.stop is not None:
            task.stop()
            task.stop = None

    @staticmethod
    def _set(task: TaskRun, state: State) -> None:
        task.state = state
        task.run.touch()


def _number(settings: dict[str, Any], name: str) -> float:
    return float(settings.get(name) or 0)
