"""What every task and every remote job should have done, and which of them did not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tools.chaos.jobs import Job

GRACE = 60.0  # seconds from the end of a task to the end of its job
FORGOTTEN_GRACE = 300.0  # when no triggerer was there to hear of the end
SAME_MOMENT = 1.0  # seconds by which two clocks may differ
MEASURES = ("duplicates", "orphans", "lost", "wrong_cancels")
FINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


@dataclass
class Wait:
    """One task of one run, and what was asked of it.

    :param has_job: whether it starts a remote job; a sensor does not.
    :param ended_jobs: the jobs that somebody has ended on the remote side.
    :param expected: the states in which it may end; nothing when its run was deleted.
    :param cleared: the moments at which it was cleared, epoch seconds: what began before must be gone.
    :param ended_by: what somebody did to it, or the limit that it had.
    :param asked: when: from then on its job may be cancelled.
    :param steady: whether nothing was done to a process of its own, so that there is nothing to try again.
    :param complaint: the last error in the log of its last try but one, if it has been tried again.
    :param grace: seconds from then to the end of its job.
    :param succeeded: when it was first seen to have succeeded; ``unsuccessful`` is when it was last seen before that.
    :param over: when it was over for its user, if that was before its own end.
    """

    side: str
    dag_id: str
    run_id: str
    task_id: str
    index: int = -1
    has_job: bool = True
    expected: frozenset[str] = frozenset({"success"})
    cleared: list[float] = field(default_factory=list)
    ended_by: str | None = None
    asked: float = math.inf
    steady: bool = False
    complaint: str = ""
    ended_jobs: set[str] = field(default_factory=set)
    over: float | None = None
    grace: float = GRACE
    state: str = "none"
    tries: int = 0
    ended: float | None = None
    seen_active: float = 0.0
    succeeded: float | None = None
    unsuccessful: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.dag_id}.{self.task_id}{f'[{self.index}]' if self.index >= 0 else ''} of {self.run_id}"


@dataclass(frozen=True)
class Finding:
    """One thing that should not have happened.

    :param at: epoch seconds.
    """

    measure: str
    side: str
    at: float
    text: str

    def because(self, cause: str) -> Finding:
        """Return it with what had been done to the world before."""
        return replace(self, text=f"{self.text}; before: {cause}")


def audit(wait: Wait, jobs: Sequence[Job], now: float, awaited: Wait | None = None) -> list[Finding]:
    """Return all that is wrong with one task and its jobs, oldest first.

    :param awaited: the task for whose success it waits, if it is a sensor.
    """
    found = [*_duplicates(wait, jobs), *_orphans(wait, jobs, now), *_wrong_cancels(wait, jobs)]
    if awaited:
        found += _early(wait, awaited)
    found += filter(None, [_lost(wait, jobs, now), _tried_again(wait, now)])
    return sorted(found, key=lambda one: one.at)


def _duplicates(wait: Wait, jobs: Sequence[Job]) -> Iterator[Finding]:
    """A job is one too many when an earlier one of the same try to do the work still ran, or had done it."""
    for before, job in pairwise(jobs):
        same = _generation(wait, before) == _generation(wait, job)
        gone = before.ended is not None and before.ended <= job.started and not before.succeeded
        if same and not gone:
            text = f"{wait.name} started {_told(job)} although there was {_told(before)}"
            yield Finding("duplicates", wait.side, job.started, text)


def _orphans(wait: Wait, jobs: Sequence[Job], now: float) -> Iterator[Finding]:
    """A job must not outlive its task."""
    for job in jobs:
        over = _over(wait, job)
        outlived = over is not None and (job.ended or now) > over + wait.grace
        if over is not None and outlived:
            seconds = (job.ended or now) - over
            state = "has outlived" if job.ended else "still outlives"
            text = f"{_told(job)} {state} {wait.name} by {seconds:.0f} s"
            yield Finding("orphans", wait.side, over, text)


def _over(wait: Wait, job: Job) -> float | None:
    """When the work of a job was no longer wanted."""
    later = [moment for moment in wait.cleared if moment >= job.started]
    if later:
        return later[0]
    return min((moment for moment in (wait.over, wait.ended) if moment is not None), default=None)


def _wrong_cancels(wait: Wait, jobs: Sequence[Job]) -> Iterator[Finding]:
    for job in jobs:
        at = math.inf if job.ended is None else job.ended + SAME_MOMENT
        cleared = any(job.started <= moment <= at for moment in wait.cleared)
        asked = job.id in wait.ended_jobs or cleared or wait.asked <= at
        if job.cancelled and not asked:
            text = f"{_told(job)} of {wait.name} was cancelled, and nobody had asked for that"
            yield Finding("wrong_cancels", wait.side, job.ended or job.started, text)


def _tried_again(wait: Wait, now: float) -> Finding | None:
    """What nothing was done to has no reason to fail, not even if its retry makes up for it."""
    if not wait.steady or wait.tries < 2 or wait.cleared or wait.ended_jobs:
        return None
    text = f"{wait.name} was tried {wait.tries} times, and nothing had been done to it: {wait.complaint or 'it says nothing'}"
    return Finding("lost", wait.side, wait.ended or now, text)


def _early(wait: Wait, awaited: Wait) -> Iterator[Finding]:
    """A sensor must not succeed before what it waits for."""
    if wait.succeeded is None or wait.ended_by:
        return
    if awaited.succeeded is None or wait.succeeded < awaited.unsuccessful:
        text = f"{wait.name} succeeded although {awaited.task_id} had not"
        yield Finding("lost", wait.side, wait.succeeded, text)


def _lost(wait: Wait, jobs: Sequence[Job], now: float) -> Finding | None:
    done = any(job.succeeded for job in jobs if _generation(wait, job) == len(wait.cleared))
    if wait.state == "success" and wait.has_job and not done and not wait.ended_by:
        told = ", ".join(map(_told, jobs)) or "none at all"
        text = f"{wait.name} succeeded without a job that did: {told}"
        return Finding("lost", wait.side, wait.ended or now, text)
    if not wait.expected or wait.state in wait.expected:
        return None
    what = f"ended as {wait.state}" if wait.state in FINAL else f"never ended: it is {wait.state}"
    told = ", ".join(map(_told, jobs)) or "no job"
    text = f"{wait.name} {what} in try {wait.tries}, not as {' or '.join(sorted(wait.expected))} ({told})"
    return Finding("lost", wait.side, wait.ended or now, text)


def _generation(wait: Wait, job: Job) -> int:
    return sum(moment < job.started for moment in wait.cleared)


def _told(job: Job) -> str:
    return f"{job.id} ({job.state})"
