import pytest

from tests.integration.core.airflow_db import RealAirflow


@pytest.fixture(scope="session")
def _database():
    airflow = RealAirflow()
    yield airflow
    airflow.close()


@pytest.fixture
def airflow(_database):
    """A real Airflow without runs, as a supervisor has it."""
    with _database.in_place() as airflow:
        yield airflow
        airflow.delete()
