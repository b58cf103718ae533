"""A remote side in random weather that writes down what was done to it, and the rules of pacing it must see."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from astronomer.deferral import CredentialsRejected, JobStatus, Pacing, Phase, Poller, Transient
from tests.unit.deferral.fakes import PollerJob

EPS = 1e-3

seconds = st.floats(0.0, 300.0).map(lambda value: round(value, 1))

fine = st.just(("fine", 0.0))
troubles = st.one_of(
    st.tuples(st.just("trouble"), st.none() | st.sampled_from([0.0, 3.0, 45.0, 200.0])),
    st.tuples(st.sampled_from(["defect", "partial"]), st.just(0.0)),
    st.tuples(st.sampled_from(["slow", "slow trouble"]), st.sampled_from([0.3, 7.0, 90.0])),
    st.tuples(st.just("hang"), st.just(0.0)),
)
refusals = st.just(("refused", 0.0))
changes = st.lists(st.booleans(), max_size=25)
weather = st.lists(st.one_of(fine, fine, troubles), max_size=25)
rough_weather = st.lists(st.one_of(fine, troubles, refusals), max_size=25)


@dataclass
class Job:
    """A job on the remote side, running from the start of time."""

    ends_at: float
    phase: Phase = Phase.SUCCEEDED
    obeys: bool = True
    cancelled_at: float = math.inf
    joined: float = -math.inf
    left: float = math.inf

    def status(self, now: float) -> JobStatus:
        if self.obeys and self.cancelled_at < self.ends_at:
            return JobStatus(Phase.CANCELLED, raw="CANCELLED")
        if now >= self.ends_at:
            return JobStatus(self.phase, raw="ENDED")
        return JobStatus(Phase.ACTIVE, raw="QUEUED" if now < self.ends_at / 3 else "RUNNING")


@dataclass
class Poll:
    """One poll: when it began and ended, about whom it asked, and what came of it."""

    started: float
    jobs: list[str]
    ended: float = math.inf
    kind: str = "fine"
    retry_after: float = 0.0
    look_again: bool = False

    @property
    def failed(self) -> bool:
        return self.kind in {"trouble", "defect", "hang", "slow trouble", "refused"}

    @property
    def silent(self) -> bool:
        """Whether it said nothing about the first job it asked about."""
        return self.failed or self.kind == "partial"


@dataclass
class Remote:
    """Opens pollers; keeps a record of polls, logins, cancels and what was hurried."""

    jobs: dict[str, Job]
    weather: list[tuple[str, float | None]]
    max_jobs: int | None = None
    least_interval: float = 0.0
    changes: list[bool] = field(default_factory=list)
    """Whether each of the next answers asks for another look soon."""
    polls: list[Poll] = field(default_factory=list)
    cancels: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    cancelling_from: float = math.inf
    logins: int = 0
    open: int = 0
    most_open: int = 0

    def connect(self, _: Any) -> Poller[Any]:
        return _RoughPoller(self)

    def login(self) -> None:
        self.logins += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    def hurried(self) -> None:
        """Note a moment that may bring the next poll forward."""
        self.events.append(asyncio.get_running_loop().time())

    def deserted(self, since: float, until: float) -> float:
        """The longest time between two moments in which nobody waited."""
        longest, left = 0.0, since
        for job in sorted(self.jobs.values(), key=lambda job: job.joined):
            if job.left > since and job.joined < until:
                longest, left = max(longest, job.joined - left), max(left, job.left)
        return max(longest, until - left)

    def rests(self, poll: Poll) -> bool:
        """Whether a poll may have been about newcomers alone, in the rest after one about all."""
        earlier = (one for one in self.polls if one.started < poll.started)
        return any(poll.started < one.started + self.least_interval + EPS for one in earlier)

    def unasked(self, poll: Poll, after: Poll) -> bool:
        """Whether somebody was there between two polls of whom no poll had asked yet."""
        for name, job in self.jobs.items():
            first = next((one.started for one in self.polls if name in one.jobs), math.inf)
            there = job.joined <= after.started + EPS and job.left >= poll.started - EPS
            if there and first > poll.started:
                return True
        return False


class _RoughPoller(Poller[Any]):
    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.max_jobs = remote.max_jobs
        self.least_interval = remote.least_interval
        self.is_open = False

    async def poll(self, jobs: Sequence[PollerJob]) -> Mapping[PollerJob, JobStatus]:
        loop = asyncio.get_running_loop()
        if not self.is_open:
            self.is_open = True
            self.remote.login()
        kind, detail = self.remote.weather.pop(0) if self.remote.weather else ("fine", 0.0)
        poll = Poll(loop.time(), [job.job_id for job in jobs], kind=kind)
        self.remote.polls.append(poll)
        try:
            return await self._answer(jobs, poll, detail)
        finally:
            poll.ended = loop.time()

    async def _answer(self, jobs: Sequence[PollerJob], poll: Poll, detail: float | None) -> Any:
        match poll.kind:
            case "trouble":
                poll.retry_after = detail or 0.0
                raise Transient("429", retry_after=detail)
            case "defect":
                raise KeyError("odd")
            case "refused":
                raise CredentialsRejected("refused")
            case "hang":
                await asyncio.sleep(1e9)
            case "slow" | "slow trouble":
                await asyncio.sleep(detail or 0.0)
                if poll.kind == "slow trouble":
                    raise Transient("reset")
            case "partial":
                jobs = jobs[1:]
        now = asyncio.get_running_loop().time()
        poll.look_again = self.look_again = bool(self.remote.changes) and self.remote.changes.pop(0)
        return {job: self.remote.jobs[job.job_id].status(now) for job in jobs}

    async def cancel(self, job: PollerJob) -> None:
        now = asyncio.get_running_loop().time()
        self.remote.cancels.append(now)
        await asyncio.sleep(0.2)
        entry = self.remote.jobs[job.job_id]
        entry.cancelled_at = min(entry.cancelled_at, now)
        self.remote.hurried()

    async def close(self) -> None:
        self.remote.open -= self.is_open


def pacing_of(seed: int, **options: Any) -> Pacing:
    return Pacing(random=random.Random(seed), **options)


def assert_paced(remote: Remote, pacing: Pacing, interval: float, *, watched_until: float = 0.0) -> None:
    """No poll comes before its time: spacing, interval, backoff, Retry-After and refusals, in that order.

    A poll may come before the interval has passed when a cancel was accepted (``remote.events`` has those
    moments), the one before has seen a change, or not every wait has been asked about yet. A confirmation is
    awaited at a quicker pace. Nor does one come later than it must, for as long as somebody waits.
    """
    failures = refusals = 0
    for poll, after in zip(remote.polls, remote.polls[1:], strict=False):
        assert after.started - poll.started >= pacing.spacing - EPS
        if poll.failed:
            failures += 1
            refusals += poll.kind == "refused"
            doubled = min(pacing.max_backoff, pacing.backoff * 2.0 ** (failures - 1)) * (1 - pacing.jitter)
            quiet = max(
                doubled, poll.retry_after, pacing.rejection * refusals if poll.kind == "refused" else 0.0
            )
            assert after.started >= poll.ended + quiet - EPS, (poll, after, failures)
            longest = max(doubled / (1 - pacing.jitter), quiet) * (1 + pacing.jitter)
            assert after.started <= poll.ended + longest + EPS or after.started > watched_until
            if after.started > watched_until and after.started - poll.ended >= pacing.linger - EPS:
                failures = refusals = 0  # maybe all had left, and what was known is gone
        else:
            failures = refusals = 0
            steady = 0.0 if poll.look_again else interval * (1 + pacing.jitter)
            pause = max(pacing.spacing, steady, remote.least_interval)
            late = max(poll.ended, poll.started + pause)
            assert after.started <= late + EPS or after.started > watched_until
            hurried = any(poll.started - 1.5 <= moment <= after.started + EPS for moment in remote.events)
            least = min(interval, 1.0) if after.started >= remote.cancelling_from - EPS else interval
            soon = hurried or poll.look_again
            if not soon and not remote.unasked(poll, after) and not remote.rests(poll):
                assert after.started - poll.started >= least * (1 - pacing.jitter) - EPS, (poll, after)


def assert_rested(remote: Remote, pacing: Pacing) -> None:
    """Between a poll about all and the end of the rest that follows it, nobody is asked about again but in a hurry.

    A poll of newcomers in the moment in which a rest ends may be one about all, or not: both are followed up.
    """
    rests, asked, ended = {-math.inf}, set[str](), math.inf
    for poll in remote.polls:
        if remote.deserted(ended, poll.started) >= pacing.linger - EPS:
            rests = {-math.inf}  # all had left, and what was known is gone
        ended = poll.ended
        again = bool(asked & set(poll.jobs))
        about_all = {
            until if poll.failed else poll.started + remote.least_interval
            for until in rests
            if poll.started >= until - EPS
        }
        resting = {until for until in rests if poll.started < until + (-EPS if again else EPS)}
        if again and poll.started < remote.cancelling_from:
            resting = set()
        assert about_all | resting, (poll, rests)
        rests = about_all | resting
        asked |= set(poll.jobs)


def longest_pause(remote: Remote, pacing: Pacing) -> float:
    """The longest the connection may have been left alone after a failure."""
    asked = max((poll.retry_after for poll in remote.polls), default=0.0)
    refusals = sum(poll.kind == "refused" for poll in remote.polls)
    return max(1.1 * pacing.max_backoff, 1.1 * asked, pacing.rejection * refusals) + EPS


def last_trouble(remote: Remote) -> float:
    """When the weather was last not fine."""
    return max((poll.ended for poll in remote.polls if poll.kind != "fine"), default=0.0)
