"""What a worker finds out about queries that have run."""

from __future__ import annotations

import pytest
from snowflake.connector.errors import ProgrammingError

from astronomer.deferral import Attempt
from astronomer.providers.snowflake import reading
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery

BLOCK = SnowflakeQuery("parent", "conn", session_id=7, statements=3, block=True)


def entry(query_id, start, session=7, text=""):
    return {"id": query_id, "startTime": start, "sessionId": session, "sqlText": text}


class FakeSession:
    """A session that knows some queries, newest first, as Snowflake lists them."""

    def __init__(self, *entries):
        self.listed = list(entries)

    def entries(self, **filters):
        assert filters["session_id"] == 7
        return list(self.listed)

    def statement_ids(self, query_id):
        raise ProgrammingError(msg="expired", errno=612)


class TestIdsOfFailed:
    def test_are_in_the_order_in_which_they_ran_though_the_clock_is_coarse(self):
        session = FakeSession(
            entry("c", 5), entry("b", 5), entry("a", 5), entry("parent", 5), entry("x", 4, session=8)
        )
        assert reading.ids_of_failed(session, BLOCK) == ["a", "b", "c"]

    def test_leave_out_what_was_appended(self):
        session = FakeSession(
            entry("commit", 9), entry("c", 8), entry("b", 7), entry("a", 6), entry("parent", 5)
        )
        assert reading.ids_of_failed(session, BLOCK) == ["a", "b", "c"]

    @pytest.mark.parametrize("job", [BLOCK, SnowflakeQuery("parent", "conn", session_id=7)])
    def test_are_the_query_itself_when_nothing_ran(self, job):
        assert reading.ids_of_failed(FakeSession(entry("parent", 5)), job) == ["parent"]

    def test_stand_in_for_a_result_that_is_gone(self):
        session = FakeSession(entry("b", 7), entry("a", 6), entry("parent", 5))
        assert reading.ids_of(session, BLOCK) == ["a", "b"]


class TestFindQuery:
    attempt = Attempt(0, 0, "key", notes={"session_id": 7})

    def test_is_the_first_of_its_session(self):
        session = FakeSession(entry("b", 7), entry("a", 6), entry("x", 1, session=8))
        assert reading.find_query(session, self.attempt) == "a"

    def test_is_the_block_and_not_its_first_statement(self):
        session = FakeSession(
            entry("child", 6, text="select 1"), entry("parent", 6, text="select 1;\nselect 2")
        )
        assert reading.find_query(session, self.attempt) == "parent"
