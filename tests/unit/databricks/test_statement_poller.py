"""What a poller makes of a refusal, by what has become of the statement; on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from astronomer.deferral import Phase, Transient
from astronomer.deferral.testing import FakeClock
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.statement import DatabricksStatement, StatementPoller

START = 1_800_000_000.0
REFUSED = RequestRejected(403, "PERMISSION_DENIED", "User a@b does not exist")
UNKNOWN = RequestRejected(404, "NOT_FOUND", "The statement s was not found.")


class Client:
    """Refuses every cancel, and shows the statement as it is told."""

    address = "https://workspace"

    def __init__(self, refusal, shown, read_after=0.0):
        self.refusal = refusal
        self.shown = shown
        self.read_after = read_after

    async def post(self, path, body):
        assert path == "2.0/sql/statements/s/cancel"
        if self.refusal is not None:
            raise self.refusal
        return {}

    async def get(self, path):
        assert path == "2.0/sql/statements/s"
        await asyncio.sleep(self.read_after)
        if isinstance(self.shown, Exception):
            raise self.shown
        return {"status": {"state": self.shown}}


def cancel(refusal, shown, age=300.0):
    job = DatabricksStatement("s", "conn", submitted_at=START - age)
    FakeClock(START).run(lambda: StatementPoller(job, Client(refusal, shown)).cancel(job))


@pytest.mark.parametrize(
    ("refusal", "shown"),
    [
        (None, "RUNNING"),
        (REFUSED, "CANCELED"),
        (RequestRejected(400, "INVALID_STATE", "it has ended"), "SUCCEEDED"),
        (UNKNOWN, UNKNOWN),
    ],
    ids=str,
)
def test_what_has_ended_or_is_not_known_takes_no_notice(refusal, shown):
    cancel(refusal, shown)


@pytest.mark.parametrize("shown", ["RUNNING", "PENDING", REFUSED, UNKNOWN], ids=str)
def test_any_other_refusal_is_told(shown):
    with pytest.raises(RequestRejected) as told:
        cancel(REFUSED, shown)
    assert told.value is REFUSED


def test_a_path_that_is_not_found_ends_nothing():
    with pytest.raises(RequestRejected):
        cancel(RequestRejected(404, "RESOURCE_DOES_NOT_EXIST", "Endpoint does not exist"), "RUNNING")


def test_one_that_is_not_there_yet_is_asked_again():
    with pytest.raises(Transient, match="not there yet"):
        cancel(UNKNOWN, UNKNOWN, age=60.0)


def test_weather_after_the_refusal_is_weather():
    with pytest.raises(Transient, match="503"):
        cancel(REFUSED, Transient("503"))


@pytest.mark.parametrize(
    ("age", "read_after", "phase"),
    [(5.0, 0.0, Phase.ACTIVE), (5.0, 600.0, Phase.ACTIVE), (125.0, 0.0, Phase.LOST)],
    ids=["early", "early, and the process stopped", "late"],
)
def test_one_that_is_not_found_is_lost_if_it_was_asked_for_late(age, read_after, phase):
    job = DatabricksStatement("s", "conn", submitted_at=START - age)
    poller = StatementPoller(job, Client(None, UNKNOWN, read_after))
    assert FakeClock(START).run(lambda: poller.poll([job]))[job].phase is phase
