"""One local workspace per test process, quiet and with its quotas at the start of each test."""

from __future__ import annotations

import json

import pytest

from astronomer.lab.databricks import DatabricksLab
from astronomer.providers.databricks import states
from astronomer.providers.databricks.hooks import credentials
from tests.integration.databricks.runs import Workspace
from tests.integration.driving import forgetting, until_now
from tests.unit.deferral.fakes import FakeSupervisor

CONN_ID = "databricks_default"

forgetting.append(credentials._kept.clear)


@pytest.fixture(scope="session")
def running_lab():
    with DatabricksLab() as lab:
        yield lab


@pytest.fixture(autouse=True)
def lab(running_lab, monkeypatch):
    """The lab, trusted by this process and known as ``databricks_default``."""
    lab = running_lab
    lab.faults.clear()
    for name, value in (lab.client_env() | lab.connection_env(CONN_ID)).items():
        monkeypatch.setenv(name, value)
    states._unknown_seen.clear()
    credentials._kept.clear()
    lab.requests.clear()
    yield lab
    lab.faults.clear()
    running = [run for run in lab.runs.values() if not run.ended]
    for run in running:
        lab.cancel_by_user(run.run_id)
    until_now(lambda: all(run.ended for run in running))


@pytest.fixture
def connect_as(lab, monkeypatch):
    """Define an Airflow connection to the lab, or change it."""

    def define(conn_id=CONN_ID, *, auth="pat", fields=None, **extra):
        connection = lab.airflow_connection(auth=auth, **extra) | (fields or {})
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
        return conn_id

    return define


@pytest.fixture
def workspace(lab):
    """The lab as those see it who run jobs."""
    return Workspace(lab)


@pytest.fixture
def supervisor():
    """The supervisor of a triggerer, as far as a trigger talks to it."""
    with FakeSupervisor().in_place() as supervisor:
        yield supervisor
