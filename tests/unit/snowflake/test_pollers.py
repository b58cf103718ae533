"""What a poller makes of an answer that says nothing is there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from astronomer.deferral import Phase
from astronomer.providers.snowflake.jobs import query, statements
from astronomer.providers.snowflake.jobs.query import SnowflakePoller, SnowflakeQuery
from astronomer.providers.snowflake.jobs.statements import SnowflakeStatements, SqlApiPoller

SUBMITTED = 1_800_000_000.0
PLACE = {"account": "account", "host": "host"}


class Nothing:
    """Session and client of an account that knows no query; each answer is read after some seconds."""

    def __init__(self, asked_after, read_after):
        self.time = SUBMITTED + asked_after
        self.read_after = read_after

    def now(self):
        return self.time

    def place(self):
        return PLACE

    def open(self):
        return None

    def entry(self, query_id):
        self.time += self.read_after

    async def look(self, handle):
        self.time += self.read_after
        return 404, {}


@pytest.mark.parametrize(
    ("asked_after", "read_after", "phase"),
    [(5.0, 0.0, Phase.ACTIVE), (5.0, 600.0, Phase.ACTIVE), (125.0, 0.0, Phase.LOST)],
    ids=["early", "early, and the process stopped", "late"],
)
class TestWhenItWasAskedDecides:
    async def test_of_a_query(self, monkeypatch, asked_after, read_after, phase):
        there = Nothing(asked_after, read_after)
        monkeypatch.setattr(query, "clock", there)
        job = SnowflakeQuery("q", "conn", submitted_at=SUBMITTED, **PLACE)
        poller = SnowflakePoller(job, there)
        assert (await poller.poll([job]))[job].phase is phase
        await poller.close()

    async def test_of_a_statement(self, monkeypatch, asked_after, read_after, phase):
        there = Nothing(asked_after, read_after)
        monkeypatch.setattr(statements, "clock", SimpleNamespace(now=there.now))
        job = SnowflakeStatements(("q",), "conn", submitted_at=SUBMITTED)
        assert (await SqlApiPoller(job, there).poll([job]))[job].phase is phase
