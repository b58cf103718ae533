"""Tasks that really run, and what they leave behind."""

import os
import signal
from pathlib import Path

import pytest

from astronomer.lab.databricks import DatabricksLab
from tests.lab.conftest import until
from tests.lab.databricks.conftest import Api, states, wait
from tests.work import counted


@pytest.fixture
def write(lab):
    """Put a file into the workspace and return its path there."""

    def write(name: str, text: str) -> str:
        lab.workspace_directory.joinpath(name).write_text(text)
        return f"/{name}"

    return write


def python(path: str, *parameters: str, key: str = "a", **more):
    return {
        "task_key": key,
        "spark_python_task": {"python_file": path, "parameters": list(parameters)},
        **more,
    }


def notebook(path: str, key: str = "a", **parameters: str):
    return {"task_key": key, "notebook_task": {"notebook_path": path, "base_parameters": parameters}}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestPython:
    def test_a_file(self, api, write):
        path = write(
            "ok.py", "import sys\nprint('got', sys.argv[1:], __name__)\nprint('err', file=sys.stderr)\n"
        )
        run = api.ended(api.submit(python(path, "x", "{{job.run_id}}", "{{unknown}}")))
        assert states(run) == {"a": "SUCCESS"}
        output = api.output(run, "a")
        assert output["logs"] == f"got ['x', '{run['run_id']}', '{{{{unknown}}}}'] __main__\nerr\n"
        assert (output["logs_truncated"], "error" in output) == (False, False)

    def test_a_failure_tells_the_error_and_the_trace_of_the_task_alone(self, api, write):
        path = write("bad.py", "def work():\n    raise ValueError('boom')\nprint('before')\nwork()\n")
        output = api.output(api.ended(api.submit(python(path))), "a")
        assert output["error"] == "ValueError: boom"
        assert output["error_trace"].startswith("Traceback (most recent call last):\n")
        assert "in work" in output["error_trace"]
        assert "task_runner" not in output["error_trace"]
        assert output["logs"].startswith("before\nTraceback")

    @pytest.mark.parametrize(
        ("code", "result", "error"),
        [
            ("import sys; sys.exit(0)", "SUCCESS", None),
            ("import sys; sys.exit(3)", "FAILED", "SystemExit: 3"),
            ("import os; os.kill(os.getpid(), 9)", "FAILED", "The Python process exited with code -9."),
            ("this is no python", "FAILED", "SyntaxError: invalid syntax"),
            ("raise RuntimeError('two\\nlines')", "FAILED", "RuntimeError: two"),
        ],
    )
    def test_every_way_to_end(self, api, write, code, result, error):
        run = api.ended(api.submit(python(write("end.py", code))))
        assert states(run) == {"a": result}
        assert api.output(run, "a").get("error") == error

    def test_a_file_of_this_machine(self, api, tmp_path):
        path = tmp_path / "here.py"
        path.write_text("import sibling")
        tmp_path.joinpath("sibling.py").write_text("print('beside')")
        assert api.output(api.ended(api.submit(python(str(path)))), "a")["logs"] == "beside\n"

    def test_a_file_that_is_not_there(self, api):
        run = api.ended(api.submit(python("dbfs:/nope.py"), notebook("/nope", key="b")))
        assert [task["state"]["life_cycle_state"] for task in run["tasks"]] == ["INTERNAL_ERROR"] * 2
        assert {task["status"]["termination_details"]["code"] for task in run["tasks"]} == {
            "RESOURCE_NOT_FOUND"
        }
        assert 'Unable to access the notebook "/nope".' in api.output(run, "b")["error"]

    def test_only_the_end_of_long_logs_is_kept(self, api, write):
        path = write("long.py", "for _ in range(6 * 1024): print('x' * 1023)\nprint('end')")
        output = api.output(api.ended(api.submit(python(path))), "a")
        assert (len(output["logs"]), output["logs_truncated"]) == (5 * 1024 * 1024, True)
        assert output["logs"].endswith("end\n")

    def test_a_job_has_its_parameters_replaced_by_those_of_the_run(self, api, write):
        path = write("args.py", "import sys; print(*sys.argv[1:])")
        job_id = api.create(python(path, "default"))
        run_id = api.post("2.2/jobs/run-now", job_id=job_id, python_params=["a", "b"])["run_id"]
        run = api.ended(run_id)
        assert api.output(run, "a")["logs"] == "a b\n"
        assert run["overriding_parameters"] == {"python_params": ["a", "b"]}


class TestNotebooks:
    def test_widgets_exit_and_values(self, api, write):
        first = write(
            "first.py",
            "# Databricks notebook source\n"
            "dbutils.widgets.text('color', 'none')\n"
            "# COMMAND ----------\n"
            "dbutils.jobs.taskValues.set(key='rows', value=7)\n"
            "dbutils.notebook.exit(dbutils.widgets.get('color') + dbutils.widgets.get('size'))\n",
        )
        second = write(
            "second.py",
            "rows = dbutils.jobs.taskValues.get('a', 'rows')\nassert rows == 7\ndbutils.notebook.exit(dbutils.widgets.get('said'))",
        )
        job_id = api.create(
            notebook(first, size="small", color="red"),
            {
                **notebook(second, key="b", said="{{tasks.a.values.rows}} {{tasks.[a].result_state}}"),
                "depends_on": [{"task_key": "a"}],
            },
            parameters=[{"name": "unused", "default": "0"}],
        )
        run_id = api.post("2.2/jobs/run-now", job_id=job_id, notebook_params={"color": "blue"})["run_id"]
        run = api.ended(run_id)
        assert api.output(run, "a")["notebook_output"]["result"] == "bluesmall"
        assert api.output(run, "b")["notebook_output"]["result"] == "7 success"
        assert "logs" not in api.output(run, "a")
        assert run["job_parameters"] == [{"name": "unused", "default": "0", "value": "0"}]

    def test_threads_are_waited_for_and_long_results_are_cut(self, api, write):
        thread = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()"
        assert api.output(api.ended(api.submit(python(write("thread.py", thread)))), "a")["logs"] == "late\n"
        long = write("result.py", "dbutils.notebook.exit('x' * (6 << 20))")
        output = api.output(api.ended(api.submit(notebook(long))), "a")["notebook_output"]
        assert (len(output["result"]), output["truncated"]) == (5 << 20, True)

    def test_a_widget_that_is_not_defined(self, api, write):
        run = api.ended(api.submit(notebook(write("w.py", "dbutils.widgets.get('x')").removesuffix(".py"))))
        assert "InputWidgetNotDefined" in api.output(run, "a")["error"]

    def test_wait_says_what_is_wrong_with_its_parameters(self, api):
        run = api.ended(api.submit(wait(seconds="soon")))
        assert api.output(run, "a")["error"].startswith("ValueError: could not convert")


class TestNothingIsLeft:
    def sleeper(self, write, tmp_path):
        """Return a program that starts another one, and the file in which they write their ids."""
        said = tmp_path / "pids"
        code = (
            "import os, subprocess, sys, time, pathlib\n"
            "child = subprocess.Popen(['sleep', '600'])\n"
            "pathlib.Path(sys.argv[1] + '.tmp').write_text(f'{os.getpid()} {child.pid}')\n"
            "os.rename(sys.argv[1] + '.tmp', sys.argv[1])\n"
            "if len(sys.argv) == 2: time.sleep(600)\n"
        )
        return write("sleeper.py", code), said

    def started(self, said: Path) -> list[int]:
        until(said.exists)
        return [int(pid) for pid in said.read_text().split()]

    def test_after_a_cancel(self, api, write, tmp_path):
        path, said = self.sleeper(write, tmp_path)
        run_id = api.submit(python(path, str(said)))
        pids = self.started(said)
        assert [alive(pid) for pid in pids] == [True, True]
        api.post("2.2/jobs/runs/cancel", run_id=run_id)
        until(lambda: not any(alive(pid) for pid in pids))
        assert api.ended(run_id)["state"]["result_state"] == "CANCELED"

    def test_after_a_timeout(self, lab, api, write, tmp_path):
        path, said = self.sleeper(write, tmp_path)
        run_id = api.submit(python(path, str(said), timeout_seconds=3600))
        pids = self.started(said)
        lab.advance(3601)
        until(lambda: not any(alive(pid) for pid in pids))
        assert states(api.run(run_id)) == {"a": "TIMEDOUT"}

    def test_after_the_end_of_the_task(self, api, write, tmp_path):
        path, said = self.sleeper(write, tmp_path)
        run = api.ended(api.submit(python(path, str(said), "leave")))
        assert states(run) == {"a": "SUCCESS"}
        until(lambda: not any(alive(pid) for pid in self.started(said)))

    def test_after_the_end_of_the_lab(self, lab_directory, trust, tmp_path):
        with DatabricksLab(directory=lab_directory) as lab:
            path, said = self.sleeper(lambda name, text: self.keep(lab, name, text), tmp_path)
            Api(lab).submit(python(path, str(said)))
            pids = self.started(said)
        until(lambda: not any(alive(pid) for pid in pids))

    def keep(self, lab, name, text):
        lab.workspace_directory.joinpath(name).write_text(text)
        return f"/{name}"

    def test_a_killed_process_is_a_failed_task(self, api, write, tmp_path):
        path, said = self.sleeper(write, tmp_path)
        run_id = api.submit(python(path, str(said)))
        os.kill(self.started(said)[0], signal.SIGTERM)
        assert states(api.ended(run_id)) == {"a": "FAILED"}


class TestOtherKinds:
    def test_sql_files_and_queries(self, lab, api, write):
        warehouse = lab.warehouses.default.id
        write(
            "script.sql",
            "create or replace table tasked as select 'a;b' as a; -- one; comment\nselect * from tasked where a = :v;",
        )
        query = api.post("2.0/sql/queries", query={"query_text": "select 1", "warehouse_id": warehouse})["id"]
        run = api.ended(
            api.submit(
                {
                    "task_key": "file",
                    "sql_task": {
                        "warehouse_id": warehouse,
                        "file": {"path": "/script.sql"},
                        "parameters": {"v": "a;b"},
                    },
                },
                {"task_key": "query", "sql_task": {"query": {"query_id": query}}},
            )
        )
        assert states(run) == {"file": "SUCCESS", "query": "SUCCESS"}
        shown = api.output(run, "file")["sql_output"]["query_output"]
        assert len(shown["sql_statements"]) == 2
        assert shown["sql_statements"][0]["lookup_key"] in lab.statements

    @pytest.mark.parametrize(
        ("task", "message"),
        [
            ({"file": {"path": "/bad.sql"}}, "TABLE_OR_VIEW_NOT_FOUND"),
            ({"file": {"path": "/none.sql"}}, "does not exist"),
            ({"query": {"query_id": "none"}}, "does not exist"),
            ({"file": {"path": "/bad.sql"}, "warehouse_id": "beefbeefbeefbeef"}, "beefbeef"),
        ],
    )
    def test_sql_that_fails(self, lab, api, write, task, message):
        write("bad.sql", "select * from nope; select 1")
        run = api.ended(
            api.submit({"task_key": "a", "sql_task": {"warehouse_id": lab.warehouses.default.id, **task}})
        )
        assert states(run) == {"a": "FAILED"}
        assert message in api.output(run, "a")["error"]

    def test_a_cancelled_sql_task_cancels_its_statement(self, lab, api, write):
        write("slow.sql", "select lab_wait(600); select 1")
        run_id = api.submit({"task_key": "a", "sql_task": {"file": {"path": "/slow.sql"}}})
        until(lambda: lab.active_statements)
        api.post("2.2/jobs/runs/cancel", run_id=run_id)
        until(lambda: not lab.active_statements)
        assert states(api.ended(run_id)) == {"a": "CANCELED"}

    def test_a_job_started_by_a_task(self, lab, api):
        inner = api.create(
            wait("i", fail="{{job.parameters.why}}"), parameters=[{"name": "why", "default": "no reason"}]
        )
        job = {"task_key": "a", "run_job_task": {"job_id": inner, "job_parameters": {"why": "inner"}}}
        run = api.ended(api.submit(job))
        output = api.output(run, "a")
        child = api.run(output["run_job_output"]["run_id"])
        assert (child["job_id"], child["state"]["result_state"]) == (inner, "FAILED")
        assert api.output(child, "i")["error"] == "Exception: inner"
        assert output["error"] == child["state"]["state_message"]
        missing = api.ended(api.submit({"task_key": "a", "run_job_task": {"job_id": 5}}))
        assert "Job 5 does not exist." in missing["state"]["state_message"]

    def test_cancelling_reaches_the_job_started_by_a_task(self, lab, api):
        inner = api.create(wait(seconds=600))
        run_id = api.submit({"task_key": "a", "run_job_task": {"job_id": inner}})
        until(lambda: lab.active == 2)
        api.post("2.2/jobs/runs/cancel", run_id=run_id)
        until(lambda: lab.active == 0)
        assert {run.state.result for run in list(lab.runs.values())[-2:]} == {"CANCELED"}

    @pytest.mark.parametrize(
        ("op", "left", "right", "outcome"),
        [
            ("EQUAL_TO", "1", "1", "true"),
            ("NOT_EQUAL", "1", "1", "false"),
            ("LESS_THAN", "2", "10", "true"),
            ("GREATER_THAN", "2", "10", "false"),
        ],
    )
    def test_conditions(self, api, op, left, right, outcome):
        condition = {"task_key": "c", "condition_task": {"op": op, "left": left, "right": right}}
        branches = [
            {**wait(name), "depends_on": [{"task_key": "c", "outcome": name}]} for name in ("true", "false")
        ]
        run = api.ended(api.submit(condition, *branches))
        other = {"true": "false", "false": "true"}[outcome]
        assert states(run) == {"c": "SUCCESS", outcome: "SUCCESS", other: "EXCLUDED"}
        assert run["tasks"][0]["condition_task"]["outcome"] == outcome
        assert run["state"]["result_state"] == "SUCCESS"

    def test_a_condition_of_words_is_an_error(self, api):
        task = {"task_key": "c", "condition_task": {"op": "LESS_THAN", "left": "a", "right": "b"}}
        assert states(api.ended(api.submit(task))) == {"c": "FAILED"}

    def test_other_kinds_fail_and_say_so(self, api):
        run = api.ended(api.submit({"task_key": "a", "spark_jar_task": {"main_class_name": "x"}}))
        assert api.output(run, "a")["error"] == "The lab does not run spark_jar_task."
        assert run["status"]["termination_details"]["code"] == "FEATURE_DISABLED"


def test_ten_thousand_waiting_runs_are_cheap(make_lab):
    lab = make_lab(quotas=False)
    api = Api(lab)
    ids = lab.seed(10_000, seconds=600, spread=60, tasks=1)
    assert lab.active == 10_000
    page = api.get("2.2/jobs/runs/list", active_only="true", limit=25)
    with counted(lab._server.do) as work:
        for _ in range(40):
            page = api.get(
                "2.2/jobs/runs/list", active_only="true", limit=25, page_token=page["next_page_token"]
            )
    assert work.calls < 60 * 40 * 25  # for each run that is listed; there are ten thousand
    lab.advance(600)
    assert 0 < lab.active < 10_000
    lab.advance(61)
    assert lab.active == 0
    assert api.run(ids[-1])["run_duration"] == pytest.approx(660_000, abs=1000)
