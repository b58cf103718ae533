"""What becomes of a task when its run has ended, whichever way; and what it says of bad input."""

from __future__ import annotations

import pytest

from astronomer.deferral import JobCancelled, JobError, JobFailed, JobLost, JobTimedOut
from astronomer.deferral._compat import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
)
from astronomer.deferral.transport import Transport
from astronomer.lab.databricks import app
from astronomer.lab.databricks.errors import ApiError
from astronomer.lab.databricks.states import SUCCESS, run_failed
from tests.integration.databricks.runs import GET, REPAIR, SUBMIT, notebook
from tests.integration.driving import Killed, until, until_now

LONG = 300
BOTH_WAYS = pytest.mark.parametrize("deferrable", [True, False])

LOADER = """
import sys

def read(day):
    if day == "1970-01-01":
        raise ValueError("no data for " + day)

def load(day):
    for _ in range(2):
        read(day)

load(sys.argv[1])
"""
FIRST_TIME_ONLY = """
import pathlib
seen = pathlib.Path(__file__).with_suffix(".seen")
if not seen.exists():
    seen.touch()
    raise RuntimeError("the first time only")
"""


def tasks_of(*given):
    """Tasks by key; each runs a notebook, after those it names."""
    return [
        {"task_key": key, "depends_on": [{"task_key": one} for one in after], **more}
        for key, after, more in given
    ]


@pytest.fixture
def seldom_right(workspace):
    """The id of a job that fails the first time it runs; Python tasks really run."""
    path = workspace.file("once.py", FIRST_TIME_ONLY)
    seen = workspace.lab.workspace_directory / "once.seen"
    seen.unlink(missing_ok=True)
    return workspace.job(
        *tasks_of(
            ("before", (), {"notebook_task": notebook(0)}),
            ("odd", ("before",), {"spark_python_task": {"python_file": path}}),
            ("after", ("odd",), {"notebook_task": notebook(0)}),
        )
    )


class TestFailures:
    def test_of_a_python_task_show_the_tail_of_its_trace(self, workspace):
        """One of several tasks; those that it has stopped are not blamed."""
        path = workspace.file("loader.py", LOADER)
        python = {"spark_python_task": {"python_file": path, "parameters": ["1970-01-01"]}}
        task = workspace.submits(
            tasks=tasks_of(
                ("extract", (), {"notebook_task": notebook(0)}),
                ("load", ("extract",), python),
                ("report", ("load",), {"notebook_task": notebook(0)}),
                ("check", (), {"notebook_task": notebook(0, "3 rows are wrong")}),
            ),
        )
        with pytest.raises(JobFailed) as caught:
            task.run()
        said = str(caught.value)
        run = workspace.run
        failed = {one.key: one for one in run.tasks}
        for words in (
            f"Databricks run {run.run_id} failed",
            run.url,
            f"Task 'load' (run {failed['load'].run_id})",
            "ValueError: no data for 1970-01-01",
            'in load\n        read(day)\n',
            "in read\n",
            f"Task 'check' (run {failed['check'].run_id})",
            "3 rows are wrong",
        ):  # fmt: skip
            assert words in said
        assert "'report'" not in said
        assert "'extract'" not in said

    def test_of_a_hundred_tasks_show_a_few(self, workspace):
        given = [(f"t{n}", (), {"notebook_task": notebook(0, f"wrong {n}")}) for n in range(120)]
        task = workspace.submits(tasks=tasks_of(*given))
        with pytest.raises(JobFailed, match="115 more of its tasks failed") as caught:
            task.run()
        assert str(caught.value).count("ended TERMINATED") == 5

    def test_whose_output_cannot_be_read_are_failures_all_the_same(self, lab, workspace):
        lab.faults.status(400, "get-output")
        with pytest.raises(JobFailed, match="its output cannot be read"):
            workspace.submits(fail="told to").run()

    def test_are_followed_by_a_new_run(self, workspace):
        task = workspace.submits(fail="told to")
        for tries in (1, 2):
            with pytest.raises(JobFailed, match="told to"):
                task.run()
            assert len(workspace.runs) == tries
            task.next_try()


class TestEndedOutside:
    def cancelled(self, workspace, **arguments):
        task = workspace.submits(LONG, **arguments)
        task.deferred()
        workspace.lab.cancel_by_user(task.run_id)
        task.wait()
        return task

    def test_by_a_user_in_databricks(self, workspace):
        task = self.cancelled(workspace)
        with pytest.raises(
            JobCancelled, match=r"was cancelled outside Airflow \(USER_CANCELED: Run cancelled"
        ):
            task.resume()
        task.next_try()
        task.deferred()
        assert len(workspace.runs) == 2

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"retry_cancelled": False}, AirflowFailException),
            ({"result_actions": {"USER_CANCELED": "fail"}}, AirflowFailException),
            ({"result_actions": {"user_*": "skip"}}, AirflowSkipException),
        ],
    )
    def test_can_be_final(self, workspace, arguments, error):
        with pytest.raises(error, match="was cancelled outside Airflow"):
            self.cancelled(workspace, **arguments).resume()

    def test_deleted(self, lab, workspace):
        """Right after its start it may only not be there yet."""
        task = workspace.submits(LONG)
        task.deferred()
        lab.delete_run(task.run_id)

        async def pass_time(trigger):
            asked = lab.requests.count(GET)
            await until(lambda: lab.requests.count(GET) > asked + 3)
            lab.advance(120)

        task.wait(pass_time)
        with pytest.raises(JobFailed, match=r"Databricks knows no such run \(any more\)"):
            task.resume()
        task.next_try()
        task.deferred()
        assert len(workspace.runs) == 1

    def test_hidden_it_is_not_taken_for_ended(self, workspace, monkeypatch):
        def refuse(lab, call):
            raise ApiError(
                403, "PERMISSION_DENIED", f"lab does not have View permissions on {call.arguments}"
            )

        task = workspace.submits(1)
        task.deferred()
        with monkeypatch.context() as patch:
            patch.setitem(app._JOBS, ("GET", "jobs/runs/get"), refuse)
            task.wait()
        with pytest.raises(JobLost, match=r"may not see .*\(it needs CAN_VIEW\).*PERMISSION_DENIED"):
            task.resume()
        task.next_try()
        assert task.run() is None
        assert len(workspace.runs) == 1


class TestResultActions:
    """What each end makes of a task: without a word about it, and with one."""

    @pytest.fixture
    def skipped(self, workspace):
        """A task whose run finds another one of its job, which lets only one go on."""
        job_id = workspace.job(
            {"task_key": "wait", "notebook_task": notebook(LONG)},
            max_concurrent_runs=1,
            queue={"enabled": False},
        )
        workspace.post("2.2/jobs/run-now", {"job_id": job_id})
        return lambda **arguments: workspace.runs_job(job_id, **arguments)

    @pytest.fixture
    def full(self, workspace):
        """A task whose run finds no place in the queue of its job."""
        job_id = workspace.job({"task_key": "wait", "notebook_task": notebook(LONG)})

        def make(**arguments):
            class Full(type(workspace.runs_job(0))):
                def _step(self, step):
                    found = super()._step(step)
                    run = workspace.runs[-1]
                    state = run_failed("The queue is full.", "MAX_JOB_QUEUE_SIZE_EXCEEDED")
                    workspace.change(run, lambda run: setattr(run, "state", state))
                    return found

            task = workspace.runs_job(job_id, **arguments)
            task.__class__ = Full
            return task

        return make

    @pytest.fixture
    def slow(self, workspace):
        return lambda **arguments: workspace.submits(LONG, timeout_seconds=1, **arguments)

    @pytest.fixture
    def half(self, workspace):
        """A task of which a part fails, and what depends on it makes up for it."""
        tasks = tasks_of(
            ("fails", (), {"notebook_task": notebook(0, "told to")}),
            ("cleans up", ("fails",), {"notebook_task": notebook(0.3), "run_if": "ALL_DONE"}),
        )
        return lambda **arguments: workspace.submits(tasks=tasks, **arguments)

    @pytest.fixture
    def broken(self, workspace):
        return lambda **arguments: workspace.submits(fail="told to", **arguments)

    @pytest.mark.parametrize(
        ("end", "actions", "error"),
        [
            ("skipped", {}, JobFailed),
            ("skipped", {"MAX_CONCURRENT_RUNS_EXCEEDED": "skip"}, AirflowSkipException),
            ("skipped", {"MAX_*": "fail"}, AirflowFailException),
            ("skipped", {"MAX_*": "success"}, None),
            ("full", {}, JobFailed),
            ("full", {"MAX_JOB_QUEUE_SIZE_EXCEEDED": "skip"}, AirflowSkipException),
            ("slow", {}, JobTimedOut),
            ("slow", {"TIMEDOUT": "fail"}, AirflowFailException),
            ("half", {}, None),
            ("half", {"SUCCESS_WITH_FAILURES": "retry"}, JobFailed),
            ("half", {"SUCCESS_WITH_FAILURES": "fail"}, AirflowFailException),
            ("broken", {}, JobFailed),
            ("broken", {"RUN_EXECUTION_ERROR": "fail"}, AirflowFailException),
            ("broken", {"*": "skip"}, AirflowSkipException),
            ("broken", {"*": "success"}, None),
        ],
    )
    def test_they_decide(self, request, end, actions, error):
        task = request.getfixturevalue(end)(result_actions=actions)
        if error is None:
            assert task.run() is None
            return
        with pytest.raises(error) as caught:
            task.run()
        assert type(caught.value) is error
        if end in ("half", "broken"):
            assert "told to" in str(caught.value)

    def test_a_success_in_part_is_told_of(self, half, capsys):
        half().run()
        assert capsys.readouterr().out.count("succeeded, but some of its tasks failed") == 1


class TestRepair:
    @BOTH_WAYS
    def test_reruns_what_failed_and_waits_for_it(self, workspace, seldom_right, deferrable):
        task = workspace.runs_job(seldom_right, deferrable=deferrable, repair_run=True)
        assert task.run() is None
        run = workspace.run
        assert run.state is SUCCESS
        assert [(one.key, one.attempt, one.state.result) for one in run.tasks] == [
            ("before", 0, "SUCCESS"),
            ("odd", 0, "FAILED"),
            ("after", 0, "UPSTREAM_FAILED"),
            ("odd", 1, "SUCCESS"),
            ("after", 1, "SUCCESS"),
        ]
        assert len(task.events) == (2 if deferrable else 0)
        assert task.ti.xcoms["run_id"] == run.run_id

    @BOTH_WAYS
    def test_is_tried_once_for_a_failure(self, lab, workspace, deferrable):
        job_id = workspace.job({"task_key": "wait", "notebook_task": notebook(0, "told to")})
        task = workspace.runs_job(job_id, deferrable=deferrable, repair_run=True)
        for tries in (1, 2):
            with pytest.raises(JobFailed, match="told to"):
                task.run()
            assert lab.requests.count(REPAIR) == len(workspace.runs) == tries
            task.next_try()

    @pytest.mark.parametrize("weather", ["lose_answer", "reset"])
    @BOTH_WAYS
    def test_is_done_once_whatever_becomes_of_the_answer(
        self, lab, workspace, seldom_right, weather, deferrable
    ):
        getattr(lab.faults, weather)(REPAIR, times=1)
        task = workspace.runs_job(seldom_right, deferrable=deferrable, repair_run=True)
        assert task.run() is None
        assert [one.id == 0 for one in workspace.run.repairs] == [True, False]
        assert workspace.run.state is SUCCESS

    @pytest.mark.parametrize("fails_again", [True, False])
    @BOTH_WAYS
    def test_is_done_once_though_the_worker_dies_before_it_hears_the_answer(
        self, workspace, seldom_right, deferrable, fails_again, monkeypatch
    ):
        send = Transport.send

        async def mortal(transport, method, url, **content):
            answer = await send(transport, method, url, **content)
            if url.endswith("/runs/repair"):
                raise Killed
            return answer

        job_id = seldom_right
        if fails_again:
            job_id = workspace.job({"task_key": "wait", "notebook_task": notebook(1, "told to")})
        task = workspace.runs_job(job_id, deferrable=deferrable, repair_run=True)
        with monkeypatch.context() as patch:
            patch.setattr(Transport, "send", mortal)
            with pytest.raises(Killed):
                task.run()
        task.next_try()
        if fails_again:
            with pytest.raises(JobFailed, match="told to"):
                task.run()
        else:
            assert task.run() is None
        assert [one.id == 0 for one in workspace.run.repairs] == [True, False]

    def test_is_one_of_several(self, workspace, seldom_right):
        """Somebody has repaired the run by hand before, and it failed again."""
        task = workspace.runs_job(seldom_right, repair_run=True)
        task.deferred()
        until_now(lambda: workspace.run.ended)
        seen = workspace.lab.workspace_directory / "once.seen"
        seen.unlink()
        by_hand = {"run_id": task.run_id, "rerun_all_failed_tasks": True}
        workspace.post("2.2/jobs/runs/repair", by_hand)
        until_now(lambda: workspace.run.ended)
        task.wait()
        deferred, _ = task.resume()
        assert deferred
        task.wait()
        assert task.resume() == (False, None)
        assert len(workspace.run.repairs) == 3
        assert workspace.run.state is SUCCESS

    @pytest.mark.parametrize(("reason", "repaired"), [("Workload failed", True), ("spot instance", False)])
    @BOTH_WAYS
    def test_with_new_settings_for_some_reasons(self, lab, workspace, reason, repaired, deferrable):
        job_id = workspace.job({"task_key": "wait", "notebook_task": notebook(0, "told to")})
        better = {"tasks": [{"task_key": "wait", "notebook_task": notebook(0)}]}
        task = workspace.runs_job(
            job_id,
            deferrable=deferrable,
            repair_run=True,
            databricks_repair_reason_new_settings={reason: better},
        )
        if repaired:
            assert task.run() is None
        else:
            with pytest.raises(JobFailed, match="told to"):
                task.run()
        assert lab.requests.count("/jobs/update$") == repaired
        assert len(workspace.run.repairs) == (2 if repaired else 0)

    def test_that_databricks_refuses_leaves_the_failure(self, workspace, seldom_right, monkeypatch):
        def refuse(lab, call):
            raise ApiError(400, "INVALID_STATE", "too old")

        monkeypatch.setitem(app._JOBS, ("POST", "jobs/runs/repair"), refuse)
        with pytest.raises(JobFailed, match="the first time only"):
            workspace.runs_job(seldom_right, repair_run=True).run()


class TestBadInput:
    @pytest.mark.parametrize("auth", ["pat", "oauth"])
    def test_a_login_that_is_refused(self, lab, workspace, connect_as, auth):
        secret = "dapi-not-it-at-all"
        connect_as(auth=auth, fields={"password": secret})
        with pytest.raises(JobError) as caught:
            workspace.submits().run()
        for said in ("refused the login", "'databricks_default'", "Check its token"):
            assert said in str(caught.value)
        assert secret not in str(caught.value)
        assert len(lab.requests.entries) <= 1, "the user would be locked out"
        assert workspace.runs == []

    def test_a_host_that_is_not_there(self, workspace, connect_as):
        connect_as(fields={"host": "no-such-workspace.invalid", "port": None})
        with pytest.raises(JobError, match=r"could not be reached: .*no-such-workspace\.invalid"):
            workspace.submits(outage_tolerance=0.5).run()

    def test_a_host_that_is_something_else(self, lab, workspace, connect_as):
        lab.faults.status(200, SUBMIT)
        with pytest.raises(JobError, match=r"could not be reached: .*/jobs/runs/submit.* names no run"):
            workspace.submits(outage_tolerance=0.5).run()
        assert workspace.runs == []

    def test_a_connection_that_is_missing(self, lab, workspace):
        with pytest.raises((JobError, AirflowNotFoundException), match="nowhere"):
            workspace.submits(databricks_conn_id="nowhere").run()
        assert lab.requests.entries == []

    @pytest.mark.parametrize("deferrable", [True, False])
    def test_a_connection_that_is_deleted_while_a_run_goes_on(self, workspace, monkeypatch, deferrable):
        task = workspace.submits(1)
        task.deferred()
        with monkeypatch.context() as patch:
            patch.delenv("AIRFLOW_CONN_DATABRICKS_DEFAULT")
            task.wait()
        with pytest.raises(JobLost, match="'databricks_default' is gone"):
            task.resume()
        task._arguments["deferrable"] = deferrable
        task.next_try()
        assert task.run() is None
        assert len(workspace.runs) == 1

    @pytest.mark.parametrize(
        ("job_id", "words"),
        [(4711, "Job 4711 does not exist"), ("47 11", "'job_id' to be a number"), ("{{ '' }}", "job_id")],
    )
    def test_a_job_that_is_not_there(self, workspace, job_id, words):
        with pytest.raises((JobFailed, ValueError), match=words) as caught:
            workspace.runs_job(job_id).run()
        if isinstance(caught.value, JobFailed):
            assert "none was started" in str(caught.value)
            assert "POST /api/2.2/jobs/run-now" in str(caught.value)

    def test_a_request_that_makes_no_sense(self, workspace):
        tasks = tasks_of(("a", ("b",), {"notebook_task": notebook(0)}))
        task = workspace.submits(tasks=tasks)
        with pytest.raises(JobFailed, match="Invalid dependency: b of task a") as caught:
            task.run()
        assert "Correct the operator's arguments" in str(caught.value)
        task.next_try()
        task._arguments["tasks"] = tasks_of(("a", (), {"notebook_task": notebook(0)}))
        assert task.run() is None

    def test_actions_that_there_are_not(self, workspace):
        with pytest.raises(ValueError, match="none of success, skip, retry, fail"):
            workspace.submits(result_actions={"SKIPPED": "ignore"}).start()
