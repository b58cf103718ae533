"""The states a query passes through, and what makes it wait."""

import time

import pytest
from snowflake.connector.errors import ProgrammingError

from tests.lab.conftest import ended, query_id, until


def states(lab, query_id: str) -> list[str]:
    """Return the states a query has passed through when it has ended."""
    return ended(lab, query_id).states


def test_hints_script_the_states(lab, cursor):
    scripted = query_id(cursor, "/* lab: queued=2 resuming=2 blocked=2 restarted=2 running=2 */ select 1")
    assert states(lab, scripted) == [
        "RUNNING",
        "QUEUED",
        "RESUMING_WAREHOUSE",
        "BLOCKED",
        "RESTARTED",
        "RUNNING",
        "SUCCESS",
    ]


@pytest.mark.parametrize("end", ["FAILED_WITH_ERROR", "FAILED_WITH_INCIDENT", "ABORTED", "DISCONNECTED"])
def test_hints_script_the_end(lab, cursor, end):
    scripted = query_id(cursor, f"/* lab: running=2 status=NEW_WORD end={end} */ select 1")
    assert states(lab, scripted) == ["RUNNING", "NEW_WORD", end]
    assert lab.queries[scripted].error_code == "000603"


def test_wait_in_every_form(cursor):
    for sql, text in (
        ("call system$wait(1)", "waited 1 seconds"),
        ("select system$wait(20, 'MILLISECONDS')", "waited 20 milliseconds"),
        ("select system$wait(0.01, 'minutes')", "waited 0.01 minutes"),
    ):
        assert cursor.execute(sql).fetchone() == (text,)
    cursor.execute("create or replace table waited as select 1 as a, system$wait(1) as w")
    assert cursor.execute("select * from waited").fetchone() == (1, "waited 1 seconds")
    with pytest.raises(ProgrammingError, match="SYSTEM\\$WAIT"):
        cursor.execute("select system$wait(1, 'WEEKS')")


class TestWarehouse:
    def test_resuming(self, lab, cursor):
        lab.set_warehouse("compute_wh", resuming=4)
        first = query_id(cursor, "select system$wait(2)")
        assert states(lab, first) == ["RUNNING", "RESUMING_WAREHOUSE", "RUNNING", "SUCCESS"]
        second = query_id(cursor, "select system$wait(2)")
        assert "RESUMING_WAREHOUSE" not in states(lab, second)
        lab.suspend_warehouse("COMPUTE_WH")
        third = query_id(cursor, "select system$wait(2)")
        assert "RESUMING_WAREHOUSE" in states(lab, third)

    def test_queueing(self, lab, cursor):
        lab.set_warehouse("COMPUTE_WH", queued=3)
        assert states(lab, query_id(cursor, "select system$wait(2)"))[-3:] == [
            "QUEUED",
            "RUNNING",
            "SUCCESS",
        ]

    def test_concurrency(self, lab, cursor):
        lab.set_warehouse("COMPUTE_WH", concurrency=2)
        waiting = [query_id(cursor, "select system$wait(600)") for _ in range(3)]
        until(lambda: lab.queries[waiting[2]].state == "QUEUED")
        assert [lab.queries[one].state for one in waiting[:2]] == ["RUNNING", "RUNNING"]
        cursor.execute("select 1")  # needs no warehouse
        fourth = query_id(cursor, "select system$wait(600)")
        until(lambda: lab.queries[fourth].state == "QUEUED")
        cursor.abort_query(waiting[2])
        cursor.abort_query(waiting[0])
        until(lambda: lab.queries[fourth].state == "RUNNING")
        for one in (waiting[1], fourth):
            cursor.abort_query(one)
            ended(lab, one)
        assert cursor.execute("select system$wait(1)").fetchone()

    def test_none(self, lab, connect):
        cursor = connect(warehouse="NOPE").cursor()
        assert cursor.execute("select 1").fetchone() == (1,)
        with pytest.raises(ProgrammingError, match="No active warehouse selected") as error:
            cursor.execute("select system$wait(1)")
        assert (error.value.errno, error.value.sqlstate) == (606, "57P03")

    def test_that_does_not_resume_by_itself(self, lab, cursor):
        lab.set_warehouse("COMPUTE_WH", auto_resume=False)
        lab.suspend_warehouse("COMPUTE_WH")
        with pytest.raises(ProgrammingError) as error:
            cursor.execute("select system$wait(1)")
        assert error.value.errno == 606
        cursor.execute("alter warehouse compute_wh resume")
        assert cursor.execute("select system$wait(1)").fetchone()

    def test_ddl(self, lab, cursor):
        cursor.execute("create or replace warehouse mine with warehouse_size = 'XSMALL'")
        cursor.execute("use warehouse mine")
        cursor.execute("show warehouses")
        assert {row[0] for row in cursor.fetchall()} >= {"COMPUTE_WH", "MINE"}
        cursor.execute("drop warehouse mine")
        with pytest.raises(ProgrammingError):
            cursor.execute("select system$wait(1)")
        lab.set_warehouse("MINE")
        lab.set_warehouse("MINE", exists=False)
        with pytest.raises(ProgrammingError):
            cursor.execute("drop warehouse mine")


class TestTimeout:
    def failed(self, cursor, sql: str, **more) -> ProgrammingError:
        with pytest.raises(ProgrammingError) as error:
            cursor.execute(sql, **more)
        return error.value

    def test_of_the_session(self, cursor):
        cursor.execute("alter session set statement_timeout_in_seconds = 2")
        started = time.monotonic()
        error = self.failed(cursor, "select system$wait(6000)")
        assert time.monotonic() - started < 60
        assert (error.errno, error.sqlstate) == (630, "57014")
        assert "timeout of 2 second(s) and was canceled" in error.msg
        cursor.execute("alter session unset statement_timeout_in_seconds")
        assert cursor.execute("select 1").fetchone() == (1,)

    def test_of_the_statement_wins(self, lab, cursor):
        cursor.execute("alter session set statement_timeout_in_seconds = 2")
        longer = {"STATEMENT_TIMEOUT_IN_SECONDS": 60}
        assert cursor.execute("select system$wait(4)", _statement_params=longer).fetchone()
        shorter = query_id(
            cursor, "select system$wait(4)", _statement_params={"STATEMENT_TIMEOUT_IN_SECONDS": 1}
        )
        assert ended(lab, shorter).error_code == "000630"

    def test_of_several_statements_is_for_all_together(self, lab, cursor, monkeypatch):
        monkeypatch.setattr(lab.account_state.pace, "speed", 200.0)
        limit = {"STATEMENT_TIMEOUT_IN_SECONDS": 60}
        parent = query_id(
            cursor,
            "select system$wait(40); select system$wait(40); select 1",
            num_statements=0,
            _statement_params=limit,
        )
        record = ended(lab, parent)
        assert record.error_code == "000630"
        assert [lab.queries[child].error_code for child in record.children] == [None, "000630"]

    def test_counts_the_time_in_the_queue(self, lab, cursor):
        lab.set_warehouse("COMPUTE_WH", concurrency=1)
        running = query_id(cursor, "select system$wait(600)")
        error = self.failed(
            cursor, "select system$wait(1)", _statement_params={"STATEMENT_TIMEOUT_IN_SECONDS": 2}
        )
        assert error.errno == 630
        cursor.abort_query(running)

    def test_interrupts_the_database(self, lab, cursor):
        from tests.lab.test_connector import HEAVY

        error = self.failed(cursor, HEAVY, _statement_params={"STATEMENT_TIMEOUT_IN_SECONDS": 1})
        assert error.errno == 630


class TestMonitoring:
    def entries(self, connection, **wanted):
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        reply = connection.rest.request(f"/monitoring/queries?{query}", method="get", client="rest")
        return reply["data"]["queries"]

    def test_both_forms_describe_a_query_alike(self, lab, connection):
        done = query_id(connection.cursor(), "select 1")
        ended(lab, done)
        [single] = connection._get_query_status(done)[1]["data"]["queries"]
        [listed] = [entry for entry in self.entries(connection) if entry["id"] == done]
        assert listed == single
        assert single["status"] == "SUCCESS"
        assert single["sessionId"] == connection.session_id
        assert single["sqlText"] == "select 1"
        assert single["startTime"] <= single["endTime"]
        assert (single["errorCode"], single["warehouseName"]) == (None, "COMPUTE_WH")

    def test_an_unknown_id_is_an_empty_list(self, connection):
        assert (
            connection._get_query_status("01b2f3a4-0000-0000-0000-000000000000")[1]["data"]["queries"] == []
        )

    def test_a_double_slash_is_accepted(self, lab, connection):
        done = query_id(connection.cursor(), "select 1")
        reply = connection.rest.request(f"/monitoring/queries//{done}", method="get", client="rest")
        assert [entry["id"] for entry in reply["data"]["queries"]] == [done]

    def test_filters(self, lab, connect):
        connection = connect()
        cursor = connection.cursor()
        mark = int(time.time() * 1000) + 5
        time.sleep(0.02)
        lab.set_warehouse("COMPUTE_WH", concurrency=1)
        running, queued = (query_id(cursor, "select system$wait(600)") for _ in range(2))
        until(lambda: lab.queries[queued].state == "QUEUED")
        failed = query_id(cursor, "selec 1")
        done = query_id(connect().cursor(), "select 1")
        ended(lab, failed), ended(lab, done)

        def ids(**wanted):
            return [entry["id"] for entry in self.entries(connection, start=mark, **wanted)]

        assert ids() == [done, failed, queued, running]
        assert ids(max=2) == [done, failed]
        assert ids(subset="RUNNING") == [running]
        assert ids(subset="QUEUED") == [queued]
        assert ids(subset="FAILED") == [failed]
        assert ids(subset="SUCCEEDED") == [done]
        assert ids(session_id=connection.session_id) == [failed, queued, running]
        assert ids(user="lab_user") == ids()
        assert ids(user="other") == []
        for one in (running, queued):
            cursor.abort_query(one)
