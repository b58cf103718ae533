"""The eleven laws of docs/explain/architecture.md, each for every family."""

import asyncio
import json
import sys
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async

from astronomer.deferral import (
    ClientThreads,
    JobError,
    JobFailed,
    JobLost,
    JobTimedOut,
    Phase,
    Transient,
    clock,
    in_process,
    ledger,
    memory,
    watch,
)
from astronomer.deferral._compat import AirflowTaskTimeout
from tests.contract.checks import all_lines, assert_drop_in, assert_plain
from tests.contract.driving import Killed, MortalStore, Task, until
from tests.contract.scripted import ScriptedWorld
from tests.contract.world import FOREVER, WEATHER
from tests.integration.without_worker import Lag
from tests.unit.deferral.fakes import Count, FakeAirflow, FakeSupervisor, events_of, revived

USER = "__airflow_user_action__"


class OutdatedStore(MortalStore):
    """The store of a task instance that a retry may have taken the place of."""

    gone = False

    def get(self, key, default=None):
        return default if self.gone else super().get(key, default)

    def set(self, key, value):
        if self.gone:
            raise RuntimeError("404")
        super().set(key, value)


def without_ids(result, world):
    """The result, and not which job it is of."""
    text = repr(result)
    for job_id in world.started:
        text = text.replace(job_id, "<id>")
    return text


class TestOnce:
    """1. One attempt of one task starts at most one remote job, whatever is killed when."""

    @pytest.mark.parametrize("write", [1, 2])
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_worker_is_killed_around_the_submit(self, world, write, moment):
        task = Task(world)
        task.store.dies = (write, moment)
        with pytest.raises(Killed):
            task.execute()
        task.retry()
        task.live()
        assert len(world.started) == 1
        assert world.running == []

    def test_a_worker_is_killed_after_the_submit(self, world):
        task = Task(world)
        self.die_after_submit(task)
        task.retry()
        task.live()
        assert len(world.started) == 1

    def test_a_worker_sleeps_before_the_submit_until_a_retry_has_submitted(self, world, monkeypatch):
        """Airflow has taken it for dead; the retry has a task instance of its own, and with it the store."""
        task = Task(world, FOREVER)
        outdated = task.store = OutdatedStore()

        def sleepy(operator):
            submit = operator.submit

            def late(context, attempt):
                outdated.gone, task.store = True, MortalStore(dict(outdated.values))
                task.retry()
                task.defer()
                monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 60))
                return submit(context, attempt)

            operator.submit = late

        with pytest.raises((JobError, RuntimeError)):
            task.execute(sleepy)
        assert len(world.started) == 1
        assert world.running == world.started

    def test_airflow_without_a_store_finds_the_job_at_the_vendor(self, world):
        task = Task(world, lasting=False)
        self.die_after_submit(task)
        task.retry()
        task.live()
        assert len(world.started) == 1

    def die_after_submit(self, task):
        def mortal(operator):
            def announce(context, job):
                raise Killed

            operator.announce = announce

        with pytest.raises(Killed):
            task.execute(mortal)

    def test_the_answer_to_a_submit_is_lost(self, world):
        world.lose_the_answer()
        task = Task(world)
        try:
            task.live()
        except JobError:
            task.retry()
            task.live()
        assert len(world.started) == 1

    def test_a_retry_returns_what_succeeded_unseen(self, world):
        whole = Task(world, 1.0)
        expected = whole.live()
        task = Task(world, 1.0)
        task.defer()
        task.wait()
        task.retry()
        assert without_ids(task.live(), world) == without_ids(expected, world)
        assert len(world.started) == 2

    @pytest.mark.parametrize("lasting", [True, False], ids=["3.3", "before 3.3"])
    def test_a_retry_starts_the_next_job_after_a_failure(self, world, lasting, request):
        if not lasting and not world.finds:
            request.applymarker(pytest.mark.xfail(reason="the same key finds the failed job", strict=True))
        task = Task(world, 1.0, fails=True, lasting=lasting)
        for tries in (1, 2):
            with pytest.raises(JobFailed):
                task.live()
            assert len(world.started) == tries
            task.retry()

    def test_a_clear_ends_a_job_whose_id_was_never_heard(self, world, request):
        if not world.finds:
            request.applymarker(pytest.mark.xfail(reason="nobody knows the job's id", strict=True))
        task = Task(world, FOREVER)
        task.store.dies = (2, "before")
        with pytest.raises(Killed):
            task.execute()
        task.clear()
        task.defer()
        _, second = world.started
        assert world.running == [second]

    def test_a_clear_ends_the_job_and_starts_another(self, world):
        task = Task(world, FOREVER)
        task.defer()
        (first,) = world.started
        task.clear()
        task.defer()
        _, second = world.started
        assert world.running == [second]
        assert world.phase(first) is Phase.CANCELLED

    def test_a_clear_in_an_outage_starts_nothing_beside_the_job(self, world, monkeypatch):
        lasts = 4 * world.beat
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__CANCEL_CONFIRM_TIMEOUT", str(lasts))
        task = Task(world, FOREVER, outage_tolerance=lasts)
        task.defer()
        (first,) = world.started
        world.weather("unavailable", times=None)
        task.clear()
        with pytest.raises(JobLost, match="Nothing was started"):
            task.execute()
        assert world.started == [first]
        world.clear_up()
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__CANCEL_CONFIRM_TIMEOUT", "60")
        task.retry()
        task.defer()
        first, second = world.started
        assert world.running == [second]


class TestOneOutcome:
    """2. One event, then the trigger returns; every way ends in the same settle."""

    def test_a_trigger_yields_once_and_returns(self, world):
        task = Task(world, 2.0)
        task.defer()
        assert len(world.triggerer(lambda: events_of(task.trigger))) == 1

    def test_so_does_each_of_two_that_live_at_once(self, world):
        task = Task(world, 2.0)
        task.defer()

        async def both():
            return await asyncio.gather(events_of(task.trigger), events_of(revived(task.trigger)))

        ((first,), (second,)) = world.triggerer(both)
        assert first["job"] == second["job"]
        assert first["outcome"]["status"]["phase"] == second["outcome"]["status"]["phase"] == "succeeded"

    def test_the_result_does_not_depend_on_the_way(self, world):
        worker = Task(world, 1.0, deferrable=False)
        triggerer, attached = Task(world, 1.0), Task(world, 1.0)
        attached.defer()
        attached.retry()
        results = [without_ids(one.live(), world) for one in (worker, triggerer, attached)]
        assert results[0] == results[1] == results[2]
        assert worker.trigger is None

    def test_nor_does_the_error(self, world):
        ways = [Task(world, 1.0, fails=True, deferrable=deferrable) for deferrable in (True, False)]
        ways.append(Task(world, 1.0, fails=True))
        ways[2].defer()
        ways[2].retry()
        kinds = set()
        for task in ways[:2]:
            with pytest.raises(JobFailed) as caught:
                task.live()
            kinds.add(caught.type)
        ways[2].trigger = None
        with pytest.raises(JobFailed) as caught:
            ways[2].live()
        assert kinds == {caught.type}


class TestWeather:
    """3. Bad weather costs patience, not the task."""

    @pytest.mark.parametrize("kind", WEATHER)
    def test_each_kind(self, world, kind):
        task = Task(world, 3.0)
        task.defer()
        world.weather(kind, times=3)
        task.wait()
        task.complete()
        assert len(world.started) == 1

    def test_all_kinds_in_a_row_and_few_logins(self, world):
        task = Task(world, 3.0)
        task.defer()
        world.forget()
        world.weather(*WEATHER)
        task.wait()
        assert task.event["outcome"]["status"]["phase"] == "succeeded"
        assert world.logins <= 2

    def test_retry_after_holds_for_the_whole_connection(self, world):
        tasks = [Task(world, 8.0) for _ in range(3)]
        for task in tasks:
            task.defer()
        world.throttle(5.0)

        async def all_of_them():
            return await asyncio.gather(*(events_of(task.trigger) for task in tasks))

        world.triggerer(all_of_them)
        told = world.throttled_at
        within = [at for at in world.polls if told < at < told + 5.0 * world.beat]
        # Those of the same round were on their way when the first was refused.
        assert len(within) < len(tasks)
        assert not [at for at in within if at > told + 2.0 * world.beat]
        assert [at for at in world.polls if at >= told + 5.0 * world.beat]

    def test_an_outage_that_lasts_loses_the_job_and_a_retry_finds_it(self, world):
        task = Task(world, FOREVER, outage_tolerance=4.0 * world.beat)
        task.defer()
        (job_id,) = world.started
        world.weather("unavailable", times=None)
        task.wait()
        with pytest.raises(JobLost, match=job_id):
            task.complete()
        world.clear_up()
        assert world.running == [job_id]
        task.retry()
        task.defer()
        world.finish(job_id)
        task.wait()
        task.complete()
        assert world.started == [job_id]


class TestDeadline:
    """4. The deadline is absolute; at the deadline the job is cancelled, and the task fails with a timeout."""

    def test_the_job_ends_and_the_task_times_out(self, world):
        task = self.limited(world, 4.0)
        task.wait()
        with pytest.raises(JobTimedOut) as caught:
            task.complete()
        assert isinstance(caught.value, AirflowTaskTimeout)
        assert world.running == []
        assert [world.phase(job_id) for job_id in world.started] == [Phase.CANCELLED]

    def limited(self, world, beats):
        task = Task(world, FOREVER, execution_timeout=timedelta(seconds=beats * world.beat))
        began = world.now()
        task.defer()
        assert began + beats * world.beat <= task.trigger.deadline <= world.now() + beats * world.beat
        return task

    def test_a_restart_of_the_triggerer_does_not_renew_it(self, world):
        task = self.limited(world, 1000.0)
        deadline = task.trigger.deadline
        for _ in range(2):
            task.interrupted(after=1.0)
            assert task.trigger.deadline == deadline
        task.trigger.deadline = deadline = world.now() + world.beat
        task.wait()
        assert task.event["outcome"]["timed_out"]
        assert deadline <= world.now() <= deadline + 60

    def test_it_holds_in_an_outage(self, world, monkeypatch):
        confirm = 4.0 * world.beat
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__CANCEL_CONFIRM_TIMEOUT", str(confirm))
        task = self.limited(world, 4.0)
        deadline = task.trigger.deadline
        world.weather("unavailable", times=None)

        async def until_the_end():
            events = await events_of(task.trigger)
            told = clock.now()
            await until(lambda: not world.running)
            return events, told

        (task.event,), told = world.triggerer(until_the_end)
        assert deadline + confirm <= told <= deadline + max(2 * confirm, 60)
        with pytest.raises(JobTimedOut, match="NOT confirmed"):
            task.complete()
        assert world.running == []

    def test_nor_does_a_retry(self, world):
        task = self.limited(world, 1000.0)
        deadline = task.trigger.deadline
        task.interrupted(after=1.0)
        task.retry()
        task.defer()
        assert task.trigger.deadline == deadline
        assert len(world.started) == 1

    def test_it_holds_in_worker_mode(self, world):
        timeout = timedelta(seconds=3.0 * world.beat)
        task = Task(world, FOREVER, deferrable=False, execution_timeout=timeout)
        with pytest.raises(JobTimedOut):
            task.execute()
        assert world.running == []


class TestCancelOnlyYourOwn:
    """5. A user's action cancels and confirms; a restart, a shutdown or a reassignment never does."""

    @pytest.fixture
    def task(self, world):
        task = Task(world, FOREVER)
        task.defer()
        return task

    def test_a_shutdown_cancels_nothing(self, world):
        task = Task(world, FOREVER)
        task.defer()
        task.interrupted(after=2.0)
        assert world.running == world.started
        world.finish(*world.started)
        task.wait()
        task.complete()
        assert len(world.started) == 1

    @pytest.mark.parametrize("answer", [Count(1), None, RuntimeError("no supervisor")])
    def test_a_reassignment_cancels_nothing(self, world, task, answer):
        task.interrupted(after=2.0, message=USER, deferred=answer)
        assert world.running == world.started
        assert len(world.started) == 1

    @pytest.mark.parametrize("state", ["scheduled", "up_for_retry"])
    def test_nor_does_a_triggerer_that_slept_until_another_had_told(self, world, task, state):
        task.interrupted(after=2.0, message=USER, deferred=FakeAirflow(states={"task": state}))
        assert world.running == world.started
        assert len(world.started) == 1

    def test_a_clear_whose_next_try_is_to_come_is_left_to_that(self, world, task):
        task.interrupted(after=2.0, message=USER, deferred=FakeAirflow(states={"task": "queued"}))
        task.clear()
        task.defer()
        first, second = world.started
        assert world.phase(first) is Phase.CANCELLED
        assert world.running == [second]

    def test_a_clear_with_no_try_to_come_does(self, world, task):
        task.interrupted(after=2.0, message=USER, deferred=FakeAirflow(states={"task": "null"}))
        (job_id,) = world.started
        assert world.phase(job_id) is Phase.CANCELLED

    def test_a_user_does(self, world, task):
        task.interrupted(after=2.0, message=USER, deferred=Count(0))
        (job_id,) = world.started
        assert world.phase(job_id) is Phase.CANCELLED

    def test_again_when_that_was_taken_and_nothing_done(self, world, task, monkeypatch):
        """As vendors do of a job that they do not list yet."""
        monkeypatch.setattr(sys.modules[watch.__module__], "_ASK_AGAIN", min(10.0, 2 * world.beat))
        world.ignore_a_cancel()
        task.interrupted(after=2.0, message=USER, deferred=Count(0))
        (job_id,) = world.started
        assert world.phase(job_id) is Phase.CANCELLED

    def test_also_one_whom_no_triggerer_could_hear(self, world, monkeypatch):
        """Airflow drops the trigger of a task that is ended meanwhile; the next triggerer finds what it waited for."""
        monkeypatch.setattr(ledger, "ALIVE", -1.0)
        forgotten, other = Task(world, FOREVER), Task(world, FOREVER)
        for task in (forgotten, other):
            task.defer()
        first, second = world.started

        class Airflow(FakeSupervisor):
            def send(self, question):
                final = question.run_ids == [forgotten.ti.run_id]
                return Count(int(final == ("failed" in (question.states or []))))

        async def main():
            for task in (forgotten, other):
                waiting = asyncio.ensure_future(events_of(task.trigger))
                await asyncio.sleep(2.0 * world.beat)
                if task is forgotten:
                    waiting.cancel()
                    await asyncio.wait({waiting})
            await ledger.Ledger.current().look()
            waiting.cancel()
            await asyncio.wait({waiting})

        with Airflow().in_place():
            world.triggerer(main)
        assert world.phase(first) is Phase.CANCELLED
        assert world.running == [second]

    def test_unless_the_task_says_otherwise(self, world):
        task = Task(world, FOREVER, cancel_on_kill=False)
        task.defer()
        task.interrupted(after=2.0, message=USER, deferred=Count(0))
        assert world.running == world.started

    @staticmethod
    def signalled(task, state):
        """The process of a task is asked to end, and ends."""

        def mortal(operator):
            def announce(context, job):
                with FakeAirflow(states={"task": state}).in_place(), pytest.MonkeyPatch.context() as patch:
                    patch.setattr(in_process, "_ASKING", 60.0)
                    operator.on_kill()
                raise Killed

            operator.announce = announce

        with pytest.raises(Killed):
            task.execute(mortal)

    def test_a_user_in_a_worker_does(self, world):
        self.signalled(Task(world, FOREVER), "failed")
        (job_id,) = world.started
        assert world.phase(job_id) is Phase.CANCELLED

    def test_also_one_whom_its_worker_has_not_heard(self, world):
        """Airflow refuses the deferral of a task that has been ended, and tells nobody."""
        task = Task(world, FOREVER)
        with FakeAirflow(states={"task": "failed"}).in_place():
            task.execute()
        (job_id,) = world.started
        assert world.phase(job_id) is Phase.CANCELLED

    def test_the_end_of_a_pod_does_not(self, world):
        task = Task(world, FOREVER)
        self.signalled(task, "running")
        assert world.running == world.started
        task.retry()
        task.defer()
        world.finish(*world.started)
        task.wait()
        task.complete()
        assert len(world.started) == 1


class TestBulk:
    """6. N waits on one connection share one session, one token and one poller."""

    WAITS = 20

    def test_one_login_and_few_requests_per_tick(self, world):
        tasks = [Task(world, FOREVER) for _ in range(self.WAITS)]
        for task in tasks:
            task.defer()
        world.forget()

        async def some_time():
            waiting = [asyncio.ensure_future(events_of(task.trigger)) for task in tasks]
            await asyncio.sleep(4.0 * world.beat)
            await until(lambda: world.rounds >= 2)  # a busy machine gets less done in a beat
            seen = world.logins, len(world.polls), world.rounds
            for one in waiting:
                one.cancel()
            await asyncio.wait(waiting)
            return seen

        logins, polls, rounds = world.triggerer(some_time)
        assert logins <= 1
        assert rounds >= 2
        assert polls <= world.requests_per_round(self.WAITS) * (rounds + 1)

    def test_all_of_them_end_over_one_login(self, world):
        tasks = [Task(world, 3.0) for _ in range(self.WAITS)]
        for task in tasks:
            task.defer()
        world.forget()

        async def all_of_them():
            return await asyncio.gather(*(events_of(task.trigger) for task in tasks))

        phases = [event["outcome"]["status"]["phase"] for (event,) in world.triggerer(all_of_them)]
        assert phases == ["succeeded"] * self.WAITS
        assert world.logins <= 1


class TestQuiet:
    """7. One log line when the state changes, none per poll."""

    def test_a_wait_of_many_polls_says_little(self, world):
        task = Task(world, FOREVER)
        task.defer()
        world.forget()

        async def many_polls():
            waiting = asyncio.ensure_future(events_of(task.trigger))
            await until(lambda: len(world.polls) >= 10)
            world.finish(*world.started)
            await waiting

        with all_lines() as said:
            world.triggerer(many_polls)
        about_it = [line for line in said() if any(job_id in line for job_id in world.started)]
        assert 1 <= len(about_it) <= 4
        assert len(said()) <= 8

    def test_an_outage_is_no_line_per_poll_either(self, world):
        task = Task(world, 4.0)
        task.defer()
        world.weather("unavailable", times=6)
        with all_lines() as said:
            task.wait()
        assert len(said()) <= 12


class TestPlainJson:
    """8. Only plain JSON crosses, and no secret."""

    def test_all_that_is_stored_or_sent(self, world):
        task = Task(world, 1.0, execution_timeout=timedelta(hours=1))
        task.defer()
        path, arguments = task.trigger.serialize()
        task.wait()
        task.complete()
        for one in (arguments, task.event, task.store.values, task.ti.xcoms):
            assert_plain(one)
            for secret in world.secrets:
                assert secret not in json.dumps(one)
        assert path == f"{type(task.trigger).__module__}.{type(task.trigger).__qualname__}"
        for secret in world.secrets:
            assert secret not in repr(task.trigger)

    def test_what_a_newer_release_adds_is_ignored(self, world):
        task = Task(world, 1.0)
        trigger = task.defer()
        trigger.job["from_the_future"] = 1
        event = task.wait()
        event["outcome"]["status"]["from_the_future"] = 1
        event["outcome"]["from_the_future"] = 1
        task.complete()


class TestNothingBlocks:
    """9. A synchronous client runs on threads of its own."""

    async def test_a_client_that_waits_for_the_loop_is_answered(self):
        """Were the loop blocked, the call would wait for the ticker in vain."""
        ticks, ticked = 0, threading.Event()

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1
                if ticks == 100:
                    ticked.set()

        threads = ClientThreads("client")
        ticker = asyncio.ensure_future(tick())
        assert await threads.run(lambda: ticked.wait(30))
        ticker.cancel()
        threads.close()

    def test_a_slow_answer_does_not_stop_the_triggerer(self, world):
        task = Task(world, 2.0)
        task.defer()
        world.stall(1.0)

        lag = Lag()

        async def watched():
            measuring = asyncio.ensure_future(lag.measure())
            events = await events_of(task.trigger)
            measuring.cancel()
            return events

        (event,) = world.triggerer(watched)
        assert event["outcome"]["status"]["phase"] == "succeeded"
        assert lag.longest < 0.5
        assert lag.ticks > 10

    def test_threads_of_its_own_are_not_the_shared_one(self, world):
        """Airflow's ``sync_to_async`` has one thread for a whole triggerer: here it is held up, to no effect."""
        if isinstance(world, ScriptedWorld):
            pytest.skip("virtual time stands still while a thread is held")
        task = Task(world, 4.0)
        task.defer()
        world.forget()
        held = threading.Event()

        async def with_the_shared_thread_held():
            waiting = asyncio.ensure_future(events_of(task.trigger))
            await until(lambda: world.polls)  # Airflow itself reads a connection on the shared thread
            holding = asyncio.ensure_future(sync_to_async(held.wait)(60))
            (event,) = await waiting
            assert not holding.done()
            held.set()
            await holding
            return event

        event = world.triggerer(with_the_shared_thread_held)
        assert event["outcome"]["status"]["phase"] == "succeeded"


class TestUnknownStates:
    """10. Unknown vendor states are ACTIVE, with one warning."""

    def test_the_wait_goes_on(self, world):
        task = Task(world, FOREVER)
        task.defer()
        (job_id,) = world.started
        known = world.report_unknown_state(job_id)

        async def odd_for_a_while():
            waiting = asyncio.ensure_future(events_of(task.trigger))
            await until(lambda: "WOBBLING" in str(said()))
            world.forget()
            await until(lambda: len(world.polls) >= 2 or waiting.done())
            assert not waiting.done()
            known()
            world.finish(job_id)
            return await waiting

        with all_lines() as said:
            (event,) = world.triggerer(odd_for_a_while)
        assert event["outcome"]["status"]["phase"] == "succeeded"
        assert 1 <= len([line for line in said() if "WOBBLING" in line]) <= 2

    def test_the_deadline_bounds_it(self, world):
        task = Task(world, FOREVER, execution_timeout=timedelta(seconds=4.0 * world.beat))
        task.defer()
        (job_id,) = world.started
        known = world.report_unknown_state(job_id)

        async def odd_until_the_deadline():
            waiting = asyncio.ensure_future(events_of(task.trigger))
            await asyncio.sleep(4.5 * world.beat)
            known()
            return await waiting

        (event,) = world.triggerer(odd_until_the_deadline)
        assert event["outcome"]["status"]["phase"] != "succeeded"
        assert world.running == []


class TestSameAsStock:
    """11. Stock Dag code works after changing one import."""

    @pytest.fixture
    def pairs(self, family):
        if not family.pairs:
            pytest.skip("replaces no stock operator")
        return family.pairs

    def test_it_is_a_drop_in_replacement(self, pairs):
        for ours, stock in pairs:
            assert_drop_in(ours, stock)

    def test_errors_are_airflows(self):
        assert issubclass(JobError, Exception)
        assert not issubclass(Transient, JobError)
