"""QUERY_HISTORY in its forms."""

import datetime as dt

import pytest
from airflow.providers.snowflake.utils import openlineage
from snowflake.connector.errors import ProgrammingError

from tests.lab.conftest import ended, query_id

COLUMNS = (
    "QUERY_ID, QUERY_TEXT, QUERY_TAG, SESSION_ID, USER_NAME, WAREHOUSE_NAME, EXECUTION_STATUS, ERROR_CODE, ERROR_MESSAGE,"
    " START_TIME, END_TIME, DATABASE_NAME, SCHEMA_NAME, QUERY_TYPE, TOTAL_ELAPSED_TIME"
)


@pytest.fixture
def tagged(connect):
    return connect(session_parameters={"QUERY_TAG": "history"}).cursor()


def test_a_tag_finds_running_and_ended_queries(lab, connect, tagged):
    failed = query_id(tagged, "select * from nope")
    ended(lab, failed)
    running = query_id(tagged, "select system$wait(600)")
    cursor = connect().cursor()
    cursor.execute(
        f"select {COLUMNS} from table(lab.information_schema.query_history(result_limit => 1000))"
        " where query_tag = 'history' order by start_time"
    )
    first, second = cursor.fetchall()
    session = tagged.connection.session_id
    assert first[:9] == (
        failed,
        "select * from nope",
        "history",
        session,
        "LAB_USER",
        "COMPUTE_WH",
        "FAILED_WITH_ERROR",
        "002003",
        "SQL compilation error:\nObject 'NOPE' does not exist or not authorized.",
    )
    assert isinstance(first[9], dt.datetime)
    assert first[9] <= first[10]
    assert first[11:14] == ("LAB", "PUBLIC", "SELECT")
    assert (second[0], second[6], second[10]) == (running, "RUNNING", None)
    tagged.abort_query(running)


def test_statements_of_a_failed_block_are_found_by_session(lab, connect, tagged):
    parent = query_id(tagged, "select 1; select * from nope; select 2", num_statements=0)
    ended(lab, parent)
    cursor = connect().cursor()
    cursor.execute(
        "select query_id, query_type from table(information_schema.query_history_by_session("
        f"session_id => {tagged.connection.session_id})) order by start_time, query_id"
    )
    rows = cursor.fetchall()
    assert dict(rows)[parent] == "MULTI_STATEMENT"
    assert {one for one, _ in rows} == {parent, *lab.queries[parent].children}


def test_the_limit_counts_before_the_where(lab, connect, tagged):
    ids = [query_id(tagged, f"select {n}") for n in range(5)]
    for one in ids:
        ended(lab, one)
    cursor = connect().cursor()
    ask = "select query_id from table(information_schema.query_history_by_user(user_name => 'lab_user', result_limit => 3))"
    assert {row[0] for row in cursor.execute(ask).fetchall()} == {cursor.sfqid, *ids[-2:]}
    assert cursor.execute(f"{ask} where query_id = '{ids[0]}'").fetchall() == []
    with pytest.raises(ProgrammingError, match="RESULT_LIMIT"):
        cursor.execute(ask.replace("3", "10001"))


def test_a_start_leaves_out_what_ended_before(lab, cursor):
    ended(lab, query_id(cursor, "select 1"))
    count = "select count(*) from table(information_schema.query_history(end_time_range_start => {}))"
    assert cursor.execute(count.format("current_timestamp()")).fetchone()[0] <= 2
    assert cursor.execute(count.format("dateadd('hour', -1, current_timestamp())")).fetchone()[0] > 2


def test_a_session_without_a_database_can_ask(connect):
    cursor = connect(database=None, schema=None).cursor()
    cursor.execute("select count(*) from table(snowflake.information_schema.query_history())")
    assert cursor.fetchone()[0] > 0


def test_another_users_queries_are_not_shown(lab, connect):
    connect().cursor().execute("select 1")
    lab.add_user("historian", "secret")
    cursor = connect(user="historian", password="secret").cursor()
    cursor.execute("select distinct user_name from table(information_schema.query_history())")
    assert cursor.fetchall() == [("HISTORIAN",)]


def test_the_query_of_the_stock_openlineage_helper(lab, connect, monkeypatch):
    from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

    connection = connect()
    done, failed = (query_id(connection.cursor(), sql) for sql in ("select 1", "select * from nope"))
    ended(lab, done), ended(lab, failed)
    for name, value in lab.connection_env().items():
        monkeypatch.setenv(name, value)
    details = openlineage._get_queries_details_from_snowflake(SnowflakeHook(), [done, failed])
    assert details[done]["EXECUTION_STATUS"] == "SUCCESS"
    assert details[failed]["ERROR_CODE"] == "002003"
    assert isinstance(details[done]["END_TIME"], dt.datetime)
