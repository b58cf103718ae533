"""Tasks without a worker through kills and pauses of their triggerers: one attempt starts one job.

Airflow is a state machine here, with the real trigger in it, and everything happens on one virtual time. A triggerer
is a process that may be killed or paused whenever something leaves it or comes back to it: a message to its
supervisor, a request to the vendor. Airflow gives the trigger of one that is silent to another one; what was paused
may wake up at any time, and goes on where it was, until it is told that the trigger is no longer its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import itertools
import math
from collections import Counter
from functools import cache
from random import Random
from types import SimpleNamespace

import greenback
import pytest
from structlog.testing import capture_logs

from astronomer.deferral import Hub, JobLost, Pacing, Phase, recipe, xcom_memory
from astronomer.deferral.in_triggerer import InTriggerer, Steps
from astronomer.deferral.testing import FakeClock, ScriptedOperator, ScriptedService
from tests.effort import examples
from tests.worker_free import Installation, Killed, WorkerFreeTask

SILENT = 30.0
"""Seconds after which Airflow gives the triggers of a triggerer to another one."""
_running = contextvars.ContextVar("triggerer", default=None)


def known_to_end(future):
    """Nobody is left to ask how it ended, if its process was killed."""
    future.add_done_callback(lambda one: one.cancelled() or one.exception())
    return future


def pass_by(what):
    """A point at which the triggerer that runs may be killed or paused."""
    here = _running.get()
    if here is not None:
        greenback.await_(here.passes(what))


class Airflow(Installation):
    """Its supervisors hear from triggerers that may be killed or paused."""

    def send(self, message):
        if _running.get() is None:
            return super().send(message)
        name = type(message).__name__
        pass_by(name)
        answer = super().send(message)
        pass_by(f"{name} answered")
        return answer

    async def asend(self, message):
        return super().send(message)


class Vendor(ScriptedService):
    """Takes a submit under one key once, or each time; every job has a fate of its own.

    :ivar started: the key of each job.
    :ivar beside: what ran or had succeeded when a job was started.
    :ivar on_the_way: seconds that a submit is under way, whatever becomes of who sent it.
    """

    def __post_init__(self):
        super().__post_init__()
        self.dedups = True
        self.random = Random(0)
        self.fails = self.loses = 0.0
        self.on_the_way = 0.01
        self.started, self.beside = {}, []
        self.tries, self.first_try = {}, 1

    def take(self, key, try_number):
        if not self.dedups:
            self._keys.pop(key, None)
        before = self.jobs
        beside = [one for one in before if self.phase(one) in {Phase.ACTIVE, Phase.SUCCEEDED}]
        ends = Phase.FAILED if self.random.random() < self.fails else Phase.SUCCEEDED
        job = self.submit(key, runs_for=self.random.choice([0.0, 5.0, 60.0]), ends=ends)
        if job.job_id not in before:
            self.status(job.job_id)
            self.started[job.job_id], self.tries[job.job_id] = key, try_number
            self.diary.append(f"{asyncio.get_running_loop().time():8.2f} {job.job_id} of {key[:6]} starts")
            self.beside.append((job.job_id, [one for one in beside if self.counts(one)]))
        return job

    def phase(self, job_id):
        return self.status(job_id).phase

    def counts(self, job_id):
        """Whether a job is of a try since the last clear, or still runs."""
        return self.tries[job_id] >= self.first_try or self.phase(job_id) is Phase.ACTIVE

    async def hear(self, key, try_number):
        async def arrive():
            await asyncio.sleep(self.on_the_way * self.random.random())
            return self.take(key, try_number)

        return await asyncio.shield(known_to_end(asyncio.ensure_future(arrive())))


class Once(ScriptedOperator):
    """Its vendor takes a submit once.

    Between the last look and the first byte of the request nothing happens: that moment is not guarded.
    """

    def submit(self, context, attempt):
        vendor = ScriptedService.named(self.service)
        pass_by("submit")
        job = self.sent(vendor, context, attempt)
        pass_by("submit answered")
        if vendor.random.random() < vendor.loses:
            raise JobLost("The answer was lost.")
        return job

    def sent(self, vendor, context, attempt):
        self.in_triggerer.memory.check()
        return greenback.await_(vendor.hear(attempt.submit_key, context["ti"].try_number))

    def find(self, context, attempt):
        pass_by("find")
        return super().find(context, attempt)

    def prepare(self, context, attempt):
        pass_by("prepare")
        return {}

    def announce(self, context, job):
        context["ti"].xcom_push("link", job.job_id)


class Claimed(Once):
    """Its vendor would take a submit twice, and can be searched."""

    claims_submits = True

    def sent(self, vendor, context, attempt):
        self.in_triggerer.memory.hold()
        return super().sent(vendor, context, attempt)


class Triggerer:
    """One process that runs the trigger.

    :param dies_at: the point at which it is killed, counted from 1.
    :param pauses_at: the same for a pause, or the next one that is not in ``never_at``.
    :param at: what happens in the world when it comes to a point.
    """

    def __init__(self, world, dies_at=math.inf, pauses_at=math.inf, at=None, never_at=()):
        self.world = world
        self.never_at = never_at
        self.name = f"triggerer {len(world.triggerers) + 1}"
        self.dies_at, self.pauses_at = dies_at, pauses_at
        self.at = at or {}
        self.dead = False
        self.trace = []
        self._awake = asyncio.Event()
        self._awake.set()
        self.try_number = world.task.try_number
        self.random = world.random
        context = contextvars.copy_context()
        context.run(_running.set, self)
        self.root = known_to_end(context.run(asyncio.ensure_future, self._run()))

    @property
    def paused(self):
        return not self._awake.is_set()

    @property
    def silent(self):
        return self.dead or self.paused

    async def passes(self, what):
        if self.dead:
            raise Killed
        self.trace.append(what)
        self.world.say(self.name, what)
        step = len(self.trace)
        if step in self.at:
            self.at[step]()
        if step >= self.pauses_at and what not in self.never_at:
            self.pauses_at = math.inf
            self.pause()
        if step == self.dies_at:
            self.kill()
        await self._awake.wait()
        await asyncio.sleep(self.world.slow * self.random.random())
        await self._awake.wait()
        if self.dead:
            raise Killed

    def pause(self):
        self.world.say(self.name, "is paused")
        self._awake.clear()

    def wake(self):
        if self.paused:
            self.world.say(self.name, "wakes up")
        self._awake.set()

    def kill(self):
        self.world.say(self.name, "is killed")
        self.dead = True
        self._awake.set()
        asyncio.get_running_loop().call_soon(self.root.cancel)

    def forget_trigger(self):
        """Airflow tells it that the trigger is not its own any more."""
        if not self.silent:
            self.world.say(self.name, "is told")
            self.root.cancel()

    async def _run(self):
        async for event in self.world.task.trigger().run():
            await self.passes("event")
            self.world.hear(self, event)


class World:
    """One task instance, its triggerers and its vendor."""

    def __init__(self, kind, retries=0, seed=0):
        self.random = Random(seed)
        self.retries = retries
        self.diary = []
        self.airflow = Airflow()
        self.task = copy.copy(task_of(kind, retries))
        self.task.airflow = self.airflow
        self.vendor = Vendor("vendor")
        self.vendor.dedups = not kind.claims_submits
        self.vendor.random = self.random
        self.vendor.diary = self.diary
        self.slow = 0.01
        self.triggerers = []
        self.last_try = retries + 1
        self.changed = asyncio.Event()

    def run(self, play):
        """Let it happen, and go through the books."""

        async def main():
            for key in (Hub, Steps):
                key._of_loop.pop(asyncio.get_running_loop(), None)
            Hub._of_loop[asyncio.get_running_loop()] = Hub(pacing=Pacing(random=Random(0)))
            now = asyncio.get_running_loop().time
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(xcom_memory, "time", SimpleNamespace(monotonic=now))
                await play(self)
                await asyncio.sleep(600)  # whatever still sleeps in a triggerer
                for one in self.triggerers:
                    one.kill()
                self.audit()

        with self.airflow.in_place():
            FakeClock().run(main)

    def say(self, who, what):
        self.diary.append(f"{asyncio.get_running_loop().time():8.2f} {who} {what}")

    @property
    def said(self):
        return "\n".join(["", *self.diary])

    # What Airflow does.

    def schedule(self):
        self.task.schedule()
        self.say("Airflow", f"begins try {self.task.try_number}")

    def start(self, **fate):
        found = Triggerer(self, **fate)
        self.triggerers.append(found)
        return found

    def hear(self, triggerer, event):
        """An event counts as long as its trigger is there."""
        if self.task.state == "deferred" and triggerer.try_number == self.task.try_number:
            state = self.task.take(event).state
            if state in {"failed", "up_for_retry"}:
                self.task.state = "up_for_retry" if self.task.try_number < self.last_try else "failed"
            self.say("Airflow", f"hears of {self.task.state}")
            self.changed.set()

    def clear(self):
        self.say("Airflow", "clears the task")
        self.vendor.first_try = self.task.try_number + 1
        self.last_try = self.task.try_number + 1 + self.retries
        self.task.state = "cleared"
        self.changed.set()

    async def happens(self, seconds):
        """Whether the task's state changes in time."""
        try:
            await asyncio.wait_for(self.changed.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self.changed.clear()
        return True

    async def ends(self):
        """The trigger has an undisturbed triggerer, and comes to its end."""
        assert await self.happens(1000), f"nothing happens: {self.said}"

    # What must hold.

    def audit(self):
        vendor, state = self.vendor, self.task.state
        said = self.said
        keys = Counter(vendor.started.values())
        assert not keys or max(keys.values()) == 1, f"two jobs for one attempt: {said}"
        for job_id, beside in vendor.beside:
            assert not beside, f"{job_id} was started beside {beside}, or after it: {said}"
        assert state in {"success", "failed"}, f"{state}: {said}"
        newest = vendor.jobs[-1]
        phases = {job_id: vendor.phase(job_id) for job_id in vendor.jobs}
        assert Phase.ACTIVE not in phases.values(), f"something still runs: {phases}: {said}"
        if state == "success":
            assert phases[newest] is Phase.SUCCEEDED, said
            assert self.airflow.pull("task") == newest, said
        else:
            assert phases[newest] is not Phase.SUCCEEDED or vendor.loses, said


@cache
def task_of(kind, retries):
    def make():
        return kind(
            task_id="task",
            service="vendor",
            start_from_trigger=True,
            retries=retries,
            poll_interval=20.0,
        )

    return WorkerFreeTask(Airflow(), make)


@pytest.fixture(autouse=True)
def in_one_thread(monkeypatch):
    """Steps run on the loop's own time: what is a thread elsewhere is a greenlet here."""

    def run(self, step):
        return known_to_end(asyncio.ensure_future(greenback.with_portal_run_sync(step)))

    monkeypatch.setattr(Steps, "run", run)
    monkeypatch.setattr(InTriggerer, "run", lambda self, call: greenback.await_(call()))
    monkeypatch.setattr(recipe, "is_installed", lambda module: True)
    with capture_logs():
        yield


KINDS = pytest.mark.parametrize("kind", [Once, Claimed])


def points(kind):
    """What an undisturbed triggerer passes by."""
    world = World(kind)

    async def play(world):
        world.schedule()
        world.start()
        await world.ends()

    world.run(play)
    return world.triggerers[0].trace


@KINDS
def test_a_triggerer_passes_by_all_that_counts(kind):
    trace = points(kind)
    assert {"prepare", "submit", "submit answered", "GetXCom", "SetXCom answered", "event"} <= set(trace)


@KINDS
def test_a_kill_at_every_point(kind):
    for step in range(1, len(points(kind)) + 1):
        world = World(kind)
        world.vendor.on_the_way = 5.0

        async def play(world, step=step):
            world.schedule()
            world.start(dies_at=step)
            await asyncio.sleep(SILENT)
            if world.task.state == "deferred":
                world.start()
                await world.ends()

        world.run(play)
        assert len(world.vendor.jobs) == 1, step


@KINDS
@pytest.mark.parametrize("told_after", [1.0, 300.0])
def test_a_pause_at_every_point_until_another_triggerer_has_done_all(kind, told_after):
    for step in range(1, len(points(kind)) + 1):
        world = World(kind)

        async def play(world, step=step):
            world.schedule()
            paused = world.start(pauses_at=step)
            await asyncio.sleep(SILENT)
            world.start()
            await world.ends()
            paused.wake()
            await asyncio.sleep(told_after)
            paused.forget_trigger()

        world.run(play)
        assert len(world.vendor.jobs) == 1, step


@KINDS
@pytest.mark.long
@pytest.mark.parametrize("told_after", [300.0])
def test_a_pause_at_every_point_until_another_triggerer_is_at_any_point(kind, told_after):
    every = range(1, len(points(kind)) + 1)
    for step, other in itertools.product(every, every):
        world = World(kind)

        async def play(world, step=step, other=other):
            world.schedule()
            paused = world.start(pauses_at=step)

            def wake():
                paused.wake()
                asyncio.get_running_loop().call_later(told_after, paused.forget_trigger)

            await asyncio.sleep(SILENT)
            world.start(at={other: wake})
            await world.ends()

        world.run(play)
        assert len(world.vendor.jobs) == 1, (step, other)


WRITES = ("SetXCom", "DeleteXCom")
"""Airflow cannot be asked to write only over what was seen. So a write that a process was about to send when it was
paused, and that leaves it after another try has begun, is not guarded. Within one try it does no harm: see above."""


class Schedule:
    """What happens to one task, drawn at random; the same for the same seed."""

    def __init__(self, kind, seed):
        self.random = random = Random(seed)
        self.world = World(kind, retries=random.choice([0, 1, 2]), seed=seed)
        self.world.slow = random.choice([0.01, 0.3, 2.0])
        vendor = self.world.vendor
        vendor.fails = random.choice([0.0, 0.3, 0.8])
        vendor.loses = random.choice([0.0, 0.0, 0.3])
        vendor.on_the_way = random.choice([0.01, 5.0])
        self.clears = random.choice([0, 0, 1, 2])

    async def play(self, world):
        while True:
            world.schedule()
            await self.one_try(world)
            if world.task.state == "cleared":
                await asyncio.sleep(2.0)
                continue
            if world.task.state in {"success", "failed"}:
                if not self.clears:
                    return
                await asyncio.sleep(self.random.uniform(0, 100))
                self.clear(world)
            elif world.task.state == "up_for_retry":
                await asyncio.sleep(self.random.choice([0, 1, 300]) * self.random.random())

    def clear(self, world):
        self.clears -= 1
        world.clear()
        world.changed.clear()

    async def one_try(self, world):
        """Airflow gives the trigger to one triggerer after another, until one comes to the end."""
        random, mine = self.random, []
        for left in range(random.randint(0, 3), -1, -1):
            mine.append(world.start(**(self.fate() if left else {})))
            over = await self.until_it_moves(world, mine[-1])
            if over:
                break
        for one in mine:
            if one.paused:
                self.later(random.uniform(0, 60), one.wake)
            self.told_soon(one)

    def fate(self):
        step = self.random.randint(1, 25)
        pause = {"pauses_at": step, "never_at": WRITES}
        return self.random.choice([{"dies_at": step}, pause, {}])

    async def until_it_moves(self, world, triggerer):
        """Whether the task's state changes before the triggerer has been silent for too long."""
        silent_for = 0.0
        clear_at = self.random.uniform(0, 150) if self.clears and self.random.random() < 0.3 else math.inf
        for second in range(2000):
            if await world.happens(1.0):
                return True
            if second > clear_at:
                self.clear(world)
                return True
            silent_for = silent_for + 1.0 if triggerer.silent else 0.0
            if silent_for and self.random.random() < 0.03:
                triggerer.wake()
            if silent_for >= SILENT:
                self.later(self.random.choice([0.0, 1.0, 30.0, 300.0]) * self.random.random(), triggerer.wake)
                self.told_soon(triggerer)
                return False
        raise AssertionError(f"nothing happens: {world.said}")

    def told_soon(self, triggerer):
        """It is told a moment after it wakes up, or much later."""
        takes = self.random.choice([1.0, 1.0, 10.0])

        def tell():
            if triggerer.paused:
                self.later(1.0, tell)
            else:
                self.later(takes, triggerer.forget_trigger)

        tell()

    @staticmethod
    def later(seconds, call):
        asyncio.get_running_loop().call_later(seconds, call)


@KINDS
@pytest.mark.parametrize("part", range(4))
def test_random_schedules(kind, part):
    for seed in range(130 * part, 130 * part + examples(130)):
        schedule = Schedule(kind, seed)
        try:
            schedule.world.run(schedule.play)
        except AssertionError as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken
