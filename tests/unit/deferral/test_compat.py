import asyncio
import json
import runpy
import threading
from types import SimpleNamespace

import airflow.sdk.execution_time.context as sdk_context
import pytest
from airflow.sdk.execution_time import task_runner
from airflow.triggers.base import BaseTrigger

from astronomer.deferral import _compat
from astronomer.deferral._compat import AirflowNotFoundException
from tests.unit.deferral.fakes import FakeAirflow, FakeSupervisor, FakeTaskInstance, MemoryStore


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


class TestInOtherHands:
    @pytest.mark.parametrize(
        "state", ["success", "failed", "skipped", "upstream_failed", "removed", "restarting", "null", None]
    )
    async def test_is_no_job_whose_task_was_ended(self, state):
        with FakeAirflow(states={"task": state} if state else {}).in_place():
            assert await _compat.in_other_hands(FakeTaskInstance()) is None

    async def test_is_that_of_a_task_that_still_waits(self):
        with FakeAirflow(states={"task": "deferred"}).in_place() as airflow:
            assert await _compat.in_other_hands(FakeTaskInstance(map_index=3)) == "still deferred"
        (question,) = airflow.questions
        assert (question.dag_id, question.run_ids, question.task_ids) == ("dag", ["run"], ["task"])
        assert (question.map_index, question.states) == (3, ["deferred"])

    GOES_ON = pytest.mark.parametrize("state", ["scheduled", "queued", "running", "up_for_retry"])

    @GOES_ON
    async def test_is_that_of_a_task_with_a_step_to_come(self, state):
        with FakeAirflow(states={"task": state}).in_place():
            assert await _compat.in_other_hands(FakeTaskInstance()) == "not over"

    @GOES_ON
    async def test_is_none_of_which_that_step_knows_nothing(self, state):
        with FakeAirflow(states={"task": state}).in_place():
            assert await _compat.in_other_hands(FakeTaskInstance(), remembered=False) is None

    @pytest.mark.parametrize("answer", [SimpleNamespace(), RuntimeError("no supervisor")])
    async def test_may_be_any_of_which_airflow_says_nothing(self, answer):
        with FakeAirflow(answer).in_place():
            assert await _compat.in_other_hands(FakeTaskInstance()) == "in an unknown state"

    @pytest.mark.parametrize("answered", [1, 2])
    async def test_may_be_any_of_which_airflow_says_too_little(self, answered):
        class Failing(FakeAirflow):
            def send(self, question):
                if len(self.questions) == answered:
                    raise RuntimeError("no answer")
                return super().send(question)

        with Failing(states={"task": "running"}).in_place():
            assert await _compat.in_other_hands(FakeTaskInstance()) == "in an unknown state"


class TestASupervisor:
    """Of the process: it is asked through the attribute of the moment, because Airflow sets it late."""

    async def test_is_asked_by_a_trigger(self):
        with FakeSupervisor("answer").in_place() as supervisor:
            assert await _compat.ask_supervisor("question") == "answer"
        assert supervisor.questions == ["question"]

    async def test_is_asked_by_a_worker(self):
        with FakeSupervisor("answer").in_place() as supervisor:
            assert await _compat.ask_supervisor_in_worker("question") == "answer"
        assert supervisor.questions == ["question"]

    @pytest.mark.parametrize("ask", [_compat.ask_supervisor, _compat.ask_supervisor_in_worker])
    async def test_may_fail(self, ask):
        with FakeSupervisor(OSError("gone")).in_place(), pytest.raises(OSError, match="gone"):
            await ask("question")

    async def test_of_a_worker_is_not_asked_on_a_thread(self):
        """It need not be safe to ask from two threads at once."""
        thread = threading.get_ident()

        class Watching(FakeSupervisor):
            def send(self, question):
                assert threading.get_ident() == thread
                return "here"

        with Watching().in_place():
            assert await _compat.ask_supervisor_in_worker("question") == "here"


class TestTheAddressOfARun:
    @pytest.fixture(autouse=True)
    def _base(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/prod/")

    def test_is_that_of_the_user_interface(self):
        assert _compat.dag_run_url("orders", "manual__1") == (
            "https://airflow.example/prod/dags/orders/runs/manual__1"
        )

    def test_of_no_run_is_the_dag(self):
        assert _compat.dag_run_url("orders", "") == "https://airflow.example/prod/dags/orders"

    def test_takes_any_letters(self):
        assert _compat.dag_run_url("sch\u00f6n/er", "scheduled__2026-01-01T00:00:00+00:00/?#").endswith(
            "/dags/sch%C3%B6n%2Fer/runs/scheduled__2026-01-01T00%3A00%3A00%2B00%3A00%2F%3F%23"
        )

    def test_has_a_default(self, monkeypatch):
        monkeypatch.delenv("AIRFLOW__API__BASE_URL")
        assert _compat.dag_run_url("orders", "r").endswith("/dags/orders/runs/r")


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


class TestUndisturbed:
    """Before Airflow 3.3 a question that is given up is answered all the same, so that no other one gets its answer."""

    class Gated:
        def __init__(self):
            self.answered = []
            self.open = asyncio.Event()

        async def asend(self, message):
            await self.open.wait()
            self.answered.append(message)
            return f"answer to {message}"

    @pytest.fixture
    async def comms(self, monkeypatch):
        comms = self.Gated()
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
        return comms

    @pytest.fixture
    def before_33(self, monkeypatch):
        monkeypatch.setattr(_compat, "BaseTrigger", object)

    async def test_a_question_is_answered(self, comms, before_33):
        comms.open.set()
        assert await _compat.ask_supervisor("a") == "answer to a"

    async def test_one_that_is_given_up_too(self, comms, before_33):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_compat.ask_supervisor("a"), 0.001)
        assert comms.answered == []
        comms.open.set()
        await asyncio.sleep(0)
        assert comms.answered == ["a"]

    async def test_of_a_dag_under_test_there_is_only_the_blocking_way(self, monkeypatch):
        class InProcess:
            def send(self, message):
                return f"answer to {message}"

        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", InProcess(), raising=False)
        assert await _compat.ask_supervisor("a") == "answer to a"


class TestSettings:
    def test_are_what_is_configured_or_nothing(self, monkeypatch):
        assert (_compat.text_setting("motto"), _compat.flag("worker_free")) == ("", False)
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__MOTTO", "be quiet")
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_PROVIDERS__WORKER_FREE", "True")
        assert (_compat.text_setting("motto"), _compat.flag("worker_free")) == ("be quiet", True)

    def test_the_time_that_a_sensor_has_is_airflows(self, monkeypatch):
        assert _compat.sensor_timeout() == 7 * 86_400
        monkeypatch.setenv("AIRFLOW__SENSORS__DEFAULT_TIMEOUT", "60")
        assert _compat.sensor_timeout() == 60
