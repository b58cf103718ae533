"""The operator and the sensor of one statement: stock arguments and XComs, exactly one statement, one outcome."""

from __future__ import annotations

from datetime import timedelta

import pytest
import tenacity
from airflow.providers.databricks.operators.databricks import (
    DatabricksSQLStatementsOperator as StockStatementsOperator,
)
from airflow.providers.databricks.sensors.databricks import (
    DatabricksSQLStatementsSensor as StockStatementsSensor,
)

from astronomer.deferral import JobCancelled, JobLost, JobTimedOut
from astronomer.deferral._compat import AirflowSensorTimeout, AirflowSkipException
from astronomer.providers.databricks.operators.statements import (
    DatabricksSQLStatementsOperator,
    DatabricksSQLStatementsOperatorAsync,
    StatementFailed,
)
from astronomer.providers.databricks.sensors.databricks import (
    DatabricksSQLStatementsSensor,
    DatabricksSQLStatementsSensorAsync,
)
from tests.integration.driving import DyingStore, Killed, Task, until, until_now
from tests.unit.deferral.fakes import Count

# The stock hook asks Airflow for its own version in a way that Airflow 3.2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")

WAIT, LONG = "select lab_wait(0.3) as waited", "select lab_wait(300)"
SUBMIT = "statements/?$"
BOTH = [DatabricksSQLStatementsOperator, DatabricksSQLStatementsSensor]


@pytest.fixture
def work(lab):
    warehouse_id = lab.warehouses.default.id
    return lambda kind=DatabricksSQLStatementsOperator, statement=WAIT, **arguments: Task(
        kind, **{"statement": statement, "warehouse_id": warehouse_id, **arguments}
    )


class TestParity:
    @pytest.mark.parametrize(
        ("ours", "stock"),
        [
            (DatabricksSQLStatementsOperatorAsync, StockStatementsOperator),
            (DatabricksSQLStatementsSensorAsync, StockStatementsSensor),
        ],
    )
    def test_of_what_is_sent_and_pushed(self, lab, work, started, ours, stock):
        arguments = {
            "statement": "select :a as a, current_schema() as s",
            "parameters": [{"name": "a", "value": "7", "type": "INT"}],
            "catalog": "main",
            "schema": "default",
            "query_tags": {"team": "x"},
        }
        results = []
        for kind in (stock, ours):
            task = work(kind, **arguments, **({"deferrable": True} if kind is stock else {}))
            results.append(task.run())
            assert task.ti.xcoms["statement_id"] == started("select :a")[-1].id
        assert results == [None, None]
        his, mine = started("select :a")
        assert mine.tags.pop("airflow_submit_key")
        assert mine.tags | {"airflow_run_id": ""} == his.tags | {"airflow_run_id": ""}
        for same in ("text", "parameters", "shape", "compute", "state"):
            assert getattr(mine, same) == getattr(his, same)

    @pytest.mark.parametrize(
        ("ours", "stock"),
        [
            (DatabricksSQLStatementsOperator, StockStatementsOperator),
            (DatabricksSQLStatementsSensor, StockStatementsSensor),
        ],
    )
    def test_of_template_fields(self, ours, stock):
        assert set(stock.template_fields) <= set(ours.template_fields)
        assert "warehouse_id" in ours.template_fields
        assert len(set(ours.template_fields)) == len(ours.template_fields)

    @pytest.mark.parametrize("kind", BOTH)
    def test_no_xcom_is_pushed_when_none_is_wanted(self, lab, work, kind):
        task = work(kind, do_xcom_push=False)
        task.run()
        assert "statement_id" not in task.ti.xcoms

    @pytest.mark.parametrize("kind", BOTH)
    def test_of_not_waiting(self, lab, work, started, kind):
        task = work(kind, LONG, wait_for_termination=False)
        assert task.start() == (False, None)
        (statement,) = started(LONG)
        assert task.ti.xcoms["statement_id"] == statement.id
        assert not statement.ended

    @pytest.mark.parametrize("kind", BOTH)
    def test_of_the_pace(self, lab, kind):
        made = {"task_id": "t", "statement": "select 1", "warehouse_id": "w"}
        assert kind(**made).poll_interval == kind(**made).polling_period_seconds == 30
        assert kind(**made, polling_period_seconds=7).poll_interval == 7
        assert kind(**made, polling_period_seconds=7, poll_interval=3).poll_interval == 3
        assert kind(**made, polling_period_seconds=3600).poll_interval == 600  # else Databricks may end it

    def test_of_the_retry_arguments(self, lab):
        patience = {"stop": tenacity.stop_after_delay(7), "wait": tenacity.wait_fixed(1)}
        made = {
            "task_id": "t",
            "statement": "select 1",
            "warehouse_id": "w",
            "databricks_retry_args": patience,
        }
        assert DatabricksSQLStatementsOperator(**made).outage_tolerance == 7
        assert DatabricksSQLStatementsOperator(**made, outage_tolerance=3).outage_tolerance == 3


class TestBadInput:
    @pytest.mark.parametrize("statement", ["", " ; ", "-- nothing"])
    def test_fails_when_the_dag_is_parsed(self, statement):
        with pytest.raises(ValueError, match="holds no statement"):
            DatabricksSQLStatementsOperator(statement=statement, warehouse_id="w", task_id="t")
        with pytest.raises(ValueError, match="warehouse_id"):
            DatabricksSQLStatementsOperator(statement="select 1", warehouse_id="", task_id="t")
        with pytest.raises(ValueError, match="exactly one"):
            DatabricksSQLStatementsSensor(
                warehouse_id="w", statement="select 1", statement_id="x", task_id="t"
            )

    def test_of_the_sensor_fails_when_it_is_rendered(self, lab):
        with pytest.raises(ValueError, match="One of either"):
            Task(DatabricksSQLStatementsSensor, warehouse_id="w", statement_id="{{ '' }}").run()

    @pytest.mark.parametrize("kind", BOTH)
    def test_of_databricks(self, lab, work, kind):
        with pytest.raises(StatementFailed, match=r"BAD_REQUEST.*PARSE_SYNTAX_ERROR.*queryId="):
            work(kind, "selec 1").run()
        with pytest.raises(StatementFailed, match="RESOURCE_DOES_NOT_EXIST"):
            work(kind, warehouse_id="0123456789abcdef").run()


@pytest.mark.parametrize("kind", BOTH)
class TestOnce:
    def test_through_a_lost_answer(self, lab, work, started, kind):
        fault = lab.faults.lose_answer(SUBMIT, method="POST", times=1)
        work(kind).run()
        assert fault.hits == 1
        assert len(started(WAIT)) == 1

    @pytest.mark.parametrize("write", [1, 2])
    @pytest.mark.parametrize("waits", [True, False])
    def test_when_the_worker_dies(self, lab, work, started, kind, write, waits):
        store = DyingStore()
        store.dies_at = write
        task = work(kind, store=store, wait_for_termination=waits)
        with pytest.raises(Killed):
            task.start()
        task.next_try()
        task.run()
        assert len(started(WAIT)) == 1
        assert task.ti.xcoms["statement_id"] == started(WAIT)[0].id

    def test_a_clear_ends_the_earlier_one(self, lab, work, started, kind):
        task = work(kind, LONG)
        task.deferred()
        task.clear()
        task.deferred()
        first, second = started(LONG)
        assert (first.state, second.ended) == ("CANCELED", False)


@pytest.mark.parametrize("kind", BOTH)
class TestEnds:
    def test_the_timeout_cancels_the_statement(self, lab, work, started, kind):
        task = work(kind, LONG, timeout=0.6)
        error = JobTimedOut if kind is DatabricksSQLStatementsOperator else AirflowSensorTimeout
        with pytest.raises(error, match=r"did not end before its `timeout` of 0.6 s; it was cancelled"):
            task.run()
        assert [one.state for one in started(LONG)] == ["CANCELED"]

    def test_the_execution_timeout_too(self, lab, work, started, kind):
        task = work(kind, LONG, execution_timeout=timedelta(seconds=0.6))
        with pytest.raises(JobTimedOut, match="execution_timeout"):
            task.run()
        assert [one.state for one in started(LONG)] == ["CANCELED"]

    def test_a_user_cancels_it(self, lab, work, supervisor, started, kind):
        supervisor.answer = Count(0)
        task = work(kind, LONG)
        task.deferred()

        async def kill(trigger):
            await until(lambda: lab.requests.select("statements/[^/]+$"))
            await trigger.on_kill()

        task.wait(kill)
        with pytest.raises(JobCancelled):
            task.resume()
        assert [one.state for one in started(LONG)] == ["CANCELED"]

    def test_in_the_worker_it_waits_too(self, lab, work, started, kind):
        assert work(kind, deferrable=False).start() == (False, None)
        assert [one.state for one in started(WAIT)] == ["SUCCEEDED"]

    def test_a_result_that_was_consumed_is_a_success(self, lab, work, started, kind):
        lab.sql.consume_inline = True
        work(kind, "select 1 as a").run()
        assert [one.state for one in started("as a")] == ["CLOSED"]

    def test_bad_weather_is_survived_and_an_outage_loses_sight(self, lab, work, kind):
        task = work(kind)
        task.deferred()
        fault = lab.faults.status(503, "statements/[^/]+$", times=3)
        task.wait()
        assert task.resume() == (False, None)
        assert fault.hits == 3
        task = work(kind, LONG, outage_tolerance=0.3)
        task.deferred()
        lab.faults.status(503, "statements/[^/]+$")
        task.wait()
        with pytest.raises(JobLost):
            task.resume()


class TestSensor:
    def submitted(self, work, text):
        task = work(statement=text, wait_for_termination=False)
        task.start()
        return task.ti.xcoms["statement_id"]

    def test_waits_for_a_statement_that_was_given(self, lab, work, started):
        statement_id = self.submitted(work, WAIT)
        task = work(DatabricksSQLStatementsSensor, None, statement_id=f"{{{{ '{statement_id}' }}}}")
        task.run()
        assert task.events
        assert len(started(WAIT)) == 1
        assert task.ti.xcoms["statement_id"] == statement_id

    def test_waits_on_for_it_after_a_clear(self, lab, work, started):
        statement_id = self.submitted(work, LONG)
        task = work(DatabricksSQLStatementsSensor, None, statement_id=statement_id)
        task.deferred()
        task.clear()
        task.deferred()
        assert not started(LONG)[0].ended

    def test_fails_with_a_statement_that_was_given(self, lab, work):
        statement_id = self.submitted(work, "selec 1")
        until_now(lambda: lab.statements[statement_id].ended)
        task = work(DatabricksSQLStatementsSensor, None, statement_id=statement_id)
        with pytest.raises(StatementFailed, match="PARSE_SYNTAX_ERROR"):
            task.run()

    def test_does_not_find_a_statement_that_never_was(self, lab, work, monkeypatch):
        monkeypatch.setattr("astronomer.providers.databricks.jobs.statement.APPEARS_WITHIN", 0.0)
        task = work(DatabricksSQLStatementsSensor, None, statement_id="01f00000-0000-1000-8000-000000000000")
        with pytest.raises(JobLost, match="does not show Databricks statement 01f00000"):
            task.run()

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    @pytest.mark.parametrize("quick_wait", [0, 5])
    def test_skips_when_it_may(self, lab, work, flag, quick_wait):
        task = work(DatabricksSQLStatementsSensor, "selec 1", quick_wait=quick_wait, **{flag: True})
        with pytest.raises(AirflowSkipException, match=f"{flag} is set"):
            task.run()
