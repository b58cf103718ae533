"""The threads of the steps, and what stands in for a worker."""

import asyncio
import contextvars
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import structlog
from structlog.testing import LogCapture

from astronomer.deferral import _compat, in_triggerer
from astronomer.deferral._compat import AirflowNotFoundException
from astronomer.deferral.in_triggerer import THREAD_NAME, InTriggerer, NeedsWorker, Steps, lineage_sender
from tests.unit.deferral.fakes import Timeline
from tests.unit.deferral.free import FreeOperator


def stand_in():
    return InTriggerer(asyncio.get_running_loop(), Steps.current(), None, 0.0, None)


async def test_the_loop_does_not_wait_for_itself():
    with pytest.raises(RuntimeError, match="waits for the event loop in the event loop"):
        stand_in().run(lambda: asyncio.sleep(0))


class TestALoopThatHasEnded:
    """A step may outlive its triggerer's loop by a moment; it must not wait for ever."""

    def run_in(self, loop):
        steps = SimpleNamespace(loop_thread=0)
        return InTriggerer(loop, steps, None, 0.0, None).run(lambda: asyncio.sleep(0))

    def test_is_told_at_once(self):
        loop = asyncio.new_event_loop()
        loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            self.run_in(loop)

    def test_is_noticed_when_it_ends_before_it_comes_to_what_it_was_handed(self, monkeypatch):
        monkeypatch.setattr(in_triggerer, "_LOOP_MAY_END", 0.01)
        loop = asyncio.new_event_loop()
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(self.run_in, loop)
            while not loop._ready:
                assert not waiting.done()
            loop.close()
            with pytest.raises(RuntimeError, match="has ended"):
                waiting.result(60)

    async def test_one_that_is_slow_is_waited_for(self, monkeypatch):
        monkeypatch.setattr(in_triggerer, "_LOOP_MAY_END", 0.01)
        here = stand_in()
        assert await asyncio.to_thread(here.run, lambda: asyncio.sleep(0.1, "answer")) == "answer"


class TestSteps:
    async def test_run_on_threads_of_their_own(self):
        name = await Steps.current().run(lambda: threading.current_thread().name)
        assert name.startswith(THREAD_NAME)

    async def test_are_those_of_the_loop(self):
        assert Steps.current() is Steps.current()
        other = await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(_current()))
        assert other is not Steps.current()

    async def test_are_as_many_as_is_configured(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WORKER_FREE_THREADS", "2")
        meet = threading.Barrier(2)
        two = [Steps.current().run(lambda: meet.wait(60)) for _ in range(2)]
        assert sorted(await asyncio.gather(*two)) == [0, 1]
        assert Steps.current()._pool._max_workers == 2

    async def test_have_the_context_of_their_caller(self):
        mark = contextvars.ContextVar("mark", default="none")
        mark.set("mine")
        assert await Steps.current().run(mark.get) == "mine"
        await Steps.current().run(lambda: mark.set("changed"))
        assert mark.get() == "mine"

    async def test_go_on_when_nobody_waits_any_more(self):
        go_on, done = threading.Event(), threading.Event()

        def step():
            go_on.wait(60)
            done.set()

        waiting = asyncio.ensure_future(_shielded(Steps.current().run(step)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        assert await asyncio.to_thread(done.wait, 10)

    async def test_give_their_error(self):
        def step():
            raise ValueError("wrong")

        with pytest.raises(ValueError, match="wrong"):
            await Steps.current().run(step)

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()])
    async def test_end_no_more_than_their_task(self, error):
        def step():
            raise error

        with pytest.raises(RuntimeError) as raised:
            await asyncio.wait_for(Steps.current().run(step), 10)
        assert repr(error) in str(raised.value)
        assert raised.value.__cause__ is error


async def _current():
    return Steps.current()


async def _shielded(future):
    return await asyncio.shield(future)


class TestConnections:
    @pytest.fixture
    def reads(self, monkeypatch):
        reads = []

        async def read(conn_id):
            reads.append(conn_id)
            await asyncio.sleep(0)
            if conn_id == "none":
                raise AirflowNotFoundException(conn_id)
            return SimpleNamespace(conn_id=conn_id)

        monkeypatch.setattr(_compat, "read_connection", read)
        return reads

    @pytest.fixture
    def watch(self, monkeypatch):
        line = Timeline()
        monkeypatch.setattr(in_triggerer, "time", line)
        return line

    async def test_are_read_once_a_minute(self, reads, watch):
        steps = Steps()
        both = await asyncio.gather(steps.connection("a"), steps.connection("a"), steps.connection("b"))
        assert (both[0] is both[1], reads) == (True, ["a", "b"])
        watch.sleep(60)
        await steps.connection("a")
        assert reads == ["a", "b"]
        watch.sleep(1)
        await steps.connection("a")
        assert reads == ["a", "b", "a"]

    async def test_that_are_not_there_are_looked_for_again(self, reads):
        steps = Steps()
        for _ in range(2):
            with pytest.raises(AirflowNotFoundException):
                await steps.connection("none")
        assert reads == ["none", "none"]

    async def test_one_that_stops_waiting_disturbs_no_other(self, reads):
        steps = Steps()
        first, second = (asyncio.ensure_future(steps.connection("a")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).conn_id == "a"

    async def test_are_there_for_a_step(self, reads):
        given = stand_in()
        assert (await Steps.current().run(lambda: given.connection("a"))).conn_id == "a"
        assert (await given.read_connection("a")).conn_id == "a"
        assert reads == ["a"]

    async def test_whose_login_was_refused_are_read_anew(self, reads):
        given = stand_in()
        await given.read_connection("a")
        given.forget("a")
        given.forget("b")
        await given.read_connection("a")
        assert reads == ["a", "a"]


class TestInTriggerer:
    async def test_runs_coroutines_on_the_loop(self):
        given, loop = stand_in(), asyncio.get_running_loop()

        async def where():
            return asyncio.get_running_loop()

        assert await Steps.current().run(lambda: given.run(where)) is loop

    async def test_takes_what_is_small_enough(self):
        given = stand_in()
        given.no_more_than(48 * 1024, "it")
        with pytest.raises(NeedsWorker, match="it has 49153 bytes, and the triggerer reads up to 49152"):
            given.no_more_than(48 * 1024 + 1, "it")

    async def test_reads_as_much_as_is_configured(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WORKER_FREE_RESULT_BYTES", "5")
        with pytest.raises(NeedsWorker):
            stand_in().no_more_than(6, "it")


class TestLineage:
    async def test_is_kept_for_the_end_of_the_task(self):
        given, sent = stand_in(), []
        cursor = SimpleNamespace(rowcount=3)
        lineage_sender(given, lambda **what: sent.append(what))(sql="SELECT 1", cur=cursor)
        cursor.rowcount = 0
        lineage_sender(given, lambda **what: sent.append(what))(sql="SELECT 2")
        assert sent == []
        for send in given.lineage:
            send()
        assert [(what["sql"], getattr(what.get("cur"), "rowcount", None)) for what in sent] == [
            ("SELECT 1", 3),
            ("SELECT 2", None),
        ]

    def test_is_sent_at_once_in_a_worker(self):
        assert lineage_sender(None, print) is print


class TestLogs:
    @pytest.fixture
    def lines(self):
        """Log lines as Airflow makes them: with the context variables of whoever writes them."""
        before, capture = structlog.get_config(), LogCapture()
        structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
        yield capture.entries
        structlog.configure(**before)

    def test_of_a_step_belong_to_its_task(self, free, monkeypatch, lines):
        def submit(self, context, attempt):
            structlog.get_logger().warning("submitting", thread=threading.current_thread().name)
            return super(FreeOperator, self).submit(context, attempt)

        monkeypatch.setattr(FreeOperator, "submit", submit)
        tasks = [free.mapped({"what": ["a", "b"]}, index) for index in (0, 1)]

        async def one(task):
            structlog.contextvars.bind_contextvars(trigger_id=task.map_index)
            return await task.wait()

        async def main():
            return await asyncio.gather(*map(one, tasks))

        for task in tasks:
            task.schedule()
        assert [ended.state for ended in free.timeline.run(main)] == ["success", "success"]
        said = [line for line in lines if line["event"] == "submitting"]
        assert sorted(line["trigger_id"] for line in said) == [0, 1]
        assert all(line["thread"].startswith(THREAD_NAME) for line in said)
        assert json.dumps([line["event"] for line in lines])
