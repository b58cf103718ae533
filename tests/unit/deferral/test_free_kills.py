"""A user ends a task that runs in the triggerer; or Airflow moves it, and nothing may end."""

import asyncio

import pytest

from astronomer.deferral import Phase, _compat, _compat_triggerer, making
from astronomer.deferral.in_triggerer import NeedsWorker
from astronomer.deferral.xcom_memory import XCOM_KEY
from tests.unit.deferral.fakes import let
from tests.unit.deferral.free import (
    ClaimingOperator,
    FreeOperator,
    Gate,
    ShortOperator,
    WatchOperator,
    shut_down,
)

USER = "__airflow_user_action__"


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open()


class Killing:
    """One trigger in its triggerer."""

    def __init__(self, free, task, *, scheduled=False):
        self.free = free
        if not scheduled:
            task.schedule()
        self.trigger = task.trigger()

    async def begin(self):
        self.running = asyncio.ensure_future(anext(self.trigger.run()))

    async def cancelled(self):
        """The first half of what the triggerer does."""
        self.running.cancel(USER)
        await asyncio.wait({self.running})

    async def end(self):
        """As the triggerer does: the coroutine first, and then what was started."""
        await self.cancelled()
        await self.trigger.on_kill()

    def happens(self, after, *, then_open=None):
        """Begin, and end after what is awaited; a gate that is opened then lets the step end that it holds."""

        async def main():
            await self.begin()
            await after
            await self.end()
            if then_open:
                then_open.open()
                await asyncio.wait({self.trigger._step})

        self.free.timeline.run(main)


def deferred(free, count):
    """What Airflow says of how many such task instances are deferred."""
    free.airflow.count = lambda message: count


async def nobody_else(ti, **options):
    """Airflow takes its time to say so."""
    await asyncio.sleep(2)


def is_in(free, state):
    """Airflow says that the task is in a state; ``None`` when it was deleted."""
    free.airflow.count = lambda message: int(state is not None and state in (message.states or [state]))


@pytest.mark.parametrize("kind", [FreeOperator, ClaimingOperator])
class TestJob:
    def test_ends_with_the_wait(self, free, kind):
        killing = Killing(free, free.task(kind))
        deferred(free, 0)
        killing.happens(let(30))
        assert free.service.cancels == ["job-1"]
        assert free.service.status("job-1").phase is Phase.CANCELLED

    def test_ends_when_its_wait_was_about_to_begin(self, free, kind, gate, monkeypatch):
        monkeypatch.setattr(kind, "make_trigger", gate.before(kind.make_trigger))
        monkeypatch.setattr(kind, "on_kill", gate.opened_by(kind.on_kill))
        killing = Killing(free, free.task(kind))
        deferred(free, 0)
        killing.happens(gate.reached())
        assert free.service.status("job-1").phase is Phase.CANCELLED

    def test_ends_though_airflow_cancels_the_trigger_again_and_again(self, free, kind, gate, monkeypatch):
        """Once a second, while it is still being asked what has become of the task."""
        monkeypatch.setattr(kind, "submit", gate.before(kind.submit))
        monkeypatch.setattr(kind, "on_kill", gate.opened_by(kind.on_kill))
        one = Killing(free, free.task(kind))

        monkeypatch.setattr(_compat, "in_other_hands", nobody_else)

        async def main():
            await one.begin()
            await gate.reached()
            await one.cancelled()
            ending = asyncio.ensure_future(one.trigger.on_kill())
            await asyncio.sleep(1)
            ending.cancel(USER)
            await asyncio.wait({ending})
            await asyncio.sleep(30)

        free.timeline.run(main)
        assert free.service.jobs == free.service.cancels == ["job-1"]

    @pytest.mark.parametrize("where", ["render_template_fields", "execute"])
    def test_ends_that_another_triggerer_had_begun(self, free, kind, gate, monkeypatch, where):
        """The one that has taken over the trigger is killed before it has come to the job."""
        task = free.task(kind)
        task.schedule()
        shut_down(free, task, 30)
        monkeypatch.setattr(kind, where, gate.before(getattr(kind, where)))
        second = Killing(free, task, scheduled=True)
        deferred(free, 0)

        async def main():
            await second.begin()
            await gate.reached()
            await second.cancelled()
            ending = asyncio.ensure_future(second.trigger.on_kill())
            await asyncio.sleep(0)
            gate.open()
            await ending

        free.timeline.run(main)
        assert free.service.jobs == ["job-1"]
        assert set(free.service.cancels) == {"job-1"}

    def test_ends_when_it_is_being_looked_for(self, free, kind, gate, monkeypatch):
        """A triggerer was killed before it could write down what it had started."""
        task = free.task(kind)
        task.schedule()
        shut_down(free, task, 30)
        known = free.airflow.xcoms[free.airflow.run_id, "task", -1, XCOM_KEY]
        known["job"] = None
        monkeypatch.setattr(kind, "find", gate.before(kind.find))
        monkeypatch.setattr(kind, "on_kill", gate.opened_by(kind.on_kill))
        second = Killing(free, task, scheduled=True)
        deferred(free, 0)
        second.happens(gate.reached())
        assert free.service.jobs == free.service.cancels == ["job-1"]

    def test_ends_that_could_not_be_gone_on_with(self, free, kind, monkeypatch):
        """The one that has taken over the trigger cannot begin, as Airflow does not tell what is remembered."""
        task = free.task(kind)
        task.schedule()
        shut_down(free, task, 30)
        second = Killing(free, task, scheduled=True)
        deferred(free, 0)
        read = _compat_triggerer.read_xcom

        def silent(ti, key):
            raise RuntimeError("503")

        async def main():
            monkeypatch.setattr(_compat_triggerer, "read_xcom", silent)
            await second.begin()
            await asyncio.sleep(20)
            monkeypatch.setattr(_compat_triggerer, "read_xcom", read)
            await second.end()

        free.timeline.run(main)
        assert free.service.jobs == free.service.cancels == ["job-1"]

    @pytest.mark.parametrize("missing", ["read_xcom", "loaded"])
    def test_that_cannot_be_made_again_is_said_to_go_on(self, free, kind, monkeypatch, caplog, missing):
        task = free.task(kind)
        task.schedule()
        shut_down(free, task, 30)
        second = Killing(free, task, scheduled=True)
        deferred(free, 0)
        where, error = {
            "read_xcom": (_compat_triggerer, RuntimeError("503")),
            "loaded": (making, NeedsWorker("not here")),
        }[missing]

        def fails(*given):
            raise error

        async def main():
            monkeypatch.setattr(where, missing, fails)
            await second.begin()
            await asyncio.sleep(5)
            await second.end()
            await asyncio.sleep(1000)

        free.timeline.run(main)
        assert not free.service.cancels
        assert "may still be running" in caplog.text

    def test_that_never_began_needs_no_operator(self, free, kind, gate, monkeypatch, caplog):
        def not_here(path):
            raise NeedsWorker("not here")

        monkeypatch.setattr(making, "loaded", gate.before(not_here))
        monkeypatch.setattr(_compat, "in_other_hands", nobody_else)
        one = Killing(free, free.task(kind))

        async def main():
            await one.begin()
            await gate.reached()
            await one.cancelled()
            gate.open()
            await one.trigger.on_kill()

        free.timeline.run(main)
        assert [one for one in caplog.records if one.name.startswith("astronomer")] == []

    def test_ends_when_it_is_being_submitted(self, free, kind, gate, monkeypatch):
        monkeypatch.setattr(kind, "submit", gate.before(kind.submit))
        monkeypatch.setattr(kind, "on_kill", gate.opened_by(kind.on_kill))
        killing = Killing(free, free.task(kind))
        deferred(free, 0)
        killing.happens(gate.reached())
        assert free.service.jobs == free.service.cancels == ["job-1"]

    def test_goes_on_when_the_trigger_moves_during_the_wait(self, free, kind):
        killing = Killing(free, free.task(kind))
        deferred(free, 1)
        killing.happens(let(30))
        assert not free.service.cancels

    def test_goes_on_when_the_trigger_moves_during_the_submit(self, free, kind, gate, monkeypatch):
        monkeypatch.setattr(kind, "submit", gate.before(kind.submit))
        killing = Killing(free, free.task(kind))
        deferred(free, 1)
        killing.happens(gate.reached(), then_open=gate)
        assert free.service.jobs == ["job-1"]
        assert not free.service.cancels

    @pytest.mark.parametrize("state", ["scheduled", "running", "up_for_retry"])
    def test_goes_on_when_the_task_went_on_without_this_trigger(self, free, kind, state):
        killing = Killing(free, free.task(kind))
        is_in(free, state)
        killing.happens(let(30))
        assert free.service.jobs == ["job-1"]
        assert not free.service.cancels

    @pytest.mark.parametrize("state", ["scheduled", "running", "up_for_retry"])
    def test_goes_on_when_the_task_went_on_during_the_submit(self, free, kind, gate, monkeypatch, state):
        monkeypatch.setattr(kind, "submit", gate.before(kind.submit))
        killing = Killing(free, free.task(kind))
        is_in(free, state)
        killing.happens(gate.reached(), then_open=gate)
        assert free.service.jobs == ["job-1"]
        assert not free.service.cancels

    @pytest.mark.parametrize("state", ["failed", "null", None])
    def test_ends_when_nobody_goes_on_with_the_task(self, free, kind, state):
        killing = Killing(free, free.task(kind))
        is_in(free, state)
        killing.happens(let(30))
        assert free.service.cancels == ["job-1"]

    def test_goes_on_when_the_triggerer_shuts_down(self, free, kind):
        killing = Killing(free, free.task(kind))

        async def main():
            await killing.begin()
            await let(30)
            killing.running.cancel()
            await asyncio.wait({killing.running})

        free.timeline.run(main)
        assert killing.running.cancelled()
        assert not free.service.cancels

    def test_goes_on_when_that_is_asked_for(self, free, kind):
        killing = Killing(free, free.task(kind, cancel_on_kill=False))
        deferred(free, 0)
        killing.happens(let(30))
        assert not free.service.cancels


class TestNothing:
    def test_is_ended_before_the_task_has_begun(self, free):
        killing = Killing(free, free.task())
        deferred(free, 0)

        async def main():
            await killing.begin()
            await killing.end()

        free.timeline.run(main)
        assert not free.service.cancels

    def test_is_ended_while_the_operator_is_being_made(self, free, gate):
        first = iter([gate.before(lambda message: None)])

        def hold_up(message):  # the first question only, and not those of the kill
            next(first, lambda message: None)(message)

        free.airflow.before = hold_up
        killing = Killing(free, free.task())
        deferred(free, 0)
        killing.happens(gate.reached(), then_open=gate)
        assert not free.service.submits

    def test_is_ended_that_is_not_the_tasks_own(self, free):
        free.service.start("a", runs_for=1000)
        killing = Killing(free, free.task(WatchOperator))
        deferred(free, 0)
        killing.happens(let(30))
        assert not free.service.cancels

    def test_is_waited_for_longer_than_airflow_gives(self, free, gate, monkeypatch):
        monkeypatch.setattr("astronomer.deferral.killing._KILL_BUDGET", 0.0)
        monkeypatch.setattr(ShortOperator, "execute", gate.before(ShortOperator.execute))
        killing = Killing(free, free.task(ShortOperator))
        deferred(free, 0)

        async def main():
            await killing.begin()
            await gate.reached()
            await killing.end()
            assert not killing.trigger._step.done()
            gate.open()
            await asyncio.wait({killing.trigger._step})

        free.timeline.run(main)

    def test_is_left_to_end_after_the_wait(self, free, gate, monkeypatch):
        monkeypatch.setattr(FreeOperator, "finish", gate.before(FreeOperator.finish))
        monkeypatch.setattr(FreeOperator, "on_kill", gate.opened_by(FreeOperator.on_kill))
        killing = Killing(free, free.task())
        deferred(free, 0)
        killing.happens(gate.reached())
        assert free.service.status("job-1").phase is Phase.SUCCEEDED
