import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astronomer.lab.databricks.clock import Clock


@pytest.fixture
async def clock():
    clock = Clock(speed=1e-6)
    clock.attach(asyncio.get_running_loop())
    yield clock
    clock.detach()


async def test_timers_are_called_in_order_at_their_own_time(clock):
    start, seen = clock.now(), []

    def note():
        seen.append(round(clock.now() - start))

    def note_and_go_on():
        note()
        clock.call_later(5, note)

    clock.call_later(20, note)
    clock.call_later(10, note_and_go_on)
    clock.call_later(12, note).cancel()
    clock.advance(19)
    assert seen == [10, 15]
    clock.advance(2)
    assert seen == [10, 15, 20]
    assert clock.now() - start == pytest.approx(21, abs=0.1)


async def test_a_timer_that_fails_stops_no_other(clock, caplog):
    seen = []
    clock.call_later(1, lambda: 1 / 0)
    clock.call_later(2, lambda: seen.append(2))
    clock.advance(3)
    assert seen == [2]
    assert "a timer of the workspace failed" in caplog.text


async def test_it_runs_as_fast_as_it_is_told(clock):
    called = asyncio.Event()
    clock.call_later(3600, called.set)
    clock.speed = 1e6
    await asyncio.wait_for(called.wait(), 60)


async def test_another_thread_may_advance_it_and_sees_what_came_of_it(clock):
    seen = []
    clock.call_later(5, lambda: seen.append(threading.get_ident()))

    def advance():
        clock.advance(6)
        return list(seen)

    assert await asyncio.to_thread(advance) == [threading.get_ident()]


async def test_another_thread_may_set_a_timer(clock):
    called = asyncio.Event()
    await asyncio.to_thread(lambda: clock.call_later(0, called.set))
    await asyncio.wait_for(called.wait(), 60)


def test_without_a_loop_time_passes_all_the_same():
    clock = Clock()
    before = clock.now()
    clock.advance(100)
    assert clock.now() - before >= 100


@settings(max_examples=40)
@given(st.lists(st.integers(0, 100), max_size=20), st.lists(st.integers(0, 50), max_size=5))
def test_every_timer_is_called_once_whatever_the_steps(delays, steps):
    async def check():
        clock = Clock(speed=1e-6)
        clock.attach(asyncio.get_running_loop())
        seen = []
        for delay in delays:
            clock.call_later(delay, lambda delay=delay: seen.append(delay))
        for step in steps:
            clock.advance(step)
        clock.advance(101)
        clock.detach()
        return seen

    assert asyncio.run(check()) == sorted(delays)
