"""What the task makes of the way its run ended."""

from __future__ import annotations

import pytest

from astronomer.deferral import JobStatus, Phase
from astronomer.providers.databricks.actions import action_for, checked_actions


def ended(code, phase=Phase.FAILED):
    return JobStatus(phase, code=code)


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (ended("SUCCESS", Phase.SUCCEEDED), "success"),
        (ended("SUCCESS_WITH_FAILURES", Phase.SUCCEEDED), "success"),
        (ended("RUN_EXECUTION_ERROR"), "retry"),
        (ended("USER_CANCELED", Phase.CANCELLED), "retry"),
        (ended(None), "retry"),
    ],
)
def test_without_a_mapping(status, action):
    assert action_for(checked_actions(None), status) == action


def test_a_name_goes_before_a_pattern_and_an_earlier_pattern_before_a_later_one():
    actions = checked_actions({"CLUSTER_*": "fail", "CLUSTER_ERROR": "skip", "*": "success"})
    assert action_for(actions, ended("CLUSTER_ERROR")) == "skip"
    assert action_for(actions, ended("CLUSTER_START_TIMEOUT")) == "fail"
    assert action_for(actions, ended("ANYTHING")) == "success"
    assert action_for(actions, ended(None)) == "retry"


def test_codes_are_read_in_any_case():
    actions = checked_actions({"user_canceled": "fail", "success_*": "retry"})
    assert action_for(actions, ended("USER_CANCELED", Phase.CANCELLED)) == "fail"
    assert action_for(actions, ended("SUCCESS_WITH_FAILURES", Phase.SUCCEEDED)) == "retry"
    assert action_for(actions, ended("SUCCESS", Phase.SUCCEEDED)) == "success"


def test_an_action_that_there_is_not():
    with pytest.raises(
        ValueError, match="maps SKIPPED to 'ignore', which is none of success, skip, retry, fail"
    ):
        checked_actions({"skipped": "ignore"})
