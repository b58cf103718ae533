"""A whole Airflow with OpenLineage switched on by its environment, as in docs/howto/lineage.md."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from tests.integration.lineage.page import variables
from tests.integration.lineage.schemas import check
from tools.demo.environment import Places
from tools.demo.processes import Processes
from tools.demo.services import Services

pytestmark = [pytest.mark.long, pytest.mark.timeout(420), pytest.mark.xdist_group("lineage")]

DAGS = ("deferred", "worker_free")
FAMILIES = ("core", "databricks", "snowflake")
OVER = {"success", "failed"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def airflow(folder):
    """A user of it."""
    places = Places(folder)
    places.dags.mkdir()
    shutil.copy(Path(__file__).with_name("dags.py"), places.dags)
    settings = {
        name: value.replace("/tmp/lineage.jsonl", str(folder / "events.jsonl"))
        for name, value in variables("file").items()
    }
    processes = Processes(places.logs, folder / "processes.json")
    services = Services(places, processes, Console(quiet=True), ("fails", *DAGS), settings)
    try:
        _, user, _ = services.start()
        yield user
    finally:
        services.close()
        processes.stop(20.0)


@pytest.fixture(scope="module")
def tasks(airflow):
    """The tasks of both Dags, once they are over."""
    for dag_id in ("fails", *DAGS):
        airflow.unpause(dag_id)
    fails = airflow.trigger("fails", {}, None)
    runs = {dag_id: airflow.trigger(dag_id, {"fails": fails}, None) for dag_id in DAGS}
    until = time.monotonic() + 240
    while any(airflow.run(dag_id, run)["state"] not in OVER for dag_id, run in runs.items()):
        assert time.monotonic() < until, json.dumps(airflow.task_instances(), indent=1)[-4000:]
        time.sleep(1)
    return {
        f"{dag_id}.{one['task_id']}": one
        for dag_id, run in runs.items()
        for one in airflow.tasks(dag_id, run)
    }


@pytest.fixture(scope="module")
def events(tasks, folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("dag_id", DAGS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "ended"), [("right", "COMPLETE"), ("wrong", "FAIL")])
def test_each_task_has_a_start_an_end_and_one_run(tasks, events, dag_id, family, name, ended):
    job = f"{dag_id}.{family}_{name}"
    assert tasks[job]["state"] == {"COMPLETE": "success", "FAIL": "failed"}[ended]
    mine = [event for event in events if event["job"]["name"] == job]
    counted = Counter(event["eventType"] for event in mine)
    assert counted.keys() == {"START", ended}
    assert counted[ended] == 1
    assert len({event["run"]["runId"] for event in mine}) == 1
    (end,) = [event for event in mine if event["eventType"] == ended]
    facets = end["run"]["facets"]
    assert facets["parent"]["job"]["name"] == dag_id
    assert facets["parent"]["job"]["namespace"] == end["job"]["namespace"] == "production"
    wanted = "jobDependencies" if family == "core" else "externalQuery"
    assert {wanted, "astronomer_remoteJob"} <= facets.keys()
    assert ("errorMessage" in facets) is (ended == "FAIL")
    if family == "snowflake":
        outputs = [one["name"] for one in end["outputs"]]
        assert outputs == ([f"LAB.PUBLIC.TOLD_{dag_id.upper()}"] if name == "right" else [])


def test_all_events_fit_their_schemas(events):
    assert len(events) >= 24
    for event in events:
        check(event)


def test_the_parent_is_the_dag_run(events):
    for dag_id in DAGS:
        (run_id,) = {event["run"]["runId"] for event in events if event["job"]["name"] == dag_id}
        parents = {
            event["run"]["facets"]["parent"]["run"]["runId"]
            for event in events
            if event["job"]["name"].startswith(f"{dag_id}.") and ".query." not in event["job"]["name"]
        }
        assert parents == {run_id}


def test_no_secret_is_told(folder, events):
    """The passwords and tokens of the connections are in the environment of Airflow's processes alone."""
    told = json.dumps(events)
    log = (folder / ".demo" / "logs" / "local-services.log").read_text()
    secrets = [word for word in _values(log) if len(word) > 8]
    assert secrets
    assert not [word for word in secrets if word in told]


def _values(log):
    """What the exported connections hold under names of secrets."""
    for line in log.splitlines():
        if "AIRFLOW_CONN_" in line:
            connection = json.loads(line.partition("=")[2].strip("'"))
            yield str(connection.get("password") or "")
