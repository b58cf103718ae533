import time

from astronomer.deferral import clock
from astronomer.deferral.testing import FakeClock


def test_outside_a_loop_it_is_the_machines_time():
    before = time.time()
    assert before <= clock.now() <= time.time()


async def test_on_a_real_loop_it_is_the_machines_time():
    before = time.time()
    assert before <= clock.now() <= time.time()


def test_on_a_fake_clock_it_is_virtual():
    async def main():
        return clock.now()

    assert FakeClock(start=42.0).run(main) == 42.0
