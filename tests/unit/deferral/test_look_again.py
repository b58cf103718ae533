"""A poll that has seen a change is followed by another one soon; changes seldom come alone."""

import asyncio

from astronomer.deferral import Hub, Pacing, Transient
from astronomer.deferral.testing import FakeClock
from tests.unit.deferral.fakes import RUNNING, FunctionPoller, PollerJob, let

STEADY = Pacing(gather=0.0, jitter=0.0)


class Connection:
    """Opens one poller, which wants to look again after each poll as the script says."""

    def __init__(self, *script, least_interval=0.0):
        self.script = list(script)
        self.least_interval = least_interval
        self.at = []

    def __call__(self, job):
        self.poller = FunctionPoller(self._poll)
        self.poller.least_interval = self.least_interval
        return self.poller

    async def _poll(self, jobs):
        self.at.append(asyncio.get_running_loop().time())
        again = self.script.pop(0) if self.script else False
        if isinstance(again, Exception):
            raise again
        self.poller.look_again = again
        return dict.fromkeys(jobs, RUNNING)

    def watched_for(self, seconds, interval=10.0, others=lambda hub: let(0)):
        async def main():
            hub = Hub(self, STEADY)
            async with hub.subscribe(PollerJob("a"), interval):
                await asyncio.gather(let(seconds), others(hub))

        FakeClock().run(main)
        return self.at


def test_the_next_look_comes_after_the_spacing():
    assert Connection(False, True, True, False).watched_for(25) == [0, 10, 11, 12, 22]


def test_a_poller_asks_for_it_each_time_anew():
    assert Connection(True).watched_for(15) == [0, 1, 11]


def test_the_interval_may_be_shorter_than_that():
    assert Connection(True, True).watched_for(3.5, interval=0.0) == [0, 1, 2, 3]


def test_backoff_is_not_shortened():
    script = True, Transient("429", retry_after=30.0), False
    assert Connection(*script).watched_for(45) == [0, 1, 31, 41]


def test_what_was_seen_before_an_outage_is_old_when_it_ends():
    script = True, Transient("503"), Transient("503"), False, False
    assert Connection(*script).watched_for(20) == [0, 1, 2, 4, 14]


def test_an_expensive_poller_rests_all_the_same():
    assert Connection(True, False, least_interval=60.0).watched_for(75) == [0, 60]


def test_a_newcomer_is_asked_about_soon_as_ever():
    async def another(hub):
        await let(10.5)
        async with hub.subscribe(PollerJob("b"), 10.0):
            await let(5)

    assert Connection(False, True, False).watched_for(25, others=another) == [0, 10, 11, 21]
