"""A triggerer of one queue waits for the tasks of that queue, and for no other: with Airflow's own command."""

from __future__ import annotations

import os
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
from tests.integration.queues.deferring import RUN, defer, row, takes

pytestmark = [pytest.mark.xdist_group("metadata-database"), pytest.mark.timeout(120)]

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


@pytest.fixture(scope="module")
def database():
    airflow = RealAirflow()
    airflow.read(EXAMPLE.read_text(), EXAMPLE.name)
    yield airflow
    airflow.close()


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """Both local services, trusted by this process."""
    directory = tmp_path_factory.mktemp("lab")
    with settled_at_once(), snowflake(directory=directory) as one, databricks(directory=directory) as other:
        source = EXAMPLE.with_name("workspace") / "convert.py"
        other.upload("/Workspace/Shared/airflow_examples/convert.py", source.read_text())
        yield one, other


@pytest.fixture
def airflow(database, services):
    """A real Airflow with queues of triggerers, and a run of the example whose tasks have both deferred."""
    with database.in_place(), environment({ENABLED: "True"}):
        database.run(RUN, DAY, "triggerer_queues")
        for task_id in ("total", "convert"):
            defer(database, EXAMPLE, "triggerer_queues", task_id, params={"seconds": 2})
        yield database
        database.delete()


@contextmanager
def triggerer(directory, *arguments):
    """Airflow's command, which ends with the block."""
    settings = {
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


def test_a_triggerer_of_snowflake_takes_the_wait_for_snowflake(airflow, services, tmp_path):
    (lab, other), asked = services, len(services[1].requests)
    with triggerer(tmp_path, "--queues", "snowflake") as process:
        until(process, lambda: row("total")[0].state == "scheduled", tmp_path / "log")
    ti, _ = row("total")
    assert ti.next_kwargs["event"]["outcome"]["status"]["phase"] == "SUCCEEDED"
    assert [query.finished for query in lab.queries.values() if "SYSTEM$WAIT" in query.sql] == [True]
    ti, trigger = row("convert")
    assert (ti.state, trigger.queue, trigger.triggerer_id) == ("deferred", "databricks", None)
    assert len(other.requests) == asked, "nobody has asked for the run"


def test_who_takes_what(airflow):
    airflow.read(OTHERS, "others.py")
    airflow.run(RUN, DAY, "others")
    defer(airflow, airflow.folder / "others.py", "others", "unnamed")
    start_without_worker("stock_without_worker")
    assert takes({"snowflake"}) == {"total"}
    assert takes({"databricks"}) == {"convert"}
    assert takes({"snowflake", "databricks"}) == {"total", "convert"}
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
def test_with_queues_ours_start_in_a_worker(database, enabled, without_worker):
    """So that they are waited for where the queue says."""
    from airflow.models.dagbag import DBDagBag

    with environment({ENABLED: enabled}), create_session() as session:
        database.read(OTHERS, "others.py")
        dag = DBDagBag().get_latest_version_of_dag("others", session=session)
        assert dag.get_task("without_worker").start_from_trigger is without_worker


def test_without_queues_any_triggerer_takes_both(database, services):
    """The default, in which Airflow also refuses the argument."""
    from airflow.cli import cli_parser
    from airflow.cli.commands.triggerer_command import triggerer

    with database.in_place():
        database.run(RUN, DAY, "triggerer_queues")
        for task_id in ("total", "convert"):
            defer(database, EXAMPLE, "triggerer_queues", task_id, params={"seconds": 0})
        assert takes(None) == {"total", "convert"}
        database.delete()
        arguments = cli_parser.get_parser().parse_args(["triggerer", "--queues", "snowflake"])
        with pytest.raises(AirflowConfigException, match="queues_enabled"):
            triggerer(arguments)
