"""What a long poll knows already reaches the waits before the poll is over."""

import asyncio

from astronomer.deferral import Hub, Pacing, Transient, watch
from astronomer.deferral.testing import FakeClock, ScriptedJob
from tests.unit.deferral.fakes import DONE, RUNNING, FunctionPoller

STEADY = Pacing(gather=0.0, jitter=0.0)
FIRST, SECOND = ScriptedJob("first"), ScriptedJob("second")


def now():
    return asyncio.get_running_loop().time()


class Slow(FunctionPoller):
    """Takes ten seconds for each job, and tells of each as it goes; fails after that, if told to."""

    def __init__(self, *, fails=False):
        super().__init__(self._poll_slowly)
        self.fails = fails

    async def _poll_slowly(self, jobs):
        async def one(job):
            await asyncio.sleep(10)
            return DONE

        found = await self.ask_each(jobs, one, at_once=1)
        if self.fails:
            raise Transient("the connection broke")
        return found


def ends(poller):
    """When each wait has its outcome."""
    found = {}

    async def wait(hub, job):
        outcome = await watch(job, hub=hub)
        found[job.job_id] = now(), outcome.status

    async def main():
        async with Hub(lambda job: poller, STEADY) as hub:
            await asyncio.wait_for(asyncio.gather(wait(hub, FIRST), wait(hub, SECOND)), 25)

    FakeClock().run(main)
    return found


def test_nobody_waits_for_the_rest_of_a_poll():
    assert sorted(ends(Slow()).values(), key=str) == [(10.0, DONE), (20.0, DONE)]


def test_a_poll_that_fails_in_the_end_takes_nothing_back():
    assert sorted(ends(Slow(fails=True)).values(), key=str) == [(10.0, DONE), (20.0, DONE)]


def test_two_waits_on_one_job_both_hear_of_it():
    async def main():
        async with Hub(lambda job: Slow(), STEADY) as hub:
            await asyncio.gather(*(watch(job, hub=hub) for job in (FIRST, FIRST)))
            assert now() == 10.0

    FakeClock().run(main)


def test_a_poller_outside_a_hub_tells_nobody():
    async def main():
        poller = Slow()
        poller.tell({FIRST: RUNNING})
        assert await poller.poll([FIRST]) == {FIRST: DONE}

    FakeClock().run(main)


def test_patience_begins_anew_with_what_a_failed_poll_has_told():
    """The wait was answered meanwhile, so it was not out of reach since the first trouble."""

    class Rough(FunctionPoller):
        def __init__(self):
            super().__init__(self._poll_roughly)

        async def _poll_roughly(self, jobs):
            if now() >= 40:
                return dict.fromkeys(jobs, DONE)
            if now() < 20:
                self.tell(dict.fromkeys(jobs, RUNNING))
            raise Transient("the connection broke")

    async def main():
        async with Hub(lambda job: Rough(), Pacing(gather=0.0, jitter=0.0, max_backoff=4.0)) as hub:
            return await watch(FIRST, hub=hub, outage_tolerance=35.0)

    assert FakeClock().run(main).status == DONE
