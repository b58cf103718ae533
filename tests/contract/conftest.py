import pytest

from tests.contract.families import FAMILIES
from tests.contract.network import stop_labs


@pytest.fixture(scope="session", autouse=True)
def _labs():
    yield
    stop_labs()


@pytest.fixture(params=FAMILIES, ids=repr)
def family(request):
    """Each family in turn."""
    return request.param


@pytest.fixture
def world(family):
    """A fresh world of the family."""
    with family.world() as world:
        yield world
