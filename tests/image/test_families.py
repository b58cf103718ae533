"""Airflow from the image, on each executor: an example Dag of each family against the local stand-ins."""

import datetime as dt
import json
import shutil
import time
from collections import Counter
from contextlib import ExitStack

import httpx
import pytest
from rich.console import Console

from tests.image.conftest import ROOT
from tests.image.kubernetes import node
from tools.demo.backend import Servers
from tools.demo.environment import Places
from tools.demo.plan import PLANS
from tools.demo.processes import Processes
from tools.demo.services import Services
from tools.image.__main__ import tag
from tools.image.container import Container
from tools.servers import kubernetes

FILES = (
    "databricks_job",
    "external_producer",
    "external_waiters",
    "snowflake_transaction",
    "snowflake_worker_free",
)
DAGS = (*FILES, "external_waiters_by_id")
SIMPLE = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
SETTINGS = {
    # The demo's user logs in with a password; the platform's tokens are tried in test_platform.py.
    "AIRFLOW__CORE__AUTH_MANAGER": SIMPLE,
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "600",
}
OVER = {"success", "failed"}


class ImagePlaces(Places):
    """Those of the demo, with Dags and state in a folder that containers see."""

    @property
    def state(self):
        return self.root / "state"


@pytest.fixture(params=["local", "celery", "kubernetes"])
def deployment(request, engine, release, images, tmp_path):
    """A user of an Airflow whose programs are containers, the file of what OpenLineage is told, and the node of pods."""
    places = ImagePlaces(tmp_path)
    places.state.mkdir()
    shutil.copytree(ROOT / "examples" / "workspace", places.dags / "workspace")
    for name in FILES:
        shutil.copy(ROOT / "examples" / f"{name}.py", places.dags)
    container = Container(engine, tag(release, "base"), [tmp_path])
    backend = Servers(celery=request.param == "celery", triggerers=2 if request.param == "celery" else 1)
    processes = Processes(places.logs, tmp_path / "processes.json")
    console, told = Console(quiet=True), tmp_path / "lineage.jsonl"
    transport = {"type": "file", "log_file_path": str(told), "append": True}
    settings = {**SETTINGS, "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)}
    with ExitStack() as stack:
        pods = None
        if request.param == "kubernetes":
            if missing := kubernetes.lacking():
                pytest.skip(missing)
            pods = stack.enter_context(node(engine, container.tag, tmp_path))
            settings |= pods.settings()
        services = Services(
            places, processes, console, DAGS, settings, backend=backend, launch=container.command
        )
        stack.callback(backend.close)
        stack.callback(container.remove)
        stack.callback(processes.stop, 20.0)
        stack.callback(services.close)
        _, user, _ = services.start()
        if pods:
            pods.tell_tasks(services.first.environment)
        yield user, told, pods


def all_over(airflow, runs):
    """Whether all runs have ended; a machine that starts many containers may be slow to say so."""
    try:
        return all(airflow.run(dag_id, run)["state"] in OVER for dag_id, run in runs.items())
    except httpx.TransportError:
        return False


def test_an_example_of_each_family_succeeds_and_tells_its_lineage(deployment):
    airflow, lineage, pods = deployment
    for dag_id in DAGS:
        airflow.unpause(dag_id)
    moment = dt.datetime.now(dt.timezone.utc).isoformat()  # one for all, by which sensors find runs
    runs = {
        dag_id: airflow.trigger(dag_id, PLANS[dag_id].parameters(short=True), moment)
        for dag_id in DAGS
        if PLANS[dag_id].triggered
    }
    until = time.monotonic() + 600
    while not all_over(airflow, runs):
        assert time.monotonic() < until, json.dumps(airflow.task_instances(), indent=1)[-4000:]
        if pods:
            pods.look()
        time.sleep(1)
    instances = airflow.task_instances()
    mapped = {f"{one['dag_id']}.{one['task_id']}" for one in instances if one["map_index"] >= 0}
    found = {f"{one['dag_id']}.{one['task_id']}": one["state"] for one in instances}
    assert len(found) > len(DAGS)
    assert set(found.values()) == {"success"}, found
    assert {airflow.run(dag_id, run)["state"] for dag_id, run in runs.items()} == {"success"}
    told = [json.loads(line) for line in lineage.read_text().splitlines()]
    ends = Counter(one["job"]["name"] for one in told if one["eventType"] in {"COMPLETE", "FAIL"})
    starts = {one["job"]["name"] for one in told if one["eventType"] == "START"}
    assert set(found) <= starts
    assert {ends[name] for name in set(found) - mapped} == {1}
    if pods:
        assert pods.seen == {(dag_id, pods.image) for dag_id in DAGS}
        until = time.monotonic() + 60
        while left := pods.look():
            assert time.monotonic() < until, f"{left} pods were not deleted"
            time.sleep(1)
