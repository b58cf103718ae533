"""The errors of a run's tasks, as a person wants to read them."""

from __future__ import annotations

import pytest

from astronomer.deferral import Transient
from astronomer.deferral.testing import FakeClock
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.output import failed_tasks, failures_of
from tests.unit.databricks.workspace import OUTPUT, Piece, Workspace


@pytest.fixture
def workspace():
    return Workspace()


def task(number, key, code="RUN_EXECUTION_ERROR", *, attempt=0, ends=0.0, message="it broke"):
    return Piece(number, 0.0, ends, code, message, key=key, attempt=attempt)


def told(workspace, *tasks):
    async def main():
        run = workspace.start()
        run.tasks = list(tasks)
        client = workspace.client()
        return await failures_of(client, await client.get("2.2/jobs/runs/get", run_id=run.run_id))

    return FakeClock().run(main)


def test_error_and_tail_of_the_trace(workspace):
    trace = "\n".join(f"line {number}" for number in range(40))
    workspace.outputs[11] = {"error": "ValueError: no rows \n", "error_trace": trace}
    (text,) = told(workspace, task(11, "load"), task(12, "check", "SUCCESS"))
    lines = text.splitlines()
    assert lines[0] == "Task 'load' (run 11) ended TERMINATED RUN_EXECUTION_ERROR: ValueError: no rows"
    assert lines[1:] == [f"    line {number}" for number in range(25, 40)]


def test_a_long_trace_is_cut(workspace):
    workspace.outputs[11] = {"error": "E", "error_trace": "x" * 100_000}
    (text,) = told(workspace, task(11, "load"))
    assert len(text) < 2200


def test_only_the_newest_attempt_of_a_task_counts(workspace):
    assert told(workspace, task(11, "load"), task(12, "load", "SUCCESS", attempt=1)) == []
    (text,) = told(workspace, task(12, "load", attempt=1), task(11, "load", "SUCCESS"))
    assert "run 12" in text


@pytest.mark.parametrize("code", ["UPSTREAM_FAILED", "UPSTREAM_CANCELED", "SKIPPED", "EXCLUDED", "DISABLED"])
def test_a_task_that_never_ran_did_not_fail(workspace, code):
    assert told(workspace, task(11, "load", code)) == []


def test_tasks_that_were_cancelled_or_took_too_long_are_told_of(workspace):
    texts = told(
        workspace, task(11, "a", "USER_CANCELED"), task(12, "b", "TIMEDOUT"), task(13, "c", ends=9e99)
    )
    assert [text.partition(":")[0] for text in texts] == [
        "Task 'a' (run 11) ended TERMINATED USER_CANCELED",
        "Task 'b' (run 12) ended TERMINATED TIMEDOUT",
    ]


def test_no_more_than_a_few_are_asked_for(workspace):
    texts = told(workspace, *(task(number, f"t{number}") for number in range(11, 19)))
    assert texts[5:] == ["3 more of its tasks failed."]
    assert len(workspace.asked(OUTPUT)) == 5
    assert len(told(Workspace(), *(task(number, f"t{number}") for number in range(11, 16)))) == 5


@pytest.mark.parametrize(
    "trouble", [RequestRejected(400, "INVALID_STATE", "no output"), Transient("429", retry_after=30.0)]
)
def test_an_output_that_cannot_be_read_does_not_hide_the_failure(workspace, trouble):
    workspace.weather[OUTPUT] = [trouble] * 20
    texts = told(workspace, task(11, "load"))
    assert texts[0].startswith(
        "Task 'load' (run 11) ended TERMINATED RUN_EXECUTION_ERROR: it broke (its output"
    )
    assert str(trouble) in texts[0]


def test_a_moment_of_weather_does_not_hide_the_cause(workspace):
    workspace.weather[OUTPUT] = [Transient("429", retry_after=1.0)]
    assert "its output" not in told(workspace, task(11, "load"))[0]


def test_without_an_error_the_state_speaks(workspace):
    assert told(workspace, task(11, "load")) == [
        "Task 'load' (run 11) ended TERMINATED RUN_EXECUTION_ERROR: it broke"
    ]
    assert told(workspace, task(11, "load", message=""))[0].endswith("no error was reported")


def test_a_run_without_tasks():
    assert failed_tasks({}) == []
    assert failed_tasks({"tasks": None}) == []
