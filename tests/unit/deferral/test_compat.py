import json
import runpy

import airflow.sdk.execution_time.context as sdk_context
import pytest
from airflow.triggers.base import BaseTrigger

from astronomer.deferral import _compat
from astronomer.deferral._compat import AirflowNotFoundException
from tests.unit.deferral.fakes import Count, FakeSupervisor, FakeTaskInstance, MemoryStore


@pytest.fixture(autouse=True)
def _first_time():
    _compat.name_what_is_lacking.cache_clear()
    yield
    _compat.name_what_is_lacking.cache_clear()


@pytest.fixture
def airflow_3_2(monkeypatch):
    """An Airflow without what 3.3 brought."""
    monkeypatch.delattr(sdk_context, "TaskStateStoreAccessor", raising=False)
    monkeypatch.delattr(BaseTrigger, "on_kill", raising=False)


@pytest.fixture
def airflow_3_3(monkeypatch):
    """An Airflow with all that the engine uses."""
    monkeypatch.setattr(sdk_context, "TaskStateStoreAccessor", object, raising=False)
    monkeypatch.setattr(BaseTrigger, "on_kill", object, raising=False)


def test_a_setting_has_a_default_and_can_be_set(monkeypatch):
    assert _compat.setting("no_such_setting", 7.5) == 7.5
    monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__NO_SUCH_SETTING", "0.25")
    assert _compat.setting("no_such_setting", 7.5) == 0.25


def test_nothing_is_lacking_in_3_3(airflow_3_3, caplog):
    store = MemoryStore()
    assert _compat.task_state_store({"task_state_store": store}) is store
    assert caplog.records == []
    assert _compat.lacking() == []


def test_what_is_lacking_is_named_once(airflow_3_2, caplog):
    assert _compat.task_state_store({}) is None
    assert _compat.task_state_store({}) is None
    assert ["task state store" in caplog.text, "on_kill" in caplog.text] == [True, True]
    assert len(caplog.records) == 2


def test_the_command_names_what_is_lacking(airflow_3_2, capsys):
    runpy.run_path(_compat.__file__, run_name="__main__")
    assert capsys.readouterr().out.count("lacks: no ") == 2


def test_the_command_says_so_when_nothing_is_lacking(airflow_3_3, capsys):
    runpy.run_path(_compat.__file__, run_name="__main__")
    assert capsys.readouterr().out == "lacks: nothing that this package uses\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(Count(1), True), (Count(0), False), (None, None), (RuntimeError("no supervisor"), None)],
)
async def test_still_deferred(answer, expected):
    with FakeSupervisor(answer).in_place() as supervisor:
        assert await _compat.still_deferred(FakeTaskInstance(map_index=3)) is expected
    (question,) = supervisor.questions
    assert (question.dag_id, question.run_ids, question.task_ids) == ("dag", ["run"], ["task"])
    assert (question.map_index, question.states) == (3, ["deferred"])


async def test_a_connection_is_read_once_and_shows_no_secret(monkeypatch):
    extra = {"token": "extra-secret"}
    fields = {
        "conn_type": "http",
        "login": "user",
        "password": "pass-word",
        "host": "h",
        "port": 1,
        "schema": "s",
    }
    monkeypatch.setenv("AIRFLOW_CONN_PLAIN", json.dumps(fields | {"extra": extra}))
    found = await _compat.read_connection("plain")
    assert found == _compat.PlainConnection("plain", "user", "pass-word", "h", 1, "s", extra)
    assert "pass-word" not in repr(found)
    assert "extra-secret" not in repr(found)


async def test_a_missing_connection_is_an_error():
    with pytest.raises(AirflowNotFoundException, match="missing"):
        await _compat.read_connection("missing")
