import asyncio
from dataclasses import dataclass
from typing import ClassVar

import pytest

from astronomer.deferral import CredentialsRejected, JobStatus, Outcome, Phase, Poller, Transient
from astronomer.deferral.testing import ScriptedJob
from tests.unit.deferral.fakes import DONE, RUNNING, FunctionPoller


@dataclass(frozen=True)
class OtherJob(ScriptedJob):
    region: str = "eu"

    connection_fields: ClassVar[tuple[str, ...]] = ("service", "region")


@pytest.mark.parametrize("phase", Phase)
def test_only_an_active_job_is_worth_waiting_for(phase):
    assert JobStatus(phase).done is (phase is not Phase.ACTIVE)


def test_a_status_crosses_without_the_fields_that_are_not_set():
    assert RUNNING.to_dict() == {"phase": "active", "raw": "RUNNING"}
    assert JobStatus.from_dict({"phase": "active"}) == JobStatus(Phase.ACTIVE)


def test_fields_of_a_newer_release_are_ignored():
    assert JobStatus.from_dict({"phase": "succeeded", "raw": "SUCCEEDED", "mood": "good"}) == DONE
    assert ScriptedJob.from_dict({"job_id": "a", "service": "b", "mood": "good"}) == ScriptedJob("a", "b")


def test_an_outcome_of_an_older_release_was_not_timed_out():
    assert Outcome.from_dict({"status": DONE.to_dict()}) == Outcome(DONE)


def test_jobs_that_share_a_session_have_one_key():
    assert ScriptedJob("a").connection_key == ScriptedJob("b").connection_key
    assert ScriptedJob("a").connection_key != ScriptedJob("a", "elsewhere").connection_key
    assert OtherJob("a").connection_key != OtherJob("a", region="us").connection_key
    assert ScriptedJob("a").connection_key != OtherJob("a").connection_key


async def test_a_job_can_be_asked_stopped_and_read_on_its_own(service):
    job = service.start("a")
    assert (await job.status()).phase is Phase.SUCCEEDED
    await job.cancel()
    assert await job.result() == {"job_id": "a"}
    assert service.cancels == ["a"]
    assert service.logins == service.closed == 3


async def test_its_own_session_is_closed_when_asking_fails(service):
    service.weather = [ValueError("odd")]
    with pytest.raises(ValueError, match="odd"):
        await service.start("a").status()
    assert service.closed == 1


async def test_a_poller_without_results_says_what_to_override():
    async def nothing(jobs):
        return {}

    with pytest.raises(NotImplementedError, match=r"FunctionPoller has no results to read: override result"):
        await FunctionPoller(nothing).result(ScriptedJob("a"))


async def test_a_poller_need_not_have_anything_to_close():
    class Bare(Poller):
        async def poll(self, jobs):
            return {}

        async def cancel(self, job):
            """Nothing to end."""

    assert await Bare().close() is None
    assert Bare.max_jobs is None


class TestAskEach:
    """For vendors without a question about many."""

    JOBS = tuple(ScriptedJob(str(number)) for number in range(6))

    @pytest.fixture
    def ask(self):
        """Asks for one job; raises what ``troubles`` has for it."""

        async def one(job):
            self.asked.append(job.job_id)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await asyncio.sleep(0)
            self.at_once -= 1
            if job.job_id in self.troubles:
                raise self.troubles[job.job_id]
            return RUNNING

        self.asked, self.troubles, self.at_once, self.most = [], {}, 0, 0

        async def nothing(jobs):
            return {}

        self.poller = FunctionPoller(nothing)
        return lambda **options: self.poller.ask_each(self.JOBS, one, **options)

    async def test_a_few_at_once_and_all_in_the_end(self, ask):
        assert await ask(at_once=4) == dict.fromkeys(self.JOBS, RUNNING)
        assert self.most == 4

    async def test_what_is_known_already_is_kept(self, ask):
        known = {ScriptedJob("known"): DONE}
        assert await ask(at_once=4, known=known) == known | dict.fromkeys(self.JOBS, RUNNING)

    async def test_one_that_fails_is_left_out(self, ask):
        self.troubles = {"3": Transient("reset")}
        assert await ask(at_once=2) == dict.fromkeys(self.JOBS[:3] + self.JOBS[4:], RUNNING)

    async def test_when_nothing_is_known_it_is_bad_weather_and_asks_no_more(self, ask):
        self.troubles = {job.job_id: Transient("reset") for job in self.JOBS}
        with pytest.raises(Transient, match="reset"):
            await ask(at_once=2)
        assert len(self.asked) == 2

    async def test_bad_weather_does_not_take_away_what_was_known(self, ask):
        self.troubles = {job.job_id: Transient("reset") for job in self.JOBS}
        known = {ScriptedJob("known"): DONE}
        assert await ask(at_once=2, known=known) == known

    @pytest.mark.parametrize("trouble", [Transient("429", retry_after=30.0), CredentialsRejected("no")])
    async def test_a_wish_to_be_left_alone_and_a_refusal_go_up(self, ask, trouble):
        self.troubles = {"3": trouble}
        with pytest.raises(type(trouble)):
            await ask(at_once=2)

    async def test_a_defect_of_one_is_not_the_end_of_all(self, ask):
        self.troubles = {"3": KeyError("odd")}
        assert len(await ask(at_once=2)) == 5

    async def test_a_defect_of_all_goes_up(self, ask):
        self.troubles = {job.job_id: KeyError("odd") for job in self.JOBS}
        with pytest.raises(KeyError):
            await ask(at_once=2)

    async def test_when_time_is_up_the_rest_is_left_for_the_next_round(self, ask):
        assert len(await ask(at_once=2, seconds=0.0)) == 2

    async def test_it_is_known_why_there_is_no_answer_and_whose_turn_is_to_come(self, ask):
        reset = Transient("reset")
        self.troubles = {"0": reset, "1": KeyError("odd")}
        await ask(at_once=3, seconds=0.0)
        told = {job.job_id: trouble for job, trouble in self.poller.unanswered.items()}
        assert told.pop("0") is reset
        assert str(told.pop("1")) == "KeyError: 'odd'"
        assert told == {"3": None, "4": None, "5": None}

    async def test_what_failed_is_asked_for_last_the_next_time_and_all_else_in_order(self, ask):
        self.troubles = {"0": Transient("reset"), "1": Transient("reset")}
        with pytest.raises(Transient):
            await ask(at_once=2)
        self.asked.clear()
        assert len(await ask(at_once=2)) == 4
        assert self.asked == ["2", "3", "4", "5", "0", "1"]
