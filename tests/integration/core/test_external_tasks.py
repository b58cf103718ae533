"""Sensors on other Dags against a real metadata database, beside the stock sensor in poke mode."""

import asyncio
import random
from datetime import timedelta

import pytest
from airflow.providers.standard.exceptions import (
    ExternalDagFailedError,
    ExternalDagNotFoundError,
    ExternalTaskFailedError,
    ExternalTaskGroupFailedError,
    ExternalTaskGroupNotFoundError,
    ExternalTaskNotFoundError,
)
from airflow.providers.standard.sensors.external_task import ExternalTaskSensor as StockSensor

from astronomer.deferral import Hub, Pacing
from astronomer.deferral._compat import AirflowException, AirflowSkipException, TaskDeferred
from astronomer.providers.core.sensors.external_task import ExternalDagRunSensor, ExternalTaskSensor
from tests.effort import examples
from tests.integration.core.airflow_db import DAY, day
from tests.unit.deferral.fakes import events_of, revived

pytestmark = pytest.mark.xdist_group("metadata-database")

STATES = [None, "scheduled", "running", "success", "failed", "skipped", "up_for_retry", "upstream_failed"]
BRISK = Pacing(spacing=0.05, gather=0.01, jitter=0.0)


def sensor(cls=ExternalTaskSensor, **arguments):
    return cls(**{"task_id": "wait", "external_dag_id": "ext", "poke_interval": 0.05} | arguments)


def said(operator, context):
    """What a poke says: its answer, or the type of its error."""
    try:
        return operator.poke(context)
    except AirflowException as error:
        return type(error)


def deferred(operator, context):
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)
    trigger = revived(caught.value.trigger)
    trigger.not_before = 0.0
    return trigger


def waited(trigger, meanwhile=None):
    """The event of a trigger in a triggerer, in which something else happens after a moment."""

    async def main():
        async with Hub(pacing=BRISK) as hub:
            Hub._of_loop[asyncio.get_running_loop()] = hub
            waiting = asyncio.ensure_future(events_of(trigger))
            if meanwhile:
                await asyncio.sleep(0.3)
                assert not waiting.done()
                meanwhile()
            (event,) = await asyncio.wait_for(waiting, 60)
            return event

    return asyncio.run(main())


WHICH = {
    "task": {"external_task_id": "a"},
    "tasks": {"external_task_ids": ["a", "b"]},
    "group": {"external_task_group_id": "g"},
    "dag": {},
}


@pytest.mark.parametrize("kind", WHICH)
def test_a_poke_says_what_a_stock_poke_says(airflow, kind):
    chosen = random.Random(kind)
    runs = [airflow.run(f"run-{number}", day(number)) for number in range(3)]
    context = airflow.context()
    for _ in range(examples(60)):
        for run_id in runs:
            shake(airflow, run_id, chosen)
        numbers = chosen.choice([[0], [0, 1], [0, 1, 2], [1, 5], [7]])
        arguments = {
            **WHICH[kind],
            "failed_states": chosen.choice([None, ["failed"]]),
            "skipped_states": chosen.choice([None, ["queued"] if kind == "dag" else ["skipped"]]),
            "soft_fail": chosen.random() < 0.2,
            "execution_date_fn": dates(numbers),
        }
        ours, stock = sensor(deferrable=False, **arguments), sensor(StockSensor, **arguments)
        expected = said(stock, context)
        if kind == "group":
            expected = one_of_the_group_decides(airflow, numbers, arguments) or expected
        assert said(ours, context) == expected, (arguments, airflow.states())
        assert ours.external_dates_filter == stock.external_dates_filter


def shake(airflow, run_id, chosen):
    """Put a run and its tasks into any states."""
    likely = chosen.choice([STATES, ["success"], ["success", "failed"], ["skipped"]])
    airflow.set(run_id, **{name: chosen.choice(likely) for name in "abxy"})
    likely = chosen.choice([["queued", "running", "success", "failed"], ["success"], ["success", "failed"]])
    airflow.set(run_id, _run=chosen.choice(likely))


def one_of_the_group_decides(airflow, numbers, arguments):
    """What differs from the stock sensor, which waits until all tasks of the group have failed, or were skipped."""
    found = airflow.states()
    runs = [found[f"run-{number}"] for number in numbers if number < 3]
    states = [run[task] for run in runs for task in ("g.x", "g.y")]
    if set(states) & set(arguments["failed_states"] or ()):
        return AirflowSkipException if arguments["soft_fail"] else ExternalTaskGroupFailedError
    return AirflowSkipException if set(states) & set(arguments["skipped_states"] or ()) else None


def dates(numbers):
    return lambda logical_date: [logical_date + timedelta(days=number) for number in numbers]


class TestDeferred:
    @pytest.mark.parametrize(
        ("which", "states"),
        [
            ({"external_task_id": "a"}, {"a": "success"}),
            ({"external_task_ids": ["a", "b"]}, {"a": "success", "b": "success"}),
            ({"external_task_group_id": "g"}, {"x": "success", "y": "success"}),
            ({}, {"_run": "success"}),
            ({"external_task_id": "m"}, {"m_0": "success", "m_1": "success", "m_2": "success"}),
        ],
        ids=["task", "tasks", "group", "dag", "mapped"],
    )
    def test_it_waits_for_the_end(self, airflow, which, states):
        airflow.run("r", DAY)
        context = airflow.context()
        first = dict([next(iter(states.items()))])
        if len(states) > 1:
            airflow.set("r", **first)
        trigger = deferred(sensor(**which), context)
        event = waited(trigger, lambda: airflow.set("r", **states))
        again = sensor(**which)
        assert again.execute_complete(context, event) is None
        assert context["ti"].xcoms["external_dag_run"].endswith("/dags/ext/runs/r")
        assert again.external_dates_filter == DAY.isoformat()

    @pytest.mark.parametrize(
        ("which", "states", "error"),
        [
            ({"external_task_ids": ["a", "b", "c"]}, {"c": "failed"}, ExternalTaskFailedError),
            ({"external_task_group_id": "g"}, {"y": "failed"}, ExternalTaskGroupFailedError),
            ({}, {"_run": "failed"}, ExternalDagFailedError),
            ({"external_task_id": "m"}, {"m_1": "failed"}, ExternalTaskFailedError),
        ],
        ids=["tasks", "group", "dag", "mapped"],
    )
    def test_one_failure_is_enough(self, airflow, which, states, error):
        airflow.run("r", DAY)
        context = airflow.context()
        trigger = deferred(sensor(failed_states=["failed"], **which), context)
        event = waited(trigger, lambda: airflow.set("r", **states))
        with pytest.raises(error, match=r"failed\. \(.*is failed, in "):
            sensor(failed_states=["failed"], **which).execute_complete(context, event)
        with pytest.raises(AirflowSkipException):
            sensor(failed_states=["failed"], soft_fail=True, **which).execute_complete(context, event)

    def test_a_run_that_comes_later(self, airflow):
        trigger = deferred(sensor(external_task_id="a"), airflow.context())

        def come():
            airflow.run("other", day(1))
            airflow.set("other", a="success")
            airflow.run("r", DAY)
            airflow.set("r", a="success")

        assert waited(trigger, come)["outcome"]["status"]["url"].endswith("/runs/r")

    def test_a_run_that_is_deleted_and_comes_again(self, airflow):
        airflow.run("r", DAY)
        trigger = deferred(sensor(external_task_id="a"), airflow.context())

        def replace():
            airflow.delete("r")
            airflow.run("s", DAY)
            airflow.set("s", a="success")

        assert waited(trigger, replace)["outcome"]["status"]["url"].endswith("/runs/s")

    def test_a_group_that_is_not_there_fails_as_a_poke_does(self, airflow):
        with pytest.raises(ExternalTaskGroupNotFoundError, match="'nowhere'"):
            sensor(external_task_group_id="nowhere").execute(airflow.context())

    def test_what_is_there_already_needs_no_triggerer(self, airflow):
        airflow.run("r", DAY)
        airflow.set("r", a="success")
        context = airflow.context()
        assert sensor(external_task_id="a").execute(context) is None
        assert context["ti"].xcoms["external_dag_run"].endswith("/dags/ext/runs/r")

    def test_the_link_of_a_whole_run(self, airflow):
        airflow.run("r", DAY)
        context = airflow.context()
        deferred(sensor(), context)
        assert context["ti"].xcoms["external_dag_run"].endswith("/dags/ext/runs/r")

    def test_the_link_before_there_is_a_run(self, airflow):
        context = airflow.context()
        deferred(sensor(), context)
        assert context["ti"].xcoms["external_dag_run"].endswith("/dags/ext")

    def test_many_dates_at_once(self, airflow):
        numbers = range(9)
        triggers = [
            deferred(sensor(external_task_id="a", execution_delta=-timedelta(days=one)), airflow.context())
            for one in numbers
        ]
        for one in numbers:
            airflow.run(f"r{one}", day(one))

        async def main():
            async with Hub(pacing=BRISK) as hub:
                Hub._of_loop[asyncio.get_running_loop()] = hub
                waiting = [asyncio.ensure_future(events_of(trigger)) for trigger in triggers]
                for one in random.Random(4).sample(numbers, len(numbers)):
                    airflow.set(f"r{one}", a="success")
                    ((event,), *_) = await asyncio.wait_for(asyncio.gather(waiting[one]), 100)
                    assert event["outcome"]["status"]["url"].endswith(f"/runs/r{one}")
                    others = [number for number in numbers if waiting[number].done()]
                    ended.append(one)
                    assert set(others) == set(ended)

        ended = []
        asyncio.run(main())


class TestRunIds:
    def test_a_run_without_a_logical_date(self, airflow):
        airflow.run("manual", None)
        arguments = {"external_run_id": "manual"}
        trigger = deferred(sensor(ExternalDagRunSensor, **arguments), airflow.context())
        event = waited(trigger, lambda: airflow.set("manual", _run="success"))
        assert sensor(ExternalDagRunSensor, **arguments).execute_complete(airflow.context(), event) is None

    def test_several_of_which_one_fails(self, airflow):
        for run_id in ("one", "two", "three"):
            airflow.run(run_id, None)
        arguments = {"external_run_ids": ["one", "two", "three"]}
        trigger = deferred(sensor(ExternalDagRunSensor, **arguments), airflow.context())
        event = waited(trigger, lambda: airflow.set("two", _run="failed"))
        with pytest.raises(ExternalDagFailedError, match="it is failed, in two"):
            sensor(ExternalDagRunSensor, **arguments).execute_complete(airflow.context(), event)

    def test_one_that_is_not_there(self, airflow):
        with pytest.raises(ExternalDagNotFoundError, match="no run nothing"):
            sensor(ExternalDagRunSensor, external_run_id="nothing", check_existence=True).execute(
                airflow.context()
            )


class TestExistence:
    @pytest.mark.parametrize("deferrable", [True, False])
    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({"external_dag_id": "nowhere"}, ExternalDagNotFoundError, "DAG nowhere does not exist"),
            ({"external_task_id": "z"}, ExternalTaskNotFoundError, "task z in DAG ext does not exist"),
            ({"external_task_ids": ["a", "z"]}, ExternalTaskNotFoundError, "task z in DAG ext"),
            ({"external_task_group_id": "z"}, ExternalTaskGroupNotFoundError, "'z' in DAG 'ext'"),
            (
                {"external_dag_id": "never_ran", "external_task_id": "z"},
                ExternalTaskNotFoundError,
                "task z in DAG never_ran",
            ),
        ],
    )
    def test_what_is_not_there(self, airflow, arguments, error, words, deferrable):
        airflow.run("r", DAY)
        with pytest.raises(error, match=words):
            sensor(check_existence=True, deferrable=deferrable, **arguments).execute(airflow.context())

    @pytest.mark.parametrize(
        "arguments",
        [
            {"external_task_id": "a"},
            {"external_task_group_id": "g"},
            {},
            {"external_dag_id": "never_ran", "external_task_id": "a"},
        ],
    )
    def test_what_is_there(self, airflow, arguments):
        airflow.run("r", DAY)
        deferred(sensor(check_existence=True, **arguments), airflow.context())

    def test_a_task_of_another_bundle_that_has_never_run(self, airflow):
        context = airflow.context()
        context["ti"].bundle_instance.name = "another"
        arguments = {"external_dag_id": "never_ran", "external_task_id": "z", "check_existence": True}
        deferred(sensor(**arguments), context)
