"""Many waits on one connection in random weather, with waits that join, leave and are cancelled."""

import asyncio
import dataclasses
import logging
import math
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astronomer.deferral import Hub, Outcome, Phase, TaskIdentity, clock, watch
from astronomer.deferral.testing import FakeClock
from astronomer.deferral.watch import _GOES_ON
from tests.effort import examples
from tests.unit.deferral.fakes import START, PollerJob
from tests.unit.deferral.rough import (
    EPS,
    Job,
    Remote,
    assert_paced,
    assert_rested,
    changes,
    last_trouble,
    longest_pause,
    pacing_of,
    rough_weather,
    seconds,
    weather,
)

SEEDS = st.integers(0, 2**32)
RESTS = st.sampled_from([0.0, 0.0, 12.0, 90.0])
LIMITS = st.none() | st.integers(1, 4)
LINGER = 60.0


@pytest.fixture(autouse=True, scope="module")
def _silence():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@dataclass
class Plan:
    """What one wait does: when it joins, when its job ends, and when it is cancelled, if ever."""

    joins: float
    runs_for: float
    cancelled_after: float | None = None
    deadline: float | None = None
    ended: float = math.inf
    outcome: Outcome | None = None

    @property
    def job_ends(self):
        return self.joins + self.runs_for


plans = st.lists(
    st.builds(Plan, seconds, seconds, st.none() | st.none() | seconds, st.none()), min_size=1, max_size=8
)


def live(plans, remote, *, seed=0, interval=5.0):
    """Let all waits live to their end, then the connection; checks what must hold whatever happens."""
    pacing = pacing_of(seed, linger=LINGER)

    async def one(number, plan, hub):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(plan.joins)
        remote.jobs[str(number)].joined = loop.time()
        deadline = None if plan.deadline is None else clock.now() + plan.deadline
        task = asyncio.ensure_future(
            watch(
                PollerJob(str(number)),
                hub=hub,
                poll_interval=interval,
                deadline=deadline,
                outage_tolerance=1e6,
            )
        )
        if plan.deadline is not None:
            loop.call_later(plan.deadline, remote.hurried)
        if plan.cancelled_after is not None:
            loop.call_later(plan.cancelled_after, task.cancel)
        await asyncio.wait({task})
        plan.ended = remote.jobs[str(number)].left = loop.time()
        plan.outcome = None if task.cancelled() else task.result()

    async def main():
        hub = Hub(remote.connect, pacing)
        await asyncio.gather(*(one(number, plan, hub) for number, plan in enumerate(plans)))
        left = asyncio.get_running_loop().time()
        assert hub.connections <= 1
        while hub.connections:  # noqa: ASYNC110  # the hub tells nobody
            await asyncio.sleep(1.0)
        # A poll under way is awaited before the line notices that all have left.
        return asyncio.get_running_loop().time() - left

    closed_after = FakeClock(START).run(main)
    cancels_go_on = _GOES_ON if any(plan.deadline is not None for plan in plans) else 0.0
    assert closed_after <= max(LINGER, longest_pause(remote, pacing)) + 120 + 2 + cancels_go_on
    assert remote.open == 0
    assert remote.most_open <= 1
    assert_paced(remote, pacing, interval)
    assert_rested(remote, pacing)
    return closed_after


def world(plans, weather, max_jobs=None, least_interval=0.0, changes=()):
    jobs = {str(number): Job(plan.job_ends) for number, plan in enumerate(plans)}
    return Remote(jobs, list(weather), max_jobs, least_interval, list(changes))


@given(SEEDS, plans, weather, LIMITS, st.sampled_from([0.0, 5.0, 30.0]), RESTS)
@settings(max_examples=examples(500))
@example(0, [Plan(0.0, 0.0), Plan(0.0, 0.0), Plan(0.0, 92.0)], [("slow", 90.0)], 1, 0.0, 90.0)
def test_every_wait_ends_with_its_own_outcome_and_a_cancelled_one_disturbs_nobody(
    seed, plans, weather, max_jobs, interval, rest
):
    remote = world(plans, weather, max_jobs, rest)
    live(plans, remote, seed=seed, interval=interval)
    rounds = 1 if max_jobs is None else math.ceil(len(plans) / max_jobs) + 1
    bad = last_trouble(remote) + longest_pause(remote, pacing_of(0))
    for plan in plans:
        if plan.outcome is None:
            assert plan.ended == pytest.approx(plan.joins + plan.cancelled_after, abs=EPS)
        else:
            assert plan.outcome.status.phase is Phase.SUCCEEDED
            late = max(plan.job_ends, bad) + rounds * max(1.1 * interval, 1.0, rest) + 2.0
            assert plan.job_ends - EPS <= plan.ended <= late
    assert remote.cancels == []


@given(SEEDS, plans, weather, changes, LIMITS, st.sampled_from([5.0, 30.0]), RESTS)
@settings(max_examples=examples(300))
def test_a_poll_that_has_seen_a_change_is_followed_soon_and_never_too_soon(
    seed, plans, weather, changes, max_jobs, interval, rest
):
    """What :func:`live` checks: spacing, backoff and rests hold for a poller that wants to look again, too."""
    remote = world(plans, weather, max_jobs, rest, changes)
    live(plans, remote, seed=seed, interval=interval)


@given(SEEDS, plans, weather)
@settings(max_examples=examples(300))
def test_one_login_serves_all_and_the_last_to_leave_closes(seed, plans, weather):
    remote = world(plans, weather)
    closed_after = live(plans, remote, seed=seed)
    if all(poll.kind in {"fine", "partial"} for poll in remote.polls):
        assert closed_after == pytest.approx(LINGER, abs=1.1)
    alone, last = 0, 0.0
    for plan in sorted(plans, key=lambda plan: plan.joins):
        alone += plan.joins > last + LINGER - EPS
        last = max(last, plan.ended)
    assert remote.logins <= 1 + alone


@given(SEEDS, plans, weather, st.integers(1, 4))
@settings(max_examples=examples(300))
def test_a_limit_starves_nobody(seed, plans, weather, max_jobs):
    remote = world(plans, weather, max_jobs)
    live(plans, remote, seed=seed)
    rounds = math.ceil(len(plans) / max_jobs) + 1
    for number, plan in enumerate(plans):
        unasked = 0
        for poll in remote.polls:
            assert len(poll.jobs) <= max_jobs
            if plan.joins < poll.started and poll.ended < plan.ended:
                unasked = 0 if str(number) in poll.jobs else unasked + 1
                assert unasked < rounds


@given(SEEDS, plans, rough_weather, st.lists(seconds, min_size=8, max_size=8), RESTS)
@settings(max_examples=examples(500))
def test_deadlines_and_refusals_among_many(seed, plans, weather, deadlines, rest):
    """Every wait has a deadline here; each is over by then, or was cancelled, or its login was refused."""
    for plan, deadline in zip(plans, deadlines, strict=False):
        plan.deadline = deadline
    remote = world(plans, weather, None, rest)
    remote.cancelling_from = min(plan.joins + plan.deadline for plan in plans)
    live(plans, remote, seed=seed)
    for plan in plans:
        over = plan.joins + plan.deadline
        assert plan.ended <= over + 60.0 + EPS
        if plan.outcome is not None and plan.outcome.timed_out:
            assert plan.ended >= over - EPS
        elif plan.outcome is not None:
            assert plan.outcome.status.phase in {Phase.SUCCEEDED, Phase.LOST}
    refused = sum(poll.kind == "refused" for poll in remote.polls)
    assert remote.logins <= 1 + refused + len(plans)


@given(SEEDS, st.integers(2, 40), st.sampled_from([1.0, 5.0, 60.0]))
@settings(max_examples=examples(200))
def test_the_number_of_polls_does_not_grow_with_the_number_of_waits(seed, waits, interval):
    plans = [Plan(0.0, 300.0) for _ in range(waits)]
    remote = world(plans, [])
    live(plans, remote, seed=seed, interval=interval)
    assert len(remote.polls) <= 300.0 / max(1.0, 0.9 * interval) + 2
    assert remote.logins == 1


identities = st.builds(
    TaskIdentity,
    st.text(max_size=5),
    st.text(max_size=5),
    st.text(max_size=5),
    st.integers(-1, 10**6),
    st.integers(0, 10**6),
)


@given(identities, identities, st.integers(0, 100), st.integers(0, 100))
@settings(max_examples=examples(500))
def test_submit_keys_are_equal_exactly_when_everything_is(one, other, first, second):
    again = dataclasses.replace(one)
    assert one.submit_key(first) == again.submit_key(first)
    assert (one.submit_key(first) == other.submit_key(second)) is ((one, first) == (other, second))


@given(identities, st.sampled_from([one.name for one in dataclasses.fields(TaskIdentity)]), st.integers(0, 9))
@settings(max_examples=examples(300))
def test_every_field_makes_another_submit_key(identity, name, sequence):
    value = getattr(identity, name)
    changed = dataclasses.replace(identity, **{name: value + ("x" if isinstance(value, str) else 1)})
    assert changed.submit_key(sequence) != identity.submit_key(sequence)
    assert identity.submit_key(sequence) != identity.submit_key(sequence + 1)


@given(st.text(min_size=1, max_size=3), st.text(max_size=3), st.text(max_size=3))
def test_a_letter_that_moves_to_the_next_field_makes_another_submit_key(one, two, three):
    moved = TaskIdentity(one[:-1], one[-1] + two, three, -1, 0)
    assert moved.submit_key(0) != TaskIdentity(one, two, three, -1, 0).submit_key(0)
