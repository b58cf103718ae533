"""A refused login stands for a while, for all who would log in next."""

import asyncio

import pytest

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral.testing import FakeClock
from astronomer.providers.snowflake.hooks.refusal import StandingRefusal

WRONG = CredentialsRejected("wrong password")


class Door:
    """Logs in with what is said, and counts how often somebody tried."""

    def __init__(self, lasts=10.0):
        self.refused = StandingRefusal(lasts)
        self.tried = 0

    def knock(self, answer=None):
        with self.refused.logging_in():
            self.tried += 1
            if answer is not None:
                raise answer

    def turned_away(self, answer=None):
        with pytest.raises(CredentialsRejected, match="wrong password"):
            self.knock(answer)


def in_virtual_time(scene):
    return lambda: FakeClock().run(scene)


@in_virtual_time
async def test_nobody_else_asks_while_it_stands():
    door = Door()
    door.turned_away(WRONG)
    await asyncio.sleep(9.9)
    door.turned_away()
    assert door.tried == 1
    await asyncio.sleep(0.2)
    door.knock()
    assert door.tried == 2


@in_virtual_time
async def test_the_second_in_a_row_stands_longer():
    door = Door()
    door.turned_away(WRONG)
    await asyncio.sleep(10.1)
    door.turned_away(WRONG)
    await asyncio.sleep(19.8)
    door.turned_away()
    await asyncio.sleep(0.3)
    door.knock()
    assert door.tried == 3


@in_virtual_time
async def test_a_login_ends_what_stood():
    door = Door()
    door.turned_away(WRONG)
    await asyncio.sleep(10.1)
    door.knock()
    door.turned_away(WRONG)
    await asyncio.sleep(10.1)
    door.knock()
    assert door.tried == 4


@in_virtual_time
async def test_weather_is_no_refusal():
    door = Door()
    with pytest.raises(Transient, match="503"):
        door.knock(Transient("503"))
    door.knock()
    assert door.tried == 2


@in_virtual_time
async def test_one_heard_elsewhere_stands_as_well():
    door = Door()
    door.refused.begin(WRONG)
    door.turned_away()
    assert door.tried == 0
