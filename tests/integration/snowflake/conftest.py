"""One local Snowflake per test process, quiet and with its first password at the start of each test."""

from __future__ import annotations

import json

import pytest
import snowflake.connector

from astronomer.lab.snowflake import SnowflakeLab
from astronomer.providers.snowflake import states
from tests.held import held
from tests.integration.snowflake.driving import until_now
from tests.unit.deferral.fakes import FakeSupervisor

CONN_ID = "snowflake_default"


@pytest.fixture(scope="session")
def running_lab():
    with SnowflakeLab() as lab:
        yield lab


@pytest.fixture(autouse=True)
def lab(running_lab, monkeypatch):
    """The lab, trusted by this process and known as ``snowflake_default``."""
    lab = running_lab
    lab.faults.clear()
    lab.set_warehouse("COMPUTE_WH")
    lab.rotate_password(SnowflakeLab.password)
    for name, value in (lab.client_env() | lab.connection_env(CONN_ID)).items():
        monkeypatch.setenv(name, value)
    # The connector otherwise asks the metadata services of three clouds at each connect.
    monkeypatch.setenv("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
    states._unknown_seen.clear()
    lab.requests.clear()
    yield lab
    lab.faults.clear()
    running = [query for query in lab.queries.values() if not query.finished]
    for query in running:
        lab.abort_by_admin(query.id)
    until_now(lambda: all(query.finished for query in running))


@pytest.fixture
def let_go(lab):
    """Whatever a query's text waits for lasts until this is called."""
    with held(lab) as let_go:
        yield let_go


@pytest.fixture
def connect_as(lab, monkeypatch):
    """Define an Airflow connection to the lab, or change it."""

    def define(conn_id=CONN_ID, *, auth="password", fields=None, **extra):
        connection = lab.airflow_connection(auth=auth, **extra) | (fields or {})
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
        return conn_id

    return define


@pytest.fixture
def supervisor():
    """The supervisor of a triggerer, as far as a trigger talks to it."""
    with FakeSupervisor().in_place() as supervisor:
        yield supervisor


@pytest.fixture
def sql(lab):
    """Run statements beside the code under test; the rows of the last."""
    opened = []

    def run(*texts):
        if not opened:
            opened.append(snowflake.connector.connect(**lab.connect_args()))
        try:
            with opened[-1].cursor() as cursor:
                return [cursor.execute(text).fetchall() for text in texts][-1]
        except snowflake.connector.errors.DatabaseError as error:
            if error.errno != 390114:  # a test has ended all sessions
                raise
            opened.pop().close(retry=False)
            return run(*texts)

    yield run
    lab.faults.clear()
    for connection in opened:
        connection.close(retry=False)


@pytest.fixture
def user_queries(lab):
    """The queries that were started since the beginning of the test, by text."""
    before = set(lab.queries)

    def found(text=""):
        return [
            query
            for query_id, query in lab.queries.items()
            if query_id not in before and text in query.sql and query.parent is None
        ]

    return found
