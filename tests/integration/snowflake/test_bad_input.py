"""What is wrong is said clearly, as early as it can be seen, and nothing is left running."""

from __future__ import annotations

import pytest

from astronomer.deferral import Hub, JobError, JobFailed, JobLost
from astronomer.deferral._compat import AirflowFailException, AirflowNotFoundException
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor
from tests.integration.snowflake.driving import Task, polls, until

WAIT = "CALL SYSTEM$WAIT(0.3)"
EMPTY = ["", "   ", ";;", "-- only a comment", "/* a; b */ ; // c", [], ["", "-- x"]]


class TestEmptySql:
    @pytest.mark.parametrize("sql", EMPTY)
    def test_when_the_dag_is_parsed(self, sql):
        with pytest.raises(ValueError, match="There is no statement in `sql`"):
            SnowflakeOperator(task_id="t", sql=sql)

    @pytest.mark.parametrize("sql", [one for one in EMPTY if isinstance(one, str)])
    def test_of_a_sensor(self, sql):
        with pytest.raises(ValueError, match="There is no statement in `sql`"):
            SnowflakeSensor(task_id="t", sql=sql)

    @pytest.mark.parametrize("operator", [SnowflakeOperator, SnowflakeSensor])
    def test_after_rendering(self, lab, operator):
        task = Task(operator, sql="{% if false %} select 1 {% endif %} -- nothing")
        with pytest.raises(ValueError, match="There is no statement in `sql`"):
            task.run()
        assert lab.requests.entries == []

    def test_of_a_file_is_not_looked_for_when_the_dag_is_parsed(self):
        SnowflakeOperator(task_id="t", sql="later.sql")
        SnowflakeOperator(task_id="t", sql=["later.sql", "-- x"])

    @pytest.mark.parametrize("piece", ["-- x", "", " ; "])
    def test_pieces_are_left_out(self, lab, user_queries, piece):
        assert Task(SnowflakeOperator, sql=[piece, "select 1", piece]).run() == [[(1,)]]


class TestConnections:
    @pytest.mark.parametrize("operator", [SnowflakeOperator, SnowflakeSensor])
    def test_that_are_missing(self, lab, operator):
        with pytest.raises(AirflowNotFoundException, match="nowhere"):
            Task(operator, sql="select 1", snowflake_conn_id="nowhere").run()
        assert lab.requests.entries == []

    def test_with_wrong_credentials(self, lab, connect_as, user_queries):
        connect_as(fields={"password": "not-it-at-all"})
        with pytest.raises(JobError) as caught:
            Task(SnowflakeOperator, sql="select 1").run()
        message = str(caught.value)
        for said in ("refused the login", "snowflake_default", "LAB_USER", "'lab'", "No query was started"):
            assert said in message
        assert "not-it-at-all" not in message
        assert lab.requests.logins == 1, "the user would be locked out"
        assert user_queries() == []

    def test_with_a_role_that_is_not_granted(self, lab):
        with pytest.raises(JobError, match=r"Role 'EMPEROR'.*not granted.* No query was started"):
            Task(SnowflakeOperator, sql="select 1", role="emperor").run()

    @pytest.mark.parametrize("sql", [WAIT, f"select 1; {WAIT}"])
    def test_with_a_warehouse_that_does_not_exist(self, lab, sql):
        with pytest.raises(
            JobFailed, match=r"000606.*\(SQLSTATE 57P03\).* see `warehouse` of the connection"
        ):
            Task(SnowflakeOperator, sql=sql, warehouse="nope").run()

    def test_that_change_their_account_while_a_query_runs(self, lab, connect_as):
        task = Task(SnowflakeOperator, sql="CALL SYSTEM$WAIT(2)")
        task.deferred()
        connect_as(account="elsewhere")
        task.wait()
        with pytest.raises(JobLost) as caught:
            task.resume()
        for said in (
            task.query_id,
            "'snowflake_default' now points to elsewhere",
            "submitted to lab",
            "may still be running",
        ):
            assert said in str(caught.value)
        connect_as()
        task.next_try()
        assert task.run() == [("waited 2 seconds",)]

    def test_that_change_their_account_before_the_results_are_read(self, lab, connect_as):
        task = Task(SnowflakeOperator, sql=WAIT)
        task.deferred()
        task.wait()
        connect_as(account="elsewhere")
        with pytest.raises(
            JobError, match=r"succeeded, but its result cannot be read: .*now points to elsewhere"
        ):
            task.resume()

    def test_that_are_deleted_while_a_query_runs(self, lab, monkeypatch, user_queries):
        task = Task(SnowflakeOperator, sql="CALL SYSTEM$WAIT(2)")
        task.deferred()
        with monkeypatch.context() as patch:
            patch.delenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT")
            task.wait()
            patch.undo()
        with pytest.raises(JobLost, match=f"{task.query_id}.*connection 'snowflake_default' is gone"):
            task.resume()
        task.next_try()
        assert task.run() == [("waited 2 seconds",)]
        assert len(user_queries("SYSTEM$WAIT(2)")) == 1

    def test_that_come_back_in_time_cost_nothing(self, lab, monkeypatch):
        task = Task(SnowflakeOperator, sql="CALL SYSTEM$WAIT(1)")
        task.deferred()

        async def blink(trigger):
            with monkeypatch.context() as patch:
                patch.delenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT")
                lines = Hub.current()._lines.values()
                await until(lambda: any(line._rejections == 1 for line in lines))

        task.wait(blink)
        assert task.resume() == (False, [("waited 1 seconds",)])


class TestParameters:
    @pytest.mark.parametrize("sql", ["select %(here)s, %(not_here)s", "select %(here)s; select %(not_here)s"])
    def test_that_are_missing_start_nothing(self, lab, user_queries, sql):
        task = Task(SnowflakeOperator, sql=sql, parameters={"here": 1})
        with pytest.raises(Exception, match="not_here"):
            task.run()
        assert user_queries() == []
        task.next_try()
        task._arguments["parameters"] = {"here": 1, "not_here": 2}
        task.run()
        assert len(user_queries("select 1")) == 1


class TestHandlers:
    def test_that_raise_are_told_as_they_are(self, lab, user_queries):
        def broken(cursor):
            raise LookupError("no such row")

        task = Task(SnowflakeOperator, sql="select 1", handler=broken)
        with pytest.raises(LookupError, match="no such row"):
            task.run()
        assert task.op.get_db_hook().query_ids == [task.query_id]
        task.next_try()
        task._arguments["handler"] = lambda cursor: cursor.fetchone()[0]
        assert task.run() == 1
        assert len(user_queries("select 1")) == 1, "the query was run twice"

    @pytest.mark.parametrize("where", ["handler", "output_processor"])
    def test_whose_output_is_no_xcom(self, lab, where):
        def odd(*_):
            return [object()]

        task = Task(SnowflakeOperator, sql="select 1", **{where: odd})
        with pytest.raises(AirflowFailException) as caught:
            task.run()
        for said in (
            task.query_id,
            "succeeded",
            "cannot become an XCom",
            "`handler` or `output_processor`",
            "object",
        ):
            assert said in str(caught.value)

    def test_whose_output_nobody_wants_may_be_anything(self, lab):
        seen = []
        task = Task(
            SnowflakeOperator,
            sql="select 1",
            handler=seen.append,
            do_xcom_push=False,
            requires_result_fetch=True,
        )
        assert task.run() is None
        assert len(seen) == 1


def test_a_dag_with_wrong_durations_does_not_parse():
    for wrong in ({"poll_interval": -1}, {"outage_tolerance": -1}, {"quick_wait": -1}):
        with pytest.raises(ValueError, match="must not be negative"):
            SnowflakeOperator(task_id="t", sql="select 1", **wrong)


def test_polls_stop_when_the_task_has_failed(lab):
    with pytest.raises(JobFailed):
        Task(SnowflakeOperator, sql="selec 1").run()
    assert len(polls(lab)) <= 3
