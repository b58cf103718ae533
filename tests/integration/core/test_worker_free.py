"""Sensors that never start a worker, against a real metadata database and a real Airflow API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk.execution_time import comms

from astronomer.deferral import Hub
from astronomer.deferral._compat import AirflowFailException
from astronomer.providers.core.hooks import deployment_login
from astronomer.providers.core.jobs import deployment_runs
from astronomer.providers.core.sensors.astro import ExternalDeploymentSensor
from astronomer.providers.core.sensors.external_task import ExternalDagRunSensor, ExternalTaskSensor
from astronomer.providers.core.sensors.filesystem import FileSensor
from tests.integration.core.airflow_db import DAY, day
from tests.integration.core.deployments import RealDeployment
from tests.integration.driving import until
from tests.integration.without_worker import Free, triggerer_in_place
from tests.worker_free import WorkerFreeTask

pytestmark = pytest.mark.xdist_group("metadata-database")

ASKED = (comms.GetTICount, comms.GetTaskStates, comms.GetDRCount)
VARIABLE = "AIRFLOW_CONN_ASTRO_CLOUD_DEFAULT"


@pytest.fixture
def free(airflow):
    """A triggerer whose supervisor asks the real database."""
    with triggerer_in_place(answers=dict.fromkeys(ASKED, airflow.send)) as free:
        yield free


def task_of(free: Free, kind: type[Any] = ExternalTaskSensor, **arguments: Any) -> WorkerFreeTask:
    return free.task(kind, **{"external_dag_id": "ext", "poke_interval": 0.05, "timeout": 20.0, **arguments})


def state_of(
    free: Free,
    kind: type[Any] = ExternalTaskSensor,
    meanwhile: Callable[[], object] | None = None,
    **arguments: Any,
) -> str:
    """The state in which the sensor ends; ``meanwhile`` something happens after a moment."""
    free.anew()

    async def later() -> None:
        await asyncio.sleep(0.3)
        assert meanwhile is not None
        meanwhile()

    task = task_of(free, kind, **arguments)
    (ended,) = free.run(task, meanwhile=later if meanwhile else None)
    return ended.state


@contextmanager
def as_in_worker(airflow, free: Free, **arguments: Any):
    """What fails fails with the words of a poke in a worker."""
    sensor = ExternalTaskSensor(task_id="wait", external_dag_id="ext", deferrable=False, **arguments)
    context = airflow.context()
    with airflow.in_place(), pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it is
        sensor.poke(context)
    yield
    assert f"{caught.type.__name__}: {caught.value}" in free.said()


WHICH = {
    "task": ({"external_task_id": "a"}, {"a": "success"}),
    "tasks": ({"external_task_ids": ["a", "b"]}, {"a": "success", "b": "success"}),
    "group": ({"external_task_group_id": "g"}, {"x": "success", "y": "success"}),
    "dag": ({}, {"_run": "success"}),
    "mapped": ({"external_task_id": "m"}, {"m_0": "success", "m_1": "success", "m_2": "success"}),
}


class TestExternalTask:
    @pytest.mark.parametrize("which", WHICH)
    def test_what_is_there_already(self, airflow, free, which):
        arguments, states = WHICH[which]
        airflow.run("r", DAY)
        airflow.set("r", **states)
        assert state_of(free, **arguments) == "success", free.said()
        assert free.xcoms()["external_dag_run"].endswith("/dags/ext/runs/r")
        assert free.result is None

    @pytest.mark.parametrize("which", WHICH)
    def test_what_comes_later(self, airflow, free, which):
        arguments, states = WHICH[which]

        def come() -> None:
            airflow.run("r", DAY)
            airflow.set("r", **states)

        assert state_of(free, meanwhile=come, **arguments) == "success", free.said()
        assert free.xcoms()["external_dag_run"].endswith("/dags/ext/runs/r")

    @pytest.mark.parametrize(
        ("which", "states"),
        [
            ({"external_task_ids": ["a", "b", "c"]}, {"c": "failed"}),
            ({"external_task_group_id": "g"}, {"y": "failed"}),
            ({}, {"_run": "failed"}),
            ({"external_task_id": "m"}, {"m_1": "failed"}),
        ],
        ids=["tasks", "group", "dag", "mapped"],
    )
    def test_one_failure_is_enough(self, airflow, free, which, states):
        airflow.run("r", DAY)
        airflow.set("r", **states)
        with as_in_worker(airflow, free, failed_states=["failed"], **which):
            assert state_of(free, failed_states=["failed"], **which) == "failed"
        assert state_of(free, failed_states=["failed"], soft_fail=True, **which) == "skipped"
        assert state_of(free, failed_states=["failed"], silent_fail=True, timeout=0.5, **which) == "failed"
        assert "AirflowSensorTimeout" in free.said()

    def test_skipped_states(self, airflow, free):
        airflow.run("r", DAY)
        airflow.set("r", a="skipped")
        assert state_of(free, external_task_id="a", skipped_states=["skipped"]) == "skipped"
        assert "states-to-skip-on" in free.said()

    def test_a_delta(self, airflow, free):
        airflow.run("r", day(1))
        airflow.set("r", a="success")
        case = {"external_task_id": "a", "execution_delta": timedelta(days=-1)}
        assert state_of(free, **case) == "success", free.said()

    def test_a_template(self, airflow, free):
        airflow.run("r", DAY)
        airflow.set("r", a="success")
        case = {"external_task_ids": ["{{ 'a' if ds == '2026-01-01' else 'b' }}"]}
        assert state_of(free, **case) == "success", free.said()

    @pytest.mark.parametrize("limits", [{"timeout": 0.5}, {"execution_timeout": timedelta(seconds=1)}])
    def test_a_timeout(self, airflow, free, limits):
        airflow.run("r", DAY)
        assert state_of(free, external_task_id="a", **limits) == "failed"
        assert "has timed out while it waited for" in free.said()
        assert state_of(free, external_task_id="a", soft_fail=True, **limits) == "skipped"

    def test_a_timeout_is_final_as_on_the_worker_path(self, airflow, free):
        task = task_of(free, external_task_id="a", timeout=0.5, retries=2)
        (ended,) = free.run(task)
        assert ended.state == "scheduled", "only a worker can say that a failure is final"
        with pytest.raises(AirflowFailException, match="has timed out"):
            free.in_worker(task, ended)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"execution_date_fn": lambda date: date},
            {"external_task_id": "a", "check_existence": True},
            {"external_task_ids": ["a"], "check_existence": True},
            {"deferrable": False},
        ],
    )
    def test_what_only_a_worker_can_do(self, free, arguments):
        assert not task_of(free, **arguments).starts_in_triggerer

    @pytest.mark.parametrize(
        "arguments",
        [
            {"external_dag_id": "nowhere"},
            {"external_dag_id": "nowhere", "external_task_group_id": "g"},
            {"external_task_group_id": "nowhere"},
        ],
    )
    def test_what_does_not_exist(self, airflow, free, arguments):
        airflow.run("r", DAY)
        case = {"check_existence": True, **arguments}
        assert state_of(free, timeout=5.0, **case) == "failed"
        assert "does not exist" in free.said()

    @pytest.mark.parametrize("arguments", [{}, {"external_task_group_id": "g"}])
    @pytest.mark.parametrize("dag_id", ["ext", "never_ran"])
    def test_what_exists(self, airflow, free, arguments, dag_id):
        if dag_id == "never_ran" and arguments:
            pytest.skip("it has no group")
        case = {"external_dag_id": dag_id, "check_existence": True, "timeout": 1.0, **arguments}
        assert state_of(free, **case) == "failed"
        assert "AirflowSensorTimeout" in free.said()

    def test_an_empty_template(self, free):
        assert state_of(free, external_task_id="{{ '' }}") == "failed"
        assert "names nothing" in free.said()

    def test_mapped(self, airflow, free):
        airflow.run("r", DAY)
        airflow.set("r", a="success", b="failed")
        partial = {
            "external_dag_id": "ext",
            "poke_interval": 0.05,
            "timeout": 20.0,
            "failed_states": ["failed"],
        }
        expand = {"external_task_id": ["a", "b"]}
        tasks = [free.mapped(ExternalTaskSensor, expand, index, **partial) for index in (0, 1)]
        assert [one.state for one in free.run(*tasks)] == ["success", "failed"], free.said()

    def test_whether_a_mapped_task_exists_is_for_a_worker_to_find_out(self, airflow, free):
        expand = {"external_task_id": ["a"]}
        (ended,) = free.run(
            free.mapped(ExternalTaskSensor, expand, 0, external_dag_id="ext", check_existence=True)
        )
        assert ended.state == "scheduled"
        assert "whether a task exists" in ended.resume["why"]

    def test_few_messages(self, airflow, free):
        airflow.run("r", DAY)
        airflow.set("r", a="running")
        before = []

        async def come() -> None:
            await until(lambda: Hub.current().waits == 20)
            before.append(free.kinds()["GetTaskStates"])
            airflow.set("r", a="success")

        expand = {"external_task_id": ["a"] * 20}
        tasks = [
            free.mapped(ExternalTaskSensor, expand, index, external_dag_id="ext", poke_interval=0.5)
            for index in range(20)
        ]
        assert [one.state for one in free.run(*tasks, meanwhile=come)] == ["success"] * 20
        found = free.kinds()
        assert found.pop("GetTaskStates") - before[0] <= 5, "they share their questions"
        assert found == {"SetXCom": 20 * 2}, "a link when it waits, and one to the run"


class TestExternalDagRun:
    @pytest.mark.parametrize(
        ("states", "state"),
        [("success", "success"), ("failed", "failed"), ("queued", "skipped")],
    )
    def test_runs(self, airflow, free, states, state):
        airflow.run("manual", None)
        airflow.set("manual", _run=states)
        case = {"external_run_id": "manual", "skipped_states": ["queued"], "check_existence": True}
        assert state_of(free, ExternalDagRunSensor, **case) == state, free.said()
        assert free.xcoms()["external_dag_run"].endswith("/runs/manual")

    def test_a_run_that_another_task_has_started(self, airflow, free):
        def make() -> Any:
            upstream = EmptyOperator(task_id="start")
            return (
                ExternalDagRunSensor(
                    task_id="task",
                    external_dag_id="ext",
                    external_run_ids=["{{ ti.xcom_pull(task_ids='start', key='trigger_run_id') }}", "two"],
                    poke_interval=0.05,
                    start_from_trigger=True,
                ).set_upstream(upstream)
                or upstream.downstream_list[0]
            )

        for run_id in ("one", "two"):
            airflow.run(run_id, None)
            airflow.set(run_id, _run="success")
        free.airflow.xcoms[(free.airflow.run_id, "start", -1, "trigger_run_id")] = "one"
        (ended,) = free.run(WorkerFreeTask(free.airflow, make))
        assert ended.state == "success", free.said()

    @pytest.mark.parametrize("arguments", [{"external_dag_id": "nowhere"}, {}])
    def test_what_does_not_exist(self, airflow, free, arguments):
        case = {"external_run_id": "nothing", "check_existence": True, "timeout": 5.0, **arguments}
        assert state_of(free, ExternalDagRunSensor, **case) == "failed"
        assert "ExternalDagNotFoundError" in free.said()


class TestFile:
    def end(self, free, **arguments):
        return free.end(FileSensor, **{"poke_interval": 0.05, "timeout": 20.0, **arguments})

    @pytest.fixture(autouse=True)
    def place(self, free, tmp_path):
        extra = json.dumps({"path": str(tmp_path)})
        free.airflow.connections["fs_default"] = {"conn_type": "fs", "extra": extra}

    @pytest.mark.parametrize(
        ("filepath", "recursive"), [("in/{{ ds }}.csv", False), ("in", False), ("**/*.csv", True)]
    )
    def test_that_is_there(self, free, tmp_path, filepath, recursive):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "2026-01-01.csv").touch()
        assert self.end(free, filepath=filepath, recursive=recursive) == "success", free.said()
        assert free.airflow.xcoms == {}

    @pytest.mark.parametrize(("flags", "state"), [({}, "failed"), ({"soft_fail": True}, "skipped")])
    def test_that_never_comes(self, free, flags, state):
        assert self.end(free, filepath="later", timeout=0.4, **flags) == state

    def test_that_comes_later(self, free, tmp_path):
        task = free.task(FileSensor, filepath="later", poke_interval=0.05, timeout=20.0)

        async def come() -> None:
            await asyncio.sleep(0.3)
            (tmp_path / "later").touch()

        (ended,) = free.run(task, meanwhile=come)
        assert ended.state == "success"

    def test_without_a_connection(self, free):
        assert self.end(free, filepath="x", fs_conn_id="nowhere") == "failed"
        assert "nowhere" in free.said()

    def test_few_messages(self, free, tmp_path):
        (tmp_path / "x").touch()
        tasks = [free.mapped(FileSensor, {"filepath": ["x"] * 20}, index) for index in range(20)]
        assert [one.state for one in free.run(*tasks)] == ["success"] * 20
        assert free.kinds()["GetConnection"] == 1, "each task has read it"
        assert set(free.kinds()) == {"GetConnection", "MaskSecret"}


@pytest.fixture(scope="session")
def _server(tmp_path_factory):
    with RealDeployment(tmp_path_factory.mktemp("deployment")).running() as server:
        yield server


@pytest.fixture
def deployment(_server, monkeypatch):
    """A deployment without runs, behind the connection ``astro_cloud_default`` with an API token."""
    monkeypatch.setattr(deployment_runs, "_FEED_EVERY", 0.5)
    monkeypatch.setenv(VARIABLE, _server.connection(password=_server.token()))
    deployment_login._kept.clear()
    _server.delete_all()
    return _server


@pytest.mark.xdist_group("another-deployment")
class TestDeployment:
    @pytest.fixture
    def free(self):
        with triggerer_in_place() as free:
            yield free

    def end(self, free, **arguments):
        given = {"external_dag_id": "orders", "poke_interval": 0.1, "timeout": 20.0, **arguments}
        return free.end(ExternalDeploymentSensor, **given)

    @pytest.mark.parametrize(
        ("about", "states"),
        [
            ({"external_task_id": "a"}, {"a": "success"}),
            ({"external_task_ids": ["a", "b"]}, {"a": "success", "b": "success"}),
            ({"external_task_group_id": "g"}, {"x": "success", "y": "success"}),
            ({}, {"_run": "success"}),
        ],
    )
    @pytest.mark.parametrize("check", [False, True])
    def test_a_run(self, deployment, free, about, states, check):
        deployment.run("one")
        deployment.set("one", **states)
        case = {"external_run_id": "{{ 'one' }}", "check_existence": check, **about}
        assert self.end(free, **case) == "success", free.said()
        assert free.xcoms()["external_dag_run"].endswith("/dags/orders/runs/one")

    def test_the_latest_run(self, deployment, free):
        deployment.run("one", after="2026-01-01T00:00:00Z")
        deployment.run("two", after="2026-01-02T00:00:00Z")
        deployment.set("two", _run="success")
        assert self.end(free) == "success", free.said()
        assert free.xcoms()["external_dag_run"].endswith("/runs/two")

    @pytest.mark.parametrize(("flags", "state"), [({}, "failed"), ({"soft_fail": True}, "skipped")])
    def test_a_failure(self, deployment, free, flags, state):
        deployment.run("one")
        deployment.set("one", a="failed")
        case = {"external_run_id": "one", "external_task_id": "a", "failed_states": ["failed"], **flags}
        assert self.end(free, **case) == state

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"external_dag_id": "nowhere"}, "nowhere"),
            ({"external_task_id": "nowhere"}, "nowhere"),
            ({"external_task_group_id": "nowhere"}, "nowhere"),
        ],
    )
    def test_what_does_not_exist(self, deployment, free, arguments, words):
        assert self.end(free, check_existence=True, **arguments) == "failed"
        assert "does not exist" in free.said()
        assert words in free.said()

    def test_a_login_that_is_refused(self, deployment, free, monkeypatch):
        monkeypatch.setenv(VARIABLE, deployment.connection(password="not-it-at-all"))
        assert self.end(free, timeout=10.0, outage_tolerance=2.0, external_run_id="one") == "failed"
        assert "refused the Airflow connection 'astro_cloud_default'" in free.said()
        assert "not-it-at-all" not in free.said()

    def test_a_connection_that_is_missing(self, free):
        assert self.end(free, external_run_id="one", astro_cloud_conn_id="nowhere") == "failed"
        assert "nowhere" in free.said()

    def test_few_messages_and_no_secret(self, deployment, free, monkeypatch):
        monkeypatch.delenv(VARIABLE)
        token = deployment.token()
        free.airflow.connections["astro_cloud_default"] = {
            "conn_type": "astro",
            "host": deployment.url,
            "password": token,
        }
        deployment.run("one")
        deployment.set("one", _run="success")
        runs = {"external_run_id": ["one"] * 10}
        partial = {"external_dag_id": "orders", "poke_interval": 0.1}
        tasks = [free.mapped(ExternalDeploymentSensor, runs, index, **partial) for index in range(10)]
        ended = free.run(*tasks)
        assert [one.state for one in ended] == ["success"] * 10, free.said()
        found = free.kinds()
        connections = found.pop("GetConnection")
        assert connections <= 2
        assert found.pop("MaskSecret", 0) <= 4 * connections
        assert found == {"SetXCom": 20}
        assert token not in free.everything(*tasks, ended=ended)
