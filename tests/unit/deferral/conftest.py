import pytest

from astronomer.deferral.testing import ScriptedService
from tests.unit.deferral.fakes import Timeline


@pytest.fixture
def service():
    """A fresh remote service in memory."""
    return ScriptedService("scripted")


@pytest.fixture
def timeline():
    """A time that only waiting moves, in place of the machine's."""
    with Timeline().in_place() as line:
        yield line
