"""Repeating what may be repeated, on virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral.patience import insist, telling_once
from tests.unit.deferral.fakes import Timeline


class Weather:
    """Raises what it was given, one after the other, and then answers."""

    def __init__(self, *troubles):
        self.troubles = list(troubles)
        self.asked_at = []

    async def __call__(self):
        self.asked_at.append(asyncio.get_running_loop().time())
        if self.troubles:
            raise self.troubles.pop(0)
        return "fine"

    @property
    def pauses(self):
        return [later - earlier for earlier, later in zip(self.asked_at, self.asked_at[1:], strict=False)]


def insisting(weather, tolerance=3600.0, **options):
    return Timeline().run(lambda: insist(weather, tolerance=tolerance, **options))


def test_goes_on_until_there_is_an_answer():
    weather, told = Weather(*[Transient("503")] * 8), []
    assert insisting(weather, on_trouble=told.append) == "fine"
    assert weather.pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [str(one) for one in told] == ["503"] * 8


def test_stays_away_for_as_long_as_it_is_asked_to():
    weather = Weather(Transient("429", retry_after=30.0), Transient("503"))
    insisting(weather)
    assert weather.pauses == [30, 2]


def test_gives_up_when_the_tolerance_is_spent():
    weather = Weather(*[Transient("503")] * 100)
    with pytest.raises(Transient, match="503"):
        insisting(weather, tolerance=10)
    assert weather.pauses == [1, 2, 4]


def test_a_refused_login_is_not_repeated():
    weather = Weather(CredentialsRejected("403"))
    with pytest.raises(CredentialsRejected):
        insisting(weather)
    assert len(weather.asked_at) == 1


def test_only_the_first_trouble_is_worth_a_line(caplog):
    weather = Weather(Transient("503"), Transient("504"))
    assert insisting(weather, on_trouble=telling_once(logging.getLogger("told"), "It")) == "fine"
    assert [record.getMessage() for record in caplog.records] == [
        "It cannot be asked just now, waiting on: 503"
    ]
