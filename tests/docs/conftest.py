from __future__ import annotations

import logging

import pytest
from snowflake.connector import connect

from tests.docs.world import Run, databricks, environment, new_context, settled_at_once, snowflake

# All tests of this folder share one set of local services, and so one process.
GROUP = pytest.mark.xdist_group("docs")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/docs/" in item.path.as_posix():
            item.add_marker(GROUP)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Where both services keep them, so that clients trust both; a module's, as is the environment that goes with them."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def workspace(certificates):
    """A local Databricks workspace."""
    with databricks(directory=certificates) as workspace:
        yield workspace


@pytest.fixture(scope="module")
def lab(certificates):
    """A local Snowflake on which a second takes a fiftieth of one, with the table that the pages speak of."""
    logging.getLogger("snowflake.connector").setLevel(logging.ERROR)
    quick = {"AIRFLOW__ASTRONOMER_PROVIDERS__POLL_INTERVAL": "1"}
    with environment(quick), settled_at_once(), snowflake(speed=50.0, directory=certificates) as lab:
        with connect(**lab.connect_args()) as connection:
            connection.execute_string(
                "CREATE TABLE orders (id INTEGER, day DATE, amount NUMBER(10, 2));"
                "INSERT INTO orders VALUES (1, '2026-11-21', 10), (2, '2026-11-22', 20.5), (3, '2026-11-22', 5)"
            )
        yield lab


@pytest.fixture
def run(lab, workspace):
    """Run an operator as a task: ``run(operator)``."""
    return lambda operator, **how: Run(new_context()).of(operator, **how)
