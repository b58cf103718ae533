"""Workflows of real tasks: launched once, waited for in bulk, ended and run again as people do it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from airflow.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator as StockNotebookOperator,
)
from airflow.providers.databricks.operators.databricks_workflow import (
    DatabricksWorkflowTaskGroup as StockWorkflowTaskGroup,
)
from airflow.sdk import DAG

from astronomer.deferral import JobCancelled, JobFailed, JobTimedOut
from astronomer.lab.faults import Effect
from astronomer.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator,
    DatabricksTaskOperator,
)
from astronomer.providers.databricks.operators.databricks_workflow import DatabricksWorkflowTaskGroup
from tests.integration.databricks.workflows import WAIT, Api, DagRun
from tests.integration.driving import Task, until_now
from tests.unit.deferral.fakes import Count

LINK = "databricks_job_run_link"
CLUSTER = {"existing_cluster_id": "c1"}
OURS = {"quick_wait": 0, "poll_interval": 0.2}
GET, RUN_NOW, CANCEL = "/api/2.2/jobs/runs/get", "/api/2.2/jobs/run-now", "/api/2.2/jobs/runs/cancel"


@pytest.fixture
def api(lab):
    return Api(lab)


@pytest.fixture
def script(lab):
    """Write a Python file into the workspace; its path."""

    def write(name, text):
        (lab.workspace_directory / name).write_text(text, encoding="utf-8")
        return f"/{name}"

    return write


def workflow(*tasks, group=DatabricksWorkflowTaskGroup, name="dag", **options):
    """A function that makes a Dag with these tasks.

    :param tasks: functions that make a task each, and get the tasks made before by name.
    """

    def make():
        dag = DAG(name, schedule=None, default_args=OURS)
        with dag, group(group_id="wf", databricks_conn_id="databricks_default", **options):
            made = {}
            for task in tasks:
                one = task(made)
                made[one.label] = one
        return dag

    return make


def waits(name, seconds=0.3, after=(), operator=DatabricksNotebookOperator, fail="", **arguments):
    def make(made):
        parameters = {"seconds": str(seconds), **({"fail": fail} if fail else {})}
        task = operator(
            task_id=name,
            databricks_task_key=name,
            notebook_path=WAIT,
            source="WORKSPACE",
            notebook_params=parameters,
            **CLUSTER,
            **arguments,
        )
        for upstream in after:
            made[upstream] >> task
        return task

    return make


def runs(name, path, *parameters, after=(), **arguments):
    def make(made):
        config = {"spark_python_task": {"python_file": path, "parameters": list(parameters)}}
        task = DatabricksTaskOperator(
            task_id=name, databricks_task_key=name, task_config=config, **CLUSTER, **arguments
        )
        for upstream in after:
            made[upstream] >> task
        return task

    return make


def asked(lab, pattern):
    return list(lab.requests.select(pattern))


async def kill(task, supervisor):
    """A user ends a deferred task."""
    supervisor.answer = Count(0)
    await task.trigger.on_kill()


class TestWhole:
    def test_real_tasks_in_their_order_and_the_one_that_fails(self, lab, api, script, tmp_path):
        log = tmp_path / "log"
        note = script("note.py", "import sys\nopen(sys.argv[1], 'a').write(sys.argv[2] + '\\n')\n")
        bad = script(
            "bad.py", "rows = []\ndef load():\n    raise ValueError(f'no rows for 2024: {rows}')\nload()\n"
        )
        run = DagRun(
            workflow(
                runs("extract", note, str(log), "extract"),
                runs("clean", note, str(log), "clean", after=["extract"]),
                runs("load", bad, after=["clean"]),
                waits("report", after=["clean"]),
            )
        )
        run_id = run.launch()
        url = lab.runs[run_id].url
        assert run["launch"].ti.xcoms == {LINK: url}
        for name in ("extract", "clean", "report"):
            assert run[name].run() is None
            assert run[name].ti.xcoms == {LINK: url}
        with pytest.raises(JobFailed) as failed:
            run["load"].run()
        said = str(failed.value)
        assert "ValueError: no rows for 2024: []" in said
        assert "in load" in said
        assert "clear 'wf.launch'" in said
        assert log.read_text(encoding="utf-8").split() == ["extract", "clean"]
        assert len(asked(lab, RUN_NOW)) == 1
        assert len(asked(lab, "/api/2.2/jobs/runs/submit")) == 0

    def test_members_are_asked_for_by_one_request_per_tick(self, lab):
        names = [f"t{number}" for number in range(5)]
        run = DagRun(workflow(*(waits(name, 1.5) for name in names)))
        parent = run.launch()
        for name in names:
            run[name].deferred()
        lab.requests.clear()
        run.wait_for_all(*names)
        entries = asked(lab, "^/api/")
        assert {(entry.path, entry.query["run_id"]) for entry in entries} == {(GET, str(parent))}
        # Five waits at 0.2 s, each by itself, would have asked five times as often.
        assert len(entries) <= (entries[-1].at - entries[0].at) / 0.18 + 2
        for name in names:
            assert run[name].resume() == (False, None)

    def test_retries_by_databricks(self, lab, api, script, tmp_path):
        flaky = script(
            "flaky.py",
            "import pathlib, sys\nmark = pathlib.Path(sys.argv[1])\n"
            "if not mark.exists():\n    mark.touch()\n    raise RuntimeError('not yet')\n",
        )
        run = DagRun(
            workflow(
                runs("flaky", flaky, str(tmp_path / "mark"), max_retries=2, min_retry_interval_millis=400)
            )
        )
        run.launch()
        run["flaky"].run()

    @pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")  # what the stock hook calls
    @pytest.mark.parametrize("group", [DatabricksWorkflowTaskGroup, StockWorkflowTaskGroup])
    def test_stock_tasks_and_ours_side_by_side(self, lab, group):
        """Our group launches a stock member; the stock group launches one of ours."""
        stock = waits("stock", 2, operator=StockNotebookOperator, polling_period_seconds=0)
        run = DagRun(workflow(stock, waits("ours", 2), group=group, name=f"mixed-{group.__module__}"))
        parent = run.launch()
        run["ours"].run()
        run["stock"].run()
        assert lab.runs[parent].state.result == "SUCCESS"


class TestQueue:
    def test_a_launch_waits_in_the_queue_without_a_worker(self, lab, api):
        make = workflow(waits("long", 60), name="queued")
        first, second = DagRun(make), DagRun(make)
        running = first.launch()
        second["launch"].deferred()
        (queued,) = set(lab.runs) - {running, *(run_id for run_id, run in lab.runs.items() if run.ended)}
        assert api.get("2.2/jobs/runs/get", run_id=queued)["status"]["state"] == "QUEUED"

        async def make_room(_):
            await asyncio.sleep(0.5)
            lab.cancel_by_user(running)

        second["launch"].wait(make_room)
        assert second["launch"].resume() == (
            False,
            {"conn_id": "databricks_default", "job_id": lab.runs[queued].job_id, "run_id": queued},
        )
        assert not lab.runs[queued].ended

    def test_a_kill_in_the_queue_ends_the_run_and_no_other(self, lab, supervisor):
        make = workflow(waits("long", 60), name="queued-kill")
        running = DagRun(make).launch()
        second = DagRun(make)["launch"]
        second.deferred()
        queued = second.trigger.job["run_id"]
        second.wait(lambda _: kill(second, supervisor))
        assert lab.runs[queued].state.result == "CANCELED"
        assert not lab.runs[running].ended


class TestEnd:
    def test_a_kill_ends_one_member_and_what_depends_on_it(self, lab, api, supervisor):
        make = workflow(
            waits("left", 60), waits("right", 1.0), waits("after", 60, after=["left"]), name="kill"
        )
        run = DagRun(make)
        parent = run.launch()
        run["left"].deferred()
        run["left"].wait(lambda _: kill(run["left"], supervisor))
        run["right"].run()
        until_now(lambda: lab.runs[parent].ended)
        assert api.results(parent) == {
            "left": "CANCELED",
            "right": "SUCCESS",
            "after": "UPSTREAM_CANCELED",
        }
        assert len(asked(lab, CANCEL)) == 1

    def test_the_deadline_ends_one_member(self, lab, api):
        make = workflow(
            runs("slow", slow_script(lab), execution_timeout=timedelta(seconds=0.6)),
            waits("sibling", 60),
            name="deadline",
        )
        run = DagRun(make)
        parent = run.launch()
        with pytest.raises(JobTimedOut):
            run["slow"].run()
        assert api.results(parent) == {"slow": "CANCELED", "sibling": "RUNNING"}

    def test_a_cleared_launch_ends_its_run_and_its_members_follow_the_new_one(self, lab, workspace):
        run = DagRun(workflow(waits("long", 300), waits("other", 300), name="clear"))
        first = run.launch()
        run["long"].deferred()
        run["launch"].clear()
        second = run.launch()
        assert lab.runs[first].state.result == "CANCELED"
        assert not lab.runs[second].ended
        run["long"].wait()
        with pytest.raises(JobCancelled):
            run["long"].resume()
        run["long"].next_try()
        run["long"].deferred()
        workspace.finish(lab.runs[second])
        run["long"].wait()
        assert run["long"].resume() == (False, None)
        assert run["long"].ti.xcoms[LINK] == lab.runs[second].url


class TestAgain:
    def test_a_member_alone_is_never_run_again_but_a_repair_is_followed(self, lab, api, script, tmp_path):
        mark = tmp_path / "mark"
        path = script(
            "repaired.py", "import pathlib, sys\nassert pathlib.Path(sys.argv[1]).exists(), 'not yet'\n"
        )
        run = DagRun(workflow(runs("step", path, str(mark)), name="repair"))
        parent = run.launch()
        for again in (run["step"].next_try, run["step"].clear, run["step"].clear):
            with pytest.raises(
                JobFailed, match=r"AssertionError: not yet(.|\n)*Repair the run in Databricks"
            ):
                run["step"].run()
            until_now(lambda: lab.runs[parent].ended)
            again()
        mark.touch()
        api.post("2.2/jobs/runs/repair", run_id=parent, rerun_all_failed_tasks=True)
        run["step"].run()
        assert len(asked(lab, RUN_NOW)) == 1

    def test_a_retry_finds_the_task_that_still_runs(self, lab):
        run = DagRun(workflow(waits("step", 1.0), name="retry"))
        run.launch()
        run["step"].deferred()
        run["step"].next_try()
        run["step"].run()
        assert len(asked(lab, RUN_NOW)) == 1


class TestAlone:
    def test_a_notebook_that_fails_says_why(self, lab, script):
        path = script("notebook.py", "print('begin')\nraise KeyError('customer_id')\n")
        task = Task(DatabricksNotebookOperator, notebook_path=path, source="WORKSPACE", **CLUSTER)
        with pytest.raises(JobFailed, match="KeyError: 'customer_id'"):
            task.run()
        run = lab.runs[max(lab.runs)]
        assert task.ti.xcoms == {"run_id": run.run_id, "run_page_url": run.url}

    def test_a_lost_answer_starts_no_second_run(self, lab):
        lab.faults.add(Effect("lose_answer"), path="^/api/2.2/jobs/runs/submit$", times=1)
        before = set(lab.runs)
        Task(DatabricksTaskOperator, task_config={"notebook_task": {"notebook_path": WAIT}}, **CLUSTER).run()
        assert len(set(lab.runs) - before) == 1

    def test_the_deadline_ends_the_run(self, lab):
        before = set(lab.runs)
        task = Task(
            DatabricksTaskOperator,
            task_config={"spark_python_task": {"python_file": slow_script(lab)}},
            execution_timeout=timedelta(seconds=0.6),
            **CLUSTER,
        )
        with pytest.raises(JobTimedOut):
            task.run()
        (run,) = [run for run_id, run in lab.runs.items() if run_id not in before]
        assert run.ended


def slow_script(lab):
    (lab.workspace_directory / "slow.py").write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    return "/slow.py"
