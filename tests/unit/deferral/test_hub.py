"""The hub, one scene at a time; test_hub_properties.py has the random ones."""

import asyncio
import logging
import random
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from astronomer.deferral import CredentialsRejected, Hub, Pacing, Phase, Transient, cancel_and_confirm
from astronomer.deferral.subscription import Subscription
from astronomer.deferral.testing import FakeClock, ScriptedJob
from tests.unit.deferral.fakes import DONE, RUNNING, FunctionPoller, let

STEADY = Pacing(gather=0.0, jitter=0.0)


def run(main):
    return FakeClock().run(main)


def now():
    return asyncio.get_running_loop().time()


class Connection:
    """Opens pollers whose answers are a list: a mapping, an exception, or a function of the jobs."""

    def __init__(self, *answers, max_jobs=None, least_interval=0.0):
        self.answers = list(answers)
        self.max_jobs = max_jobs
        self.least_interval = least_interval
        self.pollers = []
        self.asked = []
        self.at = []

    def __call__(self, job):
        self.pollers.append(FunctionPoller(self._poll, self._cancel))
        self.pollers[-1].max_jobs = self.max_jobs
        self.pollers[-1].least_interval = self.least_interval
        return self.pollers[-1]

    async def _poll(self, jobs):
        self.at.append(now())
        self.asked.append([job.job_id for job in jobs])
        answer = self.answers.pop(0) if self.answers else RUNNING
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            return await answer(jobs)
        return dict.fromkeys(jobs, answer)

    async def _cancel(self, job):
        return None


async def waits(hub, *names, interval=5.0, seconds=0.0):
    """Enter one subscription per name, stay for some seconds, and leave."""
    async with hub.subscribe(ScriptedJob(names[0]), interval) as seen:
        rest = await waits(hub, *names[1:], interval=interval, seconds=seconds) if names[1:] else []
        if not names[1:]:
            await asyncio.sleep(seconds)
        return [seen, *rest]


def test_many_waits_share_one_poller_and_one_poll():
    connection = Connection()

    async def main():
        seen = await waits(Hub(connection, STEADY), "a", "b", "c", seconds=7)
        assert {one.status for one in seen} == {RUNNING}

    run(main)
    assert len(connection.pollers) == 1
    assert connection.asked == [["a", "b", "c"], ["a", "b", "c"]]
    assert connection.at == [0.0, 5.0]


def test_two_waits_on_one_job_ask_once():
    connection = Connection()
    run(lambda: waits(Hub(connection, STEADY), "a", "a", seconds=1))
    assert connection.asked == [["a"]]


def test_two_connections_have_two_pollers():
    connection = Connection()

    async def main():
        hub = Hub(connection, STEADY)
        async with hub.subscribe(ScriptedJob("a", "x")), hub.subscribe(ScriptedJob("b", "y")):
            assert hub.connections == 2

    run(main)
    assert len(connection.pollers) == 2


def test_the_poller_is_kept_for_a_while_and_closed_then():
    connection = Connection()

    async def main():
        hub = Hub(connection, STEADY)
        await waits(hub, "a", seconds=1)
        await let(59)
        await waits(hub, "b", seconds=1)
        assert (hub.connections, connection.pollers[0].closed) == (1, 0)
        await let(61)
        assert (hub.connections, connection.pollers[0].closed) == (0, 1)
        await waits(hub, "c", seconds=1)

    run(main)
    assert len(connection.pollers) == 2


def test_a_newcomer_need_not_wait_for_the_next_steady_poll():
    connection = Connection()

    async def main():
        hub = Hub(connection, STEADY)
        async with hub.subscribe(ScriptedJob("a"), 60.0):
            await let(10)
            await waits(hub, "b", interval=60.0, seconds=0.5)

    run(main)
    assert connection.at == [0.0, 10.0]


def test_a_newcomer_keeps_the_spacing():
    connection = Connection()

    async def main():
        hub = Hub(connection, STEADY)
        async with hub.subscribe(ScriptedJob("a")):
            await let(0.4)
            await waits(hub, "b", seconds=1)

    run(main)
    assert connection.at == [0.0, 1.0]


def test_a_first_poll_is_gathered():
    connection = Connection()
    pacing = Pacing(gather=0.5, random=random.Random(3))
    run(lambda: waits(Hub(connection, pacing), "a", seconds=1))
    assert 0.0 < connection.at[0] <= 0.5


def test_a_limit_starves_nobody():
    connection = Connection(max_jobs=2)
    run(lambda: waits(Hub(connection, STEADY), "a", "b", "c", "d", "e", seconds=13))
    assert connection.asked == [["a", "b"], ["c", "d"], ["e", "a"], ["b", "c"], ["d", "a"]]
    assert connection.at == [0.0, 1.0, 2.0, 7.0, 12.0]


def test_the_shortest_interval_counts():
    connection = Connection()

    async def main():
        hub = Hub(connection, STEADY)
        async with hub.subscribe(ScriptedJob("a"), 60.0), hub.subscribe(ScriptedJob("b"), 2.0):
            await let(5)

    run(main)
    assert connection.at == [0.0, 2.0, 4.0]


def test_a_job_that_is_left_out_stays_as_it_was():
    async def only_first(jobs):
        return {jobs[0]: DONE}

    connection = Connection(RUNNING, only_first)

    async def main():
        first, second = await waits(Hub(connection, STEADY), "a", "b", seconds=7)
        assert (first.status, second.status) == (DONE, RUNNING)

    run(main)


class TestWeather:
    def test_failures_back_off_and_honour_retry_after(self):
        connection = Connection(Transient("503"), Transient("503"), Transient("429", retry_after=30.0))
        run(lambda: waits(Hub(connection, STEADY), "a", seconds=40))
        assert connection.at == [0.0, 1.0, 3.0, 33.0, 38.0]

    def test_an_answer_forgets_the_failures(self):
        connection = Connection(Transient("503"), Transient("503"), RUNNING, Transient("503"))
        run(lambda: waits(Hub(connection, STEADY), "a", seconds=10))
        assert connection.at == [0.0, 1.0, 3.0, 8.0, 9.0]

    def test_nothing_hurries_a_connection_that_asked_to_be_left_alone(self):
        connection = Connection(Transient("429", retry_after=30.0))

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")):
                await let(5)
                await hub.cancel(ScriptedJob("a"))
                await waits(hub, "b", seconds=25.5)

        run(main)
        assert connection.at == [0.0, 30.0]

    def test_the_wish_to_be_left_alone_outlives_those_who_heard_it(self):
        connection = Connection(Transient("429", retry_after=300.0))

        async def main():
            hub = Hub(connection, STEADY)
            await waits(hub, "a", seconds=1)
            await let(150)
            await waits(hub, "b", seconds=200)

        run(main)
        assert connection.at[:2] == [0.0, 300.0]

    def test_every_wait_sees_the_trouble_and_its_end(self):
        connection = Connection(RUNNING, Transient("503"))

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")) as one, hub.subscribe(ScriptedJob("b")) as two:
                await let(5.5)
                assert [str(seen.trouble) for seen in (one, two)] == ["503", "503"]
                assert (one.trouble_since, one.status) == (5.0, RUNNING)
                await let(5)
                assert (one.trouble, one.trouble_since) == (None, None)

        run(main)

    def test_who_waits_for_a_turn_is_in_no_trouble_once_the_connection_answers(self):
        """A round about thousands, a few at a time, may take longer than some tolerate an outage."""
        connection = Connection(Transient("503"), max_jobs=1)

        async def main():
            async with self.three(connection) as waits:
                await let(0.5)
                assert {seen.trouble_since for seen in waits} == {0.0}
                await let(1)
                assert [seen.status for seen in waits].count(None) == 2
                assert {seen.trouble for seen in waits} == {seen.trouble_since for seen in waits} == {None}

        run(main)

    def test_but_who_was_asked_for_in_vain_before_and_after_an_outage_is_as_patient_as_ever(self):
        async def all_but_c(jobs):
            return {job: RUNNING for job in jobs if job.job_id != "c"}

        connection = Connection(all_but_c, Transient("503"), all_but_c)

        async def main():
            async with self.three(connection) as (*others, in_vain):
                await let(7)
                assert {seen.trouble for seen in others} == {None}
                assert str(in_vain.trouble) == "the connection answers, but not about this one"
                assert in_vain.trouble_since == 0.0

        run(main)

    def test_who_had_no_answer_is_told_why_and_whose_turn_is_to_come_nothing(self):
        async def partly(jobs):
            one, two, three = jobs
            connection.pollers[0].unanswered = {two: Transient("400"), three: None}
            return {one: RUNNING}

        connection = Connection(partly)

        async def main():
            async with self.three(connection) as waits:
                await let(1)
                assert [seen.trouble and str(seen.trouble) for seen in waits] == [None, "400", None]

        run(main)

    @staticmethod
    @asynccontextmanager
    async def three(connection):
        hub = Hub(connection, STEADY)
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(hub.subscribe(ScriptedJob(name))) for name in "abc"]

    def test_an_outage_is_logged_once_for_all_waits(self, caplog):
        connection = Connection(*[Transient("503")] * 5)
        run(lambda: waits(Hub(connection, STEADY), "a", "b", seconds=60))
        assert [record.getMessage() for record in caplog.records] == [
            "2 waits on one connection cannot be polled: 503"
        ]

    def test_a_newcomer_brings_patience_of_its_own(self):
        connection = Connection(*[Transient("503")] * 50)

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")) as old:
                await let(1000)
                async with hub.subscribe(ScriptedJob("b")) as new:
                    await let(100)
                    assert (old.trouble_since, new.trouble_since) == (0.0, 1000.0)

        run(main)

    def test_a_poll_without_end_is_given_up(self):
        async def never(jobs):
            await asyncio.sleep(1e6)

        connection = Connection(never)

        async def main():
            async with Hub(connection, STEADY).subscribe(ScriptedJob("a")) as seen:
                await let(120.5)
                assert str(seen.trouble) == "no answer within 120 s"
                await let(1)
                assert seen.status == RUNNING

        run(main)

    def test_how_long_that_takes_is_the_poller_s_to_say(self):
        async def late(jobs):
            await asyncio.sleep(500)
            return dict.fromkeys(jobs, DONE)

        connection = Connection(late, late)

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")) as seen:
                connection.pollers[0].timeout = 600.0
                await let(499)
                assert (seen.status, seen.trouble) == (None, None)
                await let(2)
                assert seen.status == DONE

        run(main)
        assert connection.at[0] == 0.0

    def test_a_defect_in_a_poller_is_weather_and_shown_once(self, caplog):
        connection = Connection(KeyError("odd"), KeyError("odd"))

        async def main():
            async with Hub(connection, STEADY).subscribe(ScriptedJob("a")) as seen:
                await let(0.5)
                assert str(seen.trouble) == "KeyError: 'odd'"
                await let(3)
                assert seen.status == RUNNING

        run(main)
        assert [record.exc_info is not None for record in caplog.records] == [True, False]


class TestCredentials:
    def test_a_refusal_reads_the_connection_anew(self):
        connection = Connection(CredentialsRejected("expired"))

        async def main():
            (seen,) = await waits(Hub(connection, STEADY), "a", seconds=11)
            assert (seen.status, seen.refused) == (RUNNING, None)

        run(main)
        assert connection.at == [0.0, 10.0]
        assert [poller.closed for poller in connection.pollers[:1]] == [1]
        assert len(connection.pollers) == 2

    def test_three_refusals_are_final(self):
        connection = Connection(*[CredentialsRejected("locked")] * 3)

        async def main():
            async with Hub(connection, STEADY).subscribe(ScriptedJob("a")) as seen:
                await let(29.5)
                assert seen.refused is None
                await let(1)
                assert str(seen.refused) == "locked"

        run(main)
        assert connection.at == [0.0, 10.0, 30.0]

    def test_once_they_are_final_they_are_for_the_next_wait_too(self):
        connection = Connection(*[CredentialsRejected("locked")] * 4)

        async def main():
            hub = Hub(connection, STEADY)
            await waits(hub, "a", seconds=31)
            async with hub.subscribe(ScriptedJob("b")) as seen:
                await seen.changed(None)
                assert str(seen.refused) == "locked"

        run(main)
        assert connection.at == [0.0, 10.0, 30.0, 60.0]

    def test_an_answer_forgets_the_refusals(self):
        refused = CredentialsRejected("expired")
        connection = Connection(refused, refused, RUNNING, refused, refused)

        async def main():
            (seen,) = await waits(Hub(connection, STEADY), "a", seconds=100)
            assert seen.refused is None
            assert seen.status == RUNNING

        run(main)


class TestDefects:
    def test_a_session_that_cannot_be_opened_again_ends_every_wait(self, caplog):
        connection = Connection(CredentialsRejected("expired"))
        opened = []

        def connect(job):
            if opened:
                raise OSError("no such connection")
            opened.append(job)
            return connection(job)

        async def main():
            hub = Hub(connect, STEADY)
            async with hub.subscribe(ScriptedJob("a")) as seen:
                await let(1)
                assert str(seen.refused) == "OSError: no such connection"
                assert hub.connections == 0

        run(main)
        assert "ended in an unexpected way" in caplog.text

    def test_a_poller_that_cancels_itself_leaves_nobody_waiting(self):
        connection = Connection(asyncio.CancelledError())

        async def main():
            async with Hub(connection, STEADY).subscribe(ScriptedJob("a")) as seen:
                await seen.changed(None)
                assert str(seen.refused) == "its poller was cancelled"

        run(main)

    def test_a_session_that_cannot_be_closed_is_no_ones_problem(self, caplog):
        caplog.set_level(logging.DEBUG, "astronomer.deferral.hub")

        class Sticky(FunctionPoller):
            async def close(self):
                raise OSError("stuck")

        async def poll(jobs):
            return dict.fromkeys(jobs, DONE)

        async def main():
            hub = Hub(lambda job: Sticky(poll), STEADY)
            await waits(hub, "a", seconds=1)
            await let(61)
            assert hub.connections == 0

        run(main)
        assert "Closing a poller failed" in caplog.text

    def test_a_session_that_never_closes_holds_nobody_up(self):
        class Endless(FunctionPoller):
            async def close(self):
                await asyncio.sleep(1e6)

        connection = Connection(CredentialsRejected("expired"))
        connection_poll = connection(None)._poll

        async def main():
            (seen,) = await waits(Hub(lambda job: Endless(connection_poll), STEADY), "a", seconds=200)
            assert seen.status == RUNNING

        run(main)


class TestCancel:
    def test_it_goes_over_the_shared_session_and_hurries_the_next_poll(self):
        connection = Connection()

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a"), 60.0):
                await let(10)
                await hub.cancel(ScriptedJob("a"))
                await let(0.5)

        run(main)
        assert connection.at == [0.0, 10.0]
        assert len(connection.pollers) == 1

    def test_a_storm_of_cancels_is_a_few_at_a_time(self):
        at_once = []
        running = []

        async def poll(jobs):
            return dict.fromkeys(jobs, RUNNING)

        async def cancel(job):
            running.append(job)
            at_once.append(len(running))
            await asyncio.sleep(1)
            running.remove(job)

        async def main():
            hub = Hub(lambda job: FunctionPoller(poll, cancel), STEADY)
            await asyncio.gather(*(hub.cancel(ScriptedJob(str(number))) for number in range(20)))
            return now()

        assert run(main) == pytest.approx(5.0)
        assert max(at_once) == 4

    def test_without_a_wait_it_is_not_cut_short(self):
        ended = []

        async def poll(jobs):
            return dict.fromkeys(jobs, RUNNING)

        async def cancel(job):
            await asyncio.sleep(5)
            ended.append(poller.closed)

        poller = FunctionPoller(poll, cancel)
        hub_pacing = Pacing(linger=0.0)
        run(lambda: Hub(lambda job: poller, hub_pacing).cancel(ScriptedJob("a")))
        assert ended == [0]


class TestUse:
    def test_anything_else_goes_over_the_shared_session_too(self, service):
        async def main():
            job = service.start("a")
            hub = Hub(pacing=STEADY)
            async with hub.subscribe(job):
                return await hub.use(job, lambda poller: poller.result(job))

        assert run(main) == {"job_id": "a"}
        assert service.logins == 1

    def test_the_session_stays_open_as_long(self, service):
        async def main():
            job = service.start("a")

            async def slow(poller):
                await asyncio.sleep(100)
                return service.closed

            return await Hub(pacing=Pacing(linger=0.0)).use(job, slow)

        assert run(main) == 0


class TestRest:
    """An expensive poll is not repeated before its time; who is new or in a hurry is asked for meanwhile."""

    @staticmethod
    def polls(connection):
        return list(zip(connection.at, connection.asked, strict=True))

    def test_a_poll_about_all_waits_for_its_time(self):
        connection = Connection(least_interval=30.0)
        run(lambda: waits(Hub(connection, STEADY), "a", "b", seconds=70))
        assert self.polls(connection) == [(at, ["a", "b"]) for at in (0.0, 30.0, 60.0)]

    def test_one_that_is_cheaper_than_the_interval_changes_nothing(self):
        connection = Connection(least_interval=3.0)
        run(lambda: waits(Hub(connection, STEADY), "a", seconds=11))
        assert connection.at == [0.0, 5.0, 10.0]

    def test_newcomers_are_asked_for_at_once_and_alone(self):
        connection = Connection(least_interval=30.0)

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")):
                await let(10.0)
                async with hub.subscribe(ScriptedJob("b")) as seen:
                    await let(0.5)
                    assert seen.status == RUNNING
                    async with hub.subscribe(ScriptedJob("c")), hub.subscribe(ScriptedJob("d")):
                        await let(25.0)

        run(main)
        assert self.polls(connection) == [
            (0.0, ["a"]),
            (10.0, ["b"]),
            (11.0, ["c", "d"]),
            (30.0, ["a", "b", "c", "d"]),
        ]

    def test_they_do_not_put_the_others_off(self):
        connection = Connection(least_interval=30.0)

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")):
                for name in "bcdefghijklmnop":
                    await let(4.0)
                    await waits(hub, name, seconds=2.0)

        run(main)
        assert [at for at, asked in self.polls(connection) if "a" in asked] == [0.0, 30.0, 60.0]

    def test_an_urgent_wait_is_asked_for_at_its_own_pace_and_alone(self):
        connection = Connection(least_interval=30.0)

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")), hub.subscribe(ScriptedJob("b")):
                await let(10.0)
                async with hub.subscribe(ScriptedJob("b"), 2.0, urgent=True):
                    await let(5.0)
                await let(20.0)

        run(main)
        assert self.polls(connection) == [
            (0.0, ["a", "b"]),
            (10.0, ["b"]),
            (12.0, ["b"]),
            (14.0, ["b"]),
            (30.0, ["a", "b"]),
        ]

    def test_who_is_not_in_a_hurry_hears_what_was_asked_for_another(self):
        connection = Connection(RUNNING, DONE, least_interval=30.0)

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")) as seen:
                await let(10.0)
                await waits(hub, "a", seconds=1.0)
                assert seen.status == DONE

        run(main)

    def test_a_hurry_without_anybody_in_it_asks_for_nobody(self):
        connection = Connection(least_interval=30.0)

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")):
                for _ in range(5):
                    await let(5.0)
                    await hub.cancel(ScriptedJob("a"))
                await let(10.0)

        run(main)
        assert connection.at == [0.0, 30.0]

    def test_a_cancel_is_confirmed_promptly(self, service):
        service.start("a", runs_for=1e6)
        for name in "bcd":
            service.start(name, runs_for=1e6)

        def connect(job):
            poller = job.poller()
            poller.least_interval = 300.0
            return poller

        async def main():
            hub = Hub(connect, STEADY)
            others = [asyncio.ensure_future(waits(hub, name, seconds=400)) for name in "abcd"]
            await let(50.0)
            began = now()
            status = await cancel_and_confirm(ScriptedJob("a"), hub=hub)
            assert status.phase is Phase.CANCELLED
            assert now() - began <= 2.0
            await asyncio.gather(*others)

        run(main)
        assert [service.asked.count(name) for name in "bcd"] == [2, 2, 2]

    def test_with_a_limit_everybody_has_a_turn_all_the_same(self):
        connection = Connection(max_jobs=2, least_interval=10.0)

        async def main():
            hub = Hub(connection, STEADY)
            urgent = hub.subscribe(ScriptedJob("u"), 1.0, urgent=True)
            async with urgent:
                await waits(hub, "a", "b", "c", "d", seconds=120)

        run(main)
        for name in "abcd":
            turns = [at for at, asked in self.polls(connection) if name in asked]
            assert len(turns) >= 4
            assert all(any(at <= turn <= at + 41.0 for turn in turns) for at in range(80))

    def test_what_the_last_poll_about_all_has_cost_counts(self):
        """A poll about newcomers is cheap; it does not end the rest of the others."""

        async def poll(jobs):
            poller.least_interval = 20.0 * len(jobs)
            connection.at.append(now())
            return dict.fromkeys(jobs, RUNNING)

        connection, poller = Connection(), FunctionPoller(poll)

        async def main():
            hub = Hub(lambda job: poller, STEADY)
            async with hub.subscribe(ScriptedJob("a")), hub.subscribe(ScriptedJob("b")):
                await let(5.0)
                await waits(hub, "c", seconds=10)
                await let(70.0)

        run(main)
        assert connection.at == [0.0, 5.0, 40.0, 80.0]

    def test_weather_in_a_rest_is_borne_and_the_rest_is_kept(self):
        connection = Connection(RUNNING, Transient("503"), least_interval=30.0)

        async def main():
            hub = Hub(connection, STEADY)
            async with hub.subscribe(ScriptedJob("a")):
                await let(10.0)
                async with hub.subscribe(ScriptedJob("b")) as seen:
                    await let(25.0)
                    assert seen.status == RUNNING

        run(main)
        assert self.polls(connection) == [(0.0, ["a"]), (10.0, ["b"]), (30.0, ["a", "b"])]

    def test_after_a_rest_in_which_all_have_left_the_next_is_asked_for_at_once(self):
        connection = Connection(least_interval=50.0)

        async def main():
            hub = Hub(connection, STEADY)
            await waits(hub, "a", seconds=1)
            await let(10.0)
            await waits(hub, "a", seconds=1)

        run(main)
        assert connection.at == [0.0, 11.0]


class TestLease:
    def test_the_session_stays_open_for_the_block_and_is_the_one_of_the_moment(self):
        connection = Connection(CredentialsRejected("expired"))

        async def main():
            hub = Hub(connection, Pacing(gather=0.0, linger=1.0))
            async with hub.lease(ScriptedJob("a")) as poller:
                await let(1000)
                first = poller()
                assert first.closed == 0
                await waits(hub, "a", seconds=20)
                assert poller() is not first
            await let(2)

        run(main)
        assert [poller.closed for poller in connection.pollers] == [1, 1]

    def test_a_hub_of_its_own_gives_everything_back(self):
        connection = Connection()

        async def main():
            async with Hub(connection, STEADY) as hub:
                await waits(hub, "a", seconds=1)
                assert hub.connections == 1
            assert hub.connections == 0

        run(main)
        assert connection.pollers[0].closed == 1

    @pytest.mark.parametrize("steps", range(6))
    def test_it_does_so_at_once_whenever_its_block_ends(self, steps):
        async def poll(jobs):
            await asyncio.sleep(5)
            return dict.fromkeys(jobs, RUNNING)

        async def main():
            async with Hub(lambda job: FunctionPoller(poll), STEADY) as hub, hub.subscribe(ScriptedJob("a")):
                await let(5, *[0] * steps)
            assert hub.connections == 0
            return now()

        assert run(main) == pytest.approx(5)


class TestSubscription:
    def test_a_cancellation_that_comes_with_a_change_is_not_lost(self):
        async def main(steps):
            seen = Subscription(ScriptedJob("a"), 5.0)
            waiting = asyncio.ensure_future(seen.changed(10.0))
            await let(1)
            seen.answered(RUNNING, now())
            await let(*[0] * steps)
            in_time = waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled() is in_time

        for steps in range(4):
            run(lambda steps=steps: main(steps))

    def test_an_answer_like_the_last_one_wakes_nobody(self):
        async def main():
            seen = Subscription(ScriptedJob("a"), 5.0)
            seen.answered(RUNNING, now())
            await seen.changed(None)
            seen.answered(RUNNING, now())
            await seen.changed(3.0)
            return now()

        assert run(main) == pytest.approx(3.0)


def test_all_triggers_of_a_loop_share_a_hub():
    async def main():
        return Hub.current() is Hub.current(), Hub.current()

    (same, first), (_, second) = run(main), run(main)
    assert same
    assert first is not second


def test_an_end_in_the_same_breath_as_the_last_leave_is_noticed(service):
    """Somebody joins in the moment in which the line was about to close."""

    async def main():
        hub = Hub(pacing=Pacing(gather=0.0, jitter=0.0, linger=10.0))
        job = service.start("a", runs_for=1e6)
        async with hub.subscribe(job):
            await let(1)
        for _ in range(3):
            await let(10.0)
            async with hub.subscribe(job) as seen:
                await seen.changed(60.0)
                assert seen.status.phase is Phase.ACTIVE

    run(main)
    assert service.closed == service.logins


@pytest.mark.parametrize("steps", range(8))
def test_a_hub_is_left_at_once_also_when_an_answer_comes_in_that_moment(steps):
    """Before Python 3.12 the cancellation of the poll is swallowed then; a worker would stay for the linger."""
    answered = asyncio.Event()

    async def answer(jobs):
        await answered.wait()
        return dict.fromkeys(jobs, RUNNING)

    async def main():
        async with Hub(Connection(answer), STEADY) as hub:
            await waits(hub, "a", seconds=1)
            answered.set()
            for _ in range(steps):
                await asyncio.sleep(0)
        return now()

    assert run(main) == pytest.approx(1.0)


def test_a_hub_is_left_at_once_also_when_a_client_swallows_the_cancellation():
    async def answer(jobs):
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            return dict.fromkeys(jobs, RUNNING)

    async def main():
        async with Hub(Connection(answer), STEADY) as hub:
            await waits(hub, "a", seconds=1)
        return now()

    assert run(main) == pytest.approx(1.0)
