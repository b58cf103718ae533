"""A transaction stays open until somebody ends it, and holds its locks until then."""

import pytest
from snowflake.connector.errors import ProgrammingError

from tests.lab.conftest import ended, query_id, until


@pytest.fixture
def table(connect):
    connect().cursor().execute("create or replace table kept as select 1 as a, 'old' as b")


@pytest.fixture
def rows(connect, table):
    reader = connect().cursor()
    return lambda: reader.execute("select * from kept order by a").fetchall()


def test_nothing_is_seen_before_the_commit(cursor, rows, lab):
    cursor.execute("begin transaction name mine")
    cursor.execute("insert into kept values (2, 'new')")
    [transaction] = lab.open_transactions()
    assert (transaction.name, transaction.user) == ("mine", "LAB_USER")
    assert lab.queries[cursor.sfqid].transaction == transaction.id
    assert cursor.execute("select current_transaction()").fetchone() == (str(transaction.id),)
    assert rows() == [(1, "old")]
    cursor.execute("commit")
    assert rows() == [(1, "old"), (2, "new")]
    assert lab.open_transactions() == []


def test_rollback(cursor, rows):
    cursor.execute("begin")
    cursor.execute("delete from kept")
    cursor.execute("rollback")
    assert rows() == [(1, "old")]


def test_without_autocommit_the_first_change_opens_one(connect, rows, lab):
    cursor = connect(autocommit=False).cursor()
    cursor.execute("select * from kept")
    assert lab.open_transactions() == []
    cursor.execute("insert into kept values (2, 'new')")
    assert [one.session_id for one in lab.open_transactions()] == [cursor.connection.session_id]
    assert rows() == [(1, "old")]
    cursor.connection.commit()
    assert len(rows()) == 2


def test_turning_autocommit_on_commits(connect, rows):
    connection = connect(autocommit=False)
    connection.cursor().execute("insert into kept values (2, 'new')")
    connection.autocommit(True)
    assert len(rows()) == 2


def test_ddl_commits_what_is_open(cursor, rows, lab):
    cursor.execute("begin")
    cursor.execute("insert into kept values (2, 'new')")
    cursor.execute("create or replace table other_table (a int)")
    assert lab.open_transactions() == []
    assert len(rows()) == 2


@pytest.mark.parametrize(
    "failing", ["insert into kept select 'x'::int, 'y'", "select * from nope", "selec 1"]
)
def test_a_failure_undoes_the_statement_and_keeps_the_transaction(cursor, rows, lab, failing):
    cursor.execute("begin")
    cursor.execute("insert into kept values (2, 'new')")
    with pytest.raises(ProgrammingError):
        cursor.execute(failing)
    assert len(lab.open_transactions()) == 1
    assert cursor.execute("select count(*) from kept").fetchone() == (2,)
    cursor.execute("insert into kept values (3, 'new')")
    assert rows() == [(1, "old")]
    cursor.execute("commit")
    assert [a for a, _ in rows()] == [1, 2, 3]


def test_a_failed_block_leaves_it_open_in_its_session(connect, rows, lab):
    session = connect(server_session_keep_alive=True)
    parent = query_id(
        session.cursor(), "begin; update kept set b = 'new'; select * from nope; commit", num_statements=0
    )
    assert ended(lab, parent).state == "FAILED_WITH_ERROR"
    session.close()
    [transaction] = lab.open_transactions()
    other = connect().cursor()
    other.execute("show transactions")
    names = [column.name for column in other.description]
    shown = dict(zip(names, other.fetchone(), strict=True))
    assert (shown["id"], shown["session"]) == (transaction.id, transaction.session_id)
    assert (shown["user"], shown["state"]) == ("LAB_USER", "running")
    blocked = query_id(other, "update kept set b = 'mine'")
    until(lambda: lab.queries[blocked].state == "BLOCKED")
    assert rows() == [(1, "old")]
    reply = connect().cursor().execute(f"select system$abort_transaction({transaction.id})").fetchone()[0]
    assert reply == f"Aborted transaction id: {transaction.id}"
    assert ended(lab, blocked).state == "SUCCESS"
    assert rows() == [(1, "mine")]
    assert lab.open_transactions() == []


def test_an_unknown_transaction_cannot_be_aborted(cursor):
    with pytest.raises(ProgrammingError, match="Transaction 1 is not open"):
        cursor.execute("select system$abort_transaction(1)")


def test_writers_of_one_table_wait_for_each_other_and_inserts_do_not(connect, rows, lab):
    first, second = connect().cursor(), connect().cursor()
    first.execute("begin")
    first.execute("update kept set b = 'first'")
    second.execute("begin")
    second.execute("insert into kept values (2, 'second')")
    waiting = query_id(second, "update kept set b = 'second' where a = 1")
    until(lambda: lab.queries[waiting].state == "BLOCKED")
    assert rows() == [(1, "old")]
    first.execute("show locks")
    assert first.fetchone()[0] == "LAB.PUBLIC.KEPT"
    first.execute("commit")
    assert ended(lab, waiting).state == "SUCCESS"
    second.execute("commit")
    assert rows() == [(1, "second"), (2, "second")]


def test_a_blocked_writer_gives_up_after_lock_timeout_and_can_be_cancelled(connect, table, lab):
    first, second = connect().cursor(), connect().cursor()
    first.execute("begin")
    first.execute("delete from kept")
    second.execute("alter session set lock_timeout = 2")
    with pytest.raises(ProgrammingError) as error:
        second.execute("delete from kept")
    assert error.value.errno == 625
    second.execute("alter session unset lock_timeout")
    waiting = query_id(
        second, "merge into kept k using (select 1 as a) s on k.a = s.a when matched then delete"
    )
    until(lambda: lab.queries[waiting].state == "BLOCKED")
    assert second.abort_query(waiting)
    assert ended(lab, waiting).error_code == "000604"
    first.execute("rollback")
    second.execute("delete from kept")


def test_a_cancelled_statement_is_undone_alone(connect, rows, lab):
    cursor = connect().cursor()
    cursor.execute("begin")
    cursor.execute("insert into kept values (2, 'new')")
    running = query_id(
        cursor,
        "insert into kept select count(*), 'slow' from (select seq4() as x from table(generator(rowcount => 100000))) a,"
        " (select seq4() as y from table(generator(rowcount => 2000000))) b where hash(a.x + b.y) % 7 = 0",
    )
    until(lambda: lab.queries[running].transaction)
    assert cursor.abort_query(running)
    assert ended(lab, running).error_code == "000604"
    cursor.execute("commit")
    assert rows() == [(1, "old"), (2, "new")]


def test_expiry_of_the_session_rolls_back(connect, rows, lab):
    connection = connect()
    connection.cursor().execute("begin")
    connection.cursor().execute("delete from kept")
    lab.expire_masters()
    until(lambda: not lab.open_transactions())
    reader = connect().cursor()
    assert reader.execute("select count(*) from kept").fetchone() == (1,)
    reader.execute("delete from kept")  # the lock is gone too


class TestScripting:
    BLOCK = (
        "execute immediate $$ begin begin transaction; insert into kept values (2, 'new'); {} commit;"
        " exception when other then rollback; raise; end $$"
    )

    def test_all(self, cursor, rows, lab):
        cursor.execute(self.BLOCK.format(""))
        assert len(rows()) == 2
        assert [lab.queries[child].type for child in lab.queries[cursor.sfqid].children] == [
            "BEGIN_TRANSACTION",
            "INSERT",
            "COMMIT",
        ]

    def test_or_nothing(self, cursor, rows, lab):
        with pytest.raises(ProgrammingError) as error:
            cursor.execute(self.BLOCK.format("select * from nope;"))
        assert error.value.errno == 2003
        assert rows() == [(1, "old")]
        assert lab.open_transactions() == []

    def test_one_statement(self, cursor):
        assert cursor.execute("execute immediate 'select 1'").fetchone() == (1,)
