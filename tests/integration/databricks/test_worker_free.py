"""Runs of tasks that never start a worker: what they leave behind is what the worker path leaves behind."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator

from astronomer.deferral import xcom_memory
from astronomer.lab.databricks.states import SUCCESS
from astronomer.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator,
    DatabricksRunNowOperator,
    DatabricksSubmitRunOperator,
    DatabricksTaskOperator,
)
from astronomer.providers.databricks.operators.databricks_workflow import DatabricksWorkflowTaskGroup
from tests.integration.databricks.runs import CANCEL, GET, REPAIR, RUN_NOW, SUBMIT, Task, notebook
from tests.integration.databricks.test_run_results import FIRST_TIME_ONLY, LOADER, tasks_of
from tests.integration.without_worker import failure_in_worker, triggerer_in_place
from tests.worker_free import WorkerFreeTask

LONG = 300
TOKEN = "/oidc/v1/token$"


@pytest.fixture
def free():
    with triggerer_in_place() as free:
        yield free


@pytest.fixture
def known(free, lab, monkeypatch):
    """The connection is in Airflow's database, and not in the environment."""

    def define(auth="pat", **fields):
        monkeypatch.delenv("AIRFLOW_CONN_DATABRICKS_DEFAULT", raising=False)
        found = lab.airflow_connection(auth=auth) | fields
        free.airflow.connections["databricks_default"] = found | {"extra": json.dumps(found["extra"])}
        return found

    return define


@pytest.fixture
def seldom_right(workspace):
    """The id of a job that fails the first time it runs."""
    path = workspace.file("once.py", FIRST_TIME_ONLY)
    (workspace.lab.workspace_directory / "once.seen").unlink(missing_ok=True)
    return workspace.job({"task_key": "odd", "spark_python_task": {"python_file": path}})


@pytest.fixture
def work(workspace):
    """Kinds of work that take a moment, and their arguments."""
    return {
        "run now": (DatabricksRunNowOperator, {"job_id": workspace.job()}),
        "by name": (DatabricksRunNowOperator, {"job_name": named(workspace)}),
        "json": (DatabricksRunNowOperator, {"json": {"job_id": workspace.job()}}),
        "submit": (DatabricksSubmitRunOperator, {"notebook_task": notebook(0.1)}),
        "tasks": (
            DatabricksSubmitRunOperator,
            {
                "tasks": tasks_of(
                    ("one", (), {"notebook_task": notebook(0.1)}),
                    ("two", ("one",), {"notebook_task": notebook(0.1)}),
                )
            },
        ),
        "notebook": (
            DatabricksNotebookOperator,
            {
                "notebook_path": "/lab/wait",
                "source": "WORKSPACE",
                "notebook_params": {"seconds": "0.1"},
                "new_cluster": {"spark_version": "15.4.x-scala2.12", "num_workers": 1},
            },
        ),
        "task": (
            DatabricksTaskOperator,
            {
                "task_config": {"notebook_task": notebook(0.1)},
                "new_cluster": {"spark_version": "15.4.x-scala2.12", "num_workers": 1},
            },
        ),
    }


def named(workspace, name="nightly {{ ds }}"):
    """The name of a new job; templated."""
    workspace.job(name=f"nightly 2026-01-01 {id(workspace)}")
    return f"{name} {id(workspace)}"


def same(run):
    """What was asked for, without what is another for each task instance."""
    return {name: value for name, value in run.settings.items() if name not in OF_EACH}


OF_EACH = {"idempotency_token", "run_name"}
KINDS = ["run now", "by name", "json", "submit", "tasks", "notebook", "task"]


class TestRuns:
    @pytest.mark.parametrize("kind", KINDS)
    def test_leave_the_same_behind(self, workspace, free, work, kind):
        operator, arguments = work[kind]
        assert free.end(operator, **arguments) == "success", free.said()
        ours = workspace.runs[-1]
        found = free.xcoms()
        link = found.pop("_link_DatabricksJobRunLink", None)
        if kind != "by name":  # nothing renders templates there
            worker = Task(operator, **arguments)
            worker.run()
            assert found.keys() == worker.ti.xcoms.keys()
            theirs = workspace.runs[-1]
            assert same(ours) == same(theirs)
        assert found["run_id"] == ours.run_id
        assert found["run_page_url"] == ours.url == link
        assert ours.state is SUCCESS
        assert free.result is None

    def test_that_nobody_waits_for(self, workspace, free):
        case = {"notebook_task": notebook(LONG), "wait_for_termination": False}
        assert free.end(DatabricksSubmitRunOperator, **case) == "success"
        assert not workspace.run.ended
        assert free.xcoms()["run_id"] == workspace.run.run_id

    def test_without_xcoms(self, workspace, free):
        case = {"notebook_task": notebook(0.1), "do_xcom_push": False}
        assert free.end(DatabricksSubmitRunOperator, **case) == "success"
        assert free.xcoms().keys() <= {"_link_DatabricksJobRunLink"}

    def test_whose_arguments_are_templates_and_xcoms(self, workspace, free):
        def make():
            upstream = EmptyOperator(task_id="texts")
            return DatabricksRunNowOperator(
                task_id="task",
                job_id="{{ ti.xcom_pull('texts', key='job') }}",
                notebook_params={"day": "{{ ds }}", "x": upstream.output},
                poll_interval=0.1,
                start_from_trigger=True,
            )

        run_id = free.airflow.run_id
        free.airflow.xcoms[(run_id, "texts", -1, "job")] = workspace.job()
        free.airflow.xcoms[(run_id, "texts", -1, "return_value")] = "{{ ds }}"
        (ended,) = free.run(WorkerFreeTask(free.airflow, make))
        assert ended.state == "success", free.said()
        assert workspace.run.state is SUCCESS

    @pytest.mark.parametrize("kwargs", [False, True])
    def test_mapped(self, workspace, free, kwargs):
        work = [notebook(0.1), notebook(0.2)]
        expand = [{"notebook_task": one} for one in work] if kwargs else {"notebook_task": work}
        tasks = [free.mapped(DatabricksSubmitRunOperator, expand, index) for index in (0, 1)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 2, free.said()
        found = {free.airflow.pull("task", "run_id", map_index=index) for index in (0, 1)}
        assert found == {run.run_id for run in workspace.runs}
        assert len(found) == 2


class TestEnds:
    @pytest.mark.parametrize(
        ("actions", "state"),
        [
            ({}, "failed"),
            ({"RUN_EXECUTION_ERROR": "fail"}, "failed"),
            ({"*": "skip"}, "skipped"),
            ({"*": "success"}, "success"),
        ],
    )
    def test_result_actions_decide(self, workspace, free, actions, state):
        case = {"notebook_task": notebook(0.1, fail="told to"), "result_actions": actions}
        assert free.end(DatabricksSubmitRunOperator, **case) == state
        assert ("told to" in free.said()) is (state != "success")
        assert free.xcoms()["run_id"] == workspace.run.run_id

    def test_a_final_failure_is_not_retried(self, workspace, free):
        case = {
            "notebook_task": notebook(0.1, fail="told to"),
            "result_actions": {"*": "fail"},
            "retries": 3,
        }
        task = free.task(DatabricksSubmitRunOperator, **case)
        (ended,) = free.run(task)
        assert ended.state == "scheduled", "only a worker can say that a failure is final"
        with pytest.raises(Exception, match="told to") as caught:
            free.in_worker(task, ended)
        assert caught.type.__name__ == "AirflowFailException"
        assert len(workspace.runs) == 1

    @pytest.mark.parametrize(("actions", "state"), [({}, "failed"), ({"MAX_*": "skip"}, "skipped")])
    def test_a_run_that_finds_no_place(self, workspace, free, actions, state):
        job_id = workspace.job(
            {"task_key": "wait", "notebook_task": notebook(LONG)},
            max_concurrent_runs=1,
            queue={"enabled": False},
        )
        workspace.post("2.2/jobs/run-now", {"job_id": job_id})
        assert free.end(DatabricksRunNowOperator, job_id=job_id, result_actions=actions) == state

    def test_a_repair(self, lab, workspace, free, seldom_right):
        assert free.end(DatabricksRunNowOperator, job_id=seldom_right, repair_run=True) == "success"
        assert lab.requests.count(REPAIR) == len(workspace.runs) == 1
        assert free.xcoms()["run_id"] == workspace.run.run_id

    def test_a_repair_with_new_settings_that_helps_nothing(self, lab, workspace, free):
        job_id = workspace.job({"task_key": "wait", "notebook_task": notebook(0.1, "told to")})
        case = {"job_id": job_id, "repair_run": True}
        assert "told to" in free.failure(DatabricksRunNowOperator, **case)
        assert lab.requests.count(REPAIR) == len(workspace.runs) == 1

    @pytest.mark.parametrize("ends", ["timeout", "user"])
    def test_before_its_time(self, lab, workspace, free, ends):
        case = {"notebook_task": notebook(LONG)}
        if ends == "timeout":
            said = free.failure(DatabricksSubmitRunOperator, execution_timeout=timedelta(seconds=2), **case)
            assert said.startswith("JobTimedOut: ")
            assert "execution_timeout; it was cancelled" in said
            assert lab.requests.count(CANCEL) == 1
        else:

            async def cancel():
                from tests.integration.driving import until

                await until(lambda: workspace.runs)
                lab.cancel_by_user(workspace.run.run_id)

            (ended,) = free.run(free.task(DatabricksSubmitRunOperator, **case), meanwhile=cancel)
            assert ended.state == "failed"
            assert "was cancelled outside Airflow" in free.said()
        assert workspace.run.ended


class TestFailures:
    """What a user reads in the log is as good as on the worker path, and comes as soon."""

    def test_have_the_causes(self, workspace, free):
        path = workspace.file("loader.py", LOADER)
        task = {"python_file": path, "parameters": ["1970-01-01"]}
        expected = failure_in_worker(workspace.submits(tasks=[{"task_key": "a", "spark_python_task": task}]))
        case = {"tasks": [{"task_key": "a", "spark_python_task": task}]}
        assert free.failure(DatabricksSubmitRunOperator, **case) == expected
        assert "ValueError: no data for 1970-01-01" in expected

    @pytest.mark.parametrize(
        ("operator", "case"),
        [
            (DatabricksRunNowOperator, {"job_id": 4711}),
            (DatabricksRunNowOperator, {"job_id": "typo"}),
            (DatabricksRunNowOperator, {"job_name": "no such job"}),
            (DatabricksRunNowOperator, {"json": {}}),
            (DatabricksSubmitRunOperator, {"json": {"tasks": "odd"}}),
            (DatabricksSubmitRunOperator, {"tasks": [{"task_key": "a"}]}),
            (DatabricksSubmitRunOperator, {"notebook_task": notebook(), "databricks_conn_id": "nowhere"}),
            (DatabricksSubmitRunOperator, {"notebook_task": {"notebook_path": "/no/such"}}),
            (DatabricksSubmitRunOperator, {"pipeline_task": {"pipeline_name": "no such"}}),
        ],
        ids=lambda one: str(one) if isinstance(one, dict) else "",
    )
    def test_of_bad_input(self, workspace, free, operator, case):
        expected = failure_in_worker(Task(operator, **case))
        assert free.failure(operator, **case) == expected

    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    def test_of_a_login(self, lab, workspace, connect_as, free, auth):
        connect_as(auth=auth, fields={"password": "dapi-not-it-at-all"})
        expected = failure_in_worker(workspace.submits())
        before = len(lab.requests.entries)
        assert free.failure(DatabricksSubmitRunOperator, notebook_task=notebook()) == expected
        assert "dapi-not-it-at-all" not in free.said()
        assert len(lab.requests.entries) <= 2 * before, "the user would be locked out"
        assert workspace.runs == []

    def test_of_a_login_is_over_as_soon_as_the_connection_is_right(self, connect_as, free):
        connect_as(fields={"password": "dapi-not-it-at-all"})
        task = free.task(DatabricksSubmitRunOperator, notebook_task=notebook(0.1), retries=1)
        first, second = free.retried(task, connect_as)
        assert (first.state, second.state) == ("up_for_retry", "success"), free.said()

    def test_of_a_host_that_is_not_there(self, workspace, connect_as, free):
        connect_as(fields={"host": "no-such-workspace.invalid", "port": None})
        case = {"notebook_task": notebook(), "outage_tolerance": 0.5}
        said = free.failure(DatabricksSubmitRunOperator, **case)
        assert "could not be reached: " in said
        assert "no-such-workspace.invalid" in said


class TestWorkflows:
    def test_are_for_workers(self, free):
        def make(name):
            def tasks():
                with DatabricksWorkflowTaskGroup(
                    group_id="wf", databricks_conn_id="databricks_default"
                ) as group:
                    member = DatabricksNotebookOperator(
                        task_id="member",
                        notebook_path="/lab/wait",
                        source="WORKSPACE",
                        start_from_trigger=True,
                    )
                return member if name == "member" else group.children["wf.launch"]

            return tasks

        for name in ("member", "launch"):
            assert not WorkerFreeTask(free.airflow, make(name)).starts_in_triggerer

    def test_so_are_waits_in_a_worker(self, free):
        case = {"notebook_task": notebook(), "deferrable": False}
        assert not free.task(DatabricksSubmitRunOperator, **case).starts_in_triggerer


class TestLoop:
    def test_goes_on_while_databricks_is_slow(self, lab, workspace, free):
        assert free.end(DatabricksSubmitRunOperator, notebook_task=notebook(0.1)) == "success"
        free.anew()
        for path in (SUBMIT, RUN_NOW, GET):
            lab.faults.late(1.5, path, times=1)
        tasks = [
            free.task(DatabricksSubmitRunOperator, notebook_task=notebook(0.1, fail="told to")),
            free.task(DatabricksRunNowOperator, task_id="another", job_id=workspace.job()),
        ]
        assert [one.state for one in free.run(*tasks)] == ["failed", "success"]
        assert free.lag.longest < 1.0
        assert free.lag.ticks > 10


class TestMany:
    """Submits share the triggerer's client, and so its login and its quota."""

    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    def test_cost_one_login_and_few_messages(self, lab, workspace, free, known, monkeypatch, auth):
        monkeypatch.setattr(xcom_memory, "_CLAIM_LASTS", 1e6)
        known(auth)
        work = {"notebook_task": [notebook(0.1)] * 12}
        tasks = [free.mapped(DatabricksSubmitRunOperator, work, index) for index in range(12)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 12, free.said()
        assert len(workspace.runs) == 12
        assert lab.requests.count(SUBMIT) == 12
        assert lab.requests.count(TOKEN) == (auth == "oauth")
        found = free.kinds()
        connections = found.pop("GetConnection")
        assert found.pop("MaskSecret") == connections * 4
        assert connections <= 2, "the connection was read by each task"
        # The memory, twice, and before the submit; job_id, run_id, run_page_url and the link.
        assert found == {"GetXCom": 12, "SetXCom": 12 * 6}


class TestLogins:
    """A triggerer reads a connection once a minute, so what it knows may have been corrected since."""

    @pytest.mark.parametrize(("auth", "rotate"), [("pat", "rotate_token"), ("oauth", "rotate_secret")])
    def test_what_was_corrected_a_moment_ago_is_used(self, lab, free, known, auth, rotate):
        known(auth)

        def between():
            getattr(lab, rotate)()
            known(auth)

        task = free.task(DatabricksSubmitRunOperator, notebook_task=notebook(0.1))
        assert [one.state for one in free.retried(task, between)] == ["success", "success"], free.said()

    def test_what_stays_wrong_is_tried_once(self, lab, free, known):
        known()
        lab.rotate_token()
        assert free.end(DatabricksSubmitRunOperator, notebook_task=notebook(0.1)) == "failed"
        assert lab.requests.count(SUBMIT) == 1


class TestSecrets:
    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    @pytest.mark.parametrize("fail", ["", "told to"])
    def test_are_nowhere(self, workspace, free, known, auth, fail):
        secret = known(auth)["password"]
        task = free.task(DatabricksSubmitRunOperator, notebook_task=notebook(0.1, fail))
        assert secret not in free.everything(task, ended=free.run(task))
        assert workspace.run.ended

    def test_in_an_argument_are_not_written_down(self, free):
        work = {"notebook_task": {**notebook(), "base_parameters": {"password": "very-secret"}}}
        assert not free.task(DatabricksSubmitRunOperator, **work).starts_in_triggerer
