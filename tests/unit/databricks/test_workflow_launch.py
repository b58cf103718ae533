"""The launch task: makes the workflow's job, starts a run of it once, waits for its start, and owns it."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta

import pytest
from airflow.sdk import DAG

from astronomer.deferral import Hub, JobCancelled, JobFailed, JobTimedOut, Transient
from astronomer.deferral._compat import AirflowException
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator,
    DatabricksTaskOperator,
)
from astronomer.providers.databricks.operators.databricks_workflow import DatabricksWorkflowTaskGroup
from tests.unit.databricks.airflow_side import Task, TaskInstance
from tests.unit.databricks.workflows import (
    CREATE,
    FAILED,
    JOBS,
    LINK,
    NOTEBOOK,
    PERMISSIONS,
    RESET,
    WorkflowWorkspace,
    killed,
)
from tests.unit.databricks.workspace import CANCEL, GET, LIST, RUN_NOW, Lost
from tests.unit.deferral.fakes import events_of, revived


class Launch(Task):
    """The launch task of a workflow of two tasks."""

    def __init__(self, group=None, **default_args):
        self.group, self.default_args = group or {}, {"quick_wait": 0, **default_args}
        super().__init__(self._make, WorkflowWorkspace(), ti=TaskInstance(task_id="wf.launch"))

    def _make(self):
        where = {"group_id": "wf", "databricks_conn_id": "databricks_default", **self.group}
        dag = DAG("dag", schedule=None, default_args=self.default_args)
        with dag, DatabricksWorkflowTaskGroup(**where):
            first = DatabricksNotebookOperator(
                task_id="first",
                databricks_task_key="first",
                notebook_params={"day": "{{ day }}", "own": "{% raw %}{{job.id}}{% endraw %}"},
                **NOTEBOOK,
            )
            config = {"sql_task": {"parameters": {"day": "{{ day }}"}}}
            first >> DatabricksTaskOperator(
                task_id="second", databricks_task_key="second", task_config=config
            )
        return dag.get_task("wf.launch")

    @property
    def context(self):
        return super().context | {"day": "monday"}

    @property
    def run(self):
        (found,) = self.workspace.runs.values()
        return found


@pytest.fixture
def launch():
    with (one := Launch()).in_place():
        yield one


class TestJob:
    def test_is_made_when_there_is_none_of_its_name(self, launch):
        launch.live()
        assert launch.workspace.asked(RESET) == []
        (settings,) = launch.workspace.settings.values()
        assert settings["name"] == "dag.wf"
        assert settings["max_concurrent_runs"] == 1
        first, second = settings["tasks"]
        assert (first["task_key"], first["depends_on"]) == ("first", [])
        assert second["depends_on"] == [{"task_key": "first"}]

    def test_has_the_templates_of_its_tasks_filled_in(self, launch):
        launch.live()
        (settings,) = launch.workspace.settings.values()
        first, second = settings["tasks"]
        assert first["notebook_task"]["base_parameters"] == {"day": "monday", "own": "{{job.id}}"}
        assert second["sql_task"]["parameters"] == {"day": "monday"}

    def test_is_reset_when_there_is_one_of_exactly_its_name(self, launch):
        launch.workspace.jobs |= {1: "DAG.WF", 2: "dag.wf"}
        launch.live()
        assert launch.workspace.asked(CREATE) == []
        assert [body["job_id"] for body in launch.workspace.asked(RESET)] == [2]
        assert launch.run.job_id == 2

    def test_is_looked_for_on_every_page(self, launch):
        pages = iter([{"next_page_token": "more"}, {"jobs": [{"job_id": 3, "settings": {"name": "dag.wf"}}]}])
        launch.workspace._list = lambda **_: next(pages)
        launch.workspace.jobs[3] = "dag.wf"
        launch.live()
        assert [body.get("page_token") for body in launch.workspace.asked(JOBS)] == [None, "more"]
        assert launch.run.job_id == 3

    @pytest.mark.parametrize(
        ("given", "changed"), [([{"user_name": "a"}], [[{"user_name": "a"}]]), ([], []), (None, [])]
    )
    def test_gets_the_permissions_of_the_group(self, given, changed):
        with Launch({"access_control_list": given}).in_place() as launch:
            launch.workspace.jobs[2] = "dag.wf"
            launch.live()
            assert [
                body["access_control_list"] for body in launch.workspace.asked(f"{PERMISSIONS}2")
            ] == changed

    def test_is_made_once_though_the_answer_is_lost(self, launch):
        launch.workspace.weather[CREATE] = [Lost()]
        launch.workspace.weather[JOBS] = [Transient("503")]
        launch.live()
        assert len(launch.workspace.settings) == 1
        assert len(launch.workspace.runs) == 1

    def test_may_have_another_name(self):
        with Launch({"extra_job_params": {"name": "mine"}}).in_place() as launch:
            launch.workspace.jobs[2] = "mine"
            launch.live()
            assert launch.workspace.asked(CREATE) == []

    def test_that_is_refused_starts_nothing(self, launch):
        launch.workspace.weather[CREATE] = [RequestRejected(400, "INVALID_PARAMETER_VALUE", "no cluster")]
        with pytest.raises(JobFailed, match=r"'dag.wf'.*no cluster"):
            launch.live()
        assert launch.workspace.runs == {}


class TestRun:
    def test_is_started_with_the_parameters_of_the_group(self):
        with Launch({"notebook_params": {"day": "{{ day }}"}, "python_params": ["a"]}).in_place() as launch:
            make = launch.make
            launch.make = lambda: rendered(make(), launch.context)
            launch.live()
            (body,) = launch.workspace.asked(RUN_NOW)
            assert len(body.pop("idempotency_token")) == 64
            job = launch.run.job_id
            assert body == {"job_id": job, "notebook_params": {"day": "monday"}, "python_params": ["a"]}

    def test_that_has_begun_is_what_the_task_returns(self, launch):
        result = launch.live()
        run = launch.run
        assert result == {"conn_id": "databricks_default", "job_id": run.job_id, "run_id": run.run_id}
        assert launch.ti.xcoms == {LINK: f"https://workspace/run/{run.run_id}"}
        assert run.active(launch.workspace.now)

    def test_that_is_queued_is_waited_for_without_a_worker(self, launch):
        launch.workspace.queue_seconds = 1800.0
        began = launch.timeline.now
        launch.execute()
        assert launch.trigger is not None
        assert launch.timeline.now < began + 60
        assert launch.resume()["run_id"] == launch.run.run_id
        assert launch.timeline.now >= began + 1800

    def test_whose_tasks_have_failed_had_begun(self, launch):
        """The members tell why."""
        with_failed_task(launch, FAILED)
        assert launch.live()["run_id"] == launch.run.run_id

    @pytest.mark.parametrize(
        ("code", "error"), [("MAX_CONCURRENT_RUNS_EXCEEDED", JobFailed), ("USER_CANCELED", JobCancelled)]
    )
    def test_that_never_began_fails_the_task(self, launch, code, error):
        launch.workspace.script = [{"runs_for": 0.0, "code": code, "message": "no place"}]
        with pytest.raises(error, match=r"The start of Databricks run \d+ .*no place"):
            launch.live()

    def test_is_started_anew_by_a_retry_when_it_never_began(self, launch):
        launch.workspace.script = [{"runs_for": 0.0, "code": "MAX_CONCURRENT_RUNS_EXCEEDED"}, {}]
        with pytest.raises(JobFailed):
            launch.live()
        launch.retry()
        assert launch.live()["run_id"] == max(launch.workspace.runs)

    def test_is_one_though_worker_and_answer_are_lost(self, launch):
        launch.workspace.weather[RUN_NOW] = [Lost(), Transient("503"), Lost()]
        launch.execute()
        launch.retry()
        launch.live()
        assert len(launch.workspace.runs) == 1

    def test_is_only_started_for_a_workflow(self, launch):
        operator = launch.make()
        operator.task_group = None
        with pytest.raises(AirflowException, match="must be a DatabricksWorkflowTaskGroup"):
            operator.request({})

    def test_is_asked_for_by_the_list_while_it_is_queued(self):
        """Each by itself only once it has begun."""
        workspace = WorkflowWorkspace()
        workspace.queue_seconds = 600.0
        with (world := Launch()).in_place():
            triggers = [deferred(workspace, world.timeline, f"run-{number}") for number in range(10)]
        workspace.requests.clear()

        async def wait():
            async with Hub() as hub:
                Hub._of_loop[asyncio.get_running_loop()] = hub
                waits = asyncio.gather(*(events_of(trigger) for trigger in triggers))
                return await asyncio.wait_for(waits, 3600.0)

        with world.timeline.in_place(), workspace.in_place():
            events = world.timeline.run(wait)
        assert [event["outcome"]["status"]["raw"] for (event,) in events] == ["RUNNING"] * 10
        assert len(workspace.asked(GET)) <= 20
        assert len(workspace.asked(LIST)) > 60


class TestOwner:
    def test_a_kill_in_the_queue_ends_the_run(self, launch):
        launch.workspace.queue_seconds = math.inf
        launch.execute()
        killed(launch)
        assert launch.workspace.cancelled == [launch.run.run_id]

    def test_a_kill_ends_a_run_that_has_begun_in_that_moment(self, launch):
        """The end of the wait is not the end of the run."""
        launch.workspace.queue_seconds = 60.0
        launch.execute()
        launch.timeline.now += 600.0
        launch.workspace.weather[CANCEL] = [Transient("503")]
        killed(launch)
        assert launch.workspace.active == []

    @pytest.mark.parametrize("state", ["scheduled", "queued", "running"])
    def test_a_trigger_that_slept_until_the_run_had_begun_ends_nothing(self, launch, state):
        """Another triggerer has seen the start, and the task waits for a worker, or has one."""
        launch.workspace.queue_seconds = 60.0
        launch.execute()
        launch.timeline.now += 600.0
        killed(launch, state)
        assert launch.workspace.cancelled == []

    def test_the_deadline_ends_the_run(self):
        with Launch(execution_timeout=timedelta(minutes=5)).in_place() as launch:
            launch.workspace.queue_seconds = math.inf
            with pytest.raises(JobTimedOut):
                launch.live()
            assert launch.workspace.active == []

    @pytest.mark.parametrize("quick_wait", [0, 1.5])
    @pytest.mark.parametrize("hidden", [False, True])
    def test_a_clear_ends_the_run_and_starts_another(self, hidden, quick_wait):
        with Launch(quick_wait=quick_wait).in_place() as launch:
            launch.live()
            if hidden:  # a clear that leaves `max_tries` as it was
                launch.retry()
                launch.clears += 1
            else:
                launch.clear()
            launch.live()
            first, second = launch.workspace.runs
            assert launch.workspace.cancelled == [first]
            assert launch.workspace.active == [second]
            assert launch.workspace.history[-1] == (second, [])

    def test_a_retry_of_a_launch_that_succeeded_unheard_starts_nothing(self, launch):
        launch.execute()
        launch.retry()
        launch.live()
        assert len(launch.workspace.runs) == 1
        assert launch.workspace.cancelled == []


def rendered(operator, context):
    operator.render_template_fields(context)
    return operator


def with_failed_task(launch, code):
    """The next run ends at once, because a task of it fails."""
    workspace, start = launch.workspace, launch.workspace.start

    def started(*args, **fields):
        run = start(*args, **fields)
        task = workspace.add_task(run, "first")
        workspace.end_task(task, code)
        run.ends, run.code = workspace.now, code
        return run

    workspace.start = started


def deferred(workspace, timeline, run_id):
    """The trigger of the launch task of one more Dag run."""
    launch = Launch()
    launch.workspace, launch.timeline, launch.ti.run_id = workspace, timeline, run_id
    with launch.in_place():
        launch.execute()
    return revived(launch.trigger)
