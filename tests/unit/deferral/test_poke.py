import asyncio

import pytest

from astronomer.deferral import CredentialsRejected, JobFailed, Outcome, Phase, PokeTrigger, Transient, clock
from astronomer.deferral.testing import FakeClock
from tests.unit.deferral.fakes import START, FakeAirflow, FakeTaskInstance, events_of, let, revived
from tests.unit.deferral.pokes import PokedService, ScriptedPokes


@pytest.fixture
def service():
    return PokedService("poked")


def pokes(**arguments):
    given = {"job": {"job_id": "", "service": "poked"}, "next_poke": START, "deadline": START + 3600}
    return ScriptedPokes(**given | arguments)


def run(trigger):
    """The one event, and how long it took."""

    async def main():
        (event,) = await events_of(trigger)
        return event, clock.now() - START

    return FakeClock(START).run(main)


def told(event):
    status = Outcome.from_dict(event["outcome"]).status
    return status.phase, status.message


def begun(service):
    return [at - START for at in service.begun]


class TestAnswers:
    def test_of_yes(self, service):
        event, _ = run(pokes())
        assert event == {
            "job": {"job_id": "poke-1", "service": "poked"},
            "pokes": 1,
            "deadline": START + 3600,
            "started_at": START,
            "status": event["status"],
            "met": True,
        }
        assert event["status"]["phase"] == "succeeded"

    def test_of_no_until_it_is_yes(self, service):
        service.answers = [False, False, True]
        event, _ = run(pokes())
        assert event["met"]
        assert event["pokes"] == 3
        assert event["job"]["job_id"] == "poke-3"

    def test_that_a_worker_has_to_judge(self, service):
        service.answers = [False]
        event, _ = run(pokes(judge=False))
        assert "met" not in event
        assert "outcome" not in event
        assert event["pokes"] == len(service.begun) == len(service.answers) == 1

    def test_come_over_one_login(self, service):
        service.answers = [False] * 5
        run(pokes())
        assert service.logins == 1

    @pytest.mark.parametrize(("named", "held"), [(5, 5), (1200, 60)], ids=["by our clock", "by one ahead"])
    def test_wait_for_airflow(self, service, named, held):
        _, took = run(pokes(not_before=START + named))
        assert took == pytest.approx(held, abs=1)

    def test_begin_at_the_interval_at_the_latest_whatever_a_clock_that_is_ahead_has_named(self, service):
        _, took = run(pokes(next_poke=START + 1200))
        assert took == pytest.approx(60, abs=5)

    def test_a_deadline_that_was_named_by_a_clock_that_is_ahead_is_not_slept_for(self, service):
        event, took = run(pokes(next_poke=START + 1200, deadline=START + 1190))
        assert event["timed_out"]
        assert took == pytest.approx(60, abs=5)


class TestPace:
    def test_is_kept_from_start_to_start(self, service):
        service.script = [{"runs_for": 20.0}] * 3
        service.answers = [False, False]
        run(pokes())
        assert begun(service) == pytest.approx([0, 60, 120])

    def test_lets_no_poke_overlap_the_next(self, service):
        service.script = [{"runs_for": 100.0}] * 2
        service.answers = [False]
        run(pokes())
        assert 100 <= begun(service)[1] < 110

    def test_may_slow_down(self, service):
        service.answers = [False] * 5
        run(pokes(exponential_backoff=True, max_wait=300.0))
        assert begun(service) == pytest.approx([0, 60, 180, 420, 720, 1020])

    def test_goes_on_where_another_process_left_it(self, service):
        service.answers = [False]
        event, _ = run(revived(pokes(next_poke=START + 40, pokes=3, exponential_backoff=True)))
        assert begun(service) == pytest.approx([40, 40 + 8 * 60])
        assert event["pokes"] == 5

    @pytest.mark.parametrize(
        ("poke", "exponential", "longest", "pause"),
        [
            (1, False, None, 10),
            (9, False, None, 10),
            (9, False, 5, 5),
            (0, True, None, 10),
            (1, True, None, 10),
            (4, True, None, 80),
            (4, True, 25, 25),
            (10_000, True, 3600, 3600),
        ],
    )
    def test_in_numbers(self, poke, exponential, longest, pause):
        assert PokeTrigger.pause_after(poke, 10.0, exponential, longest) == pause


class TestEnds:
    def test_at_the_deadline_the_poke_is_cancelled(self, service):
        service.script = [{"runs_for": 1e6}]
        event, took = run(pokes(deadline=START + 100))
        assert event["timed_out"]
        assert event["pokes"] == 1
        assert service.cancels == ["poke-1"]
        assert event["status"]["phase"] == "cancelled"
        assert 100 <= took < 110

    def test_at_the_deadline_between_two_pokes(self, service):
        service.answers = [False] * 10
        event, took = run(pokes(deadline=START + 100))
        assert event["timed_out"]
        assert event["pokes"] == 2
        assert service.cancels == []
        assert event["status"]["phase"] == "succeeded"
        assert took == pytest.approx(100)

    def test_without_a_deadline(self, service):
        service.answers = [False] * 100
        event, _ = run(pokes(deadline=None))
        assert event["pokes"] == 101
        assert event["deadline"] is None

    @pytest.mark.parametrize("phase", [Phase.FAILED, Phase.CANCELLED, Phase.LOST])
    def test_when_a_poke_does_not_succeed(self, service, phase):
        service.script = [{"ends": phase, "message": "why"}]
        event, _ = run(pokes())
        assert told(event)[0] is phase
        assert "why" in told(event)[1]
        assert event["pokes"] == 1

    @pytest.mark.parametrize("judging", [True, False])
    def test_when_a_poke_is_refused(self, service, judging):
        refused = JobFailed("no such table")
        if judging:
            service.answers = [refused]
        else:
            service.weather_at_start = [refused]
        event, _ = run(pokes())
        assert told(event) == (Phase.FAILED, "no such table")
        assert event["pokes"] == 1

    def test_of_a_refused_poke_are_not_told_of_the_one_before(self, service):
        service.answers = [False]
        service.weather_at_start = [None, JobFailed("no such table")]
        event, _ = run(pokes())
        assert event["job"]["job_id"] == ""
        assert event["status"] is None
        assert event["pokes"] == 2

    def test_of_a_defect(self, service):
        service.answers = [KeyError("odd")]
        event, _ = run(pokes())
        assert told(event) == (Phase.LOST, "the poke failed: KeyError: 'odd'")

    def test_of_arguments_that_no_job_can_be_made_of(self, service):
        event, _ = run(pokes(job={"service": "poked"}))
        assert told(event)[0] is Phase.LOST


class TestWeather:
    @pytest.mark.parametrize("where", ["weather_at_start", "answers"])
    def test_costs_patience(self, service, where):
        setattr(service, where, [Transient("reset"), Transient("busy", retry_after=90.0)])
        event, took = run(pokes())
        assert event["met"]
        assert took == pytest.approx(15 + 90, abs=2)

    def test_that_lasts_loses_sight(self, service):
        service.weather_at_start = [Transient("reset")] * 1000
        event, took = run(pokes(outage_tolerance=100.0))
        assert told(event) == (Phase.LOST, "reset")
        assert took == pytest.approx(100)
        assert service.begun == []

    def test_until_the_deadline_is_told_with_it(self, service):
        service.weather_at_start = [Transient("reset")] * 1000
        event, took = run(pokes(deadline=START + 100))
        assert event["timed_out"]
        assert event["message"] == "The service could not be asked: reset."
        assert took == pytest.approx(100)

    def test_does_not_lock_the_user_out(self, service):
        service.weather_at_start = [Transient("reset"), *[CredentialsRejected("wrong password")] * 1000]
        event, _ = run(pokes())
        assert told(event) == (Phase.LOST, "wrong password")
        assert len(service.weather_at_start) == 1000 - 3


class TestOnKill:
    @staticmethod
    def killed(trigger, after, state="failed"):
        supervisor = FakeAirflow(states={"task": state})
        trigger.task_instance = FakeTaskInstance()

        async def main():
            poking = asyncio.ensure_future(events_of(trigger))
            await let(after)
            poking.cancel()
            await asyncio.wait({poking})
            with supervisor.in_place():
                await trigger.on_kill()

        FakeClock(START).run(main)
        return supervisor.questions

    @pytest.mark.parametrize("state", ["failed", "null", "queued", "up_for_retry"])
    def test_the_poke_that_runs_is_cancelled(self, service, state):
        """Also when the task goes on: its next try does not know of the poke, and makes one of its own."""
        service.script = [{"runs_for": 1e6}]
        self.killed(pokes(), after=20, state=state)
        assert service.cancels == ["poke-1"]

    def test_one_whose_trigger_moves_is_left_alone(self, service):
        service.script = [{"runs_for": 1e6}]
        self.killed(pokes(), after=20, state="deferred")
        assert service.cancels == []

    def test_where_none_runs_nothing_is_asked(self, service):
        assert self.killed(pokes(next_poke=START + 60), after=20) == []
        assert service.cancels == []

    def test_one_that_is_being_started_is_cancelled_when_its_answer_comes(self, service):
        service.beginning_takes, service.script = 10.0, [{"runs_for": 1e6}]
        self.killed(pokes(), after=2)
        assert service.cancels == ["poke-1"]

    def test_one_whose_start_is_refused_in_that_moment_is_none(self, service):
        async def refused():
            await asyncio.sleep(10)
            raise Transient("reset")

        service.begin = refused
        assert self.killed(pokes(), after=2) == []
        assert service.cancels == []

    def test_a_trigger_that_moves_gives_up_a_start_that_is_under_way(self, service):
        ended = []

        async def for_ever():
            try:
                await asyncio.sleep(1e6)
            finally:
                ended.append(clock.now() - START)

        service.begin = for_ever

        async def main():
            poking = asyncio.ensure_future(events_of(pokes()))
            await let(5)
            poking.cancel()
            await let(10)

        FakeClock(START).run(main)
        assert ended == [pytest.approx(6, abs=0.1)]
