import asyncio
import threading

import pytest

from astronomer.deferral import ClientThreads, Transient


@pytest.fixture
def held():
    """A call that a test lets go."""
    event = threading.Event()
    yield event
    event.set()


async def test_the_result_comes_from_a_named_thread():
    threads = ClientThreads("client-of-a")
    assert (await threads.run(lambda: threading.current_thread().name)).startswith("client-of-a")
    threads.close()


async def test_an_error_of_the_client_comes_through():
    def fail():
        raise KeyError("odd")

    threads = ClientThreads("client")
    with pytest.raises(KeyError, match="odd"):
        await threads.run(fail)
    threads.close()


async def test_a_call_that_takes_too_long_is_weather(held):
    threads = ClientThreads("client", timeout=0.01)
    with pytest.raises(Transient, match=r"no answer within 0.01 s"):
        await threads.run(held.wait)
    threads.close()


async def test_as_many_calls_as_threads_run_at_once():
    meeting = threading.Barrier(3, timeout=30)
    threads = ClientThreads("client", size=3)
    await asyncio.gather(*(threads.run(meeting.wait) for _ in range(3)))
    threads.close()


async def test_the_loop_goes_on_while_a_client_is_busy(held):
    threads = ClientThreads("client")
    busy = asyncio.ensure_future(threads.run(held.wait))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not busy.done()
    held.set()
    assert await busy
    threads.close()


async def test_after_closing_calls_are_weather_and_cancel_nobody(held):
    threads = ClientThreads("client", size=1)
    running = asyncio.ensure_future(threads.run(held.wait))
    queued = asyncio.ensure_future(threads.run(list))
    await asyncio.sleep(0)
    threads.close()
    with pytest.raises(Transient, match="closed"):
        await threads.run(list)
    held.set()
    assert await running
    with pytest.raises(Transient, match="closed"):
        await queued
