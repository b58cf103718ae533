import pytest

from astronomer.deferral import TaskIdentity
from tests.unit.deferral.fakes import FakeTaskInstance

IDENTITY = TaskIdentity("dag", "run", "task", -1, 0)


def test_of_a_task_instance():
    assert TaskIdentity.of(FakeTaskInstance(max_tries=2)) == TaskIdentity("dag", "run", "task", -1, 2)
    assert TaskIdentity.of(FakeTaskInstance(map_index=7)).map_index == 7


@pytest.mark.parametrize(("map_index", "max_tries"), [(None, 0), (-1, None), (None, None)])
def test_what_airflow_leaves_out_has_a_default(map_index, max_tries):
    assert TaskIdentity.of(FakeTaskInstance(map_index=map_index, max_tries=max_tries)) == IDENTITY


def test_a_retry_has_the_identity_of_the_first_try():
    first, retry = (FakeTaskInstance(try_number=number, max_tries=3) for number in (1, 2))
    assert TaskIdentity.of(first) == TaskIdentity.of(retry)


def test_submit_key_is_stable_across_releases():
    assert IDENTITY.submit_key(0) == "ae2e71976adde092e3af941be0cd8de9ecafcdffae6d966bdbc53f47b129c1cd"
