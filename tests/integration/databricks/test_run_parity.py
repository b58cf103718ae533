"""Row by row beside the stock operators: what Databricks is told, and what the task leaves behind."""

from __future__ import annotations

import datetime as dt
import json
import re
import ssl
import uuid
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from airflow.exceptions import AirflowException
from airflow.providers.databricks.exceptions import DatabricksOperatorPayloadError
from airflow.providers.databricks.operators.databricks import DatabricksRunNowOperator as StockRunNow
from airflow.providers.databricks.operators.databricks import DatabricksSubmitRunOperator as StockSubmitRun
from airflow.providers.openlineage import conf as lineage
from airflow.sdk import DAG
from airflow.sdk.api.datamodels._generated import DagRun, TIRunContext
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from astronomer.deferral import JobFailed
from astronomer.lab.databricks import app
from astronomer.providers.databricks.operators import databricks as ours
from tests.integration.databricks.runs import Task, notebook
from tests.integration.driving import TaskInstance, until_now
from tests.unit.deferral.fakes import MemoryStore

pytestmark = [
    # The stock hook asks Airflow for its own version in a way that Airflow 3.2 deprecates,
    pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated"),
    # and aiohttp for a login in a way that aiohttp 3.14 deprecates.
    pytest.mark.filterwarnings("ignore:BasicAuth is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated"),
]

RUN_NOW = (StockRunNow, ours.DatabricksRunNowOperator, ours.DatabricksRunNowOperatorAsync)
SUBMIT_RUN = (StockSubmitRun, ours.DatabricksSubmitRunOperator, ours.DatabricksSubmitRunOperatorAsync)
NOTEBOOK = notebook(0)
GIT = {"git_url": "https://example.com/r.git", "git_provider": "gitHub", "git_branch": "main"}

RUN_NOW_BODIES: dict[str, dict[str, Any]] = {
    "an id": {"job_id": 7},
    "an id as text": {"job_id": "7"},
    "a template": {"job_id": "{{ 3 + 4 }}", "notebook_params": {"day": "{{ ti.task_id }}"}},
    "json": {"json": {"job_id": 7, "job_parameters": {"n": 1, "yes": True, "of": {"a": [1, 2.5]}}}},
    "json as text": {"json": '{"job_id": 7, "notebook_params": {"a": "{{ ti.task_id }}"}}'},
    "a python literal": {"json": "{'job_id': 7, 'notebook_params': {'a': 'it is', 'b': True}}"},
    "a file": {"json": "run.json-tpl"},
    "named goes before json": {"job_id": 7, "json": {"job_id": 8, "python_params": ["a"]}, "python_params": ["b"]},
    "job_parameters": {"job_id": 7, "job_parameters": {"a": "1"}},
    "python_params": {"job_id": 7, "python_params": ["1", "{{ ti.task_id }}"]},
    "python_named_params": {"job_id": 7, "python_named_params": {"a": "1"}},
    "jar_params": {"job_id": 7, "jar_params": ["1"]},
    "spark_submit_params": {"job_id": 7, "spark_submit_params": ["--class", "a.B"]},
    "dbt_commands": {"job_id": 7, "dbt_commands": ["dbt run"]},
    "performance_target": {"job_id": 7, "performance_target": "STANDARD"},
    "more of json": {"json": {"job_id": 7, "queue": {"enabled": True}, "only": ["wait"], "pipeline_params": {}}},
    "params of the dag": {"job_id": 7, "params": {"day": "monday", "n": 3, "none": None}},
    "params that are not wanted": {"job_id": 7, "params": {"day": "monday"}, "forward_dag_params": False},
    "params beside job_parameters": {"job_id": 7, "params": {"a": 1}, "job_parameters": {"b": "2"}},
    "params beside notebook_params": {"job_id": 7, "params": {"a": 1}, "notebook_params": {"b": "2"}},
    "a name": {"job_name": "by name"},
    "a name in a template": {"json": {"job_name": "by {{ 'name' }}"}},
    "a token": {"job_id": 7, "idempotency_token": "{{ ti.run_id }}"},
}  # fmt: skip

SUBMIT_BODIES: dict[str, dict[str, Any]] = {
    "notebook_task": {"notebook_task": NOTEBOOK},
    "spark_python_task": {"spark_python_task": {"python_file": "/a.py", "parameters": ["{{ ti.task_id }}"]}},
    "spark_jar_task": {"spark_jar_task": {"main_class_name": "a.B"}, "libraries": [{"jar": "dbfs:/a.jar"}]},
    "spark_submit_task": {"spark_submit_task": {"parameters": ["--class", "a.B"]}},
    "pipeline_task": {"pipeline_task": {"pipeline_id": "1234"}},
    "pipeline_name": {"pipeline_task": {"pipeline_name": "one"}},
    "dbt_task": {"dbt_task": {"commands": ["dbt run"]}, "git_source": GIT},
    "tasks": {"tasks": [{"task_key": "a", "notebook_task": NOTEBOOK}], "run_name": "{{ ti.task_id }}!"},
    "tasks that depend": {
        "tasks": [
            {"task_key": "a", "notebook_task": NOTEBOOK, "timeout_seconds": 60},
            {"task_key": "b", "notebook_task": NOTEBOOK, "depends_on": [{"task_key": "a"}]},
        ],
    },
    "a cluster": {
        "notebook_task": NOTEBOOK,
        "new_cluster": {"spark_version": "16.4.x-scala2.12", "num_workers": 2, "spark_conf": {"a.b": True}},
    },
    "an existing cluster": {"notebook_task": NOTEBOOK, "existing_cluster_id": "{{ 'c' }}-1"},
    "environments": {"notebook_task": NOTEBOOK, "environments": [{"environment_key": "e", "spec": {"client": "1"}}]},
    "access_control_list": {
        "notebook_task": NOTEBOOK,
        "access_control_list": [{"group_name": "users", "permission_level": "CAN_VIEW"}],
    },
    "git_source": {"notebook_task": {**NOTEBOOK, "source": "GIT"}, "git_source": GIT},
    "performance_target": {"notebook_task": NOTEBOOK, "performance_target": "STANDARD"},
    "timeout_seconds": {"notebook_task": NOTEBOOK, "timeout_seconds": 600},
    "json": {"json": {"notebook_task": NOTEBOOK, "email_notifications": {"on_failure": ["a@b"]}, "run_as": {"user_name": "u"}}},
    "json as text": {"json": json.dumps({"run_name": "{{ ti.task_id }}", "notebook_task": NOTEBOOK})},
    "a python literal": {"json": str({"notebook_task": NOTEBOOK, "queue": {"enabled": True}})},
    "a file": {"json": "submit.json-tpl"},
    "named goes before json": {"json": {"notebook_task": {"notebook_path": "/no"}, "run_name": "no"}, "notebook_task": NOTEBOOK, "run_name": "yes"},
    "params of the dag": {"notebook_task": {"notebook_path": "/lab/wait"}, "params": {"seconds": 0, "none": None}},
    "params of the dag in tasks": {
        "tasks": [
            {"task_key": "a", "notebook_task": {"notebook_path": "/lab/wait"}},
            {"task_key": "b", "notebook_task": NOTEBOOK},
            {"task_key": "c", "sql_task": {"file": {"path": "/a.sql"}, "warehouse_id": "1"}},
            {"task_key": "d", "run_job_task": {"job_id": 7}},
            {"task_key": "e", "spark_python_task": {"python_file": "/a.py"}},
        ],
        "params": {"seconds": 0},
    },
    "a token": {"notebook_task": NOTEBOOK, "idempotency_token": "{{ ti.run_id }}"},
}  # fmt: skip

FILES = {
    "run.json-tpl": '{"job_id": {{ 3 + 4 }}, "notebook_params": {"task": "{{ ti.task_id }}"}}',
    "submit.json-tpl": '{"notebook_task": {"notebook_path": "/lab/wait"}, "run_name": "{{ ti.task_id }}"}',
}


@pytest.fixture(autouse=True)
def trust(lab, monkeypatch):
    """The stock hook asks with the TLS context that aiohttp made when it was imported."""
    context = ssl.create_default_context(cafile=str(lab.ca_file))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", context)


@pytest.fixture
def told(lab, monkeypatch):
    """What the workspace was told since, by endpoint. Job 7 is there, and so is job ``by name``."""
    found: list[tuple[str, dict[str, Any]]] = []

    def noting(endpoint, answer):
        def note(workspace, call):
            found.append((endpoint, json.loads(json.dumps(call.arguments))))
            return answer(workspace, call)

        return note

    for (method, endpoint), answer in app._JOBS.items():
        if method == "POST":
            monkeypatch.setitem(app._JOBS, (method, endpoint), noting(endpoint, answer))
    return lambda *endpoints: [body for endpoint, body in found if not endpoints or endpoint in endpoints]


@pytest.fixture
def job(lab, workspace):
    """The id of job 7, of which a test says no more than that it exists."""
    jobs = lab.workspace.jobs.jobs
    found = jobs[7] = jobs.pop(workspace.job(name="by name"))
    found.job_id = 7
    yield 7
    del jobs[7]


@pytest.fixture
def pipelines(monkeypatch):
    """The pipelines that the workspace names."""
    listed = [{"pipeline_id": "1234", "name": "one"}]
    monkeypatch.setitem(app._JOBS, ("GET", "pipelines"), lambda workspace, call: {"statuses": listed})
    return listed


@pytest.fixture
def with_lineage(monkeypatch):
    """OpenLineage is configured, which its provider remembers."""

    def forget():
        for cached in vars(lineage).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()

    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", '{"type": "console"}')
        forget()
        yield
    forget()


@pytest.fixture
def dag(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return lambda: DAG("dag", schedule=None, template_searchpath=str(tmp_path))


def task_of(operator, **arguments):
    """A stock task asks as often as ours, and remembers nothing: its store wants more of Airflow."""
    stock = operator.__module__.startswith("airflow.")
    return Task(operator, polling_period_seconds=0.1, **({"durable": False} if stock else {}), **arguments)


def context_in_airflow(operator, start):
    """What Airflow hands to the first try of a task."""
    run = DagRun(
        dag_id="dag", run_id="run", logical_date=start, data_interval_start=start, data_interval_end=start,
        run_after=start, start_date=start, end_date=None, clear_number=0, run_type="manual", state="running", conf={},
        consumed_asset_events=[], partition_key=None,
    )  # fmt: skip
    instance = RuntimeTaskInstance.model_construct(
        id=uuid.uuid4(), task_id=operator.task_id, dag_id="dag", run_id="run", try_number=1, map_index=-1,
        dag_version_id=uuid.uuid4(), task=operator, start_date=start, max_tries=0, log_url="",
        bundle_instance=SimpleNamespace(version=None, name="bundle"),
        _ti_context_from_server=TIRunContext(dag_run=run, max_tries=0, should_retry=False),
    )  # fmt: skip
    instance._cached_template_context = None
    return {**instance.get_template_context(), "task_state_store": MemoryStore()}


def without_token(body):
    return {name: value for name, value in body.items() if name != "idempotency_token"}


class TestRequests:
    """What Databricks is told, apart from the token that the stock operators do not send."""

    @pytest.mark.parametrize("case", RUN_NOW_BODIES)
    def test_of_run_now(self, told, job, dag, case):
        self.are_the_same(told, "jobs/run-now", RUN_NOW, dag, RUN_NOW_BODIES[case])

    @pytest.mark.parametrize("case", SUBMIT_BODIES)
    def test_of_submit_run(self, told, job, pipelines, dag, case):
        self.are_the_same(told, "jobs/runs/submit", SUBMIT_RUN, dag, SUBMIT_BODIES[case])

    def are_the_same(self, told, endpoint, operators, dag, case):
        tasks = [task_of(one, dag=dag, wait_for_termination=False, **case) for one in operators]
        for task in tasks:
            assert task.start() == (False, None)
        stock, mine, again = told(endpoint)
        assert without_token(mine) == without_token(again) == without_token(stock)
        assert mine["idempotency_token"] != again["idempotency_token"]
        if "idempotency_token" in case:
            assert [one["idempotency_token"] for one in (stock, mine)] == [one.ti.run_id for one in tasks[:2]]
        else:
            assert "idempotency_token" not in stock
            assert re.fullmatch("[0-9a-f]{64}", mine["idempotency_token"])

    def test_that_render_anew_on_a_retry(self, told):
        """What is added to a request is not added to the operator's arguments."""
        tasks = [{"task_key": "a", "notebook_task": {"notebook_path": "/lab/wait"}}]
        operator = ours.DatabricksSubmitRunOperator(task_id="t", tasks=tasks, params={"seconds": 0})
        first, second = operator.request({}), operator.request({})
        assert first == second
        assert tasks == [{"task_key": "a", "notebook_task": {"notebook_path": "/lab/wait"}}]

    @pytest.mark.parametrize("operators", [RUN_NOW, SUBMIT_RUN])
    def test_of_a_task_with_lineage(self, told, job, with_lineage, operators):
        """They name the task as their parent."""
        cluster = {"spark_version": "16.4.x-scala2.12", "num_workers": 1}
        task = {"task_key": "a", "notebook_task": NOTEBOOK, "new_cluster": cluster}
        work = {"job_id": 7} if operators is RUN_NOW else {"tasks": [task]}
        start = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
        bodies = []
        for operator in operators:
            with DAG("dag", schedule=None, start_date=start):
                made = operator(
                    task_id="t",
                    openlineage_inject_parent_job_info=True,
                    wait_for_termination=False,
                    do_xcom_push=False,
                    durable=False,
                    **work,
                )
            made.execute(context_in_airflow(made, start))
            bodies.append(without_token(told("jobs/run-now", "jobs/runs/submit")[-1]))
        assert bodies[0] == bodies[1] == bodies[2]
        assert "OPENLINEAGE_CONTEXT" in str(bodies[0])

    def test_of_cancel_previous_runs(self, told, workspace):
        job_id = workspace.job({"task_key": "wait", "notebook_task": notebook(300)})
        for operator in RUN_NOW[:2]:
            workspace.post("2.2/jobs/run-now", {"job_id": job_id})
            task = task_of(operator, job_id=job_id, cancel_previous_runs=True, wait_for_termination=False)
            task.run()
            *others, mine = [run for run in workspace.runs if run.job_id == job_id]
            until_now(lambda others=others: all(one.ended for one in others))
            assert not mine.ended
        stock, our = told("jobs/runs/cancel-all")
        assert our == stock == {"job_id": str(job_id)} or our == stock == {"job_id": job_id}


class TestTraces:
    """XComs and the link."""

    @pytest.mark.parametrize(
        ("deferrable", "wait", "wanted"),
        [
            (True, True, True),
            (True, False, True),
            (False, True, True),
            (False, False, True),
            (True, True, False),
        ],
    )
    def test_of_a_run(self, workspace, deferrable, wait, wanted):
        work = notebook(0.3 if wait else 300)
        job_id = workspace.job({"task_key": "wait", "notebook_task": work})
        arguments = {"deferrable": deferrable, "wait_for_termination": wait, "do_xcom_push": wanted}
        pairs = [(RUN_NOW, {"job_id": job_id}), (SUBMIT_RUN, {"notebook_task": work})]
        for operators, work in pairs:
            for operator in operators[:2]:
                before = len(workspace.runs)
                task = task_of(operator, **work, **arguments)
                assert task.run() is None
                (run,) = workspace.runs[before:]
                expected = {"job_id": run.job_id, "run_id": run.run_id, "run_page_url": run.url}
                stock = operator is operators[0]
                if stock and not deferrable:
                    del expected["job_id"]  # the stock operators push it only when they are deferrable
                assert task.ti.xcoms == (expected if wanted else {})
                assert stock or bool(task.events) is (deferrable and wait)
                assert run.ended is wait

    @pytest.mark.parametrize("operators", [RUN_NOW, SUBMIT_RUN])
    def test_the_link_is_the_stock_one(self, operators):
        stock, *mine = operators
        for one in mine:
            assert one.operator_extra_links == stock.operator_extra_links
            assert one.template_fields == stock.template_fields
            assert one.template_ext == stock.template_ext

    def test_of_a_failure(self, workspace):
        job_id = workspace.job({"task_key": "wait", "notebook_task": notebook(fail="told to")})
        errors = []
        for operator in RUN_NOW:
            task = task_of(operator, job_id=job_id, deferrable=True)
            with pytest.raises(AirflowException, match="told to") as caught:
                task.run()
            errors.append(type(caught.value))
            assert sorted(task.ti.xcoms) == ["job_id", "run_id", "run_page_url"]
        assert errors == [AirflowException, JobFailed, JobFailed]


class TestBadInput:
    """The same exceptions, and nothing is started."""

    RUN_NOW: dict[str, dict[str, Any]] = {  # noqa: RUF012 - never changed
        "a name that no job has": {"job_name": "nobody"},
        "both": {"json": {"job_id": 7, "job_name": "by name"}},
        "no object": {"json": "[1]"},
        "no json": {"json": "{{ 'nonsense' }}"},
        "no json at all": {"json": 7},
        "nothing where something belongs": {"json": {"job_id": 7, "notebook_params": {"a": None}}},
    }
    SUBMIT_RUN: dict[str, dict[str, Any]] = {  # noqa: RUF012 - never changed
        "dbt without git": {"dbt_task": {"commands": ["dbt run"]}},
        "a pipeline twice": {"pipeline_task": {"pipeline_id": "1", "pipeline_name": "one"}},
        "no object": {"json": "[1]"},
        "nothing where something belongs": {"json": {"notebook_task": {"notebook_path": None}}},
    }

    @pytest.mark.parametrize("case", RUN_NOW)
    def test_of_run_now(self, workspace, job, case):
        self.is_refused_alike(workspace, RUN_NOW, self.RUN_NOW[case])

    @pytest.mark.parametrize("case", SUBMIT_RUN)
    def test_of_submit_run(self, workspace, case):
        self.is_refused_alike(workspace, SUBMIT_RUN, self.SUBMIT_RUN[case])

    def is_refused_alike(self, workspace, operators, case):
        raised = []
        for operator in operators:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is compared below
                task_of(operator, **case).run()
            raised.append((type(caught.value), str(caught.value)))
        assert raised[0] == raised[1] == raised[2]
        assert issubclass(raised[0][0], (DatabricksOperatorPayloadError, AirflowException))
        assert workspace.runs == []

    def test_both_names_are_refused_when_the_dag_is_parsed(self):
        for operator in RUN_NOW[1:]:
            with pytest.raises(DatabricksOperatorPayloadError, match="'job_name' is not allowed"):
                operator(task_id="t", job_id=7, job_name="by name")

    def test_a_name_that_two_jobs_have(self, workspace, job):
        workspace.job(name="by name")
        self.is_refused_alike(workspace, RUN_NOW, {"job_name": "by name"})

    def test_a_pipeline_name_that_two_have(self, workspace, pipelines):
        pipelines.append({"pipeline_id": "5678", "name": "one"})
        self.is_refused_alike(workspace, SUBMIT_RUN, {"pipeline_task": {"pipeline_name": "one"}})

    def test_pipelines_that_may_not_be_listed(self, workspace):
        work = {"pipeline_task": {"pipeline_name": "one"}}
        with pytest.raises(JobFailed, match=r"none was started: HTTP 404: ENDPOINT_NOT_FOUND"):
            task_of(ours.DatabricksSubmitRunOperator, **work).run()
        assert workspace.runs == []

    def test_nothing_to_run_is_refused_when_the_dag_is_parsed(self):
        for operator in (*RUN_NOW[1:], *SUBMIT_RUN[1:]):
            with pytest.raises(ValueError, match=r"Name the job to run|There is nothing to run"):
                operator(task_id="t")


class TestInADag:
    @pytest.mark.parametrize("operators", [RUN_NOW, SUBMIT_RUN])
    def test_mapped(self, told, workspace, operators):
        job_id = workspace.job()
        fields = {"job_id": job_id} if operators is RUN_NOW else {"run_name": "mapped"}
        values = [{"notebook_params": {"n": str(n)}} for n in range(2)]
        if operators is SUBMIT_RUN:
            values = [{"notebook_task": notebook(n / 10)} for n in range(2)]
        bodies = []
        for operator in operators:
            with DAG("dag", schedule=None, start_date=dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)):
                mapped = operator.partial(task_id="t", wait_for_termination=False, durable=False, **fields)
                mapped = mapped.expand_kwargs(values)
            before = len(told("jobs/run-now", "jobs/runs/submit"))
            for index, value in enumerate(values):
                ti = TaskInstance(map_index=index)
                assert mapped.unmap(value).execute({"ti": ti, "task_instance": ti}) is None
            sent = told("jobs/run-now", "jobs/runs/submit")[before:]
            tokens = {one.get("idempotency_token") for one in sent}
            assert len(tokens) == (1 if operator is operators[0] else 2)
            bodies.append([without_token(one) for one in sent])
        assert bodies[0] == bodies[1] == bodies[2]

    def test_defaults(self, workspace):
        defaults = {
            "databricks_conn_id": "other",
            "polling_period_seconds": 7,
            "deferrable": False,
            "wait_for_termination": False,
            "do_xcom_push": False,
            "databricks_retry_limit": 5,
            "durable": False,
            "repair_run": True,
        }
        with DAG("dag", schedule=None, default_args=defaults):
            for number, operator in enumerate((*RUN_NOW, *SUBMIT_RUN)):
                work = {"job_id": 7} if operator in RUN_NOW else {"notebook_task": NOTEBOOK}
                made = operator(task_id=f"t{number}", **work)
                expected = dict(defaults)
                if operator in SUBMIT_RUN:
                    del expected["repair_run"]
                assert {name: getattr(made, name) for name in expected} == expected
