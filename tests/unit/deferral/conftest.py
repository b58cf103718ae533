import logging

import pytest
from structlog.testing import capture_logs

from astronomer.deferral.testing import ScriptedService
from tests.unit.deferral.fakes import Timeline
from tests.unit.deferral.free import FreeTimeline, FreeWorld

_PARSING = "astronomer.deferral.worker_free"


@pytest.fixture
def service():
    """A fresh remote service in memory."""
    return ScriptedService("scripted")


@pytest.fixture
def timeline():
    """A time that only waiting moves, in place of the machine's."""
    with Timeline().in_place() as line:
        yield line


@pytest.fixture
def free(service):
    """Tasks without a worker, whose operators count as installed."""
    with FreeWorld(service, FreeTimeline()).in_place() as world:
        yield world


@pytest.fixture
def why(caplog):
    """Why tasks start in a worker, each as its log line says it."""
    caplog.set_level(logging.INFO, _PARSING)
    return lambda: [
        record.getMessage().partition(" starts in a worker: ")[2]
        for record in caplog.records
        if record.name == _PARSING
    ]


@pytest.fixture
def lines():
    """What is said at INFO or above."""
    with capture_logs() as found:
        yield lambda: [line["event"] for line in found if line["log_level"] != "debug"]
