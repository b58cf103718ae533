"""All waits on one Dag, against an Airflow in memory: what they learn, and what it costs."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astronomer.deferral import Hub, Pacing, Phase, Transient, watch
from astronomer.deferral.testing import FakeClock
from astronomer.providers.core.jobs.dag_poller import ExternalDagPoller
from astronomer.providers.core.jobs.external import FAILED, NOT_FOUND, SKIPPED, ExternalWait, Sight, judge
from tests.effort import examples
from tests.unit.core.airflow_side import AirflowSide, api_error, day, iso

STEADY = Pacing(gather=0.0, jitter=0.0)


def wait_for(*task_ids, dates=(0,), runs=(), **more):
    dates = () if runs else tuple(iso(*dates))
    return ExternalWait("orders", task_ids, logical_dates=dates, run_ids=tuple(runs), **more)


@pytest.fixture
def airflow():
    with AirflowSide().in_place() as side:
        yield side


@pytest.fixture
def dag(airflow):
    return airflow.dag("orders", g=["g.a", "g.b"])


class Looks:
    """A poller that looks again and again, every five seconds."""

    def __init__(self, airflow, *waits):
        self.airflow = airflow
        self.waits = list(waits)
        self.poller = ExternalDagPoller("orders")

    async def one(self, *waits):
        """The statuses of all waits, or of these; and the kinds of questions that it took."""
        self.airflow.forget()
        answers = await self.poller.poll(list(waits) or self.waits)
        assert set(answers) == set(waits or self.waits)
        await asyncio.sleep(5)
        return answers, self.airflow.asked

    def all(self, *before):
        """The phases after each of these changes, and how many questions each look took."""

        async def main():
            found = []
            for change in (lambda: None, *before):
                change()
                answers, asked = await self.one()
                found.append(([answers[wait].phase for wait in self.waits], len(asked)))
            return found

        return FakeClock().run(main)


class TestTasks:
    def test_by_date(self, airflow, dag):
        looks = Looks(airflow, wait_for("load"), wait_for("load", dates=(1,)))
        made = []
        assert looks.all(
            lambda: made.append(dag.run(1, load="running")),
            lambda: made[0].set(load="success"),
            lambda: dag.run(0, load="success"),
        ) == [
            ([Phase.ACTIVE, Phase.ACTIVE], 1),
            ([Phase.ACTIVE, Phase.ACTIVE], 3),
            ([Phase.ACTIVE, Phase.SUCCEEDED], 1),
            ([Phase.SUCCEEDED, Phase.SUCCEEDED], 1),
        ]

    def test_by_run_id(self, airflow, dag):
        run = dag.run(None, "mine", load=None)
        looks = Looks(airflow, wait_for("load", runs=["mine"]), wait_for("load", runs=["mine", "other"]))
        assert looks.all(
            lambda: run.set(load="success"),
            lambda: dag.run(3, "other", load="success"),
        ) == [
            ([Phase.ACTIVE, Phase.ACTIVE], 1),
            ([Phase.SUCCEEDED, Phase.ACTIVE], 1),
            ([Phase.SUCCEEDED, Phase.SUCCEEDED], 1),
        ]

    def test_are_asked_about_together(self, airflow, dag):
        run = dag.run(0, load="success", check="running", m=["success", "running"])
        looks = Looks(
            airflow,
            wait_for("load"),
            wait_for("load", "check"),
            wait_for("m"),
            wait_for("check", failed_states=("failed",)),
            wait_for("check", skipped_states=("failed",)),
        )
        assert looks.all(lambda: run.set(check="failed", m=["success", "success"]))[1] == (
            [Phase.SUCCEEDED, Phase.ACTIVE, Phase.SUCCEEDED, Phase.FAILED, Phase.FAILED],
            1,
        )

    def test_leads_to_the_run(self, airflow, dag):
        dag.run(0, "r/1", load="running")
        wait = wait_for("load")
        answers, _ = FakeClock().run(lambda: Looks(airflow, wait).one())
        assert (answers[wait].raw, answers[wait].url.partition("/dags/")[2]) == (
            "not yet",
            "orders/runs/r%2F1",
        )

    def test_of_a_dag_that_airflow_does_not_know_are_waited_for(self, airflow):
        looks = Looks(airflow, wait_for("load"), wait_for())
        assert looks.all() == [([Phase.ACTIVE, Phase.ACTIVE], 3)]

    def test_a_run_that_is_deleted_and_made_again(self, airflow, dag):
        first = dag.run(0, "first", load="failed")
        looks = Looks(airflow, wait_for("load"), wait_for("load", dates=(1,)))
        assert looks.all(
            lambda: dag.delete(first),
            lambda: dag.run(1, "first", load="success"),
            lambda: dag.run(0, "second", load="success"),
        ) == [
            ([Phase.ACTIVE, Phase.ACTIVE], 3),
            ([Phase.ACTIVE, Phase.ACTIVE], 1),
            ([Phase.ACTIVE, Phase.SUCCEEDED], 3),
            ([Phase.SUCCEEDED, Phase.SUCCEEDED], 1),
        ]

    def test_with_a_run_more_than_a_date_are_never_mixed_up(self, airflow, dag):
        """Runs without a date, and runs of dates that nobody waits for, are in no answer."""
        dag.run(None, "manual", load="failed")
        dag.run(7, load="failed")
        looks = Looks(airflow, wait_for("load", failed_states=("failed",)))
        assert looks.all(lambda: dag.run(0, load="success")) == [([Phase.ACTIVE], 1), ([Phase.SUCCEEDED], 1)]


class TestTasksThatAreNamedLikeInstances:
    def test_are_not_taken_for_them(self, airflow, dag):
        run = dag.run(0, a="success", a_3="failed")
        bad = {"failed_states": ("failed",)}
        looks = Looks(airflow, wait_for("a", **bad), wait_for("a_3", **bad), wait_for("a", "a_3"))
        (first, asked), (second, _) = looks.all(lambda: run.set(a_3="success"))
        assert first == [Phase.SUCCEEDED, Phase.FAILED, Phase.ACTIVE]
        assert second == [Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.SUCCEEDED]
        assert asked == 2

    def test_nor_are_instances_taken_for_them(self, airflow, dag):
        run = dag.run(0, a=["success", "success", "success", "running"])
        looks = Looks(airflow, wait_for("a"), wait_for("a_3"), wait_for("a", "a_3"))
        found = looks.all(
            lambda: run.set(a_3="success"),
            lambda: run.set(a=["success"] * 4, a_3="running"),
            lambda: run.set(a_3="success"),
        )
        assert [phases for phases, _ in found] == [
            [Phase.ACTIVE, Phase.ACTIVE, Phase.ACTIVE],
            [Phase.ACTIVE, Phase.SUCCEEDED, Phase.ACTIVE],
            [Phase.SUCCEEDED, Phase.ACTIVE, Phase.ACTIVE],
            [Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.SUCCEEDED],
        ]

    def test_cost_one_question_more_and_no_memory(self, airflow, dag):
        """Also when some runs have none of them."""
        dag.run(0, a="running")
        dag.run(1, a="running", a_3="running")
        dates = (0, 1, 2)
        looks = Looks(airflow, wait_for("a", dates=dates), wait_for("a_3", dates=dates))
        assert [asked for _, asked in looks.all(*[lambda: None] * 3)][1:] == [2, 2, 2]


class TestGroups:
    def test_by_date_and_by_run(self, airflow, dag):
        run = dag.run(0, "mine", g__a="success", g__b=["success", "running"], other="failed")
        looks = Looks(airflow, wait_for(group_id="g"), wait_for(group_id="g", runs=["mine"]))
        assert looks.all(lambda: run.set(g__b=["success", "success"])) == [
            ([Phase.ACTIVE, Phase.ACTIVE], 2),
            ([Phase.SUCCEEDED, Phase.SUCCEEDED], 2),
        ]

    def test_with_one_failure(self, airflow, dag):
        dag.run(0, g__a="running", g__b="failed")
        wait = wait_for(group_id="g", failed_states=("failed",))
        answers, _ = FakeClock().run(lambda: Looks(airflow, wait).one())
        assert (answers[wait].code, answers[wait].raw) == (FAILED, "failed")
        assert answers[wait].message.startswith("g.b is failed, in scheduled__")

    @pytest.mark.parametrize(
        ("wait", "said"),
        [
            (wait_for(group_id="h"), "Task group h not found in DAG orders"),
            (wait_for(group_id="h", runs=["mine"]), "Task group h not found in DAG orders"),
        ],
    )
    def test_that_are_not_there_are_an_end_for_those_who_wait_for_them(self, airflow, dag, wait, said):
        dag.run(0, "mine", load="success", g__a="success")
        waits = [wait_for("load"), wait, wait_for(group_id="g"), replace(wait, failed_states=("failed",))]
        answers, _ = FakeClock().run(lambda: Looks(airflow, *waits).one())
        assert [answers[one].code for one in waits] == [None, NOT_FOUND, None, NOT_FOUND]
        assert (answers[wait].phase, answers[wait].message) == (Phase.FAILED, said)

    def test_of_a_dag_that_is_not_there_likewise(self, airflow):
        wait = wait_for(group_id="g")
        answers, _ = FakeClock().run(lambda: Looks(airflow, wait).one())
        assert answers[wait].message == "The Dag with ID: `orders` was not found"


class TestWholeRuns:
    BAD = {"failed_states": ("failed",), "skipped_states": ("queued",)}  # noqa: RUF012  # never changed

    def test_by_date_and_by_run(self, airflow, dag):
        run = dag.run(0, "mine", load="failed")
        looks = Looks(airflow, wait_for(**self.BAD), wait_for(runs=["mine"], **self.BAD))
        found = looks.all(lambda: setattr(run, "state", "success"))
        assert [phases for phases, _ in found] == [[Phase.ACTIVE] * 2, [Phase.SUCCEEDED] * 2]

    @pytest.mark.parametrize(("state", "code"), [("failed", FAILED), ("queued", SKIPPED)])
    def test_that_end_badly(self, airflow, dag, state, code):
        dag.run(0, "mine", state)
        waits = [wait_for(**self.BAD), wait_for(runs=["mine"], **self.BAD)]
        answers, _ = FakeClock().run(lambda: Looks(airflow, *waits).one())
        assert [answers[one].code for one in waits] == [code, code]
        assert [answers[one].url is None for one in waits] == [True, False]

    def test_that_are_missing_are_told_from_those_that_run(self, airflow, dag):
        dag.run(0, "mine")
        waits = [wait_for(), wait_for(dates=(1,)), wait_for(runs=["mine"]), wait_for(runs=["none"])]
        answers, _ = FakeClock().run(lambda: Looks(airflow, *waits).one())
        missing = "there is no such run yet"
        assert [answers[one].raw for one in waits] == ["not yet", missing, "not yet", missing]

    def test_one_among_several(self, airflow, dag):
        runs = [dag.run(number, state="success") for number in range(3)]
        looks = Looks(airflow, wait_for(dates=(0, 1, 2)), *(wait_for(dates=(one,)) for one in range(3)))
        runs[1].state = "running"
        found = looks.all(lambda: setattr(runs[1], "state", "success"))
        assert [phases for phases, _ in found] == [
            [Phase.ACTIVE, Phase.SUCCEEDED, Phase.ACTIVE, Phase.SUCCEEDED],
            [Phase.SUCCEEDED] * 4,
        ]


states = st.sampled_from([None, "queued", "running", "success", "failed", "skipped"])
kinds = st.sampled_from([(["load"], {}), (["load", "m"], {}), ([], {"group_id": "g"}), ([], {})])
numbers = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)
bad = st.sampled_from([{}, {"failed_states": ("failed",)}, {"skipped_states": ("skipped", "queued")}])


class TestAnyWaits:
    @staticmethod
    def expected(dag, wait):
        """What a look at the truth says."""
        sights = {}
        for run in dag.runs.values():
            target = run.run_id if wait.run_ids else run.date.isoformat()
            wanted = dag.groups["g"] if wait.group_id else wait.task_ids
            states = {
                task_id if index < 0 else f"{task_id}_{index}": state
                for (task_id, index), state in run.tasks.items()
                if task_id in wanted
            }
            sights[target] = Sight(run.run_id, states if wanted else {"": run.state})
        return judge(wait, sights, lambda run_id: None)

    @given(
        st.lists(st.tuples(kinds, numbers, st.booleans(), bad), min_size=1, max_size=8),
        st.lists(st.lists(st.tuples(st.integers(0, 5), states, states, states), max_size=3), max_size=4),
    )
    @settings(max_examples=examples(300))
    def test_learn_what_is_true(self, wanted, rounds):
        """Waits of all kinds together, while runs come and change between the looks."""
        airflow = AirflowSide()
        dag = airflow.dag("orders", g=["g.a", "load"])
        waits = []
        for (tasks, which), numbers, dated, more in wanted:
            runs = () if dated else [f"run-{number}" for number in numbers]
            waits.append(wait_for(*tasks, dates=numbers, runs=runs, **which, **more))

        async def main():
            looks = Looks(airflow, *dict.fromkeys(waits))
            for changes in ([], *rounds):
                for number, state, one, two in changes:
                    run_id = f"run-{number}"
                    run = dag.runs.get(run_id) or dag.run(number, run_id)
                    run.state = state or "queued"
                    run.set(load=one, m=[one, two], g__a=two)
                answers, _ = await looks.one()
                for wait, status in answers.items():
                    truth = self.expected(dag, wait)
                    assert (status.phase, status.code, status.raw) in (
                        (truth.phase, truth.code, truth.raw),
                        # who is there is asked once a minute only
                        (truth.phase, truth.code, "there is no such run yet"),
                    )

        with airflow.in_place():
            FakeClock().run(main)


class TestCost:
    def steady(self, airflow, *waits):
        """How many questions a look takes once the runs are known."""
        return Looks(airflow, *waits).all(*[lambda: None] * 3)[-1][1]

    def test_a_thousand_waits_on_the_tasks_of_one_run_are_one_question(self, airflow, dag):
        waits = [wait_for(f"task-{number}") for number in range(100)]
        waits += [wait_for("load", failed_states=(f"bad-{number}",)) for number in range(900)]
        dag.run(0, load="running", **{f"task-{number}": "running" for number in range(100)})
        assert self.steady(airflow, *waits) == 1

    def test_those_on_many_dates_are_as_many_as_their_dates_need(self, airflow, dag):
        for number in range(0, 1000, 2):
            dag.run(number, load="running")
        waits = [wait_for("load", dates=(number,)) for number in range(1000)]
        assert self.steady(airflow, *waits) == 4
        assert self.steady(airflow, *waits[:300]) == 1

    def test_those_on_whole_runs_are_one_as_well(self, airflow, dag):
        for number in range(0, 300, 2):
            dag.run(number)
        waits = [wait_for(dates=(number,), failed_states=("failed",)) for number in range(300)]
        assert self.steady(airflow, *waits) == 1

    def test_each_kind_is_one(self, airflow, dag):
        dag.run(0, "mine", load="running", g__a="running")
        kinds = [{"task_ids": ("load",)}, {"group_id": "g"}, {}]
        waits = [
            ExternalWait("orders", **kind, **which, allowed_states=(state,))
            for kind in kinds
            for which in ({"logical_dates": tuple(iso(0))}, {"run_ids": ("mine",)})
            for state in ("success", "failed")
        ]
        assert len(waits) == 12
        assert self.steady(airflow, *waits) == 6

    def test_very_long_ids_go_into_more_questions_and_none_is_too_long(self, airflow, dag):
        long = [f"{number:03}" + "ö" * 240 for number in range(40)]
        for run_id in long:
            dag.run(None, run_id, **{run_id: "success"})
        looks = Looks(airflow, *(wait_for(one, runs=[one]) for one in long))
        ((phases, asked),) = looks.all()
        assert set(phases) == {Phase.SUCCEEDED}
        assert asked == 16

    def test_so_do_those_of_whole_runs(self, airflow, dag):
        long = [f"{number:03}" + "ö" * 240 for number in range(60)]
        for run_id in long:
            dag.run(None, run_id, "success")
        looks = Looks(airflow, *(wait_for(runs=[one]) for one in long))
        ((phases, asked),) = looks.all()
        assert set(phases) == {Phase.SUCCEEDED}
        assert asked <= 2 * 6


class TestLookAgain:
    def test_after_a_change_only(self, airflow, dag):
        run = dag.run(0, load="running")
        wait, other = wait_for("load"), wait_for("load", dates=(1,))
        looks = Looks(airflow, wait)

        async def main():
            found = []
            for change in (lambda: None, lambda: None, lambda: run.set(load="success"), lambda: None):
                change()
                await looks.one()
                found.append(looks.poller.look_again)
            await looks.one(wait, other)
            return [*found, looks.poller.look_again]

        assert FakeClock().run(main) == [False, False, True, False, False]


class TestThroughTheHub:
    """As triggers ask, with others on the same Dag."""

    def watched(self, airflow, *waits, seconds=1e6, **options):
        async def main():
            hub = Hub(pacing=STEADY)
            return await asyncio.gather(
                *(watch(wait, hub=hub, poll_interval=5.0, **options) for wait in waits)
            )

        return FakeClock().run(main)

    def test_a_thousand_waits_end_with_a_question_per_tick(self, airflow, dag):
        run = dag.run(0, load="running")
        waits = [wait_for("load", allowed_states=("success", f"s{number % 10}")) for number in range(1000)]
        airflow.on_question = lambda _: run.set(load="success") if len(airflow.questions) > 20 else None
        outcomes = self.watched(airflow, *waits)
        assert {outcome.status.phase for outcome in outcomes} == {Phase.SUCCEEDED}
        assert len(airflow.questions) == 21

    def test_identical_waits_are_one(self, airflow, dag):
        run = dag.run(0, load="running")
        polled = []

        async def main():
            poller = ExternalDagPoller("orders")
            poll = poller.poll

            async def counting(jobs):
                polled.append(len(jobs))
                return await poll(jobs)

            poller.poll = counting
            hub = Hub(lambda _: poller, STEADY)
            airflow.on_question = lambda _: run.set(load="success") if len(airflow.questions) > 3 else None
            return await asyncio.gather(*(watch(wait_for("load"), hub=hub) for _ in range(50)))

        assert len(FakeClock().run(main)) == 50
        assert set(polled) == {1}

    @pytest.mark.parametrize(
        "trouble",
        [api_error(500), api_error(401), ConnectionResetError("gone"), EOFError("ended"), 700.0],
        ids=["500", "401", "reset", "eof", "hang"],
    )
    def test_bad_weather_costs_patience(self, airflow, dag, trouble):
        dag.run(0, load="success")
        airflow.weather = [trouble, trouble]
        (outcome,) = self.watched(airflow, wait_for("load"))
        assert outcome.status.phase is Phase.SUCCEEDED
        assert airflow.weather == []

    def test_a_late_answer_is_no_bad_weather(self, airflow, dag):
        dag.run(0, load="success")
        airflow.weather = [500.0]
        (outcome,) = self.watched(airflow, wait_for("load"), outage_tolerance=60.0)
        assert outcome.status.phase is Phase.SUCCEEDED
        assert len(airflow.questions) <= 2

    def test_bad_weather_in_the_middle_of_a_look_loses_nothing(self, airflow, dag):
        for number in range(4):
            dag.run(number, load="success")
        airflow.weather = [None, None, api_error(500)]
        outcomes = self.watched(airflow, *(wait_for("load", dates=(number,)) for number in range(4)))
        assert {outcome.status.phase for outcome in outcomes} == {Phase.SUCCEEDED}


@pytest.mark.parametrize("wait", [wait_for("load"), wait_for(), wait_for(group_id="g")])
async def test_a_question_that_cannot_be_asked_is_weather(airflow, wait):
    airflow.weather = [api_error(500)]
    with pytest.raises(Transient):
        await ExternalDagPoller("orders").poll([wait])


@pytest.mark.parametrize("wait", [wait_for("load"), wait_for()])
async def test_so_is_one_about_something_unknown_where_airflow_never_says_so(airflow, wait):
    """Only of a task group it does; here, something on the way to it has."""
    airflow.weather = [api_error(404, {"detail": {"reason": "not_found", "message": "no such page"}})]
    with pytest.raises(Transient, match="no such page"):
        await ExternalDagPoller("orders").poll([wait])


def test_dates_are_those_of_the_world_not_of_a_zone(airflow, dag):
    run = dag.run(0, load="success")
    wait = ExternalWait("orders", ("load",), logical_dates=("2026-01-01T00:00:00+00:00",))
    assert run.date == day(0)
    answers, _ = FakeClock().run(lambda: Looks(airflow, wait).one())
    assert answers[wait].phase is Phase.SUCCEEDED


class TestAGroupThatCannotBeAskedAbout:
    def test_hides_no_task(self, airflow, dag):
        """Each kind of question fails for itself; only when none is answered is it the weather of all."""

        def refuse_groups(message):
            if getattr(message, "task_group_id", None):
                raise api_error(500, "boom")

        task, group = wait_for("load"), wait_for(group_id="g")
        dag.run(0, "one", load="success")
        airflow.on_question = refuse_groups

        async def main():
            poller = ExternalDagPoller("orders")
            found = await poller.poll([group, task])
            with pytest.raises(Transient, match="boom"):
                await poller.poll([group])
            return found

        found = FakeClock().run(main)
        assert {wait: status.phase for wait, status in found.items()} == {task: Phase.SUCCEEDED}


def test_the_breath_after_an_answer_that_never_came_is_short(airflow, dag):
    async def main():
        airflow.weather = [1000.0]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ExternalDagPoller("orders").poll([wait_for("load")]), 600)
        begun = asyncio.get_running_loop().time()
        await ExternalDagPoller("orders").poll([wait_for("load")])
        return asyncio.get_running_loop().time() - begun

    assert FakeClock().run(main) == pytest.approx(5.0)
