"""The budget of one workspace: never exceeded, fair, and silent when told to be."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astronomer.deferral import Transient
from astronomer.deferral.testing import FakeClock
from astronomer.providers.databricks.hooks.budget import Lane, RequestBudget
from tests.effort import examples

SECONDS = st.integers(0, 40).map(lambda tenths: tenths / 10)  # on a grid, so that things happen at once
REQUEST = st.tuples(
    SECONDS, SECONDS, st.none() | SECONDS
)  # arrives, lasts, is cancelled so long after it came


def now():
    return asyncio.get_running_loop().time()


async def send(budget, started, *, arrives=0.0, lasts=0.0, name=None, cancel=False):
    await asyncio.sleep(arrives)
    async with budget.turn(cancel=cancel) as turn:
        started.append((now(), name))
        await asyncio.sleep(lasts)
        return turn


async def play(budget, requests):
    """Send the requests as told; when each one that was not cancelled in time was started."""
    started = []

    async def one(name, arrives, lasts, cancelled):
        task = asyncio.ensure_future(send(budget, started, arrives=arrives, lasts=lasts, name=name))
        if cancelled is not None:
            asyncio.get_running_loop().call_later(arrives + cancelled, task.cancel)
        await asyncio.wait([task])

    await asyncio.gather(*(one(name, *request) for name, request in enumerate(requests)))
    return started


@settings(max_examples=examples(100))
@given(st.lists(REQUEST, max_size=60), st.sampled_from([0.5, 1.0, 2.0, 10.0, 25.0]))
def test_never_more_than_the_budget_in_any_window(requests, rate):
    times = [at for at, _ in FakeClock().run(lambda: play(RequestBudget(rate, ceiling=rate), requests))]
    burst = Lane(rate, rate, 1).burst
    for first, since in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - since) + 1e-6


@settings(max_examples=examples(100))
@given(st.lists(REQUEST, max_size=60), st.sampled_from([0.5, 2.0, 10.0]))
def test_no_waiter_starves_and_none_overtakes(requests, rate):
    started = [name for _, name in FakeClock().run(lambda: play(RequestBudget(rate), requests))]
    patient = {name for name, (_, _, cancelled) in enumerate(requests) if cancelled is None}
    assert patient <= set(started)
    arrivals = [requests[name][0] for name in started]
    assert arrivals == sorted(arrivals)


@settings(max_examples=examples(100))
@given(st.lists(REQUEST, max_size=60), st.sampled_from([2.0, 10.0]))
def test_a_waiter_that_is_cancelled_loses_no_turn(requests, rate):
    async def main():
        budget = RequestBudget(rate, ceiling=rate)
        await play(budget, requests)
        await asyncio.sleep(60)
        assert budget.questions.waiting == 0
        began = now()
        whole = int(budget.questions.burst)
        await asyncio.gather(*(send(budget, [], lasts=1) for _ in range(whole)))
        return now() - began

    assert FakeClock().run(main) == pytest.approx(1.0)


def test_a_turn_that_comes_with_the_cancellation_goes_to_the_next():
    async def main():
        lane = Lane(1.0, 1.0, at_once=1)
        await lane.enter()
        first, second = asyncio.ensure_future(lane.enter()), asyncio.ensure_future(lane.enter())
        await asyncio.sleep(30)
        lane.leave()  # gives the turn to the first, which is cancelled before it can take it
        first.cancel()
        await asyncio.wait([first, second])
        return first.cancelled(), second.result().at, now()

    assert FakeClock().run(main) == (True, 30.0, 30.0)


@pytest.mark.parametrize("questions", [50, 500])
def test_cancels_wait_for_no_question(questions):
    async def main():
        budget, asked, cancelled = RequestBudget(10.0), [], []
        tasks = [asyncio.ensure_future(send(budget, asked, lasts=5)) for _ in range(questions)]
        await asyncio.sleep(1)
        await asyncio.gather(*(send(budget, cancelled, cancel=True) for _ in range(20)))
        for task in tasks:
            task.cancel()
        return [at - 1 for at, _ in cancelled]

    waited = FakeClock().run(main)
    assert waited[0] == 0.0
    assert waited[-1] < 20 / 5


def test_a_hundred_cancels_respect_their_quota():
    async def main():
        budget, cancelled = RequestBudget(10.0), []
        await asyncio.gather(*(send(budget, cancelled, cancel=True) for _ in range(100)))
        return [at for at, _ in cancelled]

    times = FakeClock().run(main)
    assert max(sum(since <= at < since + 1 for at in times) for since in times) <= 8
    assert times[-1] <= 21


async def flood(budget, seconds, *, answer="well", lasts=0.0):
    """Ask as much as there is room for."""
    until, sent = now() + seconds, []

    async def one():
        while now() < until:
            async with budget.turn() as turn:
                sent.append(now())
                await asyncio.sleep(lasts)
                getattr(turn, answer)()

    await asyncio.gather(*(one() for _ in range(6)))
    return sent


def test_the_rate_is_halved_once_for_all_that_were_on_their_way():
    async def main():
        budget = RequestBudget(10.0)
        async with budget.turn() as one, budget.turn() as two, budget.turn() as three:
            await asyncio.sleep(0.2)
            for turn in (one, two, three):
                turn.throttled()
        after = budget.questions.rate
        async with budget.turn() as again:
            again.throttled()
        return after, budget.questions.rate

    assert FakeClock().run(main) == (5.0, 2.5)


def test_it_never_stops_altogether():
    async def main():
        budget = RequestBudget(1.0)
        await flood(budget, 60, answer="throttled")
        return budget.questions.rate

    assert FakeClock().run(main) == 0.5


def test_it_speeds_up_while_it_is_used_to_the_full():
    async def main():
        budget = RequestBudget(4.0)
        await flood(budget, 20)
        soon = budget.questions.rate
        await flood(budget, 300)
        return soon, budget.questions.rate

    soon, later = FakeClock().run(main)
    assert 5.0 < soon < 7.0
    assert later == 8.0


def test_it_does_not_speed_up_while_hardly_used():
    async def main():
        budget = RequestBudget(4.0)
        for _ in range(300):
            async with budget.turn() as turn:
                turn.well()
            await asyncio.sleep(1)
        return budget.questions.rate

    assert FakeClock().run(main) == 4.0


def test_it_stays_slow_for_a_while_after_it_was_slowed_down():
    async def main():
        budget = RequestBudget(8.0)
        async with budget.turn() as turn:
            turn.throttled()
        await flood(budget, 7)
        soon = budget.questions.rate
        await flood(budget, 60)
        return soon, budget.questions.rate

    soon, later = FakeClock().run(main)
    assert soon == 4.0
    assert 8.0 < later < 12.0


@pytest.mark.parametrize(
    ("rate", "start", "most"), [(10, 10, 20), (20, 20, 25), (400, 25, 25), (0, 0.5, 0.5)]
)
def test_it_is_never_faster_than_the_list_allows(rate, start, most):
    lane = RequestBudget(rate).questions
    assert (lane.rate, lane.ceiling) == (start, most)


def test_a_second_at_the_ceiling_stays_within_the_lists_quota():
    async def main():
        budget = RequestBudget(25.0)
        return await flood(budget, 60)

    times = FakeClock().run(main)
    assert max(sum(since <= at < since + 1 for at in times) for since in times) <= 30


def test_told_to_be_silent_it_sends_everybody_away():
    async def main():
        budget, started = RequestBudget(1.0, rng=random.Random(1)), []
        tasks = [
            asyncio.ensure_future(send(budget, started, cancel=cancel))
            for cancel in (False, True)
            for _ in range(20)
        ]
        await asyncio.sleep(0.01)
        at_first = len(started)
        budget.shut(30)
        budget.shut(5)  # a shorter silence ends no longer one
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(Transient) as refused:
            await send(budget, started)
        trouble = [answer for answer in answers if isinstance(answer, Transient)]
        rest = budget.rest
        await asyncio.sleep(rest)
        await send(budget, started)
        return at_first, len(started), trouble, refused.value, rest, now()

    at_first, sent, trouble, refused, rest, ended = FakeClock().run(main)
    assert at_first == 1 + 2  # the cancels' burst is 2
    assert sent == at_first + 1
    assert len(trouble) == 40 - at_first
    assert all(30 <= one.retry_after <= 33 for one in [*trouble, refused])
    assert refused.final
    assert 30 <= rest <= 33
    assert ended == pytest.approx(rest + 1.0, abs=0.02)  # nothing was saved up meanwhile


def test_not_all_come_back_at_the_same_moment():
    async def main():
        ends = []
        for seed in range(50):
            budget = RequestBudget(rng=random.Random(seed))
            budget.shut(60)
            ends.append(budget.rest)
        return ends

    ends = FakeClock().run(main)
    assert min(ends) >= 60
    assert max(ends) - min(ends) > 4
