"""The laws, as far as they apply to waiting for what is not one's own; each for every family of such waits."""

import asyncio
from datetime import timedelta

import pytest

from astronomer.deferral import JobLost, JobTimedOut, Outcome, Phase
from astronomer.deferral._compat import AirflowSensorTimeout, AirflowSkipException
from tests.contract.airflow_waits import EXTERNAL_WAITS
from tests.contract.checks import all_lines, assert_drop_in, assert_plain
from tests.contract.deployment_waits import DEPLOYMENT_WAITS
from tests.contract.file_waits import FILE_WAITS
from tests.contract.waits import WAYS, WaitTask
from tests.unit.deferral.fakes import events_of, revived

FAMILIES = (*EXTERNAL_WAITS, *DEPLOYMENT_WAITS, *FILE_WAITS)
FAMILIES_IN_WEATHER = [(family, kind) for family in FAMILIES for kind in family.kinds]
USER = "__airflow_user_action__"


@pytest.fixture(params=FAMILIES, ids=repr)
def family(request):
    """Each family in turn."""
    return request.param


@pytest.fixture
def world(family):
    """A fresh world of the family, in which nobody has done anything but look."""
    with family.world() as world:
        yield world
        assert world.touched == []


@pytest.fixture
def trouble(family):
    """One kind of bad weather."""
    if not family.kinds:
        pytest.skip("has no weather")
    return family.kinds[0]


@pytest.fixture
def _can_go_wrong(family):
    if not family.can_go_wrong:
        pytest.skip("cannot go wrong")


class TestOneOutcome:
    """2. One event, then the trigger returns; every way ends in the same settle."""

    def test_a_trigger_yields_once_and_returns(self, world):
        world.begin(0)
        world.later(2.0, lambda: world.come_true(0))
        task = WaitTask(world)
        task.defer()
        assert len(world.triggerer(lambda: events_of(task.trigger))) == 1

    def test_so_does_each_of_two_that_live_at_once(self, world):
        world.begin(0)
        world.later(2.0, lambda: world.come_true(0))
        task = WaitTask(world)
        task.defer()

        async def both():
            return await asyncio.gather(events_of(task.trigger), events_of(revived(task.trigger)))

        ((first,), (second,)) = world.triggerer(both)
        assert first == second
        assert first["outcome"]["status"]["phase"] == "succeeded"

    def test_what_is_true_already_needs_no_triggerer(self, world):
        world.begin(0)
        world.come_true(0)
        task = WaitTask(world)
        task.execute()
        assert task.trigger is None

    def test_the_result_does_not_depend_on_the_way(self, family):
        assert len({repr(self.end_of(family, way)) for way in WAYS}) == 1
        assert self.end_of(family, WAYS[0])[0] == "returned"

    @pytest.mark.usefixtures("_can_go_wrong")
    def test_nor_does_the_error(self, family):
        ends = [self.end_of(family, way, wrong=True) for way in WAYS]
        assert len({repr(end) for end in ends}) == 1
        assert ends[0][0] != "returned"

    def test_nor_does_it_depend_on_whether_it_was_over_before(self, family):
        for wrong in {False, family.can_go_wrong}:
            with family.world() as world:
                world.begin(0)
                (world.go_wrong if wrong else world.come_true)(0)
                at_once = WaitTask(world, **world.fragile).ended("in a worker")
            assert repr(at_once) == repr(self.end_of(family, "deferred", wrong=wrong))

    def end_of(self, family, way, *, wrong=False):
        with family.world() as world:
            world.begin(0)
            world.later(2.0, lambda: (world.go_wrong if wrong else world.come_true)(0))
            return WaitTask(world, **world.fragile).ended(way)

    def test_what_vanishes_is_waited_for_again(self, world):
        world.begin(0)
        world.later(1.0, lambda: world.vanish(0))
        world.later(3.0, lambda: world.begin(0))
        world.later(5.0, lambda: world.come_true(0))
        begun = world.now()
        assert WaitTask(world).ended("deferred")[0] == "returned"
        assert world.now() >= begun + 5.0 * world.beat

    def test_what_is_not_there_yet_is_waited_for(self, world):
        world.later(2.0, lambda: world.begin(0))
        world.later(4.0, lambda: world.come_true(0))
        assert WaitTask(world).ended("deferred")[0] == "returned"


class TestWeather:
    """3. Bad weather costs patience, not the task."""

    @pytest.mark.parametrize(("family", "kind"), FAMILIES_IN_WEATHER, ids=repr)
    def test_each_kind(self, world, kind):
        world.begin(0)
        world.later(3.0, lambda: world.come_true(0))
        task = WaitTask(world)
        task.defer()
        world.weather(kind, times=3)
        task.wait()
        task.resume()

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(("family", "kind"), FAMILIES_IN_WEATHER, ids=repr)
    def test_each_kind_from_the_first_look_on(self, world, kind, way):
        world.begin(0)
        world.later(3.0, lambda: world.come_true(0))
        world.weather(kind, times=3)
        assert WaitTask(world).ended(way)[0] == "returned"

    def test_all_kinds_in_a_row(self, family, world):
        world.begin(0)
        world.later(3.0, lambda: world.come_true(0))
        task = WaitTask(world)
        task.defer()
        world.weather(*family.kinds)
        assert task.wait()["outcome"]["status"]["phase"] == "succeeded"

    def test_an_outage_that_lasts_loses_it_and_a_retry_just_looks_again(self, world, trouble):
        world.begin(0)
        task = WaitTask(world, outage_tolerance=4.0 * world.beat)
        task.defer()
        begun = world.now()
        world.weather(trouble, times=None)
        task.wait()
        assert 4.0 * world.beat <= world.now() - begun <= 5.0 * world.beat
        with pytest.raises(JobLost, match="can be retried"):
            task.resume()
        world.clear_up()
        world.later(2.0, lambda: world.come_true(0))
        assert task.ended("deferred")[0] == "returned"

    def test_an_outage_is_not_harder_to_bear_for_many(self, world, trouble):
        """One that joins during an outage has patience of its own."""
        world.begin(0)
        first, second = (WaitTask(world, outage_tolerance=4.0 * world.beat) for _ in range(2))
        for task in (first, second):
            task.defer()
        world.weather(trouble, times=None)

        async def one_after_the_other():
            one = asyncio.ensure_future(events_of(first.trigger))
            await asyncio.sleep(3.0 * world.beat)
            other = asyncio.ensure_future(events_of(second.trigger))
            (event,) = await one
            world.clear_up()
            world.come_true(0)
            return event, (await other)[0]

        lost, found = world.triggerer(one_after_the_other)
        assert lost["outcome"]["status"]["phase"] == "lost"
        assert found["outcome"]["status"]["phase"] == "succeeded"


class TestDeadline:
    """4. The deadline is absolute; at the deadline there is one last look, and then the task fails with a timeout."""

    LIMITS = (
        ({"timeout": 4.0}, AirflowSensorTimeout),
        ({"timeout": 5.0, "execution_timeout": 4.0}, JobTimedOut),
        ({"timeout": 4.0, "execution_timeout": 5.0}, AirflowSensorTimeout),
    )

    def limited(self, world, limits, **arguments):
        limits = {name: timedelta(seconds=beats * world.beat) for name, beats in limits.items()}
        return WaitTask(world, **limits | arguments)

    @pytest.mark.parametrize(("limits", "error"), LIMITS)
    @pytest.mark.parametrize("way", ["deferred", "restarted"])
    def test_it_ends_the_wait_with_the_error_of_the_sooner_limit(self, world, limits, error, way):
        world.begin(0)
        begun = world.now()
        kind, message, _ = self.limited(world, limits).ended(way)
        assert (kind, "wait has timed out while it waited for" in message) == (error, True)
        assert begun + 4.0 * world.beat <= world.now() <= begun + 4.5 * world.beat

    def test_it_ends_that_of_a_worker_too(self, world):
        world.begin(0)
        begun = world.now()
        assert self.limited(world, {"timeout": 4.0}).ended("in a worker")[0] is AirflowSensorTimeout
        assert world.now() <= begun + 4.5 * world.beat

    def test_a_restart_does_not_renew_it(self, world):
        world.begin(0)
        task = self.limited(world, {"timeout": 4.0})
        begun = world.now()
        task.defer()
        deadline = task.trigger.deadline
        assert deadline == pytest.approx(begun + 4.0 * world.beat, abs=0.1 * world.beat)
        for _ in range(3):
            task.interrupted(after=1.0)
            assert task.trigger.deadline == deadline
        assert task.wait()["outcome"]["timed_out"]
        assert world.now() <= deadline + 0.5 * world.beat

    def test_a_retry_does(self, world):
        """Nothing of it is running: the limits are those of a try, as in any sensor."""
        world.begin(0)
        task = self.limited(world, {"timeout": 4.0})
        task.ended("deferred")
        begun = world.now()
        task.defer()
        assert task.trigger.deadline == pytest.approx(begun + 4.0 * world.beat, abs=0.1 * world.beat)

    def test_what_came_true_in_time_and_was_not_yet_seen_counts(self, world):
        world.begin(0)
        world.later(3.5, lambda: world.come_true(0))
        task = self.limited(world, {"timeout": 4.0}, poke_interval=10.0 * world.beat)
        assert task.ended("deferred")[0] == "returned"

    def test_also_when_no_triggerer_was_alive_at_the_deadline(self, world):
        world.begin(0)
        task = self.limited(world, {"timeout": 4.0})
        task.defer()
        world.come_true(0)
        world.timeline.sleep(100.0 * world.beat)
        task.wait()
        assert not task.event["outcome"]["timed_out"]
        task.resume()

    def test_there_is_one_last_look(self, world):
        world.begin(0)
        task = self.limited(world, {"timeout": 4.0}, poke_interval=3.0 * world.beat)
        task.defer()
        world.forget()
        task.wait()
        assert task.event["outcome"]["timed_out"]
        asked = [at for at in world.questions if at >= task.trigger.deadline]
        assert len(asked) == world.questions_per_look

    @pytest.mark.parametrize(("family", "kind"), FAMILIES_IN_WEATHER, ids=repr)
    def test_it_holds_in_an_outage_and_says_so(self, world, kind):
        world.begin(0)
        task = self.limited(world, {"timeout": 4.0})
        task.defer()
        world.weather(kind, times=None)
        task.wait()
        assert world.now() <= task.trigger.deadline + 15.5
        with pytest.raises(AirflowSensorTimeout, match="could not be asked at the end"):
            task.resume()


class TestTouchesNothing:
    """5. What is not one's own is only looked at; ``world`` has the last word on that, in every test here."""

    @pytest.fixture
    def task(self, world):
        world.begin(0)
        task = WaitTask(world)
        task.defer()
        return task

    def test_a_shutdown_is_no_end(self, world, task):
        task.interrupted(after=2.0)
        world.come_true(0)
        assert task.wait()["outcome"]["status"]["phase"] == "succeeded"

    def test_nor_is_a_reassignment_which_looks_like_a_kill(self, world, task):
        task.interrupted(after=2.0, message=USER)
        world.come_true(0)
        assert task.wait()["outcome"]["status"]["phase"] == "succeeded"

    def test_a_kill_raises_nothing_and_asks_nothing(self, world, task):
        task.interrupted(after=2.0, message=USER)
        world.forget()
        with all_lines() as said:
            world.triggerer(task.trigger.on_kill)
        assert (world.questions, said()) == ([], [])

    def test_nor_does_one_in_a_worker(self, world):
        world.begin(0)
        world.forget()
        assert WaitTask(world).make().on_kill() is None
        assert world.questions == []

    def test_its_job_says_so(self, task):
        assert task.trigger.job_type.foreign
        assert not task.trigger.cancel_on_kill


class TestBulk:
    """6. However many wait, as many questions as for one."""

    def asked(self, family, waits, things):
        """The questions of eight beats, in steady state."""
        with family.world() as world:
            for thing in range(things):
                world.begin(thing)
            tasks = [WaitTask(world, number % things) for number in range(waits)]
            for task in tasks[:things]:
                task.defer()
            for number, task in enumerate(tasks[things:]):
                task.trigger = revived(tasks[number % things].trigger)

            async def main():
                waiting = [asyncio.ensure_future(events_of(task.trigger)) for task in tasks]
                await asyncio.sleep(2.0 * world.beat)
                world.forget()
                await asyncio.sleep(8.0 * world.beat)
                assert not any(one.done() for one in waiting)
                asked = len(world.questions)
                for thing in range(things):
                    world.come_true(thing)
                ended = await asyncio.gather(*waiting)
                assert all(event["outcome"]["status"]["phase"] == "succeeded" for (event,) in ended)
                return asked

            return world.triggerer(main)

    @pytest.mark.parametrize(("waits", "things"), [(1000, 1), (100, 100), (1000, 100)])
    def test_the_questions_of_many_are_those_of_one(self, family, waits, things):
        one = self.asked(family, 1, 1)
        assert one >= 30
        assert abs(self.asked(family, waits, things) - one) <= 0.1 * one


class TestQuiet:
    """7. No line per poll."""

    def test_a_wait_of_many_looks_says_little(self, world):
        world.begin(0)
        world.later(50.0, lambda: world.come_true(0))
        task = WaitTask(world)
        with all_lines() as said:
            task.end("deferred")
        assert len(world.questions) >= 150
        assert 2 <= len(said()) <= 4

    def test_what_is_true_already_is_a_line(self, world):
        world.begin(0)
        world.come_true(0)
        with all_lines() as said:
            WaitTask(world).execute()
        assert len(said()) <= 1

    def test_the_triggerer_says_only_how_it_ends(self, world):
        world.begin(0)
        world.later(50.0, lambda: world.come_true(0))
        task = WaitTask(world)
        task.defer()
        with all_lines() as said:
            task.wait()
        assert len(said()) == 1

    def test_so_it_does_after_a_restart(self, world):
        world.begin(0)
        task = WaitTask(world)
        task.defer()
        with all_lines() as said:
            for _ in range(3):
                task.interrupted(after=2.0)
        assert said() == []

    def test_an_outage_is_no_line_per_poll_either(self, world, trouble):
        world.begin(0)
        world.later(60.0, lambda: world.come_true(0))
        task = WaitTask(world)
        task.defer()
        world.weather(trouble, times=20)
        with all_lines() as said:
            task.wait()
        assert len(said()) <= 4


class TestPlainJson:
    """8. Only plain JSON crosses."""

    def test_all_that_is_stored_or_sent(self, world):
        world.begin(0)
        world.later(2.0, lambda: world.come_true(0))
        task = WaitTask(world, execution_timeout=timedelta(hours=1))
        task.defer()
        path, arguments = task.trigger.serialize()
        task.wait()
        task.resume()
        for one in (arguments, task.event, task.ti.xcoms):
            assert_plain(one)
        assert path == f"{type(task.trigger).__module__}.{type(task.trigger).__qualname__}"
        assert Outcome.from_dict(task.event["outcome"]).status.phase is Phase.SUCCEEDED

    def test_the_job_survives_it(self, world):
        world.begin(0)
        trigger = WaitTask(world).defer()
        assert revived(trigger).remote_job == trigger.remote_job
        assert trigger.job_type.from_dict(trigger.remote_job.to_dict()) == trigger.remote_job

    def test_what_a_newer_release_adds_is_ignored(self, world):
        world.begin(0)
        world.later(2.0, lambda: world.come_true(0))
        task = WaitTask(world)
        task.defer().job["from_the_future"] = 1
        event = task.wait()
        event["outcome"]["status"]["from_the_future"] = 1
        event["outcome"]["from_the_future"] = 1
        task.resume()


@pytest.fixture
def _has_states(family):
    if not family.has_states:
        pytest.skip("has no states")


@pytest.mark.usefixtures("_has_states")
class TestUnknownStates:
    """10. A state that is not known means: not yet."""

    @pytest.mark.parametrize("way", WAYS)
    def test_the_wait_goes_on(self, world, way):
        world.begin(0)
        world.later(1.0, lambda: world.report_unknown_state(0))
        world.later(4.0, lambda: world.come_true(0))
        begun = world.now()
        assert WaitTask(world, **world.fragile).ended(way)[0] == "returned"
        assert world.now() >= begun + 4.0 * world.beat

    def test_the_deadline_bounds_it(self, world):
        world.begin(0)
        world.report_unknown_state(0)
        task = WaitTask(world, timeout=4.0 * world.beat)
        assert task.ended("deferred")[0] is AirflowSensorTimeout


class TestFlags:
    """``soft_fail``, ``never_fail`` and ``silent_fail`` mean what they mean in Airflow's own poke mode."""

    @pytest.mark.usefixtures("_can_go_wrong")
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_a_failure_is_a_skip(self, world, flag, way):
        world.begin(0)
        world.later(2.0, lambda: world.go_wrong(0))
        assert WaitTask(world, **{flag: True}, **world.fragile).ended(way)[0] is AirflowSkipException

    @pytest.mark.usefixtures("_can_go_wrong")
    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_a_failure_that_has_been_there_before_is_a_skip(self, world, flag):
        world.begin(0)
        world.go_wrong(0)
        with pytest.raises(AirflowSkipException):
            WaitTask(world, **{flag: True}, **world.fragile).execute()

    @pytest.mark.parametrize("way", WAYS)
    def test_a_timeout_is_a_skip(self, world, way):
        world.begin(0)
        task = WaitTask(world, soft_fail=True, timeout=4.0 * world.beat)
        assert task.ended(way)[0] is AirflowSkipException

    @pytest.mark.usefixtures("_can_go_wrong")
    @pytest.mark.parametrize("way", WAYS)
    def test_a_silent_failure_is_no_end(self, world, way):
        world.begin(0)
        world.later(2.0, lambda: world.go_wrong(0))
        world.later(5.0, lambda: world.come_true(0))
        begun = world.now()
        assert WaitTask(world, silent_fail=True, **world.fragile).ended(way)[0] == "returned"
        assert world.now() >= begun + 5.0 * world.beat

    @pytest.mark.parametrize("end", ["come_true", "go_wrong", "neither"])
    @pytest.mark.parametrize("flag", [None, "soft_fail", "silent_fail", "never_fail"])
    def test_the_end_is_that_of_the_stock_sensor_s_pokes(self, family, flag, end):
        if (flag, end) == ("never_fail", "neither"):
            pytest.skip("Airflow itself skips after a deferral, and fails in a worker")
        if end == "go_wrong" and not family.can_go_wrong:
            pytest.skip("cannot go wrong")
        ends = {}
        for way in ("stock", *WAYS):
            with family.world() as world:
                task = WaitTask(
                    world, timeout=6.0 * world.beat, **({flag: True} if flag else {}), **world.fragile
                )
                if way == "stock":
                    stock = world.make_stock(0, task_id="wait", deferrable=False, **task.arguments)
                    task.make = lambda stock=stock, **_: stock
                world.begin(0)
                if end != "neither":
                    world.later(2.0, lambda world=world: getattr(world, end)(0))
                ends[way] = task.ended("in a worker" if way == "stock" else way)[0]
        assert len(set(ends.values())) == 1, ends


class TestSameAsStock:
    """11. Stock Dag code works after changing one import."""

    def test_it_is_a_drop_in_replacement(self, family):
        if not family.pairs:
            pytest.skip("replaces no stock sensor")
        for ours, stock in family.pairs:
            assert_drop_in(ours, stock)
