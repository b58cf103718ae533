"""An Airflow home of its own for every test process, made before anything imports Airflow."""

import atexit
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Settings and connections of the machine must not decide whether a test passes.
_KEPT = "OPENLINEAGE_SPEC"  # the tests' own: see docs/howto/lineage.md
for name in [
    name for name in os.environ if name.startswith(("AIRFLOW_", "DATABRICKS_", "SNOWFLAKE_", "OPENLINEAGE_"))
]:
    if name != _KEPT:
        del os.environ[name]

_HOME = tempfile.mkdtemp(prefix="astronomer-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

os.environ.update(
    AIRFLOW_HOME=_HOME,
    AIRFLOW__CORE__UNIT_TEST_MODE="True",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(Path(_HOME, "dags")),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME}/airflow.db",
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(Path(_HOME, "logs")),
    SNOWFLAKE_HOME=_HOME,  # the connector reads connections.toml from there
)

# How long an example takes depends on what else the machine does.
settings.register_profile("whole", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("whole")


@pytest.fixture(autouse=True)
def _own_waits_folder(monkeypatch):
    """What the triggers of one test leave behind must not be found by those of another."""
    folder = Path(_HOME, "waits", uuid.uuid4().hex)
    monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WAITS_FOLDER", str(folder))
