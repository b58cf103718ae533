"""The unmodified hook, operators and trigger of ``apache-airflow-providers-snowflake``."""

import asyncio
from datetime import timedelta
from unittest.mock import MagicMock

import aiohttp
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.providers.common.sql.hooks.handlers import fetch_all_handler
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiHook, SnowflakeSqlApiOperator
from airflow.providers.snowflake.triggers.snowflake_trigger import SnowflakeSqlApiTrigger

from tests.held import held
from tests.lab.conftest import ended, until

AUTHS = ["password", "key_pair", "key_pair_encrypted", "oauth", "pat"]


@pytest.fixture
def conn_id(lab, monkeypatch):
    for auth in AUTHS:
        for name, value in lab.connection_env(auth, auth).items():
            monkeypatch.setenv(name, value)
    return "password"


@pytest.fixture
def sql_api(lab, conn_id):
    """The built-in host name leads to the lab, and aiohttp trusts it."""
    aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(str(lab.ca_file))
    with lab.redirected():
        yield "key_pair"


def context():
    """The little of a task's context that the operators touch."""
    return {"ti": MagicMock(), "task_instance": MagicMock(stats_tags={}), "dag_run": MagicMock()}


class TestHook:
    @pytest.mark.parametrize("auth", AUTHS)
    def test_every_authentication(self, lab, conn_id, auth):
        hook = SnowflakeHook(auth)
        assert hook.get_first("select current_user(), current_warehouse()") == ("LAB_USER", "COMPUTE_WH")
        assert lab.logins[-1].ok

    def test_run_with_everything(self, lab, conn_id):
        hook = SnowflakeHook(conn_id, session_parameters={"QUERY_TAG": "hook"})
        results = hook.run(
            "create or replace table hooked (a int); insert into hooked values (%(a)s), (2); select * from hooked",
            handler=fetch_all_handler,
            parameters={"a": 1},
            return_last=False,
            split_statements=True,
        )
        assert [list(rows) for rows in results][2] == [(1,), (2,)]
        assert [lab.queries[one].tag for one in hook.query_ids] == ["hook"] * 3
        assert [d[0].name for d in hook.descriptions] == ["status", "number of rows inserted", "A"]
        assert lab.open_transactions() == []

    def test_a_block_in_one_call(self, lab, conn_id):
        hook = SnowflakeHook(conn_id)
        hook.run("create or replace table blocked (a int)")
        hook.run("begin; insert into blocked values (1); commit;", split_statements=False)
        assert hook.get_records("select * from blocked") == [(1,)]

    def test_without_autocommit_a_failure_changes_nothing(self, conn_id):
        from snowflake.connector.errors import ProgrammingError

        hook = SnowflakeHook(conn_id)
        hook.run("create or replace table atomic (a int)")
        with pytest.raises(ProgrammingError, match="NOPE"):
            hook.run(["insert into atomic values (1)", "select * from nope"], autocommit=False)
        assert hook.get_records("select * from atomic") == []

    def test_connection_test_and_sqlalchemy_and_pandas(self, conn_id):
        hook = SnowflakeHook(conn_id)
        assert hook.test_connection()[0]
        with hook.get_conn() as connection:
            assert connection.is_valid()

    def test_the_stock_operator(self, lab, conn_id):
        operator = SQLExecuteQueryOperator(
            task_id="t",
            conn_id=conn_id,
            sql=["create or replace table operated as select 1 as a", "select * from operated"],
            hook_params={"warehouse": "COMPUTE_WH"},
        )
        assert operator.execute(context()) == [[("Table OPERATED successfully created.",)], [(1,)]]


class TestSqlApi:
    @pytest.mark.parametrize("auth", ["key_pair", "key_pair_encrypted", "oauth", "pat"])
    def test_the_hook_with_every_authentication(self, lab, sql_api, auth):
        hook = SnowflakeSqlApiHook(auth)
        [handle] = hook.execute_query("select current_user() as u", statement_count=1, query_tag="api")
        assert hook.wait_for_query(handle, raise_error=True, poll_interval=0)["status"] == "success"
        assert hook.get_result_from_successful_sql_api_query(handle) == [{"U": "LAB_USER"}]
        assert lab.queries[handle].tag == "api"

    def test_the_operator_waiting_in_the_worker(self, lab, sql_api):
        operator = SnowflakeSqlApiOperator(
            task_id="t",
            snowflake_conn_id=sql_api,
            sql="select 1; select 2",
            statement_count=2,
            poll_interval=0.05,
        )
        operator.execute(context())
        assert {lab.queries[one].state for one in operator.query_ids} == {"SUCCESS"}

    async def test_the_operator_deferred(self, lab, sql_api):
        operator = SnowflakeSqlApiOperator(
            task_id="t",
            snowflake_conn_id=sql_api,
            sql="select system$wait(20)",
            statement_count=1,
            deferrable=True,
        )
        with held(lab), pytest.raises(TaskDeferred) as deferred:
            await asyncio.to_thread(operator.execute, context())
        path, arguments = deferred.value.trigger.serialize()
        assert path.endswith("SnowflakeSqlApiTrigger")
        trigger = SnowflakeSqlApiTrigger(**{**arguments, "poll_interval": 0.05})
        event = await anext(trigger.run())
        assert event.payload["status"] == "success"
        assert event.payload["statement_query_ids"] == operator.query_ids
        await asyncio.to_thread(operator.execute_complete, context(), event.payload)
        assert lab.requests.count("/api/v2/statements/", method="GET", status=202) >= 1

    async def test_the_trigger_reports_a_failure(self, lab, sql_api):
        hook = SnowflakeSqlApiHook(sql_api)
        [handle] = await asyncio.to_thread(hook.execute_query, "select * from nope", 1)
        event = await anext(trigger(sql_api, handle).run())
        assert event.payload["status"] == "error"
        assert "Object 'NOPE' does not exist" in event.payload["message"]

    async def test_the_trigger_cancels_when_killed(self, lab, sql_api):
        hook = SnowflakeSqlApiHook(sql_api)
        [handle] = await asyncio.to_thread(hook.execute_query, "select system$wait(600)", 1)
        await trigger(sql_api, handle).on_kill()
        assert (await asyncio.to_thread(ended, lab, handle)).error_code == "000604"

    async def test_one_500_ends_the_stock_trigger_while_the_query_runs_on(self, lab, sql_api):
        hook = SnowflakeSqlApiHook(sql_api)
        [handle] = await asyncio.to_thread(hook.execute_query, "select system$wait(600)", 1)
        lab.faults.status(500, "/api/v2/statements/", times=1)
        event = await anext(trigger(sql_api, handle).run())
        assert event.payload["status"] == "error"
        assert lab.queries[handle].state == "RUNNING"
        assert lab.abort_by_admin(handle)
        until(lambda: lab.queries[handle].finished)


def trigger(conn_id: str, *handles: str) -> SnowflakeSqlApiTrigger:
    return SnowflakeSqlApiTrigger(0.05, list(handles), conn_id, timedelta(minutes=59), timedelta(minutes=54))
