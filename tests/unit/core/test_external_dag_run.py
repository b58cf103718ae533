"""ExternalDagRunSensor: runs of another Dag by their ids."""

import pytest
from airflow.providers.standard.exceptions import ExternalDagFailedError
from airflow.sdk import DagRunState

from astronomer.deferral._compat import AirflowSkipException
from astronomer.providers.core.jobs.external import ExternalWait
from astronomer.providers.core.sensors.external_task import ExternalDagRunSensor
from tests.unit.core.waiting import Waiting


def make(**arguments):
    usual = {"task_id": "wait", "external_dag_id": "orders"}
    if "external_run_ids" not in arguments:
        usual["external_run_id"] = "mine"
    return ExternalDagRunSensor(**usual | arguments)


@pytest.fixture
def waiting():
    with Waiting(make).in_place() as waiting:
        waiting.dag = waiting.airflow.dag("orders")
        yield waiting


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "wait"),
        [
            ({}, ExternalWait("orders", run_ids=("mine",), failed_states=("failed",))),
            (
                {"external_run_ids": ["b", "a", "b"]},
                ExternalWait("orders", run_ids=("b", "a"), failed_states=("failed",)),
            ),
            (
                {"allowed_states": [DagRunState.FAILED], "failed_states": ["success"]},
                ExternalWait(
                    "orders", run_ids=("mine",), allowed_states=("failed",), failed_states=("success",)
                ),
            ),
            ({"failed_states": []}, ExternalWait("orders", run_ids=("mine",))),
            ({"silent_fail": True}, ExternalWait("orders", run_ids=("mine",))),
            (
                {"skipped_states": ["queued"]},
                ExternalWait(
                    "orders", run_ids=("mine",), skipped_states=("queued",), failed_states=("failed",)
                ),
            ),
        ],
    )
    def test_say_what_is_waited_for(self, waiting, arguments, wait):
        found = make(**arguments).job(waiting.context)
        assert found == wait
        assert {type(one) for one in found.states} == {str}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"external_run_id": None}, "Give one of"),
            ({"external_run_id": "a", "external_run_ids": ["b"]}, "Give one of"),
            (
                {"failed_states": ["upstream_failed"]},
                "`failed_states` takes a list of failed, queued, running",
            ),
            ({"allowed_states": "success"}, "`allowed_states` takes a list"),
            ({"skipped_states": ["success"]}, "The same state stands in two"),
            ({"allowed_states": ["failed"]}, "The same state stands in two"),
        ],
    )
    def test_are_checked_when_the_dag_is_parsed(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            make(**arguments)

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("external_run_id", ""),
            ("external_run_id", "None"),
            ("external_run_id", 7),
            ("external_run_ids", []),
            ("external_run_ids", [None]),
            ("external_run_ids", ["mine", "None"]),
        ],
    )
    def test_that_render_to_no_run_are_an_error(self, waiting, name, found):
        sensor = make(external_run_ids=["x"]) if name == "external_run_ids" else make()
        setattr(sensor, name, found)
        with pytest.raises(ValueError, match=f"`{name}` names no run.*pushed its id"):
            sensor.execute(waiting.context)
        assert waiting.airflow.questions == []

    def test_that_render_to_a_text_are_an_error(self, waiting):
        sensor = make(external_run_ids=["x"])
        sensor.external_run_ids = "mine"
        with pytest.raises(TypeError, match="must be a list, got the text 'mine'"):
            sensor.execute(waiting.context)

    def test_are_templated(self):
        assert set(ExternalDagRunSensor.template_fields) == {
            "external_dag_id",
            "external_run_id",
            "external_run_ids",
        }


class TestTheWait:
    def test_is_for_a_run_that_need_not_be_there_yet_nor_have_a_date(self, waiting):
        waiting.airflow.later(100, lambda: waiting.dag.run(None, "mine"))
        waiting.airflow.later(200, lambda: setattr(waiting.dag.runs["mine"], "state", "success"))
        assert waiting.live() is None
        assert waiting.trigger is not None

    def test_is_for_all_of_them(self, waiting):
        runs = [waiting.dag.run(None, name) for name in ("one", "two")]
        waiting.airflow.later(100, lambda: setattr(runs[0], "state", "success"))
        waiting.airflow.later(300, lambda: setattr(runs[1], "state", "success"))
        begun = waiting.timeline.now
        assert waiting.live(external_run_ids=["one", "two"]) is None
        assert waiting.timeline.now >= begun + 300

    def test_ends_with_the_first_that_fails(self, waiting):
        runs = [waiting.dag.run(None, name) for name in ("one", "two")]
        waiting.airflow.later(100, lambda: setattr(runs[1], "state", "failed"))
        with pytest.raises(ExternalDagFailedError, match=r"it is failed, in two\)\. See .*/orders/runs/two$"):
            waiting.live(external_run_ids=["one", "two"])

    def test_may_be_skipped(self, waiting):
        waiting.dag.run(None, "mine", "queued")
        with pytest.raises(AirflowSkipException, match="it is queued, in mine"):
            waiting.live(skipped_states=["queued"])
