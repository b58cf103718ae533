"""Tasks and task groups of runs of another deployment."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from astronomer.deferral import Phase
from astronomer.providers.core.hooks import deployment_login
from astronomer.providers.core.jobs.external import FAILED, NOT_FOUND
from tests.unit.core.deployment_looks import NO_RUN, NOT_YET, look, on_time, watching
from tests.unit.core.deployments import (
    TASKS,
    URL,
    Deployment,
    wait,
)


@pytest.fixture(autouse=True)
def _no_tokens():
    deployment_login._kept.clear()


@pytest.fixture
def deployment():
    return Deployment()


class TestTasks:
    @pytest.mark.parametrize("state", [None, "scheduled", "running", "up_for_retry", "deferred", "dreaming"])
    def test_that_go_on(self, deployment, state):
        deployment.start(a=state)
        status = look(deployment, wait(tasks="a", run_ids=["r1"]))
        assert (status.phase, status.raw) == (Phase.ACTIVE, NOT_YET)
        assert status.url == f"{URL}/dags/orders/runs/r1"

    def test_that_have_succeeded(self, deployment):
        deployment.start(a="success", b="success", c="failed")
        assert look(deployment, wait(tasks="ab", run_ids=["r1"])).phase is Phase.SUCCEEDED
        assert deployment.count()[1] == 1

    def test_not_all_of_which_have_succeeded(self, deployment):
        deployment.start(a="success", b="running")
        assert look(deployment, wait(tasks="ab", run_ids=["r1"])).phase is Phase.ACTIVE

    def test_one_of_which_has_failed(self, deployment):
        deployment.start(a="success", b="upstream_failed")
        job = wait(tasks="ab", run_ids=["r1"], failed_states=["failed", "upstream_failed"])
        status = look(deployment, job)
        assert (status.code, status.message) == (FAILED, "b is upstream_failed, in r1")

    def test_that_are_not_there(self, deployment):
        deployment.start(a="success")
        assert look(deployment, wait(tasks=["no_such"], run_ids=["r1"])).phase is Phase.ACTIVE

    def test_of_a_run_that_does_not_exist_are_not_asked_for(self, deployment):
        assert look(deployment, wait(tasks="a", run_ids=["r1"]), times=3).raw == NO_RUN
        assert deployment.count() == (1, 0, 0)

    def test_of_several_runs(self, deployment):
        deployment.start("r1", a="success")
        job = wait(tasks="a", run_ids=["r1", "r2"])
        assert look(deployment, job).phase is Phase.ACTIVE
        deployment.start("r2", a="success")
        assert look(deployment, job).phase is Phase.SUCCEEDED

    def test_of_a_run_with_a_name_that_another_dag_uses_too(self, deployment):
        deployment.start("r1", "orders", a="running")
        deployment.start("r1", "another", a="success")
        found = look(
            deployment, one := wait(tasks="a", run_ids=["r1"]), wait("another", tasks="a", run_ids=["r1"])
        )
        assert found[one].phase is Phase.ACTIVE
        assert Counter(status.phase for status in found.values())[Phase.SUCCEEDED] == 1

    def test_a_mapped_one_needs_all_its_instances(self, deployment):
        deployment.start(m=["success", "running", "success"])
        job = wait(tasks="m", run_ids=["r1"])
        assert look(deployment, job).phase is Phase.ACTIVE
        assert (
            look(deployment, job, times=2, then=lambda: deployment.set(m=["success"] * 3)).phase
            is Phase.SUCCEEDED
        )

    def test_a_mapped_one_that_goes_on_costs_one_question(self, deployment):
        deployment.start(m=["success", "running", "success"])
        look(deployment, wait(tasks="m", run_ids=["r1"]), times=5)
        assert deployment.count() == (1, 1, 0)

    def test_a_mapped_one_that_is_expanded_anew_to_fewer_instances(self, deployment):
        async def main():
            deployment.start(m=["success", "success", None])
            waiting = asyncio.ensure_future(watching(wait(tasks="m", run_ids=["r1"]), deployment.poller()))
            await asyncio.sleep(30)
            del deployment.tasks["orders", "r1"]["m", 2]
            return await asyncio.wait_for(waiting, 90)

        assert on_time(main).phase is Phase.SUCCEEDED

    def test_a_mapped_one_fails_with_one_instance(self, deployment):
        deployment.start(m=["success", "failed"])
        status = look(deployment, wait(tasks="m", run_ids=["r1"], failed_states=["failed"]))
        assert status.message == "m_1 is failed, in r1"

    def test_one_that_is_named_like_an_instance(self, deployment):
        """``m_1`` is a task, and ``m`` has an instance of that number."""
        deployment.start(m=["success", "running"], m_1="success")
        assert look(deployment, wait(tasks=["m", "m_1"], run_ids=["r1"])).phase is Phase.ACTIVE
        deployment.set(m=["success", "success"], m_1="running")
        assert look(deployment, wait(tasks=["m", "m_1"], run_ids=["r1"])).phase is Phase.ACTIVE
        deployment.set(m_1="success")
        assert look(deployment, wait(tasks=["m", "m_1"], run_ids=["r1"])).phase is Phase.SUCCEEDED

    def test_an_answer_holds_only_what_makes_a_difference(self, deployment):
        deployment.start(a="running", b="success")
        look(deployment, wait(tasks="a", run_ids=["r1"], failed_states=["failed"]))
        (body,) = [body for _, path, body in deployment.asked if path == TASKS]
        assert sorted(body["state"]) == ["failed", "success"]
        assert (body["dag_ids"], body["dag_run_ids"], body["task_ids"]) == (["orders"], ["r1"], ["a"])

    def test_a_crowd_that_nobody_waits_for_is_asked_about_by_dag(self, deployment):
        jobs = []
        for dag in range(12):
            for run in range(120):
                deployment.start(f"r{run}", f"dag{dag}", load="success")
            deployment.start("r", f"dag{dag}", load="running")
            jobs.append(
                wait(f"dag{dag}", tasks=["load"], run_ids=["r", *(f"r{10 * dag + one}" for one in range(10))])
            )
        found = look(deployment, *jobs)
        assert deployment.count()[1] == 2  # pages
        assert {status.phase for status in found.values()} == {Phase.ACTIVE}
        look(deployment, *jobs, times=2)
        assert deployment.count()[1] == 12


class TestATaskGroup:
    @pytest.fixture
    def deployment(self):
        deployment = Deployment(groups={"g": ("x", "y", "z")})
        deployment.start(a="failed", x="success", y="running", z=["success", "success"])
        return deployment

    def test_that_goes_on(self, deployment):
        job = wait(group_id="g", run_ids=["r1"], failed_states=["failed"])
        assert look(deployment, job).phase is Phase.ACTIVE
        look(deployment, job, times=3)
        assert deployment.count() == (1, 1, 0)

    def test_that_succeeds(self, deployment):
        job = wait(group_id="g", run_ids=["r1"], failed_states=["failed"])
        assert (
            look(deployment, job, times=3, then=lambda: deployment.set(y="success")).phase is Phase.SUCCEEDED
        )

    def test_with_a_mapped_task_that_has_not_ended(self, deployment):
        deployment.set(y="success", z=["success", "running"])
        assert look(deployment, wait(group_id="g", run_ids=["r1"])).phase is Phase.ACTIVE

    @pytest.mark.parametrize("tasks", ["xy", "xyz"])
    def test_that_has_got_another_task_meanwhile(self, deployment, tasks):
        deployment.groups["g"] = tuple(tasks)

        def then():
            deployment.groups["g"] += ("new",)
            deployment.set(y="success", new=None)

        assert look(deployment, wait(group_id="g", run_ids=["r1"]), times=2, then=then).phase is Phase.ACTIVE

    def test_that_cannot_be_looked_at_once_more(self, deployment):
        deployment.groups["g"] = ("x", "y")
        deployment.set(y="success")
        deployment.script += [None, None, None, None, 500]
        assert look(deployment, wait(group_id="g", run_ids=["r1"])) == {}
        *_, last_but_one, last = deployment.paths()
        assert last_but_one == TASKS
        assert "task_group_id" in last

    def test_that_fails(self, deployment):
        job = wait(group_id="g", run_ids=["r1"], failed_states=["failed"])
        status = look(deployment, job, times=2, then=lambda: deployment.set(y="failed"))
        assert status.message == "y is failed, in r1"

    def test_that_does_not_exist(self, deployment):
        found = look(
            deployment,
            one := wait(group_id="no_such", run_ids=["r1"]),
            other := wait(group_id="g", run_ids=["r1"]),
        )
        assert (found[one].code, found[other].phase) == (NOT_FOUND, Phase.ACTIVE)

    def test_of_an_old_airflow(self, deployment):
        deployment.version = "3.1.0"
        status = look(deployment, wait(group_id="g", run_ids=["r1"]))
        assert (status.phase, status.code) == (Phase.FAILED, NOT_FOUND)
        assert "name the tasks" in status.message

    def test_of_a_run_that_does_not_exist_yet(self, deployment):
        job = wait(group_id="g", run_ids=["later"])
        assert look(deployment, job).raw == NO_RUN
        assert look(deployment, job, times=2, then=lambda: deployment.start("later", x=None)).raw == NOT_YET
