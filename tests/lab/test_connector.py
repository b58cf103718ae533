"""Queries through the unmodified ``snowflake-connector-python``."""

import datetime as dt
import decimal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from snowflake.connector.constants import QueryStatus
from snowflake.connector.errors import DatabaseError, ProgrammingError

from tests.held import held
from tests.lab.conftest import ended, query_id, until


def failure(call, *args, **kwargs) -> ProgrammingError:
    with pytest.raises(DatabaseError) as error:
        call(*args, **kwargs)
    return error.value


def test_values_come_back_as_the_connectors_types(cursor):
    cursor.execute(
        "select 1 as i, 1.50::number(10,2) as d, 'x' as s, true as b, null as n, 2.5::float as f,"
        " '2020-02-03'::date as day, '2020-02-03 04:05:06'::timestamp_ntz as at, parse_json('{\"a\": 1}') as v"
    )
    assert cursor.fetchone() == (
        1,
        decimal.Decimal("1.50"),
        "x",
        True,
        None,
        2.5,
        dt.date(2020, 2, 3),
        dt.datetime.fromisoformat("2020-02-03T04:05:06"),
        '{"a":1}',
    )
    assert [column.name for column in cursor.description][:3] == ["I", "D", "S"]


def test_nulls_of_every_type_come_back_as_none(cursor):
    cursor.execute(
        "select null::timestamp_ntz, null::timestamp_tz, null::date, null::time, null::int, null::varchar, null::float"
    )
    assert cursor.fetchall() == [(None,) * 7]
    cursor.execute("select null::timestamp_ntz as a union all select '2020-01-01'::timestamp_ntz order by a")
    assert set(cursor.fetchall()) == {(None,), (dt.datetime.fromisoformat("2020-01-01"),)}


def test_a_comment_in_front_changes_nothing(cursor):
    assert cursor.execute("/* first */ -- second\n select 1").fetchone() == (1,)


def test_binds_in_every_style(connect):
    cursor = connect().cursor()
    assert cursor.execute("select %s, %s", (1, "it's")).fetchone() == (1, "it's")
    assert cursor.execute("select %(a)s || %(b)s", {"a": "x", "b": "y"}).fetchone() == ("xy",)
    cursor = connect(paramstyle="qmark").cursor()
    assert cursor.execute("select ?, ?", (1, "it's")).fetchone() == (1, "it's")
    cursor.execute("create or replace table bound (a int, b varchar)")
    cursor.executemany("insert into bound values (?, ?)", [(1, "x"), (2, None)])
    assert cursor.rowcount == 2
    assert cursor.execute("select * from bound order by a").fetchall() == [(1, "x"), (2, None)]


def test_row_counts(cursor):
    cursor.execute("create or replace table counted as select * from values (1), (2), (3) v(a)")
    for sql, rows in (
        ("insert into counted values (4), (5)", 2),
        ("update counted set a = 0 where a > 3", 2),
        ("delete from counted where a = 1", 1),
        ("merge into counted c using (select 2 as a) s on c.a = s.a when matched then update set a = 9", 1),
        ("select * from counted", 4),
    ):
        assert cursor.execute(sql).rowcount == rows, sql


def test_many_rows(cursor):
    cursor.execute("select seq4() as n from table(generator(rowcount => 20000))")
    assert len(cursor.fetchall()) == 20000


def test_describe_runs_nothing(lab, cursor):
    cursor.execute("create or replace table described (a int, b varchar)")
    assert [column.name for column in cursor.describe("select b, a from described")] == ["B", "A"]
    assert [column.name for column in cursor.describe("insert into described values (1, 'x')")] == [
        "number of rows inserted"
    ]
    started = time.monotonic()
    assert [column.name for column in cursor.describe("select system$wait(6000)")] == ["SYSTEM$WAIT(6000)"]
    assert time.monotonic() - started < 60
    assert cursor.execute("select count(*) from described").fetchone() == (0,)


@pytest.mark.parametrize(
    ("sql", "errno", "sqlstate", "message"),
    [
        ("select * from nope", 2003, "42S02", "Object 'NOPE' does not exist or not authorized."),
        ("select * from nope.public.t", 2003, "02000", "Database 'NOPE' does not exist or not authorized."),
        ("select * from lab.nope.t", 2003, "02000", "Schema 'NOPE' does not exist or not authorized."),
        ("selec 1", 1003, "42000", "syntax error line 1 at position 6 unexpected '1'."),
        ("select nope from (select 1 as a)", 904, "42000", "invalid identifier 'NOPE'"),
        ("select nope(1)", 2140, "42601", "Unknown function nope"),
        ("select system$nope(1)", 2140, "42601", "Unknown function SYSTEM$NOPE"),
        ("select 1 / 0", 100051, "22012", "Division by zero"),
        ("select 'a'::int", 100038, "22018", "Numeric value 'a' is not recognized"),
        ("select 'a'::date", 100040, "22007", "Date 'a' is not recognized"),
        ("select 'a'::timestamp", 100035, "22007", "Timestamp 'a' is not recognized"),
        ("use warehouse nope", 2043, "02000", "Object does not exist, or operation cannot be performed."),
        ("use database nope", 2043, "02000", "Object does not exist, or operation cannot be performed."),
        ("use schema nope", 2043, "02000", "Object does not exist, or operation cannot be performed."),
        ("use role nope", 2043, "02000", "Object does not exist, or operation cannot be performed."),
        ("alter session set nope = 1", 1420, "22023", "invalid property 'NOPE' for 'SESSION'"),
        ("alter session set autocommit = perhaps", 1008, "22023", "invalid value [perhaps]"),
        ("create table lab.public.twice (a int); create table lab.public.twice (a int)", 8, "0A000", "Actual statement count 2"),
        ("-- only a comment", 900, "42601", "Empty SQL statement."),
    ],
)  # fmt: skip
def test_errors_are_snowflakes(lab, cursor, sql, errno, sqlstate, message):
    error = failure(cursor.execute, sql)
    assert (error.errno, error.sqlstate) == (errno, sqlstate)
    assert message in error.msg
    assert lab.queries[error.sfqid].error_code == f"{errno:06d}"


def test_not_null_and_existing_objects(cursor):
    cursor.execute("create or replace table strict (a int not null)")
    assert failure(cursor.execute, "insert into strict values (null)").errno == 100072
    error = failure(cursor.execute, "create table strict (a int)")
    assert (error.errno, error.sqlstate) == (2002, "42710")


class TestAsynchronous:
    def test_the_reply_comes_at_once_and_the_result_from_any_session(self, lab, connect):
        submitting, reading = connect(), connect()
        cursor = submitting.cursor()
        with held(lab):
            started = time.monotonic()
            cursor.execute_async("select system$wait(40) as w, 1 as one")
            assert time.monotonic() - started < 30
            assert submitting.get_query_status(cursor.sfqid) == QueryStatus.RUNNING
        assert ended(lab, cursor.sfqid).state == "SUCCESS"
        assert reading.get_query_status_throw_if_error(cursor.sfqid) == QueryStatus.SUCCESS
        result = reading.cursor().query_result(cursor.sfqid)
        assert result.fetchall() == [("waited 40 seconds", 1)]
        assert [column.name for column in result.description] == ["W", "ONE"]
        again = reading.cursor()
        again.get_results_from_sfqid(cursor.sfqid)
        assert again.fetchall() == [("waited 40 seconds", 1)]

    def test_errors_arrive_as_a_status(self, lab, connection):
        cursor = connection.cursor()
        failed = query_id(cursor, "select * from nope")
        assert ended(lab, failed).state == "FAILED_WITH_ERROR"
        error = failure(connection.get_query_status_throw_if_error, failed)
        assert (error.errno, error.sfqid) == (2003, failed)
        error = failure(connection.cursor().query_result, failed)
        assert (error.errno, error.sqlstate, error.sfqid) == (2003, "42S02", failed)

    def test_a_synchronous_query_that_takes_long_is_waited_for(self, make_lab):
        import snowflake.connector

        lab = make_lab(detach_after=0.05)
        with snowflake.connector.connect(**lab.connect_args()) as connection, ThreadPoolExecutor() as pool:
            cursor = connection.cursor()
            with held(lab):
                executed = pool.submit(cursor.execute, "call system$wait(10)")
                until(lambda: lab.requests.count("/result$", method="GET") >= 3)
            assert executed.result(60).fetchall() == [("waited 10 seconds",)]

    def test_a_result_that_is_not_ready_is_a_key_error(self, make_lab):
        import snowflake.connector

        lab = make_lab(detach_after=0.05)
        with snowflake.connector.connect(**lab.connect_args()) as connection:
            running = query_id(connection.cursor(), "select system$wait(60)")
            with pytest.raises(KeyError):  # the connector's, known as issue 199
                connection.cursor()._connection.rest.request(url=f"/queries/{running}/result", method="get")[
                    "data"
                ]["rowtype"]
            assert connection.cursor().abort_query(running)

    def test_waiting_queries_run_side_by_side_in_one_session(self, lab, cursor):
        running = [query_id(cursor, "select system$wait(6000)") for _ in range(20)]
        until(lambda: all(lab.queries[one].state == "RUNNING" for one in running))
        for one in running:
            assert cursor.abort_query(one)

    def test_real_queries_of_one_session_at_once_do_not_disturb_each_other(self, lab, connect):
        cursor = connect().cursor()
        cursor.execute("create or replace table busy (a int)")
        running = [
            query_id(cursor, f"insert into busy select {n} from table(generator(rowcount => 10))")
            for n in range(30)
        ]
        assert {ended(lab, one).state for one in running} == {"SUCCESS"}
        assert cursor.execute("select count(*), count(distinct a) from busy").fetchone() == (300, 30)

    def test_a_slow_session_does_not_hold_up_another(self, lab, connect):
        slow, quick = connect().cursor(), connect().cursor()
        running = query_id(slow, HEAVY)
        until(lambda: lab.queries[running].state == "RUNNING")
        assert quick.execute("select 1").fetchone() == (1,)
        assert not lab.queries[running].finished
        assert quick.abort_query(running)
        assert ended(lab, running).error_code == "000604"

    def test_another_user_sees_nothing(self, lab, connect):
        lab.add_user("other", "secret")
        mine = query_id(connect().cursor(), "select 1")
        ended(lab, mine)
        other = connect(user="other", password="secret")
        assert other.get_query_status(mine) == QueryStatus.NO_DATA
        assert failure(other.cursor().query_result, mine).errno == 612
        assert failure(other.cursor().execute, f"select * from table(result_scan('{mine}'))").errno == 709
        assert not other.cursor().abort_query(mine)

    def test_results_expire(self, lab, connection):
        done = query_id(connection.cursor(), "select 1")
        ended(lab, done)
        lab.expire_results()
        assert connection.get_query_status(done) == QueryStatus.SUCCESS
        assert failure(connection.cursor().query_result, done).errno == 612
        assert (
            failure(connection.cursor().execute, f"select * from table(result_scan('{done}'))").errno == 612
        )


HEAVY = (
    "select count(*) from (select a.x from (select seq4() as x from table(generator(rowcount => 200000))) a,"
    " (select seq4() as y from table(generator(rowcount => 2000000))) b where hash(a.x + b.y) % 7 = 0)"
)


class TestAbort:
    def test_a_waiting_query(self, lab, connect):
        running = query_id(connect().cursor(), "select system$wait(600)")
        other = connect()
        assert other.cursor().abort_query(running)
        ended(lab, running)
        assert other.get_query_status(running) == QueryStatus.FAILED_WITH_ERROR
        error = failure(other.get_query_status_throw_if_error, running)
        assert (error.errno, "SQL execution canceled" in error.msg) == (604, True)
        assert not other.cursor().abort_query(running)

    def test_a_query_in_the_database(self, lab, connect):
        running = query_id(connect().cursor(), HEAVY)
        until(lambda: lab.account_state.database.pool._unfinished)
        assert connect().cursor().abort_query(running)
        assert ended(lab, running).error_code == "000604"

    def test_a_query_just_submitted(self, lab, connection):
        for _ in range(20):
            running = query_id(connection.cursor(), "select system$wait(600)")
            assert connection.cursor().abort_query(running)
            assert ended(lab, running).error_code == "000604"

    def test_by_the_clients_own_timeout(self, lab, connection, monkeypatch):
        cancel = connection._cancel_query

        def once_it_runs(sql, request_id):
            until(lambda: any(one.request_id == str(request_id) for one in lab.queries.values()))
            return cancel(sql, request_id)

        monkeypatch.setattr(connection, "_cancel_query", once_it_runs)
        with pytest.raises(ProgrammingError, match="SQL execution cancel") as error:
            connection.cursor().execute("select system$wait(600)", timeout=1)
        assert error.value.errno == 604
        assert lab.requests.count("/queries/v1/abort-request") == 1

    def test_by_sql_and_by_an_administrator(self, lab, connection):
        first, second = (query_id(connection.cursor(), "select system$wait(600)") for _ in range(2))
        reply = connection.cursor().execute(f"select system$cancel_query('{first}')").fetchone()[0]
        assert reply == f"query [{first}] terminated."
        assert lab.abort_by_admin(second)
        assert [ended(lab, one).error_code for one in (first, second)] == ["000604"] * 2
        assert not lab.abort_by_admin(second)

    def test_a_query_with_several_statements(self, lab, connection):
        cursor = connection.cursor()
        parent = query_id(cursor, "select 1; select system$wait(600); select 2", num_statements=3)
        until(lambda: len(lab.queries[parent].children) == 2)
        assert cursor.abort_query(parent)
        states = [ended(lab, one).error_code for one in (parent, *lab.queries[parent].children)]
        assert states == ["000604", None, "000604"]


class TestRequestId:
    def test_the_same_id_is_the_same_query_in_one_session(self, lab, connection):
        cursor = connection.cursor()
        cursor.execute("create or replace table once (a int)")
        mine = {"requestId": str(uuid.uuid4())}
        ids = {query_id(cursor, "insert into once values (1)", _statement_params=mine) for _ in range(3)}
        assert len(ids) == 1
        ended(lab, *ids)
        assert cursor.execute("select count(*) from once").fetchone() == (1,)

    def test_a_lost_answer_is_joined_by_the_retry(self, lab, connection):
        cursor = connection.cursor()
        cursor.execute("create or replace table once (a int)")
        lab.requests.clear()
        lab.faults.lose_answer("query-request", times=1)
        assert cursor.execute("insert into once values (1)").rowcount == 1
        assert len({entry.request_id for entry in lab.requests.select("query-request")}) == 1
        assert lab.requests.count("query-request") == 2
        assert cursor.execute("select count(*) from once").fetchone() == (1,)

    def test_another_session_starts_another_query(self, connect):
        mine = {"requestId": str(uuid.uuid4())}
        first, second = (query_id(connect().cursor(), "select 1", _statement_params=mine) for _ in range(2))
        assert first != second


class TestSeveralStatements:
    SQL = "create or replace table several (a int); insert into several values (%s), (2); select * from several order by a"

    def test_they_run_in_order_and_each_has_a_result(self, lab, connection):
        cursor = connection.cursor()
        cursor.execute(self.SQL, (1,), num_statements=0)
        assert cursor.fetchall() == [("Table SEVERAL successfully created.",)]
        assert cursor.nextset().rowcount == 2
        assert cursor.nextset().fetchall() == [(1,), (2,)]
        assert cursor.nextset() is None

    def test_asynchronously_with_one_id_and_children_by_id(self, lab, connect):
        connection = connect()
        cursor = connection.cursor()
        parent = query_id(cursor, self.SQL, params=(1,), num_statements=0)
        record = ended(lab, parent)
        assert [lab.queries[child].type for child in record.children] == ["CREATE_TABLE", "INSERT", "SELECT"]
        assert {lab.queries[child].parent_id for child in record.children} == {parent}
        data = connect().rest.request(f"/queries/{parent}/result", method="get", client="rest")["data"]
        assert data["statementTypeId"] == 0xA000
        assert data["resultIds"].split(",") == record.children
        assert data["resultTypes"] == "24576,12544,4096"
        last = connect().cursor().query_result(record.children[-1])
        assert (last.fetchall(), last.rowcount) == ([(1,), (2,)], 2)
        reading = connect().cursor()
        reading.get_results_from_sfqid(parent)
        assert reading.fetchall() == [("Table SEVERAL successfully created.",)]

    def test_they_stop_at_the_first_failure(self, lab, cursor):
        parent = query_id(cursor, "select 1; select * from nope; select 3", num_statements=0)
        record = ended(lab, parent)
        assert (record.state, record.error_code) == ("FAILED_WITH_ERROR", "002003")
        assert [lab.queries[child].state for child in record.children] == ["SUCCESS", "FAILED_WITH_ERROR"]

    def test_a_syntax_error_anywhere_runs_nothing(self, lab, cursor):
        cursor.execute("create or replace table untouched (a int)")
        parent = query_id(cursor, "insert into untouched values (1); selec 1", num_statements=2)
        assert ended(lab, parent).error_code == "001003"
        assert cursor.execute("select count(*) from untouched").fetchone() == (0,)

    @pytest.mark.parametrize(("count", "errno"), [(None, 8), (1, 8), (3, 8), (2, None), (0, None)])
    def test_the_count_must_match(self, lab, cursor, count, errno):
        parent = query_id(cursor, "select 1; select ';' -- ;\n;", num_statements=count)
        assert ended(lab, parent).error_code == (errno and f"{errno:06d}")

    def test_one_statement_is_one_query(self, lab, cursor):
        alone = query_id(cursor, "select 1;", num_statements=0)
        assert ended(lab, alone).children == []
        assert ended(lab, alone).type == "SELECT"

    def test_the_session_parameter_counts_too(self, cursor):
        cursor.execute("alter session set multi_statement_count = 0")
        cursor.execute("select 1; select 2")
        assert cursor.fetchall() == [(1,)]

    def test_server_side_binds_are_refused(self, connect):
        cursor = connect(paramstyle="qmark").cursor()
        assert failure(cursor.execute, "select ?; select ?", (1, 2), num_statements=2).errno == 2


class TestSession:
    def test_use(self, lab, cursor):
        cursor.execute("create warehouse if not exists other_wh")
        cursor.execute("create database if not exists other")
        cursor.execute("use database lab")
        cursor.execute("create schema if not exists elsewhere")
        for sql in (
            "use role sysadmin",
            "use warehouse other_wh",
            "use database other",
            "use schema lab.elsewhere",
        ):
            cursor.execute(sql)
        cursor.execute("select current_role(), current_warehouse(), current_database(), current_schema()")
        assert cursor.fetchone() == ("SYSADMIN", "OTHER_WH", "LAB", "ELSEWHERE")
        connection = cursor.connection
        assert (connection.role, connection.warehouse) == ("SYSADMIN", "OTHER_WH")
        assert (connection.database, connection.schema) == ("LAB", "ELSEWHERE")

    def test_parameters(self, connect):
        cursor = connect(session_parameters={"QUERY_TAG": "at login", "ABORT_DETACHED_QUERY": False}).cursor()
        show = "show parameters like 'query_tag' in session"
        assert cursor.execute(show).fetchone()[:4] == ("QUERY_TAG", "at login", "", "SESSION")
        cursor.execute("alter session set query_tag = 'it''s', lock_timeout = 5")
        assert cursor.execute(show).fetchone()[1] == "it's"
        cursor.execute("alter session unset query_tag, lock_timeout")
        assert cursor.execute(show).fetchone()[:4] == ("QUERY_TAG", "", "", "")

    def test_query_tags_of_session_and_statement(self, lab, connect):
        cursor = connect(session_parameters={"QUERY_TAG": "mine"}).cursor()
        cursor.execute("select 1")
        assert lab.queries[cursor.sfqid].tag == "mine"
        cursor.execute("select 1", _statement_params={"QUERY_TAG": "this one"})
        assert lab.queries[cursor.sfqid].tag == "this one"
        cursor.execute("alter session set query_tag='later'")
        parent = query_id(cursor, "select 1; select 2", num_statements=0)
        assert {lab.queries[one].tag for one in (parent, *ended(lab, parent).children)} == {"later"}

    def test_files_go_to_a_stage_and_come_back(self, cursor, tmp_path):
        (tmp_path / "rows.csv").write_text("1,x\n2,y\n")
        cursor.execute("create or replace table loaded (a int, b varchar)")
        cursor.execute("create or replace stage files")
        assert cursor.execute(f"put file://{tmp_path}/rows.csv @files").fetchone()[6] == "UPLOADED"
        cursor.execute("copy into loaded from @files file_format = (type = csv)")
        assert cursor.execute("select * from loaded order by a").fetchall() == [(1, "x"), (2, "y")]

    def test_put_is_refused_asynchronously(self, lab, cursor, tmp_path):
        (tmp_path / "rows.csv").write_text("1\n")
        cursor.connection._async_sfqids.clear()
        reply = cursor.connection.rest.request(
            f"/queries/v1/query-request?requestId={uuid.uuid4()}",
            {"sqlText": f"put file://{tmp_path}/rows.csv @~", "asyncExec": True},
            _no_results=True,
        )
        assert ended(lab, reply["data"]["queryId"]).error_code == "000002"


def test_result_scan_and_last_query_id(cursor):
    cursor.execute("select 1 as a union all select 2")
    first = cursor.sfqid
    assert cursor.execute("select last_query_id()").fetchone() == (first,)
    cursor.execute(f"select sum(a) from table(result_scan('{first}')) as r where r.a > 1")
    assert cursor.fetchone() == (2,)
    cursor.execute("show parameters like 'query_tag'")
    cursor.execute('select "key" from table(result_scan(last_query_id()))')
    assert cursor.fetchone() == ("QUERY_TAG",)


def test_threads_may_share_a_connection(connection):
    found = []

    def ask(n: int) -> None:
        found.append(connection.cursor().execute(f"select {n}, system$wait(1)").fetchone()[0])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(8))
