"""One task as a part of a run that the launch task has started."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from astronomer.deferral import Hub, JobCancelled, JobError, JobFailed, JobLost, JobTimedOut, Transient
from tests.unit.databricks.airflow_side import Task
from tests.unit.databricks.workflows import FAILED, KEY, LINK, Member, WorkflowWorkspace, dag, killed
from tests.unit.databricks.workspace import GET, RUN_NOW
from tests.unit.deferral.fakes import events_of, revived


@pytest.fixture
def member():
    with (one := Member()).in_place():
        yield one


def another_attempt(member):
    """Ten seconds after the end of the first attempt there is another, which succeeds."""
    workspace = member.workspace
    if len(member.run.tasks) == 2 and workspace.now > member.part.ends + 10:
        workspace.add_task(member.run, KEY, attempt=1, runs_for=30.0)


class TestMember:
    def test_starts_nothing_and_follows_its_task(self, member):
        member.execute()
        member.workspace.end_task(member.part)
        assert member.resume() is None
        assert member.orders == []
        assert member.ti.xcoms == {LINK: f"https://workspace/run/{member.run.run_id}"}
        assert member.operator.databricks_conn_id == "other"
        assert member.operator.databricks_run_id == member.run.run_id

    def test_tells_of_its_own_error_and_what_to_do(self, member):
        workspace = member.workspace
        workspace.end_task(member.part, FAILED, "Workload failed")
        workspace.end_task(member.sibling, FAILED)
        workspace.outputs[member.part.number] = {"error": "ValueError: boom", "error_trace": "line 1\nline 2"}
        with pytest.raises(JobFailed) as failed:
            member.live()
        said = str(failed.value)
        assert "ValueError: boom" in said
        assert "    line 2" in said
        assert "sibling" not in said
        assert "clear 'wf.launch' and what follows it" in said
        assert member.operator.databricks_conn_id == "other"

    def test_a_run_that_waits_may_not_list_its_tasks_yet(self, member):
        part, member.run.tasks = member.run.tasks, []
        member.execute()
        assert member.trigger.job["run_id"] == 0
        member.run.tasks = part
        member.workspace.end_task(member.part)
        member.resume()

    def test_of_a_run_that_has_no_such_task_fails(self, member):
        member.run.tasks = []
        member.execute()
        member.workspace.end(member.run.run_id)
        with pytest.raises(JobFailed, match="no task 'report'"):
            member.resume()

    def test_of_a_run_that_is_gone_fails(self, member):
        member.run.deleted = True
        with pytest.raises(JobFailed, match=r"does not exist.*clear 'wf\.launch'"):
            member.execute()

    def test_that_is_out_of_reach_may_still_run(self):
        with Member(outage_tolerance=120).in_place() as member:
            member.execute()
            member.workspace.weather[GET] = [Transient("503")] * 1000
            with pytest.raises(JobLost, match=r"503.*A retry looks for Databricks task") as lost:
                member.resume()
            assert "clear" not in str(lost.value)

    def test_without_a_launch_says_so(self, member):
        member.ti.xcom_pull = lambda task_ids: None
        make = member.make

        def without():
            operator = make()
            operator.workflow_run_metadata = None
            return operator

        member.make = without
        with pytest.raises(JobError, match=r"'wf.launch' has left no run"):
            member.execute()

    def test_finds_the_run_in_the_xcom_of_the_launch_task(self, member):
        asked = []
        metadata = {"conn_id": "other", "job_id": 7, "run_id": member.run.run_id}
        member.ti.xcom_pull = lambda task_ids: asked.append(task_ids) or metadata
        operator = member.make()
        operator.workflow_run_metadata = None
        assert operator._launched(member.context).run_id == member.run.run_id
        assert asked == ["wf.launch"]

    def test_may_return_at_once(self):
        with Member(wait_for_termination=False).in_place() as member:
            assert member.execute() is None
            assert member.trigger is None
            assert LINK in member.ti.xcoms


class TestEndOfAMember:
    def test_the_deadline_ends_its_own_task_alone(self):
        with Member(execution_timeout=timedelta(minutes=2)).in_place() as member:
            with pytest.raises(JobTimedOut, match=r"clear 'wf\.launch'"):
                member.live()
            assert member.workspace.cancelled == [member.part.number]
            assert member.workspace.active == [member.run.run_id]

    def test_a_kill_ends_the_newest_attempt_alone(self):
        with Member(max_retries=3).in_place() as member:
            member.execute()
            member.workspace.end_task(member.part, FAILED)
            newest = member.workspace.add_task(member.run, KEY, attempt=1)
            killed(member)
            assert member.workspace.cancelled == [newest.number]
            assert newest.state(member.workspace.now)[1] == "USER_CANCELED"
            assert member.sibling.active(member.workspace.now)

    def test_a_kill_before_it_is_listed_ends_nothing(self, member):
        member.run.tasks = []
        member.execute()
        killed(member)
        assert member.workspace.cancelled == []

    def test_a_cancel_in_databricks_is_final_though_it_has_retries_left(self):
        with Member(max_retries=3).in_place() as member:
            member.execute()
            member.workspace.end_task(member.part, "USER_CANCELED")
            with pytest.raises(JobCancelled, match="Repair the run"):
                member.resume()

    @pytest.mark.parametrize(
        ("code", "arguments", "goes_on"),
        [
            (FAILED, {"max_retries": 1}, True),
            (FAILED, {"max_retries": "1"}, True),
            (FAILED, {"max_retries": -1}, True),
            (FAILED, {"max_retries": 0}, False),
            (FAILED, {}, False),
            ("TIMEDOUT", {"max_retries": 1}, False),
            ("TIMEDOUT", {"max_retries": 1, "retry_on_timeout": "true"}, True),
            ("SKIPPED", {"max_retries": 1}, False),
        ],
    )
    def test_retries_by_databricks_are_waited_for(self, code, arguments, goes_on):
        with Member(**arguments).in_place() as member:
            member.execute()
            member.workspace.end_task(member.part, code)
            member.workspace.before = lambda _: another_attempt(member)
            if goes_on:
                assert member.resume() is None
            else:
                with pytest.raises(JobError):
                    member.resume()

    def test_the_last_attempt_is_final_though_the_run_goes_on(self):
        with Member(max_retries=1).in_place() as member:
            member.execute()
            member.workspace.end_task(member.part, FAILED)
            last = member.workspace.add_task(member.run, KEY, attempt=1)
            member.workspace.end_task(last, FAILED, "the last one")
            with pytest.raises(JobFailed, match="the last one"):
                member.resume()


class TestAgain:
    def test_a_retry_attaches_to_the_task_that_still_runs(self, member):
        member.execute()
        member.retry()
        member.execute()
        assert member.trigger is not None
        assert member.orders == []

    def test_a_retry_after_a_failure_finds_it_as_it_is(self, member):
        member.workspace.end_task(member.part, FAILED)
        for _ in range(2):
            with pytest.raises(JobFailed):
                member.live()
            member.retry()
        assert RUN_NOW not in member.orders

    @pytest.mark.parametrize("again", [Task.retry, Task.clear])
    def test_follows_a_repair(self, member, again):
        member.workspace.end_task(member.part, FAILED)
        member.workspace.end(member.run.run_id, FAILED)
        with pytest.raises(JobFailed):
            member.live()
        again(member)
        member.run.ends = float("inf")
        member.workspace.add_task(member.run, KEY, attempt=1, runs_for=30.0)
        assert member.live() is None

    def test_a_clear_of_it_alone_ends_nothing(self, member):
        member.execute()
        member.clear()
        member.execute()
        assert member.trigger is not None
        assert member.orders == []

    def test_follows_the_run_that_was_launched_since(self, member):
        member.execute()
        old = member.part
        member.workspace.end_task(old)
        member.retry()
        member.launched()
        member.execute()
        assert member.trigger.job["parent_run_id"] == member.run.run_id
        member.workspace.end_task(member.part)
        assert member.resume() is None


def test_all_members_of_a_run_share_one_request():
    """Two hundred members of two runs: at each tick a request per page of each run, and no more."""
    workspace, triggers = WorkflowWorkspace(), []
    with Task(lambda: None, workspace).in_place() as world:
        for number in range(2):
            run = workspace.start(number)
            for index in range(100):
                workspace.add_task(run, f"t{index}", runs_for=600.0)
                operator = dag(f"t{index}").get_task(f"wf.t{index}")
                operator.workflow_run_metadata = {"conn_id": "c", "job_id": number, "run_id": run.run_id}
                member = Task(lambda operator=operator: operator, workspace, world.timeline)
                member.execute()
                triggers.append(member.trigger)
        workspace.requests.clear()

        async def wait():
            async with Hub() as hub:
                Hub._of_loop[asyncio.get_running_loop()] = hub
                return await asyncio.gather(*(events_of(revived(trigger)) for trigger in triggers))

        events = world.timeline.run(wait)
    assert len(events) == 200
    ticks = len({round(request.at) for request in workspace.requests})
    assert len(workspace.requests) <= 2 * ticks
    assert {request.path for request in workspace.requests} == {GET}
