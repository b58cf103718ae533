"""Bad weather in the steps of a task that runs in the triggerer: it is slept over on the loop, and not in a thread."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.triggers.base import TriggerEvent

from astronomer.deferral import CredentialsRejected, JobError, Phase, Transient
from astronomer.deferral._compat import BaseTrigger
from astronomer.deferral.in_triggerer import InTriggerer
from tests.unit.deferral.fakes import START
from tests.unit.deferral.free import ClaimingOperator, FreeOperator, ShortOperator

KINDS = pytest.mark.parametrize("kind", [FreeOperator, ClaimingOperator])


@pytest.fixture
def weather(monkeypatch):
    """What the next submits meet, in place of a service."""
    troubles: list[Exception] = []
    submit = FreeOperator.submit

    def meets(self: FreeOperator, context: Any, attempt: Any) -> Any:
        if troubles:
            raise JobError("nobody answers") from troubles.pop(0)
        return submit(self, context, attempt)

    monkeypatch.setattr(FreeOperator, "submit", meets)
    return troubles


@KINDS
def test_is_waited_out_with_one_line(free, weather, kind, lines):
    weather += [Transient("503")] * 3
    assert free.run(free.task(kind)).state == "success"
    assert len(free.service.jobs) == 1
    assert [line for line in lines() if "Trying on" in line] == ["Trying on for up to 3600 s: nobody answers"]


def test_the_pauses_grow_and_a_step_that_goes_well_ends_the_outage(free, weather):
    free.script = {"runs_for": 1.0}
    weather += [Transient("503")] * 4
    free.run(free.task())
    assert 15 <= free.timeline.now - START <= 15 + 12


def test_who_asks_to_be_left_alone_is(free, weather):
    free.script = {"runs_for": 1.0}
    weather += [Transient("429", retry_after=200.0)]
    free.run(free.task())
    assert free.timeline.now - START >= 200


def test_lasts_no_longer_than_it_is_borne(free, weather, lines):
    weather += [Transient("503")] * 1000
    ended = free.run(free.task(outage_tolerance=100.0, retries=1))
    assert ended.state == "up_for_retry"
    assert 60 <= free.timeline.now - START <= 100
    assert "Task failed: JobError: nobody answers" in lines()


def test_does_not_outlast_the_deadline(free, weather):
    weather += [Transient("503")] * 1000
    ended = free.run(free.task(execution_timeout=timedelta(seconds=60)))
    assert ended.state == "failed"
    assert free.timeline.now - START <= 60 + 60


def test_a_refused_login_is_none(free, weather):
    weather += [CredentialsRejected("403")]
    assert free.run(free.task()).state == "failed"
    assert free.timeline.now == START


def test_a_connection_that_is_another_one_at_each_reading_is_tried_twice(free, weather, monkeypatch):
    async def always(self):
        return True

    monkeypatch.setattr(InTriggerer, "were_corrected", always)
    weather += [CredentialsRejected("403")] * 1000
    assert free.run(free.task()).state == "failed"
    assert len(weather) == 998


def test_where_it_cannot_be_known_whether_a_connection_was_corrected_the_refusal_counts(
    free, weather, monkeypatch
):
    async def silent(self):
        raise RuntimeError("503")

    monkeypatch.setattr(InTriggerer, "were_corrected", silent)
    weather += [CredentialsRejected("403")]
    assert free.run(free.task()).state == "failed"
    assert not weather


def test_two_corrections_in_the_life_of_a_task_are_heard_of(free, weather, monkeypatch):
    async def always(self):
        return True

    finish, refusals = FreeOperator.finish, [CredentialsRejected("403")]

    def meets(self, context, job, status):
        if refusals:
            raise JobError("refused") from refusals.pop()
        return finish(self, context, job, status)

    monkeypatch.setattr(InTriggerer, "were_corrected", always)
    monkeypatch.setattr(FreeOperator, "finish", meets)
    free.script["runs_for"] = 3600.0
    weather += [CredentialsRejected("403")]
    assert free.run(free.task()).state == "success"
    assert free.service.jobs == ["job-1"]


def test_a_result_that_cannot_be_read_is_not_asked_for_without_end(free, monkeypatch):
    def finish(self, context, job, status):
        raise JobError("the storage cannot be reached") from Transient("503")

    monkeypatch.setattr(FreeOperator, "finish", finish)
    free.script = {"runs_for": 1.0}
    ended = free.run(free.task(outage_tolerance=100.0, retries=1))
    assert ended.state == "up_for_retry"
    assert free.timeline.now - START <= 110


def test_the_wait_is_as_patient_as_the_user_wants(free):
    free.script = {"runs_for": 100.0, "ends": Phase.SUCCEEDED.value}
    free.service.weather = [Transient("503")] * 8
    assert free.run(free.task(outage_tolerance=1000.0)).state == "success"


class OtherTrigger(BaseTrigger):
    """One that has no patience to be set."""

    def serialize(self):
        return "", {}

    async def run(self):
        yield TriggerEvent("ended")


class DeferringOperator(ShortOperator):
    """Waits with that one."""

    def execute(self, context: Any) -> Any:
        self.defer(trigger=OtherTrigger(), method_name="done")

    def done(self, context: Any, event: Any) -> Any:
        return event


def test_any_trigger_can_be_waited_for(free):
    assert free.result(free.task(DeferringOperator)) == "ended"
