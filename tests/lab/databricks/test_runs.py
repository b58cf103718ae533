"""The states of runs and what leads to them, on the workspace's clock."""

import pytest
import requests

from tests.lab.conftest import until
from tests.lab.databricks.conftest import Api, Refused, states, wait


def result(run):
    return run["state"]["life_cycle_state"], run["state"].get("result_state"), run["status"]["state"]


def near(milliseconds):
    return pytest.approx(milliseconds, abs=1000)


class TestEnds:
    def test_success(self, lab, api):
        run_id = api.submit(wait(seconds=500, result="fine"), run_name="n")
        run = api.run(run_id)
        assert result(run) == ("RUNNING", None, "RUNNING")
        assert (run["run_name"], run["run_type"], run["format"], run["end_time"]) == (
            "n",
            "SUBMIT_RUN",
            "MULTI_TASK",
            0,
        )
        assert lab.active == 1
        lab.advance(500)
        run = api.run(run_id)
        assert result(run) == ("TERMINATED", "SUCCESS", "TERMINATED")
        assert run["status"]["termination_details"] == {"code": "SUCCESS", "type": "SUCCESS", "message": ""}
        assert run["end_time"] - run["start_time"] == run["run_duration"] == near(500_000)
        [task] = run["tasks"]
        assert (task["setup_duration"], task["execution_duration"]) == (near(0), near(500_000))
        assert task["run_id"] != run_id
        assert api.output(run, "a")["notebook_output"] == {"result": "fine", "truncated": False}
        assert run["run_page_url"].startswith(lab.url)
        assert lab.active == 0

    def test_a_failed_task_makes_the_old_life_cycle_of_the_run_an_internal_error(self, api):
        run = api.ended(api.submit(wait(fail="boom"), wait("b", "a")))
        assert result(run) == ("INTERNAL_ERROR", "FAILED", "TERMINATED")
        assert run["status"]["termination_details"]["code"] == "RUN_EXECUTION_ERROR"
        said = "Task a failed with message: Workload failed, see run output for details."
        assert run["state"]["state_message"] == said
        assert states(run) == {"a": "FAILED", "b": "UPSTREAM_FAILED"}
        assert run["tasks"][0]["state"]["life_cycle_state"] == "TERMINATED"
        output = api.output(run, "a")
        assert output["error"] == "Exception: boom"
        assert "Traceback" in output["error_trace"]
        assert output["metadata"]["parent_run_id"] == run["run_id"]

    def test_a_failure_that_no_leaf_sees_is_a_success_with_failures(self, api):
        run = api.ended(api.submit(wait(fail="boom"), wait("b", "a", run_if="ALL_DONE")))
        assert result(run)[1] == "SUCCESS_WITH_FAILURES"
        assert run["status"]["termination_details"]["code"] == "SUCCESS_WITH_FAILURES"

    def test_a_run_times_out(self, lab, api):
        run_id = api.submit(wait(seconds=10_000), wait("b", "a"), timeout_seconds=3000)
        lab.advance(2900)
        assert result(api.run(run_id))[0] == "RUNNING"
        lab.advance(101)
        run = api.run(run_id)
        assert result(run) == ("TERMINATED", "TIMEDOUT", "TERMINATED")
        assert run["status"]["termination_details"]["code"] == "CANCELED"
        assert run["state"]["user_cancelled_or_timedout"]

    def test_a_task_times_out(self, lab, api):
        run_id = api.submit(wait(seconds=100, timeout_seconds=10), wait("b", "a"))
        lab.advance(11)
        run = api.run(run_id)
        assert states(run) == {"a": "TIMEDOUT", "b": "UPSTREAM_FAILED"}
        assert result(run)[:2] == ("INTERNAL_ERROR", "FAILED")

    def test_states_before_the_work(self, make_lab):
        lab = make_lab(startup_seconds=6000)
        api = Api(lab)
        run_id = api.submit(wait(seconds=500), wait("b", "a", seconds=500))
        assert states(api.run(run_id)) == {"a": "PENDING", "b": "BLOCKED"}
        assert result(api.run(run_id))[0] == "PENDING"
        lab.advance(6001)
        assert states(api.run(run_id)) == {"a": "RUNNING", "b": "BLOCKED"}
        lab.advance(20_000)
        run = api.run(run_id)
        assert [task["setup_duration"] for task in run["tasks"]] == [near(6_000_000)] * 2
        assert run["run_duration"] == near(13_000_000)


class TestRetries:
    def test_attempts_have_their_own_ids(self, lab, api):
        run_id = api.submit(wait(fail="boom", max_retries=2, min_retry_interval_millis=1_000_000))
        until(lambda: len(api.run(run_id)["tasks"]) == 2)
        assert states(api.run(run_id)) == {"a": "WAITING_FOR_RETRY"}
        assert api.run(run_id)["tasks"][1]["status"]["state"] == "WAITING"
        assert lab.active == 1
        lab.advance(3000)
        run = api.run(run_id)
        assert [task["attempt_number"] for task in run["tasks"]] == [0, 1, 2]
        assert len({task["run_id"] for task in run["tasks"]}) == 3
        assert result(run)[1] == "FAILED"

    @pytest.mark.parametrize(("retry", "attempts"), [(True, 2), (False, 1)])
    def test_a_timeout_is_retried_if_asked_for(self, lab, api, retry, attempts):
        run_id = api.submit(wait(seconds=100, timeout_seconds=5, max_retries=1, retry_on_timeout=retry))
        lab.advance(20)
        assert len(api.run(run_id)["tasks"]) == attempts


class TestDependencies:
    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ("ALL_SUCCESS", "UPSTREAM_FAILED"),
            ("NONE_FAILED", "UPSTREAM_FAILED"),
            ("AT_LEAST_ONE_SUCCESS", "SUCCESS"),
            ("ALL_DONE", "SUCCESS"),
            ("AT_LEAST_ONE_FAILED", "SUCCESS"),
            ("ALL_FAILED", "UPSTREAM_FAILED"),
        ],
    )
    def test_after_one_failure_and_one_success(self, api, rule, expected):
        run = api.ended(
            api.submit(wait("good"), wait("bad", fail="x"), wait("z", "good", "bad", run_if=rule))
        )
        assert states(run)["z"] == expected

    @pytest.mark.parametrize(
        ("rule", "expected"), [("AT_LEAST_ONE_FAILED", "EXCLUDED"), ("ALL_DONE", "SUCCESS")]
    )
    def test_after_a_success(self, api, rule, expected):
        run = api.ended(api.submit(wait(), wait("z", "a", run_if=rule)))
        assert states(run)["z"] == expected
        assert result(run)[1] == "SUCCESS"

    def test_times_follow_each_other_even_when_the_clock_is_advanced(self, lab, api):
        run_id = api.submit(wait("a", seconds=10), wait("b", "a", seconds=20), wait("c", "a", "b", seconds=5))
        lab.advance(3600)
        run = api.run(run_id)
        a, b, c = run["tasks"]
        assert (a["end_time"], b["end_time"], c["end_time"]) == (
            b["start_time"],
            c["start_time"],
            run["end_time"],
        )
        assert run["run_duration"] == near(35_000)

    @pytest.mark.parametrize(
        ("tasks", "message"),
        [
            ([wait("a"), wait("a")], "Duplicate task keys found: a"),
            ([wait("a", "z")], "Invalid dependency: z"),
            ([wait("a", "b"), wait("b", "a")], "cycle: a, b"),
            ([{"task_key": "a"}], "must have one of the task types"),
            ([wait("")], "task_key is required"),
            ([{**wait(), "spark_jar_task": {}}], "more than one task type"),
            ([wait(run_if="SOMETIMES")], "Invalid run_if"),
            ([wait(timeout_seconds="soon")], "to be a number"),
            ([], "must be specified"),
        ],
    )
    def test_tasks_that_cannot_run_are_refused(self, api, tasks, message):
        with pytest.raises(Refused) as refused:
            api.submit(*tasks)
        assert (refused.value.status, refused.value.code) == (400, "INVALID_PARAMETER_VALUE")
        assert message in refused.value.message


class TestCancel:
    def test_it_takes_a_while_and_may_be_repeated(self, lab, api, monkeypatch):
        monkeypatch.setattr(lab.workspace.conductor.pace, "cancel_seconds", 600)
        run_id = api.submit(wait(seconds=600), wait("b", "a"))
        assert api.post("2.2/jobs/runs/cancel", run_id=run_id) == {}
        run = api.run(run_id)
        assert result(run) == ("TERMINATING", None, "TERMINATING")
        assert lab.active == 1
        api.post("2.2/jobs/runs/cancel", run_id=run_id)
        lab.advance(600)
        run = api.run(run_id)
        assert result(run) == ("TERMINATED", "CANCELED", "TERMINATED")
        assert run["status"]["termination_details"]["code"] == "USER_CANCELED"
        assert run["state"]["user_cancelled_or_timedout"]
        api.post("2.2/jobs/runs/cancel", run_id=run_id)
        assert api.run(run_id) == run

    def test_as_a_user_does_in_the_pages(self, lab, api):
        run_id = api.submit(wait(seconds=600))
        lab.cancel_by_user(run_id)
        assert result(api.ended(run_id))[1] == "CANCELED"

    def test_one_task(self, lab, api):
        run_id = api.submit(wait(seconds=600), wait("b", seconds=600), wait("c", "a"))
        task = api.run(run_id)["tasks"][0]
        for _ in range(2):  # the second time while it ends
            assert api.post("2.2/jobs/runs/cancel", run_id=task["run_id"]) == {}
        until(lambda: states(api.run(run_id)) == {"a": "CANCELED", "b": "RUNNING", "c": "UPSTREAM_CANCELED"})
        lab.advance(601)
        assert result(api.run(run_id))[1] == "CANCELED"

    def test_all_of_a_job(self, api):
        job = api.create(wait(seconds=600), max_concurrent_runs=2)
        runs = [api.post("2.2/jobs/run-now", job_id=job)["run_id"] for _ in range(3)]
        other = api.submit(wait(seconds=600))
        api.post("2.2/jobs/runs/cancel-all", job_id=job)
        assert {result(api.ended(run))[1] for run in runs} == {"CANCELED"}
        assert result(api.run(other))[0] == "RUNNING"
        api.post("2.2/jobs/runs/cancel", run_id=other)

    @pytest.mark.parametrize("path", ["runs/cancel", "runs/delete"])
    def test_what_is_not_there(self, api, path):
        with pytest.raises(Refused) as refused:
            api.post(f"2.2/jobs/{path}", run_id=12)
        assert (refused.value.status, refused.value.code) == (400, "INVALID_PARAMETER_VALUE")
        assert refused.value.message == "Run 12 does not exist."


class TestConcurrency:
    def run_now(self, api, job, **more):
        return api.post("2.2/jobs/run-now", job_id=job, **more)["run_id"]

    def test_a_queue_is_the_default_since_2_2(self, lab, api):
        job = api.create(wait(seconds=60))
        first, second, third = (self.run_now(api, job) for _ in range(3))
        queued = api.run(second)
        assert result(queued) == ("QUEUED", None, "QUEUED")
        assert queued["status"]["queue_details"]["code"] == "MAX_CONCURRENT_RUNS_REACHED"
        lab.advance(61)
        assert [result(api.run(one))[0] for one in (first, second, third)] == [
            "TERMINATED",
            "RUNNING",
            "QUEUED",
        ]
        began = api.run(second)["start_time"] + api.run(second)["queue_duration"]
        assert began == api.run(first)["end_time"]
        api.post("2.2/jobs/runs/cancel", run_id=third)
        assert result(api.run(third)) == ("TERMINATED", "CANCELED", "TERMINATED")
        lab.advance(61)
        assert result(api.run(second))[1] == "SUCCESS"
        assert result(api.run(self.run_now(api, job)))[0] == "RUNNING"
        api.post("2.2/jobs/runs/cancel-all", job_id=job)

    def test_without_a_queue_a_run_is_skipped(self, api):
        job = api.post("2.1/jobs/create", tasks=[wait(seconds=60)])["job_id"]
        first, second = (self.run_now(api, job) for _ in range(2))
        run = api.run(second)
        assert result(run) == ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED", "TERMINATED")
        assert run["status"]["termination_details"]["code"] == "MAX_CONCURRENT_RUNS_EXCEEDED"
        third = self.run_now(api, job, queue={"enabled": True})
        assert result(api.run(third))[0] == "QUEUED"
        api.post("2.2/jobs/runs/cancel-all", job_id=job, all_queued_runs=True)
        assert result(api.run(third))[1] == "CANCELED"
        api.post("2.2/jobs/runs/cancel", run_id=first)


class TestIdempotency:
    def test_the_same_token_is_the_same_run(self, lab, api):
        first = api.submit(wait(), idempotency_token="t" * 64)
        assert api.submit(wait("other"), idempotency_token="t" * 64) == first
        job = api.create(wait())
        runs = {api.post("2.2/jobs/run-now", job_id=job, idempotency_token="j")["run_id"] for _ in range(2)}
        assert len(runs) == 1
        api.ended(first)
        lab.delete_run(first)
        with pytest.raises(Refused, match="was deleted"):
            api.submit(wait(), idempotency_token="t" * 64)

    def test_a_long_token_is_refused(self, lab, api):
        before = len(lab.runs)
        with pytest.raises(Refused, match="exceeds 64 characters"):
            api.submit(wait(), idempotency_token="t" * 65)
        assert len(lab.runs) == before

    def test_a_lost_answer_keeps_the_run(self, lab, api):
        before = len(lab.runs)
        lab.faults.lose_answer("runs/submit", times=1)
        with pytest.raises(requests.ConnectionError):
            api.submit(wait(), idempotency_token="lost")
        assert len(lab.runs) == before + 1
        assert api.submit(wait(), idempotency_token="lost") in lab.runs
        assert len(lab.runs) == before + 1


class TestRepair:
    def repair(self, api, run_id, **how):
        return api.post("2.2/jobs/runs/repair", run_id=run_id, **how)["repair_id"]

    def failed(self, lab, api):
        job = api.create(
            wait("a"),
            wait("b", "a", fail="{{job.parameters.why}}"),
            wait("c", "b"),
            parameters=[{"name": "why", "default": "x"}],
        )
        run_id = api.post("2.2/jobs/run-now", job_id=job)["run_id"]
        assert states(api.ended(run_id)) == {"a": "SUCCESS", "b": "FAILED", "c": "UPSTREAM_FAILED"}
        return run_id

    def test_failed_tasks_run_again_in_the_same_run(self, lab, api):
        run_id = self.failed(lab, api)
        first = self.repair(api, run_id, rerun_all_failed_tasks=True)
        api.ended(run_id)
        with pytest.raises(Refused, match="latest_repair_id must be provided"):
            self.repair(api, run_id, rerun_all_failed_tasks=True)
        with pytest.raises(Refused, match="not the id of the latest repair"):
            self.repair(api, run_id, rerun_all_failed_tasks=True, latest_repair_id=7)
        second = self.repair(
            api,
            run_id,
            rerun_tasks=["b"],
            rerun_dependent_tasks=True,
            latest_repair_id=first,
            job_parameters={"why": ""},
        )
        run = api.ended(run_id)
        assert run["state"]["result_state"] == "SUCCESS"
        run = api.run(run_id, include_history="true")
        assert [(one["type"], one["state"]["result_state"]) for one in run["repair_history"]] == [
            ("ORIGINAL", "FAILED"), ("REPAIR", "FAILED"), ("REPAIR", "SUCCESS")
        ]  # fmt: skip
        assert [one.get("id") for one in run["repair_history"]] == [None, first, second]
        attempts = [(task["task_key"], task["attempt_number"]) for task in run["tasks"]]
        assert attempts == [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("c", 1), ("b", 2), ("c", 2)]
        assert run["repair_history"][2]["task_run_ids"] == [task["run_id"] for task in run["tasks"][5:]]

    def test_a_run_that_goes_on_or_succeeded_has_nothing_to_repair(self, lab, api):
        run_id = api.submit(wait(seconds=60))
        with pytest.raises(Refused, match="is active"):
            self.repair(api, run_id, rerun_all_failed_tasks=True)
        lab.advance(61)
        with pytest.raises(Refused, match="no failed tasks"):
            self.repair(api, run_id, rerun_all_failed_tasks=True)
        with pytest.raises(Refused, match="Exactly one"):
            self.repair(api, run_id)
        with pytest.raises(Refused, match="Unknown tasks"):
            self.repair(api, run_id, rerun_tasks=["z"])

    def test_a_repaired_run_has_its_whole_timeout_again(self, lab, api):
        job = api.create(wait(fail="x"), timeout_seconds=10_000)
        run_id = api.post("2.2/jobs/run-now", job_id=job)["run_id"]
        api.ended(run_id)
        api.post("2.2/jobs/update", job_id=job, new_settings={"tasks": [wait(seconds=8000)]})
        lab.advance(5000)
        self.repair(api, run_id, rerun_all_failed_tasks=True)
        lab.advance(7000)
        assert result(api.run(run_id))[0] == "RUNNING"
        lab.advance(1001)
        assert result(api.run(run_id))[1] == "SUCCESS"

    def test_a_repaired_run_is_active_again(self, lab, api):
        run_id = self.failed(lab, api)
        before = lab.active
        job_id = lab.runs[run_id].job_id
        new = wait("b", "a", seconds=60)
        api.post("2.2/jobs/update", job_id=job_id, new_settings={"tasks": [new]})
        self.repair(api, run_id, rerun_tasks=["b", "c"])
        assert lab.active == before + 1
        assert api.run(run_id)["end_time"] == 0
        lab.advance(61)
        assert states(api.run(run_id)) == {"a": "SUCCESS", "b": "SUCCESS", "c": "SUCCESS"}
