"""What pollers say of a deployment in memory, on virtual time."""

from __future__ import annotations

import asyncio

from astronomer.deferral import Hub, watch
from astronomer.deferral.testing import FakeClock
from tests.unit.core.deployments import wait

NO_RUN, NOT_YET = "there is no such run yet", "not yet"


def on_time(main):
    return FakeClock().run(main)


def look(deployment, *jobs, times=1, between=5.0, then=None):
    """What a poller says at its last look; the questions are counted from then on."""

    async def main():
        poller = deployment.poller()
        for number in range(times):
            if number:
                await asyncio.sleep(between)
            if number == times - 1:
                deployment.asked.clear()
                if then is not None:
                    then()
            found = await poller.poll(list(jobs))
        await poller.close()
        return found

    found = on_time(main)
    return found[jobs[0]] if len(jobs) == 1 and jobs[0] in found else found


def latest(**fields):
    return wait(latest=True, as_of="2027-01-15T08:00:00.000000+00:00", **fields)  # when a fake clock begins


async def watching(job, poller, **how):
    async with Hub(lambda _: poller) as hub:
        return (await watch(job, hub=hub, **how)).status
