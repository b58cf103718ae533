"""What cannot be deferred runs in the worker, as the stock operator runs it."""

from __future__ import annotations

import pytest
import snowflake.connector

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from tests.integration.snowflake.driving import Task, polls


@pytest.fixture
def upload(tmp_path, sql):
    sql("create or replace stage parcels", "create or replace table parcels (a int, b varchar)")
    (tmp_path / "rows.csv").write_text("1,one\n2,two\n")
    return f"put 'file://{tmp_path}/rows.csv' @parcels auto_compress = false"


@pytest.mark.parametrize("text", ["{put}", "-- files first\n{put}; select count(*) from parcels"])
def test_put(lab, upload, text):
    task = Task(SnowflakeOperator, sql=text.format(put=upload), return_last=False, split_statements=True)
    deferred, result = task.start()
    assert not deferred
    assert result[0][0][0] == "rows.csv"
    assert result[0][0][6] == "UPLOADED"
    assert polls(lab) == []
    assert not any(query.asynchronous for query in lab.queries.values() if "put" in query.sql.lower())


def test_a_get_is_not_deferred(lab):
    task = Task(SnowflakeOperator, sql="GET @parcels file:///tmp/")
    assert task._class(task_id="t", sql="GET @parcels file:///tmp/")._needs_worker()


class TestServerSideParameters:
    @pytest.fixture(autouse=True)
    def qmark(self, monkeypatch):
        monkeypatch.setattr(snowflake.connector, "paramstyle", "qmark")

    def test_of_several_statements(self, lab):
        task = Task(SnowflakeOperator, sql=["select ? + 1", "select ?"], parameters=[1], return_last=False)
        assert task.start() == (False, [[(2,)], [(1,)]])
        assert polls(lab) == []

    def test_of_one_statement_are_deferred(self, lab):
        task = Task(SnowflakeOperator, sql="select ? as a, ? as b", parameters=[1, "x'y"])
        task.deferred()
        task.wait()
        assert task.resume() == (False, [(1, "x'y")])

    def test_of_one_statement_that_needs_a_transaction(self, lab, sql):
        sql("create or replace table parcels (a int, b varchar)")
        task = Task(SnowflakeOperator, sql="insert into parcels values (?, ?)", parameters=[1, "x'y"])
        task.run()
        assert sql("select * from parcels") == [(1, "x'y")]

    def test_of_a_call_that_a_commit_must_follow(self, lab):
        text = "EXECUTE IMMEDIATE 'select 5' /* ? */"
        task = Task(SnowflakeOperator, sql=text, parameters=["unused"])
        assert task.start() == (False, [(5,)])
