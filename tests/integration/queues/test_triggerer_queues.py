"""A triggerer of one queue waits for the tasks of that queue, and for no other: with Airflow's own command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from airflow.exceptions import AirflowConfigException
from airflow.utils.session import create_session

from tests.docs.world import databricks, environment, settled_at_once, snowflake
from tests.integration.core.airflow_db import DAY, RealAirflow
from tests.integration.queues.deferring import RUN, defer, parsed, row, takes

pytestmark = pytest.mark.xdist_group("metadata-database")

EXAMPLE = Path(__file__).parents[3] / "examples" / "triggerer_queues.py"
OTHERS = """
from datetime import datetime
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import DAG
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

with DAG("others", schedule=None):
    SnowflakeOperator(task_id="unnamed", sql="SELECT SYSTEM$WAIT(2)")
    SnowflakeOperator(task_id="without_worker", sql="SELECT 1", queue="snowflake", start_from_trigger=True)
    DateTimeSensorAsync(
        task_id="stock_without_worker",
        target_time=datetime(2100, 1, 1),
        queue="snowflake",
        start_from_trigger=True,
    )
"""
ENABLED = "AIRFLOW__TRIGGERER__QUEUES_ENABLED"
UNCHECKED = {"AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False"}  # the tables were made without any


@pytest.fixture(scope="module")
def database():
    airflow = RealAirflow()
    airflow.read(EXAMPLE.read_text(), EXAMPLE.name)
    yield airflow
    airflow.delete()
    airflow.close()


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """Both local services, trusted by this process."""
    directory = tmp_path_factory.mktemp("lab")
    with settled_at_once(), snowflake(directory=directory) as one, databricks(directory=directory) as other:
        folder = other.workspace_directory / "Shared" / "airflow_examples"
        shutil.copytree(EXAMPLE.with_name("workspace"), folder)
        yield one, other


@pytest.fixture
def airflow(database, services):
    """A real Airflow with queues of triggerers, and a run of the example whose tasks have both deferred."""
    with database.in_place(), environment({ENABLED: "True"}):
        deferred_example(database)
        yield database


def deferred_example(airflow):
    airflow.delete()
    airflow.run(RUN, DAY, "triggerer_queues")
    for task_id in ("total", "to_euro"):
        defer(airflow, EXAMPLE, "triggerer_queues", task_id, params={"seconds": 2})


@contextmanager
def triggerer(directory, *arguments):
    """Airflow's command, which ends with the block."""
    settings = {
        **UNCHECKED,
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(directory),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs", *arguments]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **settings}, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def until(process, holds, log):
    deadline = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.long
def test_a_triggerer_of_snowflake_takes_the_wait_for_snowflake(airflow, services, tmp_path):
    lab, other = services
    other.requests.clear()
    with triggerer(tmp_path, "--queues", "snowflake") as process:
        until(process, lambda: row("total")[0].state == "scheduled", tmp_path / "log")
    ti, _ = row("total")
    assert ti.next_kwargs["event"]["outcome"]["status"]["phase"] == "succeeded"
    assert [query.finished for query in lab.queries.values() if "SYSTEM$WAIT" in query.sql] == [True]
    ti, trigger = row("to_euro")
    assert (ti.state, trigger.queue, trigger.triggerer_id) == ("deferred", "databricks", None)
    assert ti.trigger_timeout is None, "nothing but a triggerer of its queue would end the wait"
    assert other.requests.count() == 0, "nobody has asked for the run"


def test_who_takes_what(airflow):
    airflow.read(OTHERS, "others.py")
    airflow.run(RUN, DAY, "others")
    defer(airflow, airflow.folder / "others.py", "others", "unnamed")
    start_without_worker("stock_without_worker")
    assert takes({"snowflake"}) == {"total"}
    assert takes({"databricks"}) == {"to_euro"}
    assert takes({"snowflake", "databricks"}) == {"total", "to_euro"}
    assert takes({"default"}) == {"unnamed"}, "a task without a queue is of the queue `default`"
    assert takes(None) == {"stock_without_worker"}, "no --queues is only what has no queue"
    assert row("stock_without_worker")[1].queue is None, "Airflow forgets the queue of such a task"


def start_without_worker(task_id):
    """What the scheduler does with a task that starts in the triggerer."""
    from airflow.models.dagbag import DBDagBag

    with create_session() as session:
        ti = session.merge(row(task_id)[0])
        ti.task = DBDagBag().get_latest_version_of_dag("others", session=session).get_task(task_id)
        assert ti.defer_task(session=session)


@pytest.mark.parametrize(("enabled", "without_worker"), [("True", False), ("False", True)])
def test_with_queues_ours_start_in_a_worker(enabled, without_worker, tmp_path):
    """So that they are waited for where the queue says."""
    file = tmp_path / "others.py"
    file.write_text(OTHERS)
    with environment({ENABLED: enabled}):
        assert parsed(file, "others", "without_worker").start_from_trigger is without_worker


def test_without_queues_any_triggerer_takes_both(database, services):
    """The default, in which Airflow also refuses the argument."""
    from airflow.cli import cli_parser
    from airflow.cli.commands.triggerer_command import triggerer

    with database.in_place():
        deferred_example(database)
        assert takes(None) == {"total", "to_euro"}
    arguments = cli_parser.get_parser().parse_args(["triggerer", "--queues", "snowflake"])
    with environment(UNCHECKED), pytest.raises(AirflowConfigException, match="queues_enabled"):
        triggerer(arguments)
