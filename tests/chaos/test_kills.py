"""Processes of a real Airflow are killed at bad moments; Snowflake's own record says what became of the queries.

One Airflow for the whole module, so that the proofs stay short. The ten waits of ``ten`` live through most of them:
each test shows that nothing has touched them, the last one that all of them succeed.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.chaos.world import (
    CANCELLED,
    LOGIN,
    POLLS,
    Gate,
    Run,
    World,
    client_env,
    connect_args,
    only,
    running_world,
)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

TEN = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with running_world(tmp_path_factory.mktemp("chaos")) as world:
        os.environ.update(client_env(world))
        yield world


@pytest.fixture(scope="module")
def the_gate(world):
    gate = Gate(world, connect_args(world))
    yield gate
    world.lab.clear_faults()
    gate.close()


@pytest.fixture
def gate(the_gate):
    """Shut at the beginning of each test."""
    the_gate.shut()
    return the_gate


@pytest.fixture(scope="module")
def ten(world, the_gate):
    """Ten tasks that wait at the gate, deferred."""
    the_gate.shut()
    run = world.run("chaos_ten")
    run.until_watched(TEN)
    return run


def test_worker_killed_between_submit_and_defer(world: World, gate: Gate):
    """The retry finds the query that the dead try had started."""
    run = world.run("chaos_worker")
    queries = {}
    for task_id, kill in (("task_killed", world.kill_task), ("worker_killed", world.kill_worker)):
        queries[task_id] = run.until_submitted(task_id)["id"]
        task = run.task(task_id)
        assert task["state"] == "running", "it was to be killed before it deferred"
        kill(task["pid"])
    run.until_state("task_killed", "deferred", try_number=2)
    run.until_state("worker_killed", "deferred", try_number=2)
    gate.open()
    run.until_all("success", 2)
    for task_id, query_id in queries.items():
        assert only(run.queries(task_id))["id"] == query_id
        assert "Re-attaching" in run.log(task_id)


def test_worker_killed_before_it_heard_of_its_query(world: World, gate: Gate):
    """Snowflake runs the query, but the answer was lost, and so is the worker: the retry asks for it."""
    world.lab.add_fault("lose_answer", path="^/queries/v1/query-request", method="POST")
    run = world.run("chaos_answer")
    queries = {}
    for task_id in ("one", "block"):
        queries[task_id] = run.until_submitted(task_id)["id"]
        task = run.task(task_id)
        assert task["state"] == "running"
        world.kill_task(task["pid"])
    world.lab.clear_faults()
    for task_id in queries:
        run.until_state(task_id, "deferred", try_number=2)
    gate.open()
    run.until_all("success", 2)
    for task_id, query_id in queries.items():
        assert only(run.queries(task_id))["id"] == query_id


def test_user_ends_tasks_while_they_are_deferred(world: World):
    """Mark failed, mark success, clear: the query is cancelled, and after a clear one new one runs.

    Guaranteed only once a triggerer has taken up the wait: before that Airflow calls nothing of ours. Then a query
    lives until its ``execution_timeout``, which Snowflake knows as well, or until a clear supersedes it.
    """
    run = world.run("chaos_user")
    run.until_watched(3)
    before = {task["task_id"]: only(run.queries(task["task_id"]))["id"] for task in run.tasks()}

    run.mark("marked_failed", "failed")
    run.mark("marked_success", "success")
    run.clear("cleared")

    for task_id, query_id in before.items():
        assert run.until_ended(query_id)["error_code"] == CANCELLED, task_id
    for task_id in ("marked_failed", "marked_success"):
        world.until(
            lambda task_id=task_id: "is cancelled" in run.log(task_id), f"the confirmation for {task_id}"
        )
        assert len(run.queries(task_id)) == 1
    run.until_state("cleared", "deferred", try_number=2)
    old, new = run.queries("cleared")
    assert (old["id"], new["state"]) == (before["cleared"], "RUNNING")

    run.mark("cleared", "failed")
    assert run.until_ended(new["id"])["error_code"] == CANCELLED
    assert {task["task_id"]: task["state"] for task in run.tasks()} == {
        "marked_failed": "failed",
        "marked_success": "success",
        "cleared": "failed",
    }


def test_execution_timeout_ends_the_query_of_a_deferred_task(world: World):
    """Airflow does not enforce it while a task is deferred; the engine does."""
    run = world.run("chaos_timeout")
    query = run.until_submitted("late")
    run.until_state("late", "deferred")
    ended = run.until_ended(query["id"])
    task = run.until_state("late", "failed")
    assert 8 < ended["ended_at"] - ended["started_at"] < 40
    assert (len(run.queries()), task["try_number"]) == (1, 1)
    assert "JobTimedOut" in run.log("late")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["told_to_end", "killed"])
def test_triggerer_restarts(world: World, ten: Run, number: int):
    """The queries run on, and one login serves all waits of the new triggerer."""
    old = _triggerers(ten)
    world.kill("triggerer", number)
    moment = time.time()
    world.services.start_part("triggerer")
    world.until(lambda: not _triggerers(ten) & (old | {None}), "a new triggerer to have all ten")
    _polled_since(world, moment)
    assert len(world.requests_since(moment, LOGIN)) == 1
    _undisturbed(ten)


def test_one_of_two_triggerers_dies(world: World, ten: Run):
    """The other takes over."""
    old = _triggerers(ten)
    second = world.services.start_part("triggerer", "second triggerer")
    world.until(lambda: "Starting the triggerer" in second.log.read_text(), "the second triggerer")
    world.kill("triggerer", signal.SIGKILL)
    world.until(lambda: not _triggerers(ten) & (old | {None}), "the second triggerer to have all ten")
    _polled_since(world, time.time())
    _undisturbed(ten)
    second.name = "triggerer"


@pytest.mark.skipif(
    sys.platform != "linux", reason="needs /proc/locks to pause without holding up the database"
)
def test_a_paused_triggerer_wakes_up_and_its_triggers_have_moved(world: World, ten: Run):
    """Airflow 3.3.0 to 3.3.2 calls ``on_kill`` then, as if a user had ended the tasks (apache/airflow#73454)."""
    old = only(list(_triggerers(ten)))
    second = world.services.start_part("triggerer", "third triggerer")
    with world.paused("triggerer"):
        world.until(lambda: not _triggerers(ten) & {old, None}, "the second triggerer to have all ten")
        _polled_since(world, time.time())
    world.until(
        lambda: world.logs(f"*.trigger.{old}.log").count("goes on: the task is still deferred") == TEN,
        "all ten to be asked to end, and to see that they should not",
    )
    _undisturbed(ten)
    world.kill("triggerer", signal.SIGTERM)
    second.name = "triggerer"


def test_scheduler_is_killed_and_comes_back(world: World, ten: Run):
    """Waits need no scheduler; what it has missed, it catches up with."""
    world.kill("scheduler", signal.SIGKILL)
    moment = time.time()
    _polled_since(world, moment)
    run = world.run("chaos_one")
    world.services.start_part("scheduler")
    run.until_all("deferred", 1)
    assert len(run.queries()) == 1
    _undisturbed(ten)


def test_storm(world: World, ten: Run, gate: Gate):
    """A minute of 429, 503 and resets, while ten wait and one more is submitted."""
    world.lab.storm(60)
    moment = time.time()
    run = world.run("chaos_one")
    world.until(lambda: not world.lab.faults(), "the end of the storm")
    _undisturbed(ten)
    run.until_all("deferred", 1)
    assert time.time() - moment > 59
    assert any(one["fault"] for one in world.requests_since(moment, POLLS))
    assert len(run.queries()) == 1


def test_in_the_end_all_ten_succeed(world: World, ten: Run, gate: Gate):
    """Each in its first try, with the one query that it started."""
    before = _undisturbed(ten)
    gate.open()
    tasks = ten.until_all("success", TEN)
    assert {task["try_number"] for task in tasks} == {1}
    after = {one["id"]: one["state"] for one in ten.queries()}
    assert after == dict.fromkeys(before, "SUCCESS")


def _triggerers(run: Run) -> set[int | None]:
    """The triggerers that hold the run's triggers; None is one that has none."""
    return {(task["trigger"] or {}).get("triggerer_id") for task in run.tasks()}


def _polled_since(world: World, moment: float) -> None:
    world.until(lambda: world.requests_since(moment, POLLS), "a poll")


def _undisturbed(ten: Run) -> list[str]:
    """Every task still waits in its first try for the one query it has started; their ids."""
    tasks = ten.tasks()
    assert [(task["state"], task["try_number"]) for task in tasks] == [("deferred", 1)] * TEN
    queries = ten.queries()
    assert [query["state"] for query in queries] == ["QUEUED"] * TEN
    return [query["id"] for query in queries]
