"""What each of Databricks' words for a state means to a wait."""

from __future__ import annotations

import logging

import pytest

from astronomer.deferral import Phase
from astronomer.providers.databricks import states
from astronomer.providers.databricks.states import status_of


def new(state, code=None, message=None):
    details = {"code": code, "type": "CLIENT_ERROR", "message": message} if code else None
    return {"status": {"state": state, "termination_details": details}}


def old(life_cycle, result=None, message=None):
    return {"state": {"life_cycle_state": life_cycle, "result_state": result, "state_message": message}}


@pytest.mark.parametrize("state", ["BLOCKED", "PENDING", "QUEUED", "RUNNING", "TERMINATING", "WAITING"])
def test_active_in_the_newer_words(state):
    status = status_of(new(state))
    assert (status.phase, status.raw, status.code, status.message) == (Phase.ACTIVE, state, None, None)


@pytest.mark.parametrize(
    "state", ["PENDING", "QUEUED", "RUNNING", "TERMINATING", "BLOCKED", "WAITING_FOR_RETRY"]
)
def test_active_in_the_older_words(state):
    assert status_of(old(state)).phase is Phase.ACTIVE


@pytest.mark.parametrize(
    ("code", "phase"),
    [
        ("SUCCESS", Phase.SUCCEEDED),
        ("USER_CANCELED", Phase.CANCELLED),
        ("CANCELED", Phase.CANCELLED),
        ("RUN_EXECUTION_ERROR", Phase.FAILED),
        ("SKIPPED", Phase.FAILED),
        ("MAX_CONCURRENT_RUNS_EXCEEDED", Phase.FAILED),
        ("CLUSTER_ERROR", Phase.FAILED),
        ("A_CODE_OF_NEXT_YEAR", Phase.FAILED),
    ],
)
def test_ended_in_the_newer_words(code, phase):
    status = status_of(new("TERMINATED", code, "what it says"))
    assert (status.phase, status.code, status.raw) == (phase, code, f"TERMINATED {code}")
    assert status.message == "what it says"


@pytest.mark.parametrize(
    ("life_cycle", "result", "phase", "code"),
    [
        ("TERMINATED", "SUCCESS", Phase.SUCCEEDED, "SUCCESS"),
        ("TERMINATED", "SUCCESS_WITH_FAILURES", Phase.SUCCEEDED, "SUCCESS_WITH_FAILURES"),
        ("TERMINATED", "FAILED", Phase.FAILED, "FAILED"),
        ("TERMINATED", "TIMEDOUT", Phase.FAILED, "TIMEDOUT"),
        ("TERMINATED", "CANCELED", Phase.CANCELLED, "CANCELED"),
        ("TERMINATED", "UPSTREAM_FAILED", Phase.FAILED, "UPSTREAM_FAILED"),
        ("SKIPPED", None, Phase.FAILED, "SKIPPED"),
        ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED", Phase.FAILED, "MAXIMUM_CONCURRENT_RUNS_REACHED"),
        ("INTERNAL_ERROR", None, Phase.FAILED, "INTERNAL_ERROR"),
        ("INTERNAL_ERROR", "FAILED", Phase.FAILED, "FAILED"),
    ],
)
def test_ended_in_the_older_words(life_cycle, result, phase, code):
    status = status_of(old(life_cycle, result, "what it says"))
    assert (status.phase, status.code, status.message) == (phase, code, "what it says")


def test_the_newer_words_go_before_the_older_ones():
    """A run that goes on for a second attempt looks failed in the older words."""
    assert status_of(new("RUNNING") | old("INTERNAL_ERROR", "FAILED")).phase is Phase.ACTIVE
    assert status_of(new("TERMINATED", "SUCCESS") | old("INTERNAL_ERROR", "FAILED")).phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("code", "result", "phase"),
    [
        ("SUCCESS", "SUCCESS_WITH_FAILURES", Phase.SUCCEEDED),
        ("CANCELED", "TIMEDOUT", Phase.FAILED),
    ],
)
def test_the_older_words_say_more_in_two_cases(code, result, phase):
    status = status_of(new("TERMINATED", code) | old("TERMINATED", result))
    assert (status.phase, status.code) == (phase, result)


def test_a_state_that_nobody_knows_counts_as_running_and_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr(states, "_unknown_seen", set())
    with caplog.at_level(logging.WARNING):
        found = {status_of(new("HIBERNATING")).phase for _ in range(3)}
        found.add(status_of(old("HIBERNATING")).phase)
        found.add(status_of(new("DREAMING", "SUCCESS")).phase)
    assert found == {Phase.ACTIVE}
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["HIBERNATING", "DREAMING"]


def test_an_answer_without_a_state_counts_as_running(monkeypatch):
    monkeypatch.setattr(states, "_unknown_seen", set())
    assert status_of({"run_id": 1, "status": None, "state": None}).phase is Phase.ACTIVE


def test_the_page_and_the_times():
    status = status_of(
        new("TERMINATED", "SUCCESS") | {"run_page_url": "https://here", "start_time": 1500, "end_time": 2500}
    )
    assert (status.url, status.started_at, status.ended_at) == ("https://here", 1.5, 2.5)
    status = status_of(new("RUNNING") | {"run_page_url": "", "end_time": 0}, "https://there")
    assert (status.url, status.started_at, status.ended_at) == ("https://there", None, None)
    assert status_of(new("RUNNING")).url is None


def test_a_message_of_a_run_that_goes_on_is_not_an_error():
    assert status_of(old("PENDING", None, "Waiting for the cluster")).message is None
