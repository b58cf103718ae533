"""One wait in random weather, on virtual time."""

import asyncio
import json
import logging
from dataclasses import dataclass, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astronomer.deferral import Hub, JobStatus, Outcome, Phase, Transient, clock, watch
from astronomer.deferral.testing import FakeClock, ScriptedJob, ScriptedService, ScriptedTrigger
from astronomer.deferral.watch import _GOES_ON
from tests.effort import examples
from tests.unit.deferral.fakes import START, PollerJob, events_of, revived
from tests.unit.deferral.foreign import ForeignPollerJob
from tests.unit.deferral.rough import (
    EPS,
    Job,
    Remote,
    assert_paced,
    last_trouble,
    longest_pause,
    pacing_of,
    rough_weather,
    seconds,
    weather,
)

ENDS = st.sampled_from([Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED])
SEEDS = st.integers(0, 2**32)
LAST_LOOK = 15.0
JOB = PollerJob("a")


@pytest.fixture(autouse=True, scope="module")
def _silence():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Lines(logging.Logger):
    """Counts what a wait says."""

    def __init__(self):
        super().__init__("lines")
        self.said = []

    def info(self, message, *arguments, **_):
        self.said.append(message % arguments)

    warning = info


@dataclass
class Wait:
    """What came of one wait."""

    outcome: Outcome
    took: float
    remote: Remote
    said: list


def wait(remote, *, seed=0, deadline=None, interval=5.0, tolerance=3600.0, confirm=60.0, job=JOB):
    pacing, lines = pacing_of(seed), Lines()

    async def main():
        loop = asyncio.get_running_loop()
        if deadline is not None:
            remote.cancelling_from = deadline
            loop.call_later(deadline, remote.hurried)
        outcome = await watch(
            job,
            hub=Hub(remote.connect, pacing),
            deadline=None if deadline is None else clock.now() + deadline,
            poll_interval=interval,
            outage_tolerance=tolerance,
            cancel_confirm_timeout=confirm,
            log=lines,
        )
        took = loop.time()
        await asyncio.sleep(pacing.linger + 400 + (0.0 if deadline is None else _GOES_ON))
        assert remote.open == 0
        return outcome, took

    outcome, took = FakeClock(START).run(main)
    assert_paced(remote, pacing, interval, watched_until=took)
    return Wait(outcome, took, remote, lines.said)


@given(SEEDS, weather, seconds, ENDS, st.sampled_from([0.0, 0.5, 5.0, 60.0]))
@settings(max_examples=examples(500))
def test_weather_costs_patience_and_nothing_else(seed, weather, ends_at, phase, interval):
    remote = Remote({"a": Job(ends_at, phase)}, list(weather))
    done = wait(remote, seed=seed, interval=interval, tolerance=1e6)
    assert (done.outcome.status.phase, done.outcome.timed_out) == (phase, False)
    late = max(ends_at, last_trouble(remote) + longest_pause(remote, pacing_of(0)))
    assert ends_at <= done.took <= late + 1.1 * interval + 2.0
    assert remote.cancels == []
    assert remote.logins == 1


@given(SEEDS, rough_weather, seconds, ENDS, seconds, st.booleans(), st.sampled_from([0.0, 5.0, 60.0]))
@settings(max_examples=examples(500))
def test_nothing_outlives_the_deadline(seed, weather, ends_at, phase, deadline, obeys, confirm):
    remote = Remote({"a": Job(ends_at, phase, obeys)}, list(weather))
    done = wait(remote, seed=seed, deadline=deadline, confirm=confirm, interval=20.0)
    assert done.took <= deadline + confirm + EPS
    if done.outcome.timed_out:
        assert done.took >= deadline - EPS
        assert done.outcome.status.phase is not Phase.SUCCEEDED
    else:
        assert done.outcome.status.phase in {phase, Phase.LOST}
    assert all(moment >= deadline - EPS for moment in remote.cancels)
    if confirm and done.outcome.timed_out:
        assert remote.cancels


@given(SEEDS, rough_weather, seconds, ENDS, seconds, st.sampled_from([0.0, 5.0, 60.0]))
@settings(max_examples=examples(500))
def test_what_is_foreign_is_only_looked_at_and_once_more_at_the_deadline(
    seed, weather, ends_at, phase, deadline, interval
):
    remote = Remote({"a": Job(ends_at, phase)}, list(weather))
    done = wait(
        remote, seed=seed, deadline=deadline, interval=interval, tolerance=1e6, job=ForeignPollerJob("a")
    )
    assert remote.cancels == []
    assert done.took <= deadline + LAST_LOOK + EPS
    status = done.outcome.status
    if done.outcome.timed_out:
        assert done.took >= deadline - EPS
        assert status.phase is Phase.ACTIVE
        look = next((poll for poll in remote.polls if poll.started >= deadline - EPS), None)
        if status.raw:  # an answer of that moment, or of a poll that was under way
            assert any(poll.ended >= deadline - EPS and not poll.failed for poll in remote.polls)
        else:
            assert "could not be asked at the end" in status.message
        if look is not None and look.kind == "fine":
            assert ends_at > look.started - EPS or look.started >= done.took - EPS
    elif status.phase is Phase.LOST:
        assert "Cannot log in" in status.message
    else:
        assert status.phase is phase
        assert done.took >= ends_at - EPS


@given(SEEDS, rough_weather, st.sampled_from([1.0, 30.0, 150.0, 600.0]), st.sampled_from([5.0, 60.0]))
@settings(max_examples=examples(500))
def test_patience_is_as_long_as_it_was_said_to_be(seed, weather, tolerance, interval):
    remote = Remote({"a": Job(400.0)}, list(weather))
    done = wait(remote, seed=seed, tolerance=tolerance, interval=interval)
    silences, began = [], None
    lost = done.outcome.status.phase is Phase.LOST
    for poll in remote.polls:
        if poll.ended > done.took + (-EPS if lost else EPS):
            break
        if poll.silent:
            began = poll.ended if began is None else began
        elif began is not None:
            silences.append(poll.ended - began)
            began = None
    if lost and "No answer" in done.outcome.status.message:
        assert done.took - began == pytest.approx(tolerance, abs=EPS)
    elif lost:
        assert "Cannot log in" in done.outcome.status.message
        assert [poll.kind for poll in remote.polls if poll.failed].count("refused") >= 3
    else:
        assert done.outcome.status.phase is Phase.SUCCEEDED
        assert all(silence <= tolerance + EPS for silence in silences)


@given(SEEDS, weather, seconds)
@settings(max_examples=examples(300))
def test_a_wait_says_little(seed, weather, ends_at):
    """One line per change of state, two per lasting outage, and none per poll."""
    remote = Remote({"a": Job(ends_at)}, list(weather))
    done = wait(remote, seed=seed, tolerance=1e6, interval=0.0)
    outages = sum(
        poll.silent and (number == 0 or not remote.polls[number - 1].silent)
        for number, poll in enumerate(remote.polls)
    )
    assert 1 <= len(done.said) <= 3 + 2 * outages
    states = [line for line in done.said if " is " in line]
    assert len(states) == len(set(states))


@given(st.lists(st.none() | st.sampled_from([0.0, 30.0]), max_size=8), seconds, st.none() | seconds, ENDS)
@settings(max_examples=examples(300))
def test_a_trigger_yields_one_event_and_a_restarted_one_the_same(troubles, runs_for, deadline, phase):
    """Both triggers live at the same time, as they do when a triggerer is slow to let go."""

    async def main(trigger):
        first, second = await asyncio.gather(events_of(trigger), events_of(revived(trigger)))
        assert len(first) == len(second) == 1
        return first[0], second[0]

    service = ScriptedService("scripted")
    job = service.start("a", runs_for=runs_for, ends=phase)
    service.weather = [None if after is None else Transient("429", retry_after=after) for after in troubles]
    trigger = ScriptedTrigger(job=job.to_dict(), deadline=None if deadline is None else START + deadline)
    first, second = FakeClock(START).run(lambda: main(trigger))
    assert first == second
    assert ScriptedJob.from_dict(first["job"]) == job
    assert service.logins == 1


class TestRoundTrips:
    """To plain JSON and back is identity."""

    text = st.text(max_size=10)
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    statuses = st.builds(
        JobStatus,
        st.sampled_from(Phase),
        text,
        st.none() | text,
        st.none() | text,
        st.none() | numbers,
        st.none() | numbers,
        st.none() | text,
    )

    @staticmethod
    def through_json(data):
        return json.loads(json.dumps(data, allow_nan=False))

    @given(statuses)
    def test_status(self, status):
        assert JobStatus.from_dict(self.through_json(status.to_dict())) == status

    @given(st.builds(Outcome, statuses, st.booleans()))
    def test_outcome(self, outcome):
        assert Outcome.from_dict(self.through_json(outcome.to_dict())) == outcome

    @given(text, text)
    def test_job(self, job_id, service):
        job = ScriptedJob(job_id, service)
        again = ScriptedJob.from_dict(self.through_json(job.to_dict()))
        assert again == job
        assert (hash(again), again.connection_key) == (hash(job), job.connection_key)

    @given(
        st.builds(
            ScriptedTrigger,
            job=st.fixed_dictionaries({"job_id": text, "service": text}),
            deadline=st.none() | numbers,
            poll_interval=numbers,
            outage_tolerance=numbers,
            cancel_confirm_timeout=numbers,
            not_before=numbers,
            cancel_on_kill=st.booleans(),
        )
    )
    def test_trigger(self, trigger):
        again = revived(trigger)
        assert [getattr(again, one.name) for one in fields(again)] == [
            getattr(trigger, one.name) for one in fields(trigger)
        ]
        assert again.remote_job == trigger.remote_job
