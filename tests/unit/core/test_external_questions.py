"""The border to Airflow's supervisor: one question at a time, and its errors by what can be done about them."""

import asyncio

import pytest
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time import comms

from astronomer.deferral import Transient
from astronomer.deferral._compat import ask_supervisor_in_worker
from astronomer.deferral.testing import FakeClock
from astronomer.providers.core.jobs.questions import Questions, UnknownToAirflow
from tests.unit.core.airflow_side import AirflowSide, api_error, day, iso, tells_of_dags


def run(main):
    return FakeClock().run(main)


@pytest.fixture
def airflow():
    """An Airflow with one Dag of three runs."""
    side = AirflowSide()
    dag = side.dag("orders", g=["load", "check"])
    dag.run(0, "one", "success", load="success", check="success")
    dag.run(1, "two", "running", load="running", check=None, m=["success", "failed"])
    dag.run(None, "three", "failed", load="failed")
    with side.in_place():
        yield side


def asked(airflow, call, *, in_worker=False):
    """The answer to a question, and its message."""
    questions = Questions("orders", ask_supervisor_in_worker) if in_worker else Questions("orders")
    answer = run(lambda: call(questions))
    assert questions.asked == 1
    (question,) = airflow.questions
    assert question.from_worker is in_worker
    assert question.message.dag_id == "orders"
    return answer, question.message


class TestTaskStates:
    def test_of_tasks_by_date(self, airflow):
        answer, message = asked(airflow, lambda one: one.task_states(task_ids=("load", "m"), dates=iso(0, 1)))
        assert answer == {
            "one": {"load": "success"},
            "two": {"load": "running", "m_0": "success", "m_1": "failed"},
        }
        assert message == comms.GetTaskStates(
            dag_id="orders", task_ids=["load", "m"], logical_dates=[day(0), day(1)]
        )

    def test_of_a_group_by_run(self, airflow):
        answer, message = asked(airflow, lambda one: one.task_states(group_id="g", run_ids=("two", "three")))
        assert answer == {"two": {"load": "running", "check": None}, "three": {"load": "failed"}}
        assert message == comms.GetTaskStates(dag_id="orders", task_group_id="g", run_ids=["two", "three"])

    def test_are_plain_words_whatever_airflow_calls_them(self):
        async def ask(message):
            states = {"a": comms.TaskInstanceState.SUCCESS, "b": None, "c": "of the future"}
            return comms.TaskStatesResult.model_construct(task_states={"r": states})

        (states,) = run(lambda: Questions("orders", ask).task_states()).values()
        assert states == {"a": "success", "b": None, "c": "of the future"}
        assert type(states["a"]) is str


class TestCounts:
    @pytest.mark.parametrize(
        ("states", "which", "count"),
        [
            (["success", "running"], {"dates": iso(0, 1, 2)}, 2),
            (["success"], {"dates": iso(1)}, 0),
            (None, {"run_ids": ("one", "three", "none")}, 2),
        ],
    )
    def test_of_runs(self, airflow, states, which, count):
        answer, message = asked(airflow, lambda one: one.count_runs(states, **which))
        assert answer == count
        assert message.states == states

    def test_of_task_instances(self, airflow):
        assert asked(airflow, lambda one: one.count_task_instances("m"), in_worker=True)[0] == 2

    def test_of_all_task_instances(self, airflow):
        assert asked(airflow, lambda one: one.count_task_instances(), in_worker=True)[0] == 7


class TestWhatAWorkerMayAsk:
    @tells_of_dags
    def test_the_dag(self, airflow):
        answer, _ = asked(airflow, lambda one: one.dag(), in_worker=True)
        assert (answer.bundle_name, answer.relative_fileloc) == ("dags-folder", "external.py")

    @pytest.mark.parametrize(("number", "run_id"), [(0, "one"), (1, "two"), (2, None), (-1, None)])
    def test_the_run_of_a_date(self, airflow, number, run_id):
        assert asked(airflow, lambda one: one.run_at(iso(number)[0]), in_worker=True)[0] == run_id

    def test_only_that_very_date(self, airflow):
        moment = day(1).replace(microsecond=1).isoformat()
        assert asked(airflow, lambda one: one.run_at(moment), in_worker=True)[0] is None

    def test_nothing_where_this_airflow_does_not_tell(self, airflow, monkeypatch):
        monkeypatch.delattr(comms, "GetDag", raising=False)
        assert run(lambda: Questions("orders", ask_supervisor_in_worker).dag()) is None
        assert airflow.questions == []


class TestErrors:
    def raised(self, airflow, trouble, call=lambda one: one.count_runs(dates=iso(0))):
        airflow.weather = [trouble]
        with pytest.raises((Transient, UnknownToAirflow)) as caught:
            run(lambda: call(Questions("orders")))
        assert caught.value.__cause__ is trouble
        return caught.value

    def test_of_a_group_that_is_not_there_have_airflow_s_words(self, airflow):
        with pytest.raises(UnknownToAirflow, match=r"^Task group h not found in DAG orders$"):
            run(lambda: Questions("orders").task_states(group_id="h", dates=iso(0)))

    @tells_of_dags
    def test_of_a_dag_that_is_not_there_have_them_too(self, airflow):
        with pytest.raises(UnknownToAirflow, match=r"^The Dag with ID: `gone` was not found$"):
            run(lambda: Questions("gone").task_states(group_id="g", dates=iso(0)))
        with pytest.raises(UnknownToAirflow, match=r"^The Dag with dag_id: `gone` was not found$"):
            run(lambda: Questions("gone", ask_supervisor_in_worker).dag())

    @pytest.mark.parametrize(
        ("said", "words"),
        [
            ({"detail": {"reason": "not_found", "message": "no such thing"}}, "no such thing"),
            ({"reason": "not_found", "message": "no such thing"}, "no such thing"),
            ({"detail": {"reason": "not_found"}}, "not found"),
        ],
    )
    def test_of_404_are_told_in_airflows_words(self, airflow, said, words):
        error = self.raised(airflow, api_error(404, said))
        assert isinstance(error, UnknownToAirflow)
        assert str(error) == words

    @pytest.mark.parametrize("said", [{"detail": "Not Found"}, "<html>no such page", None])
    def test_of_a_404_that_is_not_airflows_are_weather(self, airflow, said):
        assert isinstance(self.raised(airflow, api_error(404, said)), Transient)

    @pytest.mark.parametrize(
        "trouble",
        [
            api_error(500, "boom"),
            api_error(503),
            api_error(429),
            api_error(401),
            api_error(422, [{"msg": "wrong"}]),
            api_error(None, kind=ErrorType.GENERIC_ERROR),
        ],
        ids=lambda trouble: str(trouble.error.detail["status_code"]),
    )
    def test_of_the_api_are_weather(self, airflow, trouble):
        error = self.raised(airflow, trouble)
        assert isinstance(error, Transient)
        assert str(error).startswith("Airflow's supervisor could not answer: {'status_code'")
        assert not error.final

    def test_without_detail_are_weather(self, airflow):
        trouble = api_error(500)
        trouble.error.detail = None
        assert str(self.raised(airflow, trouble)) == (
            "Airflow's supervisor could not answer: API_SERVER_ERROR: {'status_code': 500, "
            "'message': 'Server returned error', 'detail': None}"
        )

    @pytest.mark.parametrize("trouble", [ConnectionResetError("gone"), BrokenPipeError(), EOFError("ended")])
    def test_of_the_line_are_weather(self, airflow, trouble):
        error = self.raised(airflow, trouble)
        assert isinstance(error, Transient)
        assert str(error) == f"Airflow's supervisor was not heard: {trouble!r}"

    def test_of_the_code_are_raised_as_they_are(self, airflow):
        airflow.weather = [KeyError("odd")]
        with pytest.raises(KeyError, match="odd"):
            run(lambda: Questions("orders").count_runs())


class TestTheGate:
    """One question at a time in each loop, whoever asks, and a breath after it."""

    def ask_all(self, airflow, number, latencies=None):
        """Many ask at once, each about a Dag of its own; when the questions came."""
        airflow.weather = list(latencies or ())

        async def one(dag_id):
            try:
                await Questions(dag_id).count_runs(dates=iso(0))
            except Transient:
                return False
            return True

        async def main():
            answers = await asyncio.gather(*(one(f"dag-{number}") for number in range(number)))
            return answers, asyncio.get_running_loop().time()

        self.answers, over = run(main)
        start = airflow.questions[0].at
        return [question.at - start for question in airflow.questions], over

    def test_lets_one_through_at_a_time(self, airflow):
        airflow.latency = 2.0
        self.ask_all(airflow, 5)
        assert airflow.most_under_way == 1

    def test_takes_a_breath_of_a_quarter_of_the_time_that_the_answer_took(self, airflow):
        at, over = self.ask_all(airflow, 4, [2.0, 4.0, 0.0, 1.0])
        assert at == pytest.approx([0, 2.5, 7.5, 7.5])
        assert over == pytest.approx(8.5)

    def test_takes_four_fifths_of_the_time_at_most(self, airflow):
        airflow.latency = 0.3
        _, over = self.ask_all(airflow, 100)
        busy = 100 * 0.3
        assert busy == pytest.approx((4 / 5) * (over + 0.075), abs=0.01)

    def test_takes_a_breath_after_a_failure_too(self, airflow):
        class Slow(AirflowSide):
            async def asend(self, message):
                await asyncio.sleep(2.0)
                return await super().asend(message)

        with Slow(weather=[api_error(500), api_error(500)]).in_place() as slow:
            at, _ = self.ask_all(slow, 3, slow.weather)
        assert at == pytest.approx([0, 2.5, 5])
        assert self.answers == [False, False, True]

    def test_has_no_pause_when_nothing_was_asked_for_long(self, airflow):
        async def main():
            questions = Questions("orders")
            await questions.count_runs()
            await asyncio.sleep(100)
            before = asyncio.get_running_loop().time()
            await questions.count_runs()
            return asyncio.get_running_loop().time() - before

        airflow.latency = 2.0
        assert run(main) == pytest.approx(2.0)

    def test_is_free_again_when_the_one_who_asks_is_cancelled(self, airflow):
        async def main():
            asking = asyncio.ensure_future(Questions("orders").count_runs())
            waiting = asyncio.ensure_future(Questions("orders").count_runs())
            await asyncio.sleep(4.0)
            asking.cancel()
            waiting.cancel()
            await asyncio.wait({asking, waiting})
            before = asyncio.get_running_loop().time()
            airflow.latency = 0.0
            await Questions("orders").count_runs()
            return asyncio.get_running_loop().time() - before

        airflow.latency = 10.0
        assert run(main) == pytest.approx(1.0)

    def test_is_one_for_each_loop(self, airflow):
        airflow.latency = 1000.0
        self.ask_all(airflow, 1)
        airflow.latency = 1.0
        airflow.forget()
        at, over = self.ask_all(airflow, 2)
        assert over == pytest.approx(2.25)
        assert at == pytest.approx([0, 1.25])
