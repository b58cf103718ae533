"""ExternalTaskSensor: what of a Dag's code becomes which wait."""

from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.standard.exceptions import DuplicateStateError
from airflow.providers.standard.sensors.external_task import ExternalTaskSensor as StockSensor
from airflow.sdk import DagRunState, TaskInstanceState

from astronomer.deferral._compat import AirflowFailException, AirflowSkipException
from astronomer.providers.core.jobs.external import ExternalWait
from astronomer.providers.core.sensors.external_task import ExternalTaskSensor, ExternalTaskSensorAsync
from tests.unit.core.airflow_side import DAY, day, iso
from tests.unit.core.waiting import Waiting

EAST = timezone(timedelta(hours=2))


def make(**arguments):
    return ExternalTaskSensor(**{"task_id": "wait", "external_dag_id": "orders"} | arguments)


@pytest.fixture
def waiting():
    with Waiting(make).in_place() as waiting:
        waiting.dag = waiting.airflow.dag("orders", g=["g.a"])
        yield waiting


def job(waiting, **arguments):
    waiting.sensor = make(**arguments)
    return waiting.sensor.job(waiting.context)


class TestWhatIsWaitedFor:
    @pytest.mark.parametrize(
        ("arguments", "tasks", "group"),
        [
            ({}, (), None),
            ({"external_task_ids": []}, (), None),
            ({"external_task_id": "load"}, ("load",), None),
            ({"external_task_ids": ["load", "check"]}, ("load", "check"), None),
            ({"external_task_ids": ("load",)}, ("load",), None),
            ({"external_task_group_id": "g"}, (), "g"),
        ],
    )
    def test_has_a_kind(self, waiting, arguments, tasks, group):
        assert job(waiting, **arguments) == ExternalWait(
            "orders", tasks, group, logical_dates=(DAY.isoformat(),)
        )

    def test_has_states_as_plain_words(self, waiting):
        wait = job(
            waiting,
            external_task_id="load",
            allowed_states=[TaskInstanceState.SUCCESS, "skipped"],
            skipped_states=[TaskInstanceState.REMOVED],
            failed_states={TaskInstanceState.FAILED},
        )
        states = (wait.allowed_states, wait.skipped_states, wait.failed_states)
        assert states == (("success", "skipped"), ("removed",), ("failed",))
        assert {type(one) for one in wait.states} == {str}

    def test_has_run_states_for_a_run(self, waiting):
        wait = job(waiting, allowed_states=[DagRunState.SUCCESS], failed_states=[DagRunState.FAILED])
        assert wait.states == ("failed", "success")

    def test_has_no_failures_when_they_are_silent(self, waiting):
        wait = job(waiting, failed_states=["failed"], skipped_states=["queued"], silent_fail=True)
        assert (wait.failed_states, wait.skipped_states) == ((), ("queued",))

    def test_may_come_from_a_template(self, waiting):
        """An XCom is no list before it is rendered, so only then it can be wrong."""
        sensor = make(external_task_ids=["load"])
        for given, error, words in (
            ("load", TypeError, "must be a list of task ids, got the text 'load'"),
            (["load", "load"], ValueError, "Duplicate task_ids passed in external_task_ids parameter"),
        ):
            sensor.external_task_ids = given
            with pytest.raises(error, match=words):
                sensor.job(waiting.context)
        assert waiting.airflow.questions == []

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"external_task_id": "a", "external_task_ids": ["b"]}, ValueError),
            ({"external_task_id": "a", "external_task_group_id": "g"}, ValueError),
            ({"external_task_id": "a", "failed_states": ["wrong"]}, ValueError),
            ({"failed_states": ["skipped"]}, ValueError),
            ({"allowed_states": ["failed"], "failed_states": ["failed"]}, DuplicateStateError),
            ({"execution_delta": timedelta(1), "execution_date_fn": lambda date: date}, ValueError),
            ({"mood": "good"}, TypeError),
        ],
    )
    def test_is_checked_when_the_dag_is_parsed_as_by_the_stock_sensor(self, arguments, error):
        for cls in (ExternalTaskSensor, StockSensor):
            with pytest.raises(error):
                cls(task_id="wait", external_dag_id="orders", **arguments)

    def test_is_never_no_state_at_all(self):
        """A task that has not begun is in the state ``None``, and so is one that never will."""
        with pytest.raises(ValueError, match="`allowed_states` holds None"):
            make(external_task_id="load", allowed_states=["success", None])


class TestTheDates:
    @pytest.mark.parametrize(
        ("arguments", "dates"),
        [
            ({}, iso(0)),
            ({"execution_delta": timedelta(days=1)}, iso(-1)),
            ({"execution_date_fn": lambda date: date + timedelta(days=2)}, iso(2)),
            ({"execution_date_fn": lambda date: [date, date + timedelta(days=2)]}, iso(0, 2)),
            ({"execution_date_fn": lambda date: (date, date + timedelta(days=2))}, iso(0, 2)),
            ({"execution_date_fn": lambda date: {date}}, iso(0)),
            ({"execution_date_fn": lambda date: frozenset({date})}, iso(0)),
            ({"execution_date_fn": lambda date: [date, day(1), date]}, iso(0, 1)),
            ({"execution_date_fn": lambda date, ti: [date] * (ti.task_id == "task")}, iso(0)),
            ({"execution_date_fn": lambda date, context: [context["logical_date"]]}, iso(0)),
            ({"execution_date_fn": lambda date: datetime(2026, 1, 2)}, iso(1)),  # noqa: DTZ001
            ({"execution_date_fn": lambda date: datetime(2026, 1, 2, 2, tzinfo=EAST)}, iso(1)),
        ],
    )
    def test_are_those_of_the_world_and_each_comes_once(self, waiting, arguments, dates):
        assert list(job(waiting, **arguments).logical_dates) == dates

    def test_of_a_run_without_one_are_when_it_began(self, waiting):
        waiting.date = None
        assert list(job(waiting).logical_dates) == [DAY.isoformat()]

    @pytest.mark.parametrize("found", [None, [], (), "2026-01-01", [None], [DAY, "2026-01-01"], 7])
    def test_of_a_function_that_returns_none_are_an_error(self, waiting, found):
        with pytest.raises(ValueError, match="`execution_date_fn` of wait must return a datetime or a list"):
            job(waiting, execution_date_fn=lambda date: found)

    @pytest.mark.parametrize("arguments", [{}, {"soft_fail": True}, {"never_fail": True}])
    def test_of_a_function_that_raises_are_an_error(self, waiting, arguments):
        def wrong(date):
            raise IndexError("no such day")

        with pytest.raises(ValueError, match="of wait raised IndexError: no such day") as caught:
            waiting.execute(execution_date_fn=wrong, **arguments)
        assert isinstance(caught.value.__cause__, IndexError)
        assert waiting.airflow.questions == []

    @pytest.mark.parametrize("own", [AirflowSkipException("not today"), AirflowFailException("never")])
    def test_of_a_function_that_has_a_word_of_its_own_are_that(self, waiting, own):
        def with_a_word(date):
            raise own

        with pytest.raises(type(own)) as caught:
            waiting.execute(execution_date_fn=with_a_word)
        assert caught.value is own

    def test_can_be_read_by_listeners_before_and_after_the_wait(self, waiting):
        arguments = {"execution_date_fn": lambda date: [date, day(1)], "external_task_id": "load"}
        waiting.execute(**arguments)
        told = waiting.sensor.external_dates_filter
        assert told == ",".join(iso(0, 1))
        for number in (0, 1):
            waiting.dag.run(number, load="success")
        waiting.wait()
        waiting.resume(**arguments)
        assert waiting.sensor.external_dates_filter == told

    def test_are_not_asked_for_again_after_the_wait(self, waiting):
        """The function may say something else by then."""
        waiting.dag.run(0, load="success")
        waiting.dag.run(1, load="running")
        answers = iter([[day(1)], [day(0)]])
        arguments = {"execution_date_fn": lambda date: next(answers), "external_task_id": "load"}
        waiting.execute(**arguments)
        waiting.dag.runs[f"scheduled__{day(1).isoformat()}"].set(load="success")
        waiting.wait()
        assert waiting.resume(**arguments) is None
        assert next(answers) == [day(0)]


class TestThePace:
    @pytest.mark.parametrize(
        ("arguments", "seconds"),
        [
            ({}, 5.0),
            ({"deferrable": False}, 60.0),
            ({"poke_interval": 7}, 7.0),
            ({"poll_interval": 7}, 7.0),
            ({"poll_interval": timedelta(seconds=7)}, 7.0),
            ({"poke_interval": 8, "poll_interval": 7}, 8.0),
        ],
    )
    def test_has_two_names(self, arguments, seconds):
        assert make(**arguments).poke_interval == seconds

    def test_of_zero_is_as_quick_as_the_spacing(self, waiting):
        run = waiting.dag.run(0, load="running")
        waiting.execute(external_task_id="load", poke_interval=0)
        waiting.airflow.later(30, lambda: run.set(load="success"))
        waiting.airflow.forget()
        waiting.wait()
        assert len(waiting.airflow.questions) in (31, 32)


def test_the_name_of_1_x_is_the_same_sensor():
    assert issubclass(ExternalTaskSensorAsync, ExternalTaskSensor)
    assert ExternalTaskSensorAsync(task_id="wait", external_dag_id="orders").deferrable
