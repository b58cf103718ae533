"""Lineage of the sensors on Dags and files; the stock ones tell nothing of what they wait for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.providers.standard.sensors.filesystem import FileSensor as StockFileSensor
from airflow.sdk import Asset, DagRunState, TaskInstanceState
from airflow.sdk.execution_time import comms

from astronomer.deferral.lineage import REMOTE_JOB
from astronomer.providers.core.sensors.astro import ExternalDeploymentSensor
from astronomer.providers.core.sensors.external_task import ExternalDagRunSensor, ExternalTaskSensor
from astronomer.providers.core.sensors.filesystem import FileSensor
from tests.integration.core.airflow_db import DAY
from tests.integration.lineage.telling import finish, openlineage, superset, whole
from tests.integration.without_worker import triggerer_in_place

pytestmark = pytest.mark.xdist_group("metadata-database")

ASKED = (comms.GetTICount, comms.GetTaskStates, comms.GetDRCount)
RUN = {"external_run_id": "r"}
WAITS = {
    "task": (ExternalTaskSensor, {"external_task_id": "a"}, ["ext.a"]),
    "tasks": (ExternalTaskSensor, {"external_task_ids": ["a", "b"]}, ["ext.a", "ext.b"]),
    "group": (ExternalTaskSensor, {"external_task_group_id": "g"}, ["ext"]),
    "dag": (ExternalTaskSensor, {}, ["ext"]),
    "run": (ExternalDagRunSensor, RUN, ["ext"]),
}


@pytest.fixture
def events(tmp_path):
    with openlineage(tmp_path) as events:
        yield events


@pytest.fixture
def free(airflow):
    with triggerer_in_place(answers=dict.fromkeys(ASKED, airflow.send)) as free:
        yield free


def upstream(event):
    """The jobs that have to end first, and what has to become of them."""
    found = event["run"]["facets"]["jobDependencies"]["upstream"]
    return [(one["job"]["name"], one["status_trigger_rule"]) for one in found]


@pytest.mark.parametrize("which", WAITS)
@pytest.mark.parametrize(("state", "ended"), [("success", "COMPLETE"), ("failed", "FAIL")])
def test_without_a_worker(airflow, free, events, which, state, ended):
    kind, arguments, names = WAITS[which]
    airflow.run("r", DAY)
    airflow.set("r", **dict.fromkeys(("a", "b", "x", "y", "_run"), state))
    more = {"external_dag_id": "ext", "failed_states": ["failed"], "poke_interval": 0.05, "timeout": 20.0}
    (end,) = free.run(free.task(kind, **more, **arguments))
    assert end.state == {"COMPLETE": "success", "FAIL": "failed"}[ended]
    told = whole(events())
    assert told["eventType"] == ended
    assert upstream(told) == [(name, "EXECUTE_ON_SUCCESS") for name in names]
    assert "Dag ext" in told["run"]["facets"][REMOTE_JOB]["name"]
    assert told["run"]["facets"][REMOTE_JOB]["url"].endswith("/dags/ext/runs/r")
    assert ("errorMessage" in told["run"]["facets"]) is (ended == "FAIL")


def test_what_has_to_become_of_the_other_task(events):
    for states, rule in (
        (["failed"], "EXECUTE_ON_FAILURE"),
        ([TaskInstanceState.FAILED], "EXECUTE_ON_FAILURE"),
        ([DagRunState.SUCCESS], "EXECUTE_ON_SUCCESS"),
        (["success", "skipped"], "EXECUTE_EVERY_TIME"),
    ):
        sensor = ExternalTaskSensor(
            task_id="task", external_dag_id="ext", external_task_id="a", allowed_states=states
        )
        (one,) = sensor.get_openlineage_facets_on_start().run_facets["jobDependencies"].upstream
        assert one.status_trigger_rule == rule


def test_another_deployment_is_a_namespace_of_its_own(events, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_ASTRO_CLOUD_DEFAULT", "http://token@example.com:8080")
    sensor = ExternalDeploymentSensor(task_id="task", external_dag_id="ext", external_task_id="a")
    monkeypatch.setattr(sensor, "_address", lambda: "https://example.com/mine")
    (one,) = sensor.get_openlineage_facets_on_start().run_facets["jobDependencies"].upstream
    assert (one.job.namespace, one.job.name) == ("https://example.com/mine", "ext.a")


def test_declared_inlets_are_told_as_by_the_stock_sensor(events):
    inlets = [Asset("file://host/orders")]
    (lineage,) = [
        ExternalDagRunSensor(task_id="task", external_dag_id="ext", inlets=inlets, **RUN)
        .get_openlineage_facets_on_complete(SimpleNamespace(outlet_events=None))
    ]  # fmt: skip
    assert lineage.inputs == []  # so the provider adds them
    assert "jobDependencies" in lineage.run_facets


class TestFiles:
    @pytest.fixture(autouse=True)
    def connection(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_FS_DEFAULT", "fs://")

    @pytest.mark.parametrize("deferrable", [True, False])
    def test_the_file_is_an_input(self, events, tmp_path, deferrable):
        path = tmp_path / "there"
        path.touch()
        finish(StockFileSensor, filepath=str(path))
        stock = events()
        finish(FileSensor, filepath=str(path), deferrable=deferrable)
        ours = events()
        more = superset(ours, stock)
        print(f"more than stock: {more}")
        assert [(one["namespace"], one["name"]) for one in whole(ours)["inputs"]] == [("file", str(path))]
        assert str(path) in whole(ours)["run"]["facets"][REMOTE_JOB]["name"]

    @pytest.mark.parametrize("deferrable", [True, False])
    def test_a_timeout(self, events, tmp_path, deferrable):
        path = str(tmp_path / "missing")
        finish(FileSensor, filepath=path, deferrable=deferrable, timeout=0.3)
        end = whole(events())
        assert end["eventType"] == "FAIL"
        assert end["inputs"][0]["name"] == path
        assert path in end["run"]["facets"][REMOTE_JOB]["name"]

    def test_a_pattern_is_no_file(self, events, tmp_path):
        (tmp_path / "there").touch()
        finish(FileSensor, filepath=f"{tmp_path}/th*", inlets=[Asset("file://host/orders")])
        assert [one["name"] for one in whole(events())["inputs"]] == ["/orders"]

    def test_without_a_worker(self, free, events, tmp_path):
        path = tmp_path / "there"
        path.touch()
        free.airflow.connections["fs_default"] = {"conn_type": "fs"}
        (end,) = free.run(free.task(FileSensor, filepath=str(path), poke_interval=0.05))
        assert end.state == "success"
        assert [one["name"] for one in whole(events())["inputs"]] == [str(path)]
