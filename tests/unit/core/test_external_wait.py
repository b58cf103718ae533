"""What is waited for, and what becomes of it when states are known: one row of a table per case."""

import json

import pytest

from astronomer.deferral import JobStatus, Phase
from astronomer.providers.core.jobs.dag_poller import ExternalDagPoller
from astronomer.providers.core.jobs.external import FAILED, SKIPPED, ExternalWait, Sight, judge, keys_of

ONE, TWO, THREE = (f"2026-01-0{number}T00:00:00+00:00" for number in (1, 2, 3))
LONG = {"skipped_states": ("skipped",), "failed_states": ("failed", "upstream_failed")}


def wait_for(*task_ids, dates=(ONE,), **more):
    return ExternalWait("orders", task_ids, logical_dates=dates, **LONG | more)


def judged(wait, *runs):
    """What becomes of it; one mapping of states for each target, ``None`` where there is no run."""
    sights = {
        target: Sight(f"run-{number}", states)
        for number, (target, states) in enumerate(zip(wait.targets, runs, strict=True))
        if states is not None
    }
    return judge(wait, sights, "https://airflow/{}".format)


class TestTasks:
    @pytest.mark.parametrize(
        ("tasks", "states", "phase", "code"),
        [
            ("a", {"a": "success"}, Phase.SUCCEEDED, None),
            ("a", {"a": "running"}, Phase.ACTIVE, None),
            ("a", {"a": None}, Phase.ACTIVE, None),
            ("a", {"a": "a state of the future"}, Phase.ACTIVE, None),
            ("a", {"a": "failed"}, Phase.FAILED, FAILED),
            ("a", {"a": "upstream_failed"}, Phase.FAILED, FAILED),
            ("a", {"a": "skipped"}, Phase.FAILED, SKIPPED),
            ("a", {}, Phase.ACTIVE, None),
            ("a", None, Phase.ACTIVE, None),
            # several
            ("ab", {"a": "success", "b": "success"}, Phase.SUCCEEDED, None),
            ("ab", {"a": "success"}, Phase.ACTIVE, None),
            ("ab", {"a": "success", "b": "running"}, Phase.ACTIVE, None),
            ("ab", {"a": "success", "b": "failed"}, Phase.FAILED, FAILED),
            ("ab", {"a": "failed"}, Phase.FAILED, FAILED),
            # failed before skipped before allowed
            ("abc", {"a": "success", "b": "skipped", "c": "failed"}, Phase.FAILED, FAILED),
            ("abc", {"a": "success", "b": "skipped", "c": "success"}, Phase.FAILED, SKIPPED),
            ("abc", {"a": "running", "b": "skipped", "c": "success"}, Phase.FAILED, SKIPPED),
            # mapped
            ("a", {"a_0": "success", "a_1": "success"}, Phase.SUCCEEDED, None),
            ("a", {"a_0": "success", "a_1": "running"}, Phase.ACTIVE, None),
            ("a", {"a_0": "success", "a_10": None}, Phase.ACTIVE, None),
            ("a", {"a_0": "running", "a_1": "failed"}, Phase.FAILED, FAILED),
            ("a", {"a_0": "success", "a_1": "removed"}, Phase.SUCCEEDED, None),
            ("a", {"a_0": "running", "a_1": "removed"}, Phase.ACTIVE, None),
            ("a", {"a_0": "removed", "a_1": "removed"}, Phase.ACTIVE, None),
            ("a", {"a": "removed"}, Phase.ACTIVE, None),
            ("ab", {"a_0": "success", "a_1": "success"}, Phase.ACTIVE, None),
            ("ab", {"a_0": "success", "b": "success"}, Phase.SUCCEEDED, None),
            # what others have asked about
            ("a", {"a": "success", "b": "failed", "b_0": "failed"}, Phase.SUCCEEDED, None),
            ("a", {"a": "success", "a_b": "failed", "a_": "failed"}, Phase.SUCCEEDED, None),
            ("a", {"b": "success"}, Phase.ACTIVE, None),
            (("a_3",), {"a_3": "success"}, Phase.SUCCEEDED, None),
            (("a_3",), {"a_3_0": "success", "a_3_1": "failed"}, Phase.FAILED, FAILED),
            # a task, and another one that is named like an instance of it
            (("a", "a_3"), {"a": "success", "a_3": "running"}, Phase.ACTIVE, None),
            (("a", "a_3"), {"a_03": "success", "a_3": "success"}, Phase.SUCCEEDED, None),
            (("a", "a_3"), {"a_03": "success"}, Phase.ACTIVE, None),
            (("a", "a_3"), {"a_3": "success"}, Phase.ACTIVE, None),
        ],
    )
    def test_of_one_run(self, tasks, states, phase, code):
        status = judged(wait_for(*tasks), states)
        assert (status.phase, status.code) == (phase, code)

    @pytest.mark.parametrize(
        ("runs", "phase", "code"),
        [
            ([{"a": "success"}, {"a": "success"}], Phase.SUCCEEDED, None),
            ([{"a": "success"}, {"a": "running"}], Phase.ACTIVE, None),
            ([{"a": "success"}, None], Phase.ACTIVE, None),
            ([None, None], Phase.ACTIVE, None),
            ([None, {"a": "failed"}], Phase.FAILED, FAILED),
            ([{"a": "skipped"}, {"a": "failed"}], Phase.FAILED, FAILED),
            ([{"a": "skipped"}, None], Phase.FAILED, SKIPPED),
        ],
    )
    def test_of_several_runs(self, runs, phase, code):
        status = judged(wait_for("a", dates=(ONE, TWO)), *runs)
        assert (status.phase, status.code) == (phase, code)

    def test_removed_counts_for_who_waits_for_it(self):
        status = judged(wait_for("a", allowed_states=("removed",)), {"a_0": "removed", "a_1": "removed"})
        assert status.phase is Phase.SUCCEEDED

    def test_a_wait_for_no_run_at_all_is_never_over(self):
        assert judged(wait_for("a", dates=())).phase is Phase.ACTIVE

    def test_what_is_allowed_is_for_the_user_to_say(self):
        wait = wait_for("a", "b", allowed_states=("success", "failed"), failed_states=())
        assert judged(wait, {"a": "failed", "b": "success"}).phase is Phase.SUCCEEDED

    def test_without_bad_states_nothing_is_bad(self):
        wait = ExternalWait("orders", ("a",), logical_dates=(ONE,))
        assert judged(wait, {"a": "failed"}).phase is Phase.ACTIVE
        assert judged(wait, {"a": "skipped"}).phase is Phase.ACTIVE


@pytest.mark.parametrize(
    ("states", "phase", "code"),
    [
        ({"g.a": "success", "g.b": "success"}, Phase.SUCCEEDED, None),
        ({"g.a": "success", "g.b_0": "success", "g.b_1": "success"}, Phase.SUCCEEDED, None),
        ({"g.a": "success", "g.b": None}, Phase.ACTIVE, None),
        ({"g.a": "running", "g.b": "failed"}, Phase.FAILED, FAILED),
        ({"g.a": "running", "g.b": "skipped"}, Phase.FAILED, SKIPPED),
        ({"g.a": "failed", "g.b": "skipped"}, Phase.FAILED, FAILED),
        ({}, Phase.ACTIVE, None),
        (None, Phase.ACTIVE, None),
    ],
)
def test_a_group_is_all_its_tasks(states, phase, code):
    status = judged(wait_for(group_id="g"), states)
    assert (status.phase, status.code) == (phase, code)


@pytest.mark.parametrize(
    ("state", "phase", "code"),
    [
        ("success", Phase.SUCCEEDED, None),
        ("running", Phase.ACTIVE, None),
        ("", Phase.ACTIVE, None),
        ("failed", Phase.FAILED, FAILED),
        ("queued", Phase.FAILED, SKIPPED),
        (None, Phase.ACTIVE, None),
    ],
)
@pytest.mark.parametrize("which", [{"dates": (ONE,)}, {"dates": (), "run_ids": ("mine",)}])
def test_a_whole_run_has_one_state(state, phase, code, which):
    wait = wait_for(skipped_states=("queued",), **which)
    status = judged(wait, None if state is None else {"": state})
    assert (status.phase, status.code) == (phase, code)


class TestWords:
    def test_of_success_are_the_states(self):
        wait = wait_for("a", "b", allowed_states=("success", "skipped"), skipped_states=())
        assert judged(wait, {"a": "success", "b": "skipped"}) == JobStatus(
            Phase.SUCCEEDED, "skipped, success", url="https://airflow/run-0"
        )

    def test_of_a_failure_are_what_and_where(self):
        wait = wait_for("a", dates=(ONE, TWO, THREE))
        status = judged(wait, {"a": "success"}, {"a_4": "upstream_failed"}, {"a": "success"})
        assert status == JobStatus(
            Phase.FAILED,
            "upstream_failed",
            "a_4 is upstream_failed, in run-1",
            "https://airflow/run-1",
            code=FAILED,
        )

    def test_of_a_whole_run_name_it_by_what_is_known(self):
        wait = wait_for()
        sights = {ONE: Sight(states={"": "failed"})}
        status = judge(wait, sights, "https://airflow/{}".format)
        assert (status.message, status.url) == (f"it is failed, in {ONE}", None)

    @pytest.mark.parametrize(
        ("runs", "raw", "url"),
        [
            ([None, None], "there is no such run yet", None),
            ([{"a": "running"}, None], "there is no such run yet", "https://airflow/run-0"),
            ([{"a": "running"}, {}], "there is no such run yet", "https://airflow/run-1"),
            ([{"a": "success"}, {"a": None}], "not yet", "https://airflow/run-1"),
        ],
    )
    def test_of_patience_say_whether_there_is_a_run(self, runs, raw, url):
        status = judged(wait_for("a", dates=(ONE, TWO)), *runs)
        assert (status.phase, status.raw, status.url) == (Phase.ACTIVE, raw, url)


class TestExternalWait:
    def test_crosses_as_plain_json(self):
        wait = wait_for("a", "b", dates=(ONE, TWO))
        data = wait.to_dict()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert ExternalWait.from_dict(data) == wait
        assert hash(ExternalWait.from_dict(data)) == hash(wait)

    def test_ignores_what_a_newer_release_has_added(self):
        assert ExternalWait.from_dict({"dag_id": "orders", "mood": "good"}) == ExternalWait("orders")

    def test_is_nobody_s_to_cancel(self):
        assert ExternalWait.foreign

    def test_shares_its_poller_with_all_on_the_dag(self):
        one, other = wait_for("a"), ExternalWait("orders", run_ids=("mine",), allowed_states=("failed",))
        assert one.connection_key == other.connection_key
        assert one.connection_key != ExternalWait("others").connection_key
        assert isinstance(one.poller(), ExternalDagPoller)

    def test_knows_its_runs_and_every_state_that_matters(self):
        wait = wait_for("a", dates=(ONE, TWO))
        assert wait.targets == (ONE, TWO)
        assert ExternalWait("orders", run_ids=("mine",)).targets == ("mine",)
        assert wait.states == ("failed", "upstream_failed", "skipped", "success")

    @pytest.mark.parametrize(
        ("wait", "name"),
        [
            (wait_for("a"), f"task a of Dag orders, {ONE}"),
            (wait_for("a", "b"), f"tasks a, b of Dag orders, {ONE}"),
            (wait_for(group_id="g"), f"task group g of Dag orders, {ONE}"),
            (wait_for(), f"Dag orders, {ONE}"),
            (wait_for(dates=(ONE, TWO)), f"Dag orders, {ONE}, {TWO}"),
            (wait_for(dates=(ONE, TWO, THREE)), f"Dag orders, {ONE}, {TWO} and 1 more"),
            (ExternalWait("orders", run_ids=("mine",)), "Dag orders, mine"),
        ],
    )
    def test_has_a_name(self, wait, name):
        assert wait.name == name


def test_the_keys_that_count_are_those_of_the_tasks():
    states = {"a": 1, "a_0": 1, "b": 1, "a_x": 1, "": 1}
    assert list(keys_of(wait_for("a"), states)) == ["a", "a_0"]
    assert list(keys_of(wait_for(group_id="g"), states)) == list(states)
