"""The sensors that poke: the stock rules of yes and no, pokes one at a time, and nothing left running."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from datetime import timedelta
from itertools import pairwise

import pytest
from airflow.providers.common.sql.hooks.handlers import fetch_one_handler
from airflow.providers.databricks.sensors.databricks_partition import (
    DatabricksPartitionSensor as StockPartitionSensor,
)
from airflow.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor as StockSqlSensor

from astronomer.deferral import JobCancelled, JobError, JobFailed, JobLost, JobTimedOut
from astronomer.deferral._compat import AirflowException, AirflowSensorTimeout, AirflowSkipException
from astronomer.providers.databricks.sensors.databricks_partition import (
    DatabricksPartitionSensor,
    DatabricksPartitionSensorAsync,
)
from astronomer.providers.databricks.sensors.databricks_sql import (
    DatabricksSqlSensor,
    DatabricksSqlSensorAsync,
)
from astronomer.providers.databricks.triggers.sql import DatabricksSqlSensorTrigger
from tests.integration.driving import Task, for_a_while, in_enough_time, until
from tests.unit.deferral.fakes import Count

# The stock hook asks Airflow for its own version in a way that Airflow 3.2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")

LONG = "select lab_wait(300)"
YES, NO = "select 1 as a", "select 1 as a where 1 = 0"


@pytest.fixture
def sensor(path):
    defaults = {"http_path": path, "poke_interval": 0.2, "timeout": 20.0}
    return lambda sql=YES, **arguments: Task(DatabricksSqlSensor, **{**defaults, "sql": sql, **arguments})


class TestAnswers:
    @pytest.mark.parametrize(
        ("sql", "arguments"),
        [
            (YES, {}),
            ("select 0 as a", {}),
            ("select null as a", {}),
            (f"{NO}; {YES};", {}),
            (YES, {"handler": fetch_one_handler}),
            (YES, {"do_xcom_push": False}),
            ("select '{{ 1 + 1 }}' as a", {}),
        ],
    )
    def test_of_yes(self, lab, sensor, sql, arguments):
        task = sensor(sql, **arguments)
        assert task.run() is None
        assert len(task.events) == 1
        assert task.events[0]["pokes"] == 1
        assert lab.requests.count("^/lab-storage") == 0, "rows were fetched, and only their number was wanted"

    def test_of_a_list_is_that_it_has_run_as_in_the_stock_sensor(self, lab, sensor, started):
        sensor([YES, NO]).run()
        assert [one.text for one in started()] == [YES, NO]

    def test_of_no_until_the_timeout(self, lab, sensor, started):
        def poke(timeout):
            before = len(started(NO))
            task = sensor(NO, timeout=timeout)
            with pytest.raises(AirflowSensorTimeout, match=r"not yes after \d+ pokes"):
                task.run()
            assert len(task.events) == 1, "a worker was called for a no"
            return len(started(NO)) >= before + 2

        in_enough_time(poke)

    def test_of_no_that_becomes_yes(self, lab, sensor, started):
        lab.run_sql("create or replace table switch (a int)")
        task = sensor("select * from switch")
        task.deferred()

        async def turn(trigger):
            await until(lambda: len(started("switch")) >= 2)
            await asyncio.to_thread(lab.run_sql, "insert into switch values (1)")

        task.wait(turn)
        assert task.resume() == (False, None)

    def test_of_a_handler_of_ones_own_come_from_a_worker(self, lab, sensor):
        lab.run_sql("create or replace table numbers as select 1 as n")

        def two(cursor):
            return cursor.fetchall()[1:]

        task = sensor("select n from numbers", handler=two)
        task.deferred()
        task.wait()
        assert task.resume() == (True, None)
        lab.run_sql("insert into numbers values (2)")
        task.wait()
        assert task.resume() == (False, None)
        assert task.events[-1]["pokes"] == 2

    def test_of_the_1x_name(self, lab, path, started):
        tags = {"team": "x"}
        Task(
            DatabricksSqlSensorAsync,
            sql=YES,
            http_path=path,
            query_tags=tags,
            catalog="main",
            schema="default",
        ).run()
        (statement,) = started(YES)
        assert statement.tags["team"] == "x"
        assert statement.tags["airflow_task_id"] == "task"

    def test_by_the_warehouses_name(self, lab, sensor, started):
        other = lab.warehouses.add("Sensors")
        sensor(http_path=None, sql_warehouse_name="Sensors").run()
        assert [one.compute for one in started(YES)] == [other.id]


class TestInTheWorker:
    """As the stock sensor pokes, over the connector."""

    @pytest.mark.parametrize(
        "arguments", [{"deferrable": False}, {"session_configuration": {"ansi_mode": "true"}}]
    )
    def test_of_yes_and_no(self, lab, sensor, stock, arguments):
        for kind in (StockSqlSensor, DatabricksSqlSensor):
            common = {"databricks_conn_id": stock, "poke_interval": 0.1, "timeout": 0.2, "task_id": "t"}
            more = {} if kind is StockSqlSensor else arguments
            path = {"http_path": lab.warehouses.default.path}
            Task(kind, sql=YES, **common, **more, **path).run()
            with pytest.raises(AirflowSensorTimeout):
                Task(kind, sql=NO, **common, **more, **path).run()

    def test_an_answer_counts_though_it_is_no_xcom(self, lab, sensor, stock):
        sensor(databricks_conn_id=stock, deferrable=False, do_xcom_push=False).run()


class TestFailingPokes:
    def test_fail_the_task_with_databricks_words(self, lab, sensor):
        with pytest.raises(
            JobFailed, match=r"BAD_REQUEST.*PARSE_SYNTAX_ERROR.*See https://localhost.*queryId="
        ):
            sensor("selec 1").run()

    def test_that_somebody_cancels(self, lab, sensor, started):
        task = sensor(LONG)
        task.deferred()

        async def cancel(trigger):
            (statement,) = await until(lambda: started(LONG))
            lab.cancel_statement_by_user(statement.id)

        task.wait(cancel)
        with pytest.raises(JobCancelled):
            task.resume()

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_skip_when_they_may(self, lab, sensor, flag):
        with pytest.raises(AirflowSkipException, match=f"{flag} is set"):
            sensor("selec 1", **{flag: True}).run()
        with pytest.raises(AirflowSkipException):
            sensor(NO, timeout=0.2, **{flag: True}).run()

    def test_are_silent_when_they_may(self, lab, sensor):
        lab.run_sql("drop table if exists later_still")
        task = sensor("select * from later_still", silent_fail=True)
        task.deferred()
        task.wait()
        assert task.resume() == (True, None)
        lab.run_sql("create table later_still as select 1 as a")
        task.wait()
        assert task.resume() == (False, None)

    def test_of_a_warehouse_that_does_not_exist(self, lab, sensor):
        with pytest.raises(JobFailed, match="RESOURCE_DOES_NOT_EXIST"):
            sensor(http_path="/sql/1.0/warehouses/0123456789abcdef").run()
        with pytest.raises(JobError, match="no SQL warehouse 'Nowhere'"):
            sensor(http_path=None, sql_warehouse_name="Nowhere").run()

    def test_bad_input_fails_when_the_dag_is_parsed(self):
        with pytest.raises(ValueError, match="holds no statement"):
            DatabricksSqlSensor(task_id="t", sql="", http_path="/x")
        with pytest.raises(ValueError, match="both name a warehouse"):
            DatabricksSqlSensor(task_id="t", sql=YES, http_path="/x", sql_warehouse_name="y")
        with pytest.raises(ValueError, match="must not be negative"):
            DatabricksSqlSensor(task_id="t", sql=YES, http_path="/x", poll_interval=-1)


class TestPokes:
    def test_never_overlap(self, lab, sensor, started):
        text = f"select lab_wait(0.4) as a from ({NO})"
        task = sensor(text, poke_interval=0.1, timeout=60.0)
        task.deferred()
        asyncio.run(for_a_while([task], until(lambda: task.trigger.pokes >= 3)))
        assert len(started(text)) >= 3
        for before, after in pairwise(started(text)):
            assert after.submitted_at >= before.ended_at

    def test_back_off(self, lab, sensor, started, monkeypatch):
        pause, planned = DatabricksSqlSensorTrigger._pause, {}

        def noted(trigger):
            planned[trigger.pokes] = (pause(trigger), trigger.next_poke)
            return pause(trigger)

        monkeypatch.setattr(DatabricksSqlSensorTrigger, "_pause", noted)
        pace = {"poke_interval": 0.2, "exponential_backoff": True, "max_wait": timedelta(seconds=0.6)}
        task = sensor(NO, timeout=60.0, **pace)
        task.deferred()
        asyncio.run(for_a_while([task], until(lambda: task.trigger.pokes >= 4)))
        pauses, moments = zip(*(planned[number] for number in range(5)), strict=True)
        assert pauses[1:] == (0.2, 0.4, 0.6, 0.6)
        for wanted, (before, after) in zip(pauses[1:], pairwise(moments), strict=True):
            assert after >= before + wanted
        for moment, statement in zip(moments, started(NO), strict=False):
            assert statement.submitted_at - lab.clock.now() >= moment - time.time() - 0.05

    def test_of_all_sensors_of_a_connection_share_one_login(self, lab, sensor, connect_as, started):
        connect_as(auth="oauth")
        tasks = [sensor(NO, timeout=60.0) for _ in range(6)]
        for task in tasks:
            task.deferred()
        lab.requests.clear()
        asyncio.run(for_a_while(tasks, until(lambda: all(one.trigger.pokes >= 2 for one in tasks))))
        assert lab.requests.logins == 1
        assert len(started(NO)) >= 2 * len(tasks)


class TestEnds:
    def test_the_timeout_cancels_the_poke(self, lab, sensor, started):
        def poke(seconds):
            with pytest.raises(AirflowSensorTimeout) as caught:
                sensor(LONG, timeout=seconds).run()
            return started(LONG) and "1 pokes" in str(caught.value)

        in_enough_time(poke)
        assert [one.state for one in started(LONG)] == ["CANCELED"]

    def test_the_execution_timeout_too_and_is_told_apart(self, lab, sensor, started):
        def poke(seconds):
            with pytest.raises(JobTimedOut):
                sensor(LONG, timeout=60.0, execution_timeout=timedelta(seconds=seconds)).run()
            return started(LONG)

        in_enough_time(poke)
        assert [one.state for one in started(LONG)] == ["CANCELED"]

    def test_the_timeout_is_not_renewed_by_a_worker_in_between(self, lab, sensor):
        task = sensor(YES, handler=lambda cursor: [], timeout=1.2)
        began = time.monotonic()
        with pytest.raises(AirflowSensorTimeout):
            task.run()
        assert time.monotonic() - began < 30
        assert len({event["deadline"] for event in task.events}) == 1

    @pytest.mark.parametrize(("answer", "state"), [(Count(0), "CANCELED"), (Count(1), "SUCCEEDED")])
    def test_a_user_cancels_the_poke_and_a_move_does_not(
        self, lab, sensor, supervisor, started, answer, state
    ):
        supervisor.answer = answer
        task = sensor(LONG if state == "CANCELED" else "select lab_wait(1)")
        task.deferred()

        async def kill(trigger):
            await until(lambda: trigger.job["statement_id"] and lab.requests.select("statements/[^/]+$"))
            await trigger.on_kill()

        task.wait(kill)
        assert [one.state for one in started("lab_wait")] == [state]

    def test_a_user_before_the_first_poke_cancels_nothing(self, lab, sensor, supervisor):
        supervisor.answer = Count(0)
        task = sensor(NO)
        task.deferred()
        assert task.trigger.job["statement_id"] == ""
        asyncio.run(task.trigger.on_kill())
        assert lab.requests.entries == []


class TestWeather:
    @pytest.mark.parametrize("where", ["statements/?$", "statements/[^/]+$"])
    @pytest.mark.parametrize("kind", [503, "reset", "lose_answer"])
    def test_costs_patience(self, lab, sensor, started, where, kind):
        task = sensor()
        task.deferred()
        fault = (
            lab.faults.status(503, where, times=2)
            if kind == 503
            else getattr(lab.faults, kind)(where, times=2)
        )
        task.wait()
        found = kind == "lose_answer" and where.endswith("?$")  # by the history, instead of a repetition
        assert fault.hits == (1 if found else 2)
        assert task.resume() == (False, None)
        assert len(started(YES)) == 1

    def test_that_lasts_loses_sight(self, lab, sensor):
        task = sensor(LONG, outage_tolerance=0.4)
        task.deferred()
        lab.faults.status(503, "statements/[^/]+$")
        task.wait()
        with pytest.raises(JobLost, match="503"):
            task.resume()

    def test_a_wrong_token_is_told(self, lab, sensor):
        task = sensor()
        task.deferred()
        lab.rotate_token()
        task.wait()
        with pytest.raises(JobLost, match="403"):
            task.resume()
        assert len(lab.requests.select("statements", status=403)) <= 6

    def test_a_token_that_was_rotated_between_two_pokes_is_read_again(self, lab, sensor, connect_as, started):
        task = sensor(NO, poke_interval=1.0, timeout=60.0)
        trigger = task.deferred()

        def refused():
            return lab.requests.select("statements", status=403)

        async def rotate():
            await until(lambda: trigger.pokes)
            await asyncio.sleep(0.2)  # so that nobody is asked for it now
            lab.rotate_token()
            connect_as()
            await until(lambda: refused() and trigger.pokes >= 2)

        asyncio.run(for_a_while([task], rotate()))
        assert len(refused()) == 1
        assert len(started(NO)) >= 2


@pytest.fixture
def partition(lab, path):
    lab.run_sql(
        "drop table if exists sales",
        "create table sales (n int, day date, region string) partitioned by (day, region)",
    )
    defaults = {
        "http_path": path,
        "poke_interval": 0.2,
        "timeout": 20.0,
        "table_name": "sales",
        "catalog": "main",
    }
    return lambda **arguments: Task(DatabricksPartitionSensor, **{**defaults, **arguments})


SALE = r"insert into sales values (1, date'2024-02-29', 'it\'s')"


class TestPartitions:
    @pytest.mark.parametrize(
        "partitions",
        [
            {"day": "2024-02-29"},
            {"day": dt.date(2024, 2, 29)},
            {"day": ["2024-02-28", "2024-02-29"], "region": "it's"},
            {"region": ["it's"]},
            {"day": "{{ '2024-02-29' }}"},
        ],
    )
    def test_that_are_there(self, lab, partition, started, partitions):
        lab.run_sql(SALE)
        task = partition(partitions=partitions)
        task.run()
        assert len(task.events) == 1
        assert [one.kind for one in started("sales")][-1] == "SELECT"

    def test_that_come_later_are_waited_for(self, lab, partition, started):
        task = partition(partitions={"day": "2024-02-29"})
        task.deferred()

        async def sell(trigger):
            await until(lambda: len(started("SELECT 1 FROM")) >= 2)
            await asyncio.to_thread(lab.run_sql, SALE)

        task.wait(sell)
        assert task.resume() == (False, None)
        assert len(started("DESCRIBE DETAIL")) == 1

    def test_that_do_not_come_time_out(self, lab, partition):
        with pytest.raises(AirflowSensorTimeout):
            partition(partitions={"day": "2030-01-01"}, timeout=0.6).run()

    def test_are_compared_as_was_said(self, lab, partition):
        lab.run_sql(SALE)
        partition(partitions={"day": "2024-01-01"}, partition_operator=">=").run()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"partitions": {"n": 1}}, r"Column n not part of table partitions: \['day', 'region'\]"),
            ({"partitions": {"day": "x"}, "table_name": "plain"}, "does not have partitions"),
            ({"partitions": {"day": "x"}, "table_name": "nowhere"}, "TABLE_OR_VIEW_NOT_FOUND"),
        ],
    )
    def test_of_another_table_fail_the_task(self, lab, partition, arguments, words):
        lab.run_sql("create or replace table plain as select 1 as day")
        with pytest.raises(JobFailed, match=words):
            partition(**arguments).run()

    def test_must_be_named(self):
        with pytest.raises(ValueError, match="No partitions specified"):
            DatabricksPartitionSensor(task_id="t", table_name="t", partitions={}, http_path="/x")

    def test_have_values_that_can_be_written(self, lab, partition):
        with pytest.raises(TypeError, match="string, a number, a date"):
            partition(partitions={"day": object()}).run()

    def test_in_the_worker_are_waited_for_too(self, lab, partition, stock):
        how = {"deferrable": False, "databricks_conn_id": stock, "partitions": {"day": "2024-02-29"}}
        with pytest.raises(AirflowSensorTimeout):
            partition(timeout=0.3, **how).run()
        lab.run_sql(SALE)
        partition(**how).run()
        with pytest.raises(AirflowException, match="Column n not part"):
            partition(**{**how, "partitions": {"n": 1}}).run()

    def test_are_asked_for_as_by_the_stock_sensor(self, lab, partition, stock, path, started):
        lab.run_sql(SALE)
        partitions = {"day": "2024-02-29", "region": ["it's", "b"]}
        texts = []
        for kind, where in (
            (StockPartitionSensor, {"databricks_conn_id": stock}),
            (DatabricksPartitionSensorAsync, {}),
        ):
            Task(
                kind, table_name="sales", catalog="main", partitions=partitions, http_path=path, **where
            ).run()
            texts.append(" ".join(started("SELECT 1 FROM")[-1].text.split()))
        stock_text, text = texts
        assert stock_text.replace(" in (\"it's\", 'b')", r" IN ('it\'s', 'b')") == text


def test_template_fields_are_the_stock_ones():
    assert DatabricksSqlSensor.template_fields == StockSqlSensor.template_fields
    assert DatabricksPartitionSensor.template_fields == StockPartitionSensor.template_fields
