"""A lab for the tests of this folder.

Clients in this process trust it through the two variables of ``client_env``. Two clients need more than that, without a
change to their code:

- ``aiohttp`` makes its default TLS context when it is imported, so the lab's authority is added to that one;
- the stock SQL API hook has ``https://{account}.snowflakecomputing.com`` built in, so ``lab.redirected()`` answers the
  name lookup of that host, and the lab's certificate is valid for it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from astronomer.lab import server
from astronomer.lab.snowflake import SnowflakeLab

SPEED = 20.0


@pytest.fixture(scope="session")
def lab_directory(tmp_path_factory):
    """Certificates and keys are made once for all labs of the run."""
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def trust(lab_directory):
    """This process trusts every lab of ``lab_directory``."""
    first = SnowflakeLab(directory=lab_directory)
    # The connector otherwise asks the metadata services of three clouds at each connect.
    environment = {**first.client_env(), "SNOWFLAKE_DISABLE_PLATFORM_DETECTION": "true"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    yield first.ca_bundle
    first.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def patient_servers(monkeypatch):
    """Who waits for a client waits this long; a busy machine is quicker."""
    monkeypatch.setattr(server, "GRACEFUL_SECONDS", 60)
    monkeypatch.setattr(server, "SHUTDOWN_SECONDS", 100.0)


@pytest.fixture(scope="module")
def kind_of_lab():
    return SnowflakeLab


@pytest.fixture(scope="module")
def make_lab(lab_directory, trust, kind_of_lab):
    """Start labs that end with the module."""
    with contextlib.ExitStack() as running:
        yield lambda **settings: running.enter_context(kind_of_lab(directory=lab_directory, **settings))


@pytest.fixture(scope="module")
def module_lab(make_lab):
    return make_lab(speed=SPEED)


@pytest.fixture
def lab(module_lab):
    """A lab in which a lab second takes a twentieth of a second, quiet and with an empty request log."""
    module_lab.faults.clear()
    module_lab.requests.clear()
    module_lab.set_warehouse("COMPUTE_WH")
    yield module_lab
    module_lab.faults.clear()


@pytest.fixture
def connect(lab):
    """Connect with the unmodified connector; every connection is closed afterwards."""
    import snowflake.connector

    opened = []

    def connect(**over):
        opened.append(snowflake.connector.connect(**lab.connect_args(**over)))
        return opened[-1]

    yield connect
    lab.faults.clear()
    for connection in opened:
        connection.close(retry=False)


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def cursor(connection):
    return connection.cursor()


def until(condition, seconds: float = 60.0):
    """Return the first true value of ``condition()``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    return value


def ended(lab: SnowflakeLab, query_id: str):
    """Wait for a query to end and return its record."""
    query = lab.queries[query_id]
    until(lambda: query.finished)
    return query


def query_id(cursor, sql: str, **more) -> str:
    """Submit a query and return its id at once."""
    cursor.execute_async(sql, **more)
    return cursor.sfqid


def pem(path: Path) -> bytes:
    return Path(path).read_bytes()
