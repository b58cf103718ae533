import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astronomer.deferral import Pacing

SEEDS = st.integers(0, 2**32)
SECONDS = st.floats(0.0, 1e5)


def pacing(seed, **options):
    return Pacing(random=random.Random(seed), **options)


@given(SEEDS, SECONDS, st.floats(0.0, 0.9))
def test_a_steady_poll_is_jittered_and_never_closer_than_the_spacing(seed, interval, jitter):
    pause = pacing(seed, jitter=jitter).next_poll(interval)
    assert pause >= 1.0
    assert pause <= max(1.0, interval)
    assert pause >= interval * (1 - jitter) * 0.999999


@given(SEEDS, st.floats(0.0, 100.0))
def test_a_first_poll_is_gathered(seed, gather):
    assert 0.0 <= pacing(seed, gather=gather).first_poll() <= gather


@given(SEEDS, st.integers(1, 10_000), st.none() | SECONDS)
def test_a_pause_after_failures_doubles_up_to_its_limit_and_honours_retry_after(seed, failures, retry_after):
    pause = pacing(seed).after_failure(failures, retry_after)
    doubled = min(60.0, 2.0 ** min(failures - 1, 10))
    assert pause >= max(1.0, retry_after or 0.0, 0.9 * doubled)
    assert pause <= max(1.1 * doubled, 1.1 * (retry_after or 0.0)) * 1.000001


@pytest.mark.parametrize("method", ["next_poll", "after_failure"])
def test_no_two_connections_keep_the_same_beat(method):
    pauses = {getattr(pacing(seed), method)(10) for seed in range(20)}
    assert len(pauses) == 20


def test_waits_spread_their_first_poll():
    assert len({pacing(seed).first_poll() for seed in range(20)}) == 20
