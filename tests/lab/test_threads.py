"""Threads that a program does not wait for."""

import gc
import subprocess
import sys
import threading
import weakref

import pytest

from astronomer.lab.threads import DaemonThreads
from tests.lab.conftest import until


@pytest.fixture
def threads():
    threads = DaemonThreads(2, "tests")
    yield threads
    threads.shutdown()


def test_as_many_calls_at_once_as_it_has_threads(threads):
    inside, leave = threading.Semaphore(0), threading.Event()

    def call(number):
        inside.release()
        assert leave.wait(60)
        return number

    futures = [threads.submit(call, number) for number in range(5)]
    assert all(inside.acquire(timeout=60) for _ in range(2))
    assert not inside.acquire(timeout=0.05)
    leave.set()
    assert [future.result(60) for future in futures] == list(range(5))


def test_an_idle_thread_is_used_again(threads):
    for _ in range(5):
        threads.submit(int).result(60)
        until(lambda: threads._unfinished == 0)
    assert len(threads._threads) == 1


def test_an_error_is_the_callers(threads):
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 / 0).result(60)
    assert threads.submit(int, "7", base=8).result(60) == 7


def test_shutdown(threads):
    inside, leave = threading.Barrier(3), threading.Event()
    running = [threads.submit(lambda: inside.wait(60) >= 0 and leave.wait(60)) for _ in range(2)]
    inside.wait(60)
    waiting = threads.submit(int)
    threads.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="have ended"):
        threads.submit(int)
    leave.set()
    threads.shutdown()
    assert all(future.result(0) for future in running)
    assert not any(thread.is_alive() for thread in threads._threads)


def test_what_a_call_has_held_is_let_go(threads):
    class Held:
        pass

    held = Held()
    known = weakref.ref(held)
    threads.submit(lambda one: None, held).result(60)
    del held
    until(lambda: gc.collect() is not None and known() is None)


def test_a_program_does_not_wait_for_it():
    program = (
        "import time; from astronomer.lab.threads import DaemonThreads;"
        "DaemonThreads(1, 'tests').submit(time.sleep, 600)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
