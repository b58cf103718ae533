"""The operators that run jobs, from their arguments to their end, on a workspace in memory."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.databricks.operators import databricks as stock

from astronomer.deferral import (
    CredentialsRejected,
    JobCancelled,
    JobError,
    JobFailed,
    JobLost,
    JobTimedOut,
    Transient,
)
from astronomer.deferral._compat import AirflowException, AirflowFailException, AirflowSkipException
from astronomer.deferral.memory import Attempt
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.operators import databricks
from astronomer.providers.databricks.operators.databricks import (
    DatabricksRunNowOperator,
    DatabricksRunNowOperatorAsync,
    DatabricksSubmitRunOperator,
    DatabricksSubmitRunOperatorAsync,
)
from tests.unit.databricks.airflow_side import Task
from tests.unit.databricks.workspace import (
    CANCEL,
    CANCEL_ALL,
    GET,
    LIST,
    REPAIR,
    RUN_NOW,
    SUBMIT,
    UPDATE,
    Client,
    Lost,
    Piece,
)

WORK = {"notebook_task": {"notebook_path": "/it"}, "existing_cluster_id": "c"}
FAILS = {"runs_for": 60.0, "code": "RUN_EXECUTION_ERROR", "message": "it broke"}
PASSES = {"runs_for": 60.0}


@pytest.fixture
def task_of():
    """Makes a task with some arguments, whose workspace has job 7."""
    placed = []

    def make(kind=DatabricksRunNowOperator, *, lasting=True, **arguments):
        def operator():
            given = arguments
            if issubclass(kind, DatabricksRunNowOperator) and not {"job_id", "job_name", "json"} & set(given):
                given = {"job_id": 7, **given}
            return kind(task_id="task", **given)

        task = Task(operator)
        task.workspace.jobs[7] = "nightly"
        if not lasting:
            task.store = None
        placed.append(task.in_place())
        placed[-1].__enter__()
        return task

    yield make
    for one in reversed(placed):
        one.__exit__(None, None, None)


BOTH = pytest.mark.parametrize("kind", [DatabricksRunNowOperator, DatabricksSubmitRunOperator])
BOTH_WAYS = pytest.mark.parametrize("deferrable", [True, False])


def arguments_of(kind):
    return WORK if issubclass(kind, DatabricksSubmitRunOperator) else {"job_id": 7}


class TestItsLife:
    @BOTH
    @BOTH_WAYS
    def test_a_run_that_succeeds(self, task_of, kind, deferrable):
        task = task_of(kind, deferrable=deferrable, **arguments_of(kind))
        task.workspace.script = [PASSES]
        task.execute()
        assert (task.trigger is not None) is deferrable
        if deferrable:
            task.resume()
        ((run_id, run),) = task.workspace.runs.items()
        assert task.operator.run_id == run_id
        assert task.ti.xcoms == {
            "job_id": run.job_id,
            "run_id": run_id,
            "run_page_url": f"https://workspace/run/{run_id}",
        }
        assert len(task.workspace.asked(kind.path)) == 1
        assert task.workspace.clients == task.workspace.closed

    @BOTH
    def test_a_quick_run_never_defers(self, task_of, kind):
        task = task_of(kind, **arguments_of(kind))
        task.workspace.script = [{"runs_for": 0.7}]
        task.execute()
        assert task.trigger is None

    @BOTH
    def test_the_request_is_the_stock_operators_and_a_token(self, task_of, kind):
        arguments = arguments_of(kind)
        task = task_of(kind, **arguments)
        task.workspace.script = [PASSES]
        task.live()
        (sent,) = task.workspace.asked(kind.path)
        token = sent.pop("idempotency_token")
        assert len(token) == 64
        expected = {"job_id": "7"} if kind is DatabricksRunNowOperator else {**WORK, "run_name": "task"}
        assert sent == expected

    def test_xcoms_are_pushed_before_the_first_wait_and_only_if_wanted(self, task_of):
        task = task_of()
        task.execute()
        assert set(task.ti.xcoms) == {"job_id", "run_id", "run_page_url"}
        task = task_of(do_xcom_push=False)
        task.execute()
        assert task.ti.xcoms == {}

    @pytest.mark.parametrize("waits", [True, False])
    def test_what_is_not_waited_for_is_not_the_tasks_to_end(self, waits):
        """Without a worker, a user may end the task between the submit and its success."""
        task = DatabricksSubmitRunOperator(task_id="work", wait_for_termination=waits, **WORK)
        begun = Attempt(-1, 0, "key", job=DatabricksRun(7, "conn").to_dict())
        task.in_triggerer = SimpleNamespace(memory=SimpleNamespace(unsettled=lambda: begun))
        assert task._begun_elsewhere() == (DatabricksRun(7, "conn") if waits else None)

    @BOTH
    @pytest.mark.parametrize("lasting", [True, False])
    def test_without_a_wait_it_returns_once_the_run_has_started(self, task_of, kind, lasting):
        task = task_of(kind, lasting=lasting, wait_for_termination=False, **arguments_of(kind))
        assert task.execute() is None
        assert task.trigger is None
        assert len(task.workspace.active) == 1
        assert task.ti.xcoms["run_id"] == task.workspace.active[0]
        task.retry()
        task.execute()
        assert len(task.workspace.runs) == 1

    @BOTH
    def test_without_a_wait_the_tasks_time_is_not_the_runs(self, task_of, kind):
        limit = timedelta(seconds=10)
        task = task_of(kind, wait_for_termination=False, execution_timeout=limit, **arguments_of(kind))
        task.execute()
        assert not [one for one in task.workspace.requests if "timeout_seconds" in one.content]
        task.timeline.now += 60
        task.retry()
        task.execute()
        assert len(task.workspace.runs) == len(task.workspace.active) == 1

    def test_without_a_wait_a_clear_starts_another_and_ends_the_first(self, task_of):
        task = task_of(wait_for_termination=False)
        task.execute()
        (first,) = task.workspace.active
        task.clear()
        task.execute()
        assert len(task.workspace.runs) == 2
        assert first not in task.workspace.active

    def test_templates_and_colours_are_the_stock_operators(self):
        for ours, theirs in (
            (DatabricksRunNowOperatorAsync, stock.DatabricksRunNowOperator),
            (DatabricksSubmitRunOperatorAsync, stock.DatabricksSubmitRunOperator),
        ):
            assert issubclass(ours, theirs)
            assert ours.template_fields == theirs.template_fields
            assert ours.template_ext == theirs.template_ext
            assert ours.operator_extra_links == theirs.operator_extra_links

    def test_the_link_reads_what_was_pushed(self, task_of, monkeypatch):
        task = task_of()
        task.execute()
        monkeypatch.setattr(stock.XCom, "get_value", lambda *, key, ti_key: task.ti.xcoms[key], raising=False)
        (link,) = task.operator.operator_extra_links
        assert link.get_link(task.operator, ti_key=None) == task.ti.xcoms["run_page_url"]

    def test_every_name_of_the_address_is_there(self):
        assert all(hasattr(databricks, name) for name in databricks.__all__)


class TestArguments:
    def test_what_a_parser_can_know_is_said_when_the_dag_is_parsed(self):
        for kind, arguments, said in (
            (DatabricksRunNowOperator, {}, "Name the job to run"),
            (DatabricksRunNowOperator, {"job_id": 7, "idempotency_token": "x" * 65}, "65 characters"),
            (DatabricksRunNowOperator, {"job_id": 7, "result_actions": {"SKIPPED": "?"}}, "none of success"),
            (DatabricksRunNowOperator, {"job_id": 7, "poll_interval": -1}, "must not be negative"),
            (DatabricksSubmitRunOperator, {}, "There is nothing to run"),
            (DatabricksSubmitRunOperator, {"new_cluster": {}}, "There is nothing to run"),
        ):
            with pytest.raises(ValueError, match=said):
                kind(task_id="task", **arguments)
        with pytest.raises(AirflowException, match="'job_name' is not allowed"):
            DatabricksRunNowOperator(task_id="task", job_id=7, job_name="nightly")

    def test_a_token_that_is_a_template_has_no_length_yet(self):
        template = "{{ dag_run.run_id }}" + "x" * 60
        assert DatabricksRunNowOperator(task_id="task", job_id=7, idempotency_token=template)

    @pytest.mark.parametrize(
        ("arguments", "poll", "tolerance"),
        [
            ({}, 5.0, 3600.0),
            ({"polling_period_seconds": 30}, 30.0, 3600.0),
            ({"polling_period_seconds": 30, "poll_interval": 7}, 7.0, 3600.0),
            ({"outage_tolerance": timedelta(hours=2)}, 5.0, 7200.0),
        ],
    )
    def test_durations(self, arguments, poll, tolerance):
        operator = DatabricksRunNowOperator(task_id="task", job_id=7, **arguments)
        assert (operator.poll_interval, operator.outage_tolerance) == (poll, tolerance)
        assert operator.polling_period_seconds == poll

    def test_retry_arguments_say_how_long_an_outage_is_borne(self):
        from tenacity import stop_after_attempt, wait_fixed

        retrying = {"stop": stop_after_attempt(11), "wait": wait_fixed(30)}
        operator = DatabricksRunNowOperator(task_id="task", job_id=7, databricks_retry_args=retrying)
        assert operator.outage_tolerance == 300.0
        assert operator.databricks_retry_args is retrying

    def test_a_job_by_its_name(self, task_of):
        task = task_of(job_name="nightly")
        task.workspace.weather["2.2/jobs/list"] = [Transient("503")] * 3
        task.execute()
        assert task.workspace.asked(RUN_NOW)[0]["job_id"] == 7
        assert "job_name" not in task.workspace.asked(RUN_NOW)[0]

    def test_a_name_that_no_job_has(self, task_of):
        task = task_of(job_name="weekly")
        with pytest.raises(AirflowException, match="weekly can not be found"):
            task.execute()
        assert task.workspace.asked(RUN_NOW) == []

    def test_json_may_hold_it_all(self, task_of):
        task = task_of(json={"job_id": 7, "job_parameters": {"a": "1"}})
        task.execute()
        assert task.workspace.asked(RUN_NOW)[0]["job_parameters"] == {"a": "1"}

    def test_json_that_names_no_job(self, task_of):
        task = task_of(json={"notebook_params": {"a": "1"}})
        with pytest.raises(ValueError, match="names no job"):
            task.execute()

    def test_a_token_in_json_counts_as_the_users(self, task_of):
        task = task_of(json={"job_id": 7, "idempotency_token": "mine"})
        task.execute()
        assert task.workspace.asked(RUN_NOW)[0]["idempotency_token"] == "mine"


class TestServerLimit:
    def test_submit_tells_databricks_the_time_that_is_left_and_half_a_minute(self, task_of):
        task = task_of(DatabricksSubmitRunOperator, execution_timeout=timedelta(minutes=10), **WORK)
        task.execute()
        assert task.workspace.asked(SUBMIT)[0]["timeout_seconds"] == 630

    def test_unless_the_user_has_set_it(self, task_of):
        task = task_of(
            DatabricksSubmitRunOperator, execution_timeout=timedelta(minutes=10), timeout_seconds=0, **WORK
        )
        task.execute()
        assert task.workspace.asked(SUBMIT)[0]["timeout_seconds"] == "0"

    def test_without_a_timeout_there_is_none(self, task_of):
        task = task_of(DatabricksSubmitRunOperator, **WORK)
        task.execute()
        assert "timeout_seconds" not in task.workspace.asked(SUBMIT)[0]

    def test_run_now_has_no_such_field(self, task_of):
        task = task_of(execution_timeout=timedelta(minutes=10))
        task.execute()
        assert "timeout_seconds" not in task.workspace.asked(RUN_NOW)[0]


class TestDeadline:
    @BOTH
    @BOTH_WAYS
    def test_it_ends_the_run(self, task_of, kind, deferrable):
        task = task_of(
            kind, deferrable=deferrable, execution_timeout=timedelta(minutes=10), **arguments_of(kind)
        )
        with pytest.raises(
            JobTimedOut, match="did not end before the task's execution_timeout; it was cancel"
        ):
            task.live()
        assert task.workspace.active == []

    def test_databricks_own_limit_is_one_too(self, task_of):
        task = task_of()
        task.workspace.script = [{"runs_for": 60.0, "code": "TIMEDOUT"}]
        with pytest.raises(JobTimedOut):
            task.live()


class TestFailure:
    @BOTH
    @BOTH_WAYS
    def test_it_is_told_with_the_errors_of_its_tasks(self, task_of, kind, deferrable):
        task = task_of(kind, deferrable=deferrable, **arguments_of(kind))
        task.workspace.outputs[11] = {"error": "ValueError: no rows", "error_trace": "line 1\nline 2"}
        now = task.timeline.now
        task.workspace.script = [FAILS | {"tasks": [Piece(11, now, now, "RUN_EXECUTION_ERROR", key="load")]}]
        with pytest.raises(JobFailed) as caught:
            task.live()
        (run_id,) = task.workspace.runs
        assert str(caught.value).splitlines() == [
            f"Databricks run {run_id} failed (RUN_EXECUTION_ERROR: it broke). See https://workspace/run/{run_id}",
            "Task 'load' (run 11) ended TERMINATED RUN_EXECUTION_ERROR: ValueError: no rows",
            "    line 1",
            "    line 2",
        ]

    def test_a_failure_among_more_than_a_hundred_tasks(self, task_of):
        task = task_of()
        now = task.timeline.now
        tasks = [Piece(number, now, now, key=f"t{number}") for number in range(250)]
        tasks[240].code = "RUN_EXECUTION_ERROR"
        task.workspace.script = [FAILS | {"tasks": tasks}]
        with pytest.raises(JobFailed, match="Task 't240'"):
            task.live()

    @pytest.mark.parametrize("trouble", [RequestRejected(400, "INVALID", "no"), Transient("503")])
    def test_it_is_told_though_its_tasks_cannot_be_read(self, task_of, trouble):
        task = task_of()
        task.workspace.script = [FAILS]
        task.execute()
        ended = task.timeline.now + 60.0

        def after(request):
            if request.path == GET and request.at - task.workspace.skew > ended + 1e6:
                raise trouble

        task.workspace.before = after
        status = {"phase": "failed", "raw": "TERMINATED FAILED", "code": "FAILED"}
        event = {"job": task.trigger.job, "outcome": {"status": status}}
        task.timeline.now += 2e6
        with pytest.raises(JobFailed, match=r"failed \(FAILED\)(.|\n)*errors of its tasks cannot be read"):
            task.process(lambda operator, context: operator.execute_complete(context, event))

    def test_a_cancel_in_databricks(self, task_of):
        task = task_of()
        task.workspace.script = [{"runs_for": 60.0, "code": "USER_CANCELED"}]
        with pytest.raises(JobCancelled, match="was cancelled outside Airflow"):
            task.live()

    def test_a_run_that_may_not_be_seen_is_not_called_failed(self, task_of):
        task = task_of()
        task.execute()
        task.workspace.weather[GET] = [RequestRejected(403, "PERMISSION_DENIED", "no")]
        with pytest.raises(JobLost, match="CAN_VIEW"):
            task.resume()
        assert len(task.workspace.active) == 1

    def test_one_that_may_not_be_seen_from_the_start_was_started_all_the_same(self, task_of):
        task = task_of()
        task.workspace.weather[GET] = [RequestRejected(403, "PERMISSION_DENIED", "no")] * 9
        with pytest.raises(JobLost, match="CAN_VIEW"):
            task.live()
        task.workspace.weather.clear()
        task.retry()
        task.execute()
        assert len(task.workspace.runs) == 1

    def test_a_run_in_a_workspace_that_the_connection_no_longer_names(self, task_of, monkeypatch):
        task = task_of()
        task.execute()
        monkeypatch.setattr(Client, "address", "https://other")
        with pytest.raises(JobLost, match=r"points to https://other, but .* started in https://workspace"):
            task.resume()


class TestRefusals:
    @BOTH
    def test_a_request_that_is_refused_says_so_and_starts_nothing(self, task_of, kind):
        task = task_of(kind, **arguments_of(kind))
        task.workspace.weather[kind.path] = [
            RequestRejected(400, "INVALID_PARAMETER_VALUE", "no such cluster")
        ]
        with pytest.raises(
            JobFailed, match="none was started: HTTP 400: INVALID_PARAMETER_VALUE no such clus"
        ):
            task.execute()
        assert task.workspace.runs == {}
        task.retry()
        task.execute()
        assert len(task.workspace.active) == 1

    def test_a_login_that_is_refused(self, task_of):
        task = task_of()
        task.workspace.weather[RUN_NOW] = [CredentialsRejected("HTTP 401")]
        with pytest.raises(
            JobError, match="refused the login of the Airflow connection 'databricks_default'"
        ):
            task.execute()

    def test_an_outage_that_lasts_longer_than_is_tolerated(self, task_of):
        task = task_of(outage_tolerance=600.0)
        task.workspace.weather[RUN_NOW] = [Transient("503")] * 1000
        began = task.timeline.now
        with pytest.raises(JobError, match="could not be reached: 503"):
            task.execute()
        assert 500.0 <= task.timeline.now - began <= 700.0

    def test_an_outage_is_told_once(self, task_of):
        from structlog.testing import capture_logs

        task = task_of()
        task.workspace.weather[RUN_NOW] = [Transient("503"), Lost(), Transient("503")]
        with capture_logs() as logs:
            task.execute()
        assert [one["event"] for one in logs if one["log_level"] == "warning"] == [
            "Databricks cannot be asked just now, waiting on: 503"
        ]

    def test_ten_minutes_of_outage_in_every_step(self, task_of):
        task = task_of()
        task.workspace.script = [{"runs_for": 3000.0}]
        for path in (RUN_NOW, GET):
            task.workspace.weather[path] = [Transient("503")] * 12
        task.live()
        assert len(task.workspace.runs) == 1

    @pytest.mark.parametrize(
        "lost", [Lost(), Lost(Transient("504")), Lost(Transient("429", retry_after=9.0))]
    )
    def test_answers_that_are_lost(self, task_of, lost):
        task = task_of()
        task.workspace.script = [PASSES]
        task.workspace.weather[RUN_NOW] = [lost, lost]
        task.live()
        assert len(task.workspace.runs) == 1


class TestResultActions:
    @pytest.mark.parametrize(
        ("code", "action", "error"),
        [
            ("SKIPPED", "skip", AirflowSkipException),
            ("USER_CANCELED", "skip", AirflowSkipException),
            ("USER_CANCELED", "fail", AirflowFailException),
            ("CLUSTER_ERROR", "fail", AirflowFailException),
            ("CLUSTER_ERROR", "retry", JobFailed),
            ("SUCCESS_WITH_FAILURES", "retry", JobFailed),
            ("SUCCESS_WITH_FAILURES", "fail", AirflowFailException),
            ("SUCCESS_WITH_FAILURES", "skip", AirflowSkipException),
            ("CLUSTER_ERROR", "success", None),
            ("USER_CANCELED", "success", None),
            ("SUCCESS_WITH_FAILURES", None, None),
            ("SKIPPED", None, JobFailed),
        ],
    )
    @BOTH_WAYS
    def test_they_decide(self, task_of, code, action, error, deferrable):
        task = task_of(deferrable=deferrable, result_actions={code: action} if action else None)
        task.workspace.script = [{"runs_for": 60.0, "code": code, "message": "why"}, PASSES]
        if error is None:
            task.live()
        else:
            with pytest.raises(error) as caught:
                task.live()
            assert type(caught.value) is error
            assert code in str(caught.value)
        task.clear()
        task.live()
        assert len(task.workspace.runs) == 2

    def test_a_success_with_failures_is_told_of(self, task_of):
        from structlog.testing import capture_logs

        task = task_of()
        task.workspace.script = [{"runs_for": 60.0, "code": "SUCCESS_WITH_FAILURES"}]
        with capture_logs() as logs:
            task.live()
        assert [one["event"] for one in logs if one["log_level"] == "warning"] == [
            "Databricks run 101 succeeded, but some of its tasks failed. See https://workspace/run/101"
        ]

    def test_an_action_for_a_code_goes_before_retry_cancelled(self, task_of):
        task = task_of(retry_cancelled=False, result_actions={"USER_CANCELED": "skip"})
        task.workspace.script = [{"runs_for": 60.0, "code": "USER_CANCELED"}]
        with pytest.raises(AirflowSkipException):
            task.live()
        task = task_of(retry_cancelled=False)
        task.workspace.script = [{"runs_for": 60.0, "code": "USER_CANCELED"}]
        with pytest.raises(AirflowFailException):
            task.live()

    def test_a_deadline_is_not_theirs_to_decide(self, task_of):
        task = task_of(execution_timeout=timedelta(minutes=1), result_actions={"*": "success"})
        with pytest.raises(JobTimedOut):
            task.live()


class TestTries:
    @pytest.mark.parametrize("lasting", [True, False])
    @pytest.mark.parametrize("token", [None, "mine"])
    @BOTH
    def test_each_failure_is_followed_by_a_new_run(self, task_of, kind, lasting, token):
        task = task_of(kind, lasting=lasting, idempotency_token=token, **arguments_of(kind))
        task.workspace.script = [FAILS, FAILS, FAILS, PASSES]
        for _ in range(3):
            with pytest.raises(JobFailed):
                task.live()
            task.retry()
        task.live()
        assert len(task.workspace.runs) == 4
        if lasting:
            assert len(task.workspace.asked(kind.path)) == 4

    @pytest.mark.parametrize("lasting", [True, False])
    def test_a_try_whose_worker_dies_after_the_defer_is_taken_up(self, task_of, lasting):
        task = task_of(lasting=lasting)
        task.workspace.script = [{"runs_for": 900.0}]
        task.execute()
        task.retry()
        task.live()
        assert len(task.workspace.runs) == 1

    @pytest.mark.parametrize("token", [None, "mine"])
    @pytest.mark.parametrize("code", ["SUCCESS", "RUN_EXECUTION_ERROR"])
    def test_a_clear_starts_a_new_run(self, task_of, token, code):
        task = task_of(idempotency_token=token)
        task.workspace.script = [{"runs_for": 60.0, "code": code}, PASSES]
        try:
            task.live()
        except JobFailed:
            assert code != "SUCCESS"
        task.clear()
        task.live()
        assert len(task.workspace.runs) == 2

    @pytest.mark.parametrize("token", [None, "mine"])
    def test_a_run_that_nobody_heard_of_is_ended_after_a_clear_or_two(self, task_of, token):
        task = task_of(idempotency_token=token)
        for trouble in ({RUN_NOW: Lost(CredentialsRejected("gone"))}, {LIST: CredentialsRejected("gone")}):
            task.workspace.weather.update({path: [one] for path, one in trouble.items()})
            with pytest.raises(JobError):
                task.execute()
            task.clear()
        (unheard,) = task.workspace.active
        task.execute()
        assert [active for _, active in task.workspace.history] == [[], []]
        assert len(task.workspace.active) == 1
        assert unheard not in task.workspace.active

    @pytest.mark.parametrize("token", [None, "mine"])
    def test_a_clear_ends_the_run_of_before_and_sees_it_end(self, task_of, token):
        task = task_of(idempotency_token=token)
        task.workspace.cancel_takes = 20.0
        task.execute()
        task.clear()
        task.execute()
        assert [active for _, active in task.workspace.history] == [[], []]
        assert len(task.workspace.active) == 1

    def test_two_tasks_with_one_token_share_the_run_while_it_goes_on(self, task_of):
        task = task_of(idempotency_token="shared")
        task.workspace.script = [{"runs_for": 900.0}]
        task.execute()
        other = Task(task.make, task.workspace, task.timeline)
        other.ti.task_id = "other"
        other.live()
        task.resume()
        assert len(task.workspace.runs) == 1

    def test_mapped_tasks_have_runs_of_their_own(self, task_of):
        task = task_of()
        for index in range(3):
            task.ti.map_index = index
            task.store.values.clear()
            task.execute()
        assert len(task.workspace.active) == 3


class TestCancelPreviousRuns:
    def test_they_have_ended_before_the_new_one_starts(self, task_of):
        task = task_of(cancel_previous_runs=True)
        task.workspace.cancel_takes = 10.0
        with task.timeline.in_place():
            for job_id in (7, 7, 8):
                task.workspace.start(job_id)
        task.execute()
        ((_, active),) = task.workspace.history
        assert [task.workspace.runs[run_id].job_id for run_id in active] == [8]

    def test_weather_does_not_prevent_it(self, task_of):
        task = task_of(cancel_previous_runs=True)
        first = task.workspace.start()
        task.workspace.weather[CANCEL_ALL] = [Transient("503"), Lost()]
        task.workspace.weather[LIST] = [Transient("429", retry_after=30.0)]
        task.execute()
        assert first.run_id not in task.workspace.active

    def test_a_retry_does_not_end_the_run_that_it_takes_up(self, task_of):
        task = task_of(cancel_previous_runs=True)
        task.workspace.script = [{"runs_for": 900.0}]
        task.workspace.weather[RUN_NOW] = [Lost(CredentialsRejected("reset"))]
        with pytest.raises(JobError):
            task.execute()
        task.retry()
        task.live()
        assert len(task.workspace.runs) == 1
        assert len(task.workspace.asked(CANCEL_ALL)) == 1

    def test_but_a_new_attempt_does_it_again(self, task_of):
        task = task_of(cancel_previous_runs=True)
        task.workspace.script = [FAILS, PASSES]
        with pytest.raises(JobFailed):
            task.live()
        foreign = task.workspace.start()
        task.retry()
        task.live()
        assert foreign.run_id not in task.workspace.active

    def test_runs_that_do_not_end_are_not_waited_for_without_end(self, task_of):
        task = task_of(cancel_previous_runs=True)
        task.workspace.cancel_takes = 1e6
        task.workspace.start()
        began = task.timeline.now
        task.execute()
        assert 60.0 <= task.timeline.now - began <= 70.0
        assert len(task.workspace.active) == 2

    def test_a_refusal_is_told_in_words(self, task_of):
        task = task_of(cancel_previous_runs=True)
        task.workspace.weather[CANCEL_ALL] = [RequestRejected(403, "PERMISSION_DENIED", "no")]
        with pytest.raises(JobFailed, match="none was started: HTTP 403: PERMISSION_DENIED"):
            task.execute()
        assert task.workspace.runs == {}


class TestRepair:
    @BOTH_WAYS
    @pytest.mark.parametrize("lasting", [True, False])
    def test_a_run_that_failed_is_repaired_once_and_waited_for(self, task_of, deferrable, lasting):
        task = task_of(deferrable=deferrable, lasting=lasting, repair_run=True, job_parameters={"a": "1"})
        task.workspace.script = [FAILS, PASSES]
        task.live()
        (run,) = task.workspace.runs.values()
        assert len(run.repairs) == 1
        assert task.workspace.asked(REPAIR)[0]["job_parameters"] == {"a": "1"}

    @BOTH_WAYS
    def test_a_repair_that_fails_is_the_end_of_the_attempt_and_a_retry_starts_anew(self, task_of, deferrable):
        task = task_of(deferrable=deferrable, repair_run=True)
        task.workspace.script = [FAILS, FAILS | {"message": "again"}, FAILS, PASSES]
        with pytest.raises(JobFailed, match="again"):
            task.live()
        task.retry()
        task.live()
        first, second = task.workspace.runs.values()
        assert (len(first.repairs), len(second.repairs)) == (1, 1)

    @pytest.mark.parametrize("code", ["USER_CANCELED", "SUCCESS_WITH_FAILURES", "SUCCESS"])
    def test_only_a_failure_is_repaired(self, task_of, code):
        task = task_of(repair_run=True)
        task.workspace.script = [{"runs_for": 60.0, "code": code}]
        try:
            task.live()
        except JobCancelled:
            assert code == "USER_CANCELED"
        assert task.workspace.asked(REPAIR) == []

    @pytest.mark.parametrize(("action", "repairs"), [("skip", 0), ("success", 0), ("retry", 1), ("fail", 1)])
    def test_what_result_actions_make_no_failure_is_not_repaired(self, task_of, action, repairs):
        task = task_of(repair_run=True, result_actions={"RUN_EXECUTION_ERROR": action})
        task.workspace.script = [FAILS, PASSES]
        try:
            task.live()
        except AirflowSkipException:
            assert action == "skip"
        assert len(task.workspace.asked(REPAIR)) == repairs

    def test_a_deadline_is_no_failure_to_repair(self, task_of):
        task = task_of(repair_run=True, execution_timeout=timedelta(minutes=1))
        with pytest.raises(JobTimedOut):
            task.live()
        assert task.workspace.asked(REPAIR) == []

    @pytest.mark.parametrize(("reason", "repairs"), [("broke", 1), ("spot instance", 0)])
    def test_only_for_some_reasons_and_with_new_settings(self, task_of, reason, repairs):
        settings = {reason: {"max_concurrent_runs": 2}}
        task = task_of(repair_run=True, databricks_repair_reason_new_settings=settings)
        task.workspace.script = [FAILS, PASSES]
        if repairs:
            task.live()
            assert task.workspace.asked(UPDATE) == [{"job_id": 7, "new_settings": settings[reason]}]
        else:
            with pytest.raises(JobFailed):
                task.live()
            assert task.workspace.asked(UPDATE) == []
        assert len(task.workspace.asked(REPAIR)) == repairs

    def test_where_databricks_does_not_repair_the_failure_is_told(self, task_of):
        task = task_of(repair_run=True)
        task.workspace.script = [FAILS, PASSES]
        task.workspace.weather[REPAIR] = [RequestRejected(400, "INVALID_STATE", "too old")]
        with pytest.raises(JobFailed, match="it broke"):
            task.live()
        task.retry()
        task.live()
        assert len(task.workspace.runs) == 2

    @pytest.mark.parametrize("weather", [[Lost()] * 3, [Transient("503")] * 3, [Lost(), Transient("503")]])
    def test_lost_answers_make_no_second_repair(self, task_of, weather):
        task = task_of(repair_run=True)
        task.workspace.script = [FAILS, {"runs_for": 600.0}]
        task.workspace.weather[REPAIR] = list(weather)
        task.live()
        (run,) = task.workspace.runs.values()
        assert len(run.repairs) == 1

    @pytest.mark.parametrize("ends", ["SUCCESS", "RUN_EXECUTION_ERROR"])
    @pytest.mark.parametrize("step", range(1, 8))
    def test_a_worker_that_dies_in_it_is_followed_by_one_that_finds_what_was_done(self, task_of, step, ends):
        """Killed after each request and each write to the store that the repair takes; then a retry."""

        class Killed(BaseException):
            pass

        task = task_of(repair_run=True)
        task.workspace.script = [FAILS, {"runs_for": 900.0, "code": ends}, PASSES, PASSES]
        task.execute()
        left = [step]
        dead = []

        def around(effect):
            if dead:
                raise Killed
            found = effect()
            asked = task.workspace.requests[-1]
            if asked.path != GET or "include_history" in asked.content:
                left[0] -= 1
                if left[0] == 0:
                    dead.append(True)
                    raise Killed
            return found

        written = task.store.set
        task.store.set = lambda key, value: around(lambda: written(key, value))
        task.workspace.around = around
        with contextlib.suppress(Killed, JobError):
            task.resume()
        task.store.set, task.workspace.around = written, lambda effect: effect()
        if not dead:
            return
        task.retry(30.0)
        before = len(task.workspace.runs)
        try:
            task.live()
        except JobFailed:
            assert ends != "SUCCESS"
        first = task.workspace.runs[min(task.workspace.runs)]
        assert len(first.repairs) <= 1
        assert len(task.workspace.runs) - before == (0 if first.repairs else 1)


class TestKill:
    def test_on_kill_in_the_worker_ends_the_run(self, task_of):
        task = task_of(deferrable=False)
        operator = task.make()
        operator._run = task.timeline.run
        run_ids = []

        def kill(request):
            if request.path == GET and not run_ids:
                run_ids.append(request.content["run_id"])
                operator.on_kill()
                assert task.workspace.active == []

        task.workspace.before = kill
        with pytest.raises(JobCancelled):
            operator.execute(task.context)
        assert run_ids
        assert task.workspace.active == []

    def test_a_trigger_that_is_killed_ends_the_run(self, task_of):
        from tests.unit.deferral.fakes import Count, FakeSupervisor

        task = task_of()
        task.execute()
        task.trigger.task_instance = task.ti
        with FakeSupervisor(Count(1)).in_place():
            task.timeline.run(task.trigger.on_kill)
        assert len(task.workspace.active) == 1
        with FakeSupervisor(Count(0)).in_place():
            task.timeline.run(task.trigger.on_kill)
        assert task.workspace.active == []
        assert len(task.workspace.asked(CANCEL)) == 1

    def test_unless_the_user_wants_it_to_go_on(self, task_of):
        task = task_of(cancel_on_kill=False)
        task.execute()
        task.trigger.task_instance = task.ti
        task.timeline.run(task.trigger.on_kill)
        assert len(task.workspace.active) == 1


def test_the_trigger_is_plain_json(task_of):
    task = task_of(execution_timeout=timedelta(hours=1))
    task.execute()
    path, fields = task.trigger.serialize()
    assert path == "astronomer.providers.databricks.triggers.databricks.DatabricksRunTrigger"
    assert json.loads(json.dumps(fields)) == fields
