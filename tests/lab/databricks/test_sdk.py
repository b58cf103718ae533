"""The unmodified ``databricks-sdk``."""

import time

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import (
    InvalidParameterValue,
    OperationFailed,
    PermissionDenied,
    ResourceDoesNotExist,
)
from databricks.sdk.service import jobs
from databricks.sdk.service.jobs import NotebookTask, RunLifeCycleState, RunResultState, SubmitTask, Task

from tests.lab.conftest import until


@pytest.fixture(scope="module", params=["pat", "oauth"])
def client(request, module_lab):
    return connected(module_lab, request.param)


def connected(lab, auth: str = "pat", **more) -> WorkspaceClient:
    ways = {
        "pat": {"token": lab.token},
        "oauth": {"client_id": lab.client_id, "client_secret": lab.client_secret},
    }
    return WorkspaceClient(
        host=lab.url, auth_type={"pat": "pat", "oauth": "oauth-m2m"}[auth], **ways[auth], **more
    )


def notebook(**parameters: str) -> NotebookTask:
    return NotebookTask("/lab/wait", base_parameters=parameters)


def submit(client, **parameters: str):
    return client.jobs.submit(run_name="sdk", tasks=[SubmitTask("a", notebook_task=notebook(**parameters))])


class TestEveryWayToLogIn:
    def test_who(self, lab, client):
        expected = {"pat": "lab@example.com", "oauth-m2m": lab.client_id}[client.config.auth_type]
        assert client.current_user.me().user_name == expected

    def test_a_job_from_its_creation_to_its_output(self, client):
        job = client.jobs.create(name="sdk", tasks=[Task("a", notebook_task=notebook(result="done"))])
        run = client.jobs.run_now(job.job_id).result()
        assert (run.state.result_state, run.job_id) == (RunResultState.SUCCESS, job.job_id)
        assert run.status.termination_details.code == jobs.TerminationCodeCode.SUCCESS
        output = client.jobs.get_run_output(run.tasks[0].run_id)
        assert output.notebook_output.result == "done"
        assert client.jobs.get(job.job_id).settings.name == "sdk"
        assert next(one.job_id for one in client.jobs.list(name="sdk")) == job.job_id

    def test_submit_and_cancel(self, client):
        waiting = submit(client, seconds="600")
        assert client.jobs.get_run(waiting.run_id).state.life_cycle_state == RunLifeCycleState.RUNNING
        assert waiting.run_id in [run.run_id for run in client.jobs.list_runs(active_only=True)]
        run = client.jobs.cancel_run(waiting.run_id).result()
        assert run.state.result_state == RunResultState.CANCELED

    def test_the_same_token_is_the_same_run(self, lab, client):
        job = client.jobs.create(tasks=[Task("a", notebook_task=notebook())])
        runs = {client.jobs.run_now(job.job_id, idempotency_token=f"{job.job_id}").run_id for _ in range(3)}
        assert len(runs) == 1
        assert sum(run.job_id == job.job_id for run in lab.runs.values()) == 1


class TestAnswers:
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, module_lab):
        return connected(module_lab)

    def test_a_failure_and_its_repair(self, client):
        broken = [Task("a", notebook_task=notebook(fail="boom"))]
        job = client.jobs.create(tasks=broken, parameters=[jobs.JobParameterDefinition("x", "1")])
        waiter = client.jobs.run_now(job.job_id)
        with pytest.raises(
            OperationFailed, match="INTERNAL_ERROR: Task a failed with message: Workload failed"
        ):
            waiter.result()
        output = client.jobs.get_run_output(client.jobs.get_run(waiter.run_id).tasks[0].run_id)
        assert (output.error, "Traceback" in output.error_trace) == ("Exception: boom", True)
        client.jobs.update(
            job.job_id, new_settings=jobs.JobSettings(tasks=[Task("a", notebook_task=notebook())])
        )
        repaired = client.jobs.repair_run(waiter.run_id, rerun_all_failed_tasks=True)
        assert repaired.result().state.result_state == RunResultState.SUCCESS
        run = client.jobs.get_run(waiter.run_id, include_history=True)
        assert [one.type.value for one in run.repair_history] == ["ORIGINAL", "REPAIR"]
        assert run.repair_history[1].id == repaired.response.repair_id

    def test_all_tasks_and_all_runs_are_found_over_many_pages(self, lab, client):
        ids = lab.seed(60, seconds=600)
        assert [run.run_id for run in client.jobs.list_runs(active_only=True, limit=25)][:60] == ids[::-1]
        run = submit(client, seconds="0")
        tasks = [SubmitTask(f"t{number}", notebook_task=notebook()) for number in range(120)]
        run = client.jobs.submit(tasks=tasks)
        until(lambda: lab.runs[run.run_id].ended)
        assert len(client.jobs.get_run(run.run_id).tasks) == 120
        lab.advance(601)

    def test_what_is_not_there(self, client):
        for get in (client.jobs.get, client.jobs.get_run):
            with pytest.raises(ResourceDoesNotExist, match="5 does not exist"):
                get(5)
        with pytest.raises(InvalidParameterValue, match="Invalid limit 26"):
            next(client.jobs.list_runs(limit=26))

    def test_credentials_that_are_not_valid(self, lab, module_lab):
        with pytest.raises(PermissionDenied, match="Invalid access token"):
            WorkspaceClient(host=lab.url, token="dapi0").jobs.get(1)
        stranger = {"client_id": lab.client_id, "client_secret": "wrong"}
        with pytest.raises(ValueError, match="Client authentication failed"):
            WorkspaceClient(host=lab.url, auth_type="oauth-m2m", **stranger).jobs.get(1)


class TestWeather:
    """The SDK recovers by itself, and where it sends a request twice the workspace shows it."""

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, module_lab):
        return connected(module_lab)

    @pytest.mark.parametrize("fault", [{"status": 429, "retry_after": 0}, {"status": 503, "retry_after": 0}])
    def test_429_and_503(self, lab, client, fault):
        run_id = submit(client).run_id
        lab.faults.status(path="runs/get", times=2, **fault)
        assert client.jobs.get_run(run_id).run_id == run_id
        assert lab.requests.count("runs/get", status=fault["status"]) == 2

    def test_a_reset(self, lab, client):
        run_id = submit(client).run_id
        lab.faults.reset("runs/get", times=1)
        assert client.jobs.get_run(run_id).run_id == run_id

    def test_retry_after_is_waited_for(self, lab, client):
        lab.quotas.factor = 0.034  # one a second
        before = lab.quotas.throttled
        for _ in range(50):
            if lab.quotas.throttled > before:
                break
            started = time.monotonic()
            list(client.jobs.list_runs(limit=1, page_token=None, start_time_from=2**42))
        assert lab.quotas.throttled > before
        assert time.monotonic() - started >= 0.9

    @pytest.mark.parametrize(("token", "runs"), [(None, 2), ("kept", 1)])
    def test_a_lost_answer_of_a_submit(self, lab, client, token, runs):
        before = len(lab.runs)
        lab.faults.lose_answer("runs/submit", times=1)
        client.jobs.submit(tasks=[SubmitTask("a", notebook_task=notebook())], idempotency_token=token)
        assert len(lab.runs) == before + runs

    def test_an_expired_token(self, lab, client):
        lab.faults.expired("runs/get", times=1)
        with pytest.raises(PermissionDenied, match="Invalid access token"):
            client.jobs.get_run(1)


def test_no_credential_at_all(lab):
    answer = requests.get(f"{lab.url}/api/2.2/jobs/list", timeout=60)
    assert (answer.status_code, answer.json()["error_code"]) == (401, 401)
