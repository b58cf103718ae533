"""A run that failed is repaired once, whoever asks and however often."""

from __future__ import annotations

import pytest

from astronomer.deferral import Transient
from astronomer.deferral.testing import FakeClock
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.repair import Repair, repairs_of, settings_for
from tests.unit.databricks.workspace import GET, REPAIR, Lost, Workspace

WEATHER = [Transient("503"), Transient("429", retry_after=20.0), Lost(), Lost(Transient("504"))]


@pytest.fixture
def failed():
    """A workspace, and a run in it that has failed."""
    workspace = Workspace()
    run = workspace.start()
    workspace.end(run.run_id, "RUN_EXECUTION_ERROR")
    return workspace, run


def repair(workspace, run, before=0, **options):
    return FakeClock().run(lambda: Repair(workspace.client(), run.run_id, before, **options).run())


def test_the_failed_tasks_run_again(failed):
    workspace, run = failed
    assert repair(workspace, run, job_parameters={"day": "1"}) == run.repairs[0].number
    assert workspace.asked(REPAIR) == [
        {"run_id": run.run_id, "rerun_all_failed_tasks": True, "job_parameters": {"day": "1"}}
    ]


@pytest.mark.parametrize("trouble", WEATHER)
@pytest.mark.parametrize("path", [GET, REPAIR])
def test_weather_makes_no_second_repair(failed, path, trouble):
    workspace, run = failed
    workspace.weather[path] = [trouble, trouble]
    assert repair(workspace, run) == run.repairs[0].number
    assert len(run.repairs) == 1


def test_whoever_asks_again_is_told_of_the_first(failed):
    workspace, run = failed
    first = repair(workspace, run)
    assert repair(workspace, run) == first
    workspace.end(run.run_id, "RUN_EXECUTION_ERROR")
    assert repair(workspace, run) == first
    assert len(run.repairs) == 1


def test_a_further_repair_names_the_one_before(failed):
    workspace, run = failed
    first = repair(workspace, run)
    workspace.end(run.run_id, "RUN_EXECUTION_ERROR")
    second = repair(workspace, run, before=1)
    assert [one.number for one in run.repairs] == [first, second]
    assert workspace.asked(REPAIR)[1]["latest_repair_id"] == first


def test_what_cannot_be_repaired(failed):
    workspace, run = failed
    run.code = "SUCCESS"
    with pytest.raises(RequestRejected, match="cannot be repaired"):
        repair(workspace, run)


def test_an_outage_without_end(failed):
    workspace, run = failed
    workspace.weather[REPAIR] = [Transient("503")] * 1000
    with pytest.raises(Transient):
        repair(workspace, run, tolerance=600.0)
    assert 5 <= len(workspace.asked(REPAIR)) <= 30


def test_the_original_run_is_no_repair():
    assert repairs_of({}) == []
    assert repairs_of({"repair_history": [{"type": "ORIGINAL"}]}) == []
    history = [{"type": "ORIGINAL"}, {"type": "REPAIR", "id": 1}, {"id": 2}]
    assert [one["id"] for one in repairs_of({"repair_history": history})] == [1, 2]


def test_which_failures_are_repaired():
    assert settings_for({}, "anything") == (True, None)
    reasons = {"spot": {"tasks": [1]}, "quota": {"tasks": [2]}}
    assert settings_for(reasons, "no quota left for spot machines") == (True, {"tasks": [1]})
    assert settings_for(reasons, "no quota left") == (True, {"tasks": [2]})
    assert settings_for(reasons, "a bug") == (False, None)
