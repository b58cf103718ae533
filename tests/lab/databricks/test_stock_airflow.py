"""The unmodified hook, operators, workflow and triggers of ``apache-airflow-providers-databricks``."""

import asyncio
from unittest.mock import MagicMock

import aiohttp
import pytest
from airflow.exceptions import AirflowException
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.providers.databricks.operators.databricks import (
    DatabricksCreateJobsOperator,
    DatabricksNotebookOperator,
    DatabricksRunNowOperator,
    DatabricksSubmitRunOperator,
    DatabricksTaskOperator,
)
from airflow.providers.databricks.operators.databricks_workflow import DatabricksWorkflowTaskGroup
from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

from tests.lab.conftest import until
from tests.lab.databricks.conftest import Api, wait

PERIOD = 0.05
pytestmark = [  # what the stock hook calls
    pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated"),
    pytest.mark.filterwarnings("ignore:BasicAuth is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated"),
]


@pytest.fixture(params=["pat", "oauth"])
def conn_id(request, lab, monkeypatch):
    return connection(lab, monkeypatch, request.param)


@pytest.fixture
def pat(lab, monkeypatch):
    return connection(lab, monkeypatch, "pat")


def connection(lab, monkeypatch, auth):
    """The hook's OAuth endpoint has no port, so that connection names a host that is redirected."""
    for name, value in lab.connection_env(f"lab_{auth}", auth, cloud=auth == "oauth").items():
        monkeypatch.setenv(name, value)
    return f"lab_{auth}"


@pytest.fixture(autouse=True)
def trusted(lab):
    aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(str(lab.ca_file))
    with lab.redirected():
        yield


class Context(dict):
    """The little of a task's context that the operators touch."""

    def __init__(self):
        task_instance = MagicMock(stats_tags={})
        self.pushed = {}
        task_instance.xcom_push.side_effect = lambda key, value, **_: self.pushed.__setitem__(key, value)
        super().__init__(ti=task_instance, task_instance=task_instance, dag_run=MagicMock(), params={})


def task(**parameters: str):
    return {"notebook_path": "/lab/wait", "base_parameters": parameters}


async def deferred(lab, operator, context, seconds=1000):
    """Run an operator until it defers, let its work end, run its trigger to its event, and return that event."""
    with pytest.raises(TaskDeferred) as left:
        await asyncio.to_thread(operator.execute, context)
    path, arguments = left.value.trigger.serialize()
    assert path.endswith("DatabricksExecutionTrigger")
    lab.advance(seconds)
    event = await anext(DatabricksExecutionTrigger(**{**arguments, "polling_period_seconds": PERIOD}).run())
    return event.payload


class TestHook:
    def test_a_run_from_its_start_to_its_end(self, lab, conn_id):
        hook = DatabricksHook(conn_id)
        run_id = hook.submit_run({"tasks": [wait(seconds=600)]})
        assert hook.get_run_state(run_id).life_cycle_state == "RUNNING"
        assert hook.get_run_page_url(run_id) == lab.runs[run_id].url
        hook.cancel_run(run_id)
        until(lambda: hook.get_run_state(run_id).is_terminal)
        assert hook.get_run_state(run_id).result_state == "CANCELED"
        hook.delete_run(run_id)
        assert run_id not in lab.runs

    async def test_asynchronously(self, lab, conn_id):
        run_id = await asyncio.to_thread(lab.seed, 1, seconds=0, fail="boom")
        async with DatabricksHook(conn_id) as hook:
            run = await hook.a_get_run(run_id[0])
            assert (await hook.a_get_run_state(run_id[0])).result_state == "FAILED"
            output = await hook.a_get_run_output(run["tasks"][0]["run_id"])
            assert output["error"] == "Exception: boom"
            assert await hook.a_get_run_page_url(run_id[0]) == run["run_page_url"]

    def test_jobs(self, conn_id):
        hook = DatabricksHook(conn_id)
        job_id = hook.create_job({"name": f"by {conn_id}", "tasks": [wait(fail="boom")]})
        assert hook.find_job_id_by_name(f"by {conn_id}") == job_id
        run_id = hook.run_now({"job_id": job_id})
        until(lambda: hook.get_run_state(run_id).is_terminal)
        hook.update_job(job_id, {"tasks": [wait()]})
        assert hook.get_latest_repair_id(run_id) is None
        repair_id = hook.repair_run({"run_id": run_id, "rerun_all_failed_tasks": True})
        until(lambda: hook.get_run_state(run_id).is_successful)
        assert hook.get_latest_repair_id(run_id) == repair_id
        hook.cancel_all_runs(job_id)
        assert hook.test_connection()[0]

    def test_one_token_serves_many_requests(self, lab, monkeypatch):
        hook = DatabricksHook(connection(lab, monkeypatch, "oauth"))
        for _ in range(3):
            hook.list_jobs()
        assert lab.requests.logins == 1


class TestWaitingInTheWorker:
    def test_run_now(self, lab, conn_id):
        job_id = lab_job(lab, wait(result="fine"))
        context = Context()
        DatabricksRunNowOperator(
            task_id="t", databricks_conn_id=conn_id, job_id=job_id, polling_period_seconds=PERIOD
        ).execute(context)
        assert lab.runs[context.pushed["run_id"]].state.result == "SUCCESS"
        assert context.pushed["run_page_url"].startswith(lab.url)

    def test_submit_in_the_format_of_one_task(self, lab, pat):
        operator = DatabricksSubmitRunOperator(
            task_id="one_task",
            databricks_conn_id=pat,
            notebook_task=task(fail="boom"),
            new_cluster={"spark_version": "16.4.x-scala2.12", "num_workers": 1},
            polling_period_seconds=PERIOD,
        )
        with pytest.raises(AirflowException, match="Exception: boom"):
            operator.execute(Context())

    def test_create_a_job_then_reset_it(self, lab, pat):
        created = [
            DatabricksCreateJobsOperator(
                task_id="t", databricks_conn_id=pat, name="created", tasks=[wait(key)], max_concurrent_runs=2
            ).execute(Context())
            for key in ("a", "b")
        ]
        assert len(set(created)) == 1
        assert lab.workspace.jobs.find(created[0]).settings["tasks"][0]["task_key"] == "b"

    @pytest.mark.parametrize("fail", ["", "boom"])
    def test_notebooks_and_tasks(self, lab, pat, fail):
        operators = (
            DatabricksNotebookOperator(
                task_id="notebook",
                databricks_conn_id=pat,
                notebook_path="/lab/wait",
                source="WORKSPACE",
                notebook_params={"fail": fail},
                existing_cluster_id="c",
                polling_period_seconds=PERIOD,
            ),
            DatabricksTaskOperator(
                task_id="task",
                databricks_conn_id=pat,
                task_config={"notebook_task": task(fail=fail), "max_retries": 1},
                existing_cluster_id="c",
                polling_period_seconds=PERIOD,
            ),
        )
        for operator in operators:
            if fail:
                with pytest.raises(AirflowException, match=r"Exception: boom|Workload failed"):
                    operator.execute(Context())
            else:
                operator.execute(Context())


class TestDeferred:
    async def test_run_now(self, lab, conn_id):
        job_id = lab_job(lab, wait(seconds=400))
        context = Context()
        operator = DatabricksRunNowOperator(
            task_id="t", databricks_conn_id=conn_id, job_id=job_id, deferrable=True
        )
        event = await deferred(lab, operator, context)
        assert event["run_id"] == context.pushed["run_id"]
        await asyncio.to_thread(operator.execute_complete, context, event)

    async def test_submit_that_fails(self, lab, pat):
        operator = DatabricksSubmitRunOperator(
            task_id="t",
            databricks_conn_id=pat,
            tasks=[wait(seconds=400, fail="boom"), wait("b", "a")],
            deferrable=True,
        )
        context = Context()
        event = await deferred(lab, operator, context)
        assert [one["error"] for one in event["errors"]] == ["Exception: boom"]
        with pytest.raises(AirflowException, match="Exception: boom"):
            await asyncio.to_thread(operator.execute_complete, context, event)

    async def test_a_run_that_is_repaired(self, lab, pat):
        job_id = lab_job(lab, wait(seconds=400, fail="boom"))
        operator = DatabricksRunNowOperator(
            task_id="t",
            databricks_conn_id=pat,
            job_id=job_id,
            deferrable=True,
            repair_run=True,
            databricks_repair_reason_new_settings={"Workload failed": {"tasks": [wait(seconds=400)]}},
        )
        context = Context()
        event = await deferred(lab, operator, context)
        with pytest.raises(TaskDeferred):
            await asyncio.to_thread(
                operator.execute_complete, context, {**event, "errors": "Workload failed"}
            )
        lab.advance(1000)
        run = lab.runs[event["run_id"]]
        assert (run.state.result, len(run.repairs)) == ("SUCCESS", 2)

    async def test_kill(self, lab, pat):
        [run_id] = await asyncio.to_thread(lab.seed, 1)
        await DatabricksExecutionTrigger(run_id, pat).on_kill()
        await asyncio.to_thread(until, lambda: lab.runs[run_id].ended)
        assert lab.runs[run_id].state.result == "CANCELED"

    async def test_a_task_with_retries_of_its_own(self, lab, pat):
        operator = DatabricksTaskOperator(
            task_id="task",
            databricks_conn_id=pat,
            task_config={"notebook_task": task(seconds="400", fail="boom"), "max_retries": 1},
            existing_cluster_id="c",
            deferrable=True,
        )
        event = await deferred(lab, operator, Context())
        assert len(lab.runs[event["run_id"]].tasks) == 2

    async def test_an_outage_of_a_few_seconds_ends_the_stock_trigger_while_the_run_goes_on(self, lab, pat):
        [run_id] = await asyncio.to_thread(lab.seed, 1)
        lab.faults.status(503)
        with pytest.raises(AirflowException, match="failed 1 times"):
            await anext(DatabricksExecutionTrigger(run_id, pat, retry_limit=1).run())
        assert not lab.runs[run_id].ended
        lab.cancel_by_user(run_id)


class TestWorkflow:
    def build(self, conn_id, **more):
        with (
            DAG("workflows", schedule=None),
            DatabricksWorkflowTaskGroup(group_id="group", databricks_conn_id=conn_id) as group,
        ):
            first, second = (
                DatabricksNotebookOperator(
                    task_id=name,
                    databricks_conn_id=conn_id,
                    notebook_path="/lab/wait",
                    notebook_params={"seconds": "400"},
                    source="WORKSPACE",
                    existing_cluster_id="c",
                    polling_period_seconds=PERIOD,
                    **more,
                )
                for name in ("first", "second")
            )
            first >> second
        [launch] = [one for one in group.children.values() if one.task_id.endswith("launch")]
        return launch, first, second

    async def test_launch_and_members(self, lab, pat):
        launch, first, second = self.build(pat, deferrable=True)
        metadata = await asyncio.to_thread(launch.execute, Context())
        run = lab.runs[metadata["run_id"]]
        assert [one.upstream for one in run.tasks] == [[], [{"task_key": first.databricks_task_key}]]
        for member in (first, second):
            member.workflow_run_metadata = metadata
            event = await deferred(lab, member, Context(), seconds=500)
            await asyncio.to_thread(member.execute_complete, Context(), event)
        assert run.state.result == "SUCCESS"

    def test_a_failed_member_in_the_worker(self, lab, pat):
        launch, first, second = self.build(pat)
        launch.tasks_to_convert[first.task_id].notebook_params["fail"] = "boom"
        metadata = launch.execute(Context())
        lab.advance(500)
        for member, reason in ((first, "Exception: boom"), (second, "upstream task failed")):
            member.workflow_run_metadata = metadata
            with pytest.raises(AirflowException, match=reason):
                member.execute(Context())


def lab_job(lab, *tasks) -> int:
    return Api(lab).create(*tasks)
