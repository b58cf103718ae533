"""The trigger that does all of an operator's work: submit, wait and finish, without any worker."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, cast

from astronomer.deferral import _compat, clock
from astronomer.deferral import _compat_triggerer as airflow
from astronomer.deferral._compat import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseTrigger,
    TaskDeferred,
    TriggerEvent,
)
from astronomer.deferral.in_triggerer import InTriggerer, NeedsWorker, Steps
from astronomer.deferral.killing import in_spite_of_cancels
from astronomer.deferral.life import Life
from astronomer.deferral.making import Maker
from astronomer.deferral.outage import Outage, refused_login
from astronomer.deferral.recipe import Unwritable
from astronomer.deferral.xcom_memory import SUBMITTED_BY, XCOM_KEY, Contested, XComMemory

__all__ = ["OperatorTrigger"]

T = TypeVar("T")

_NOTING = 600.0
_LONG = 60.0


@dataclass(eq=False, repr=False)
class OperatorTrigger(BaseTrigger):
    """Run an operator as a worker would: the same steps, each on a thread; and wait on the loop, as its trigger does.

    Whatever it cannot do, a worker goes on with: :class:`~astronomer.deferral.in_triggerer.NeedsWorker`.

    :param recipe: the operator, as it was written down when the Dag was parsed.
    """

    recipe: str

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.timeout_after: datetime | None = None
        self._context: Mapping[str, Any] = {}
        self._life: Life | None = None
        self._maker: Maker | None = None
        self._step: asyncio.Future[Any] | None = None
        self._waiting: BaseTrigger | None = None
        self._taken_over = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the recipe."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"recipe": self.recipe}

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Keep the context: fields are rendered in a thread, because that may ask Airflow, and take its time."""
        self._context = context

    @property
    def _memory(self) -> XComMemory | None:
        return None if self._maker is None else self._maker.memory

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield once: the task's end, or what a worker has to go on with."""
        try:
            yield await self._live()
        except asyncio.CancelledError:
            if self._memory is not None:
                self._memory.abandoned = True  # a step that still runs must not submit anything
            raise

    async def on_kill(self) -> None:
        """End what was started, because a user ended the task; leave it alone when the trigger only moved."""
        await in_spite_of_cancels(self._end_job())

    async def _end_job(self) -> None:
        if self._waiting is None:
            if await _compat.in_other_hands(self.task_instance) is not None:
                return
            life = self._life
            if life is None:
                life = await self._about_to_begin()
                if life is None or await _compat.in_other_hands(self.task_instance) is not None:
                    return
            killing = Steps.current().run(life.task.on_kill)
            await asyncio.wait({killing, *filter(None, [self._step])})
            self._waiting = self._about_to_wait()
        if self._waiting is not None:
            await self._waiting.on_kill()

    async def _about_to_begin(self) -> Life | None:
        """The operator of a trigger that was killed before it had one: an earlier trigger may have started something."""
        if self._maker is None or self._step is None:
            return None
        await asyncio.wait({self._step})  # after a restart, many are made before it
        made = None if self._step.exception() else self._step.result()
        return made if isinstance(made, Life) else await self._maker.made_at_last()

    def _about_to_wait(self) -> BaseTrigger | None:
        """The trigger of a step that has deferred, unheard, because the kill came in that moment."""
        deferred = None if self._step is None else self._step.exception()
        if not isinstance(deferred, TaskDeferred):
            return None
        trigger: BaseTrigger = deferred.trigger
        trigger.task_instance = self.task_instance
        return trigger

    # The one life of a task.

    async def _live(self) -> TriggerEvent:
        state, error = "failed", None
        try:
            await self._work()
            await self._tell_listeners("success")
            return airflow.ended("success", cast("Life", self._life).noted())
        except (NeedsWorker, Unwritable) as reason:
            return await self._hand_over(str(reason))
        except AirflowSkipException as skipped:
            self.log.info("Skipping the task: %s", skipped)
            state = "skipped"
        except Exception as failed:  # noqa: BLE001  # whatever it is, the task has failed with it
            error = failed
            self._tell(failed)
            final = isinstance(failed, (AirflowFailException, AirflowSensorTimeout))
            if final and self._may_be_retried():
                fail = {"fail": str(failed), "resume": self._life and self._life.to_resume()}
                return TriggerEvent(fail)  # type: ignore[no-untyped-call]  # a trigger's would be
        await self._run(self._show)
        await self._tell_listeners(state, error)
        return airflow.ended(state)

    async def _work(self) -> None:
        """The operator's steps, with its waits between them, and its success.

        A result that cannot be pushed is no reason to start another job: the retry reads the same one.
        What is not a step's fault, bad weather and a claim of somebody else's, is slept over here, and not in its
        thread. Then the task goes on as after a restart, from what it remembers.
        """
        outage, owner, told, corrected_at = Outage(self.log), None, False, -math.inf
        while True:
            try:
                life, owner = await self._begin(owner), None
                if not told:
                    told = True
                    await self._tell_listeners("running")
                    if life.memory.is_aging:  # nothing is claimed yet
                        continue
                if await self._is_our_turn(life):
                    result = await self._steps(life, outage)
                    return await self._run(partial(self._succeed, result))
                owner = life.owner  # what it knew was old when it woke up; the claim is its own
            except Contested as contested:
                self.log.info("Waiting: %s", contested)
                await asyncio.sleep(_soon())
            except (AirflowSkipException, NeedsWorker, Unwritable):
                raise
            except Exception as error:
                if clock.now() - corrected_at > _NOTING and await self._were_corrected(error):
                    corrected_at = clock.now()
                    continue
                pause = outage.pause(error, *self._patience())
                if pause is None and await self._noted(XComMemory.leave_open):
                    raise
                await asyncio.sleep(pause or _soon())

    def _patience(self) -> tuple[float, float | None]:
        """Seconds for which an outage is borne, and when there is no time left; at the beginning it is Airflow's."""
        life = self._life
        return (_NOTING, None) if life is None else (life.patience, _place_of(life).deadline)

    async def _were_corrected(self, error: Exception) -> bool:
        """Whether a login was refused with what is no longer in the Airflow connection, as a worker would not have."""
        if self._life is None or not refused_login(error):
            return False
        try:
            return await _place_of(self._life).were_corrected()
        except Exception:  # noqa: BLE001  # the refusal is what the task fails with
            return False

    async def _noted(self, note: Callable[[XComMemory], object]) -> bool:
        """Note that the retry has to look for the job; ``False`` when the task has not failed: another trigger has it.

        While Airflow cannot be asked, neither is known, and a retry that finds nothing noted starts the job again.
        """
        memory, give_up = self._memory, asyncio.get_running_loop().time() + _NOTING
        while memory is not None:
            try:
                await self._run(partial(note, memory))
            except Contested as contested:
                self.log.info("Waiting: %s", contested)
                return False
            except Exception as error:
                if asyncio.get_running_loop().time() > give_up:
                    self.log.exception("A retry may start the job of this task again")
                    return True
                self.log.warning("Airflow cannot be told that the job may still run: %s", error)
                await asyncio.sleep(_soon())
            else:
                break
        return True

    async def _steps(self, life: Life, outage: Outage) -> Any:
        step: Callable[[], Any] = life.execute
        while True:
            try:
                return await self._run(step)
            except TaskDeferred as deferred:
                began = clock.now()
                step = life.resumed(await self._wait_for(life, deferred))
                if clock.now() - began > _LONG:  # else it may be the same result, that cannot be read
                    outage.over()

    async def _is_our_turn(self, life: Life) -> bool:
        """Whether nobody else may be submitting; if so, their claim is taken over, and their submit let arrive.

        Two that live would take over from each other for ever: one of them has to be so slow that the other one finds
        its own claim.
        """
        other = life.memory.last()
        pause = await self._run(life.memory.take_over)
        if pause:
            pause *= 3 if self._taken_over and other is not None and life.owner > other.owner else 1
            self._taken_over = True
            self.log.info(
                "A submit of this task may be under way in another triggerer: looking in %g s", pause
            )
            await asyncio.sleep(pause)
        return not pause

    async def _wait_for(self, life: Life, deferred: Any) -> dict[str, Any]:
        """What the trigger reports, as the step that a worker would be resumed with."""
        trigger = deferred.trigger
        trigger.task_instance = self.task_instance
        trigger.not_before = 0.0  # no worker has to be seen to exit
        if hasattr(trigger, "outage_tolerance"):
            trigger.outage_tolerance = life.patience
        self._waiting = trigger  # and it stays when this is cancelled: its job is what on_kill has to end
        await self._run(life.show)
        async with aclosing(trigger.run()) as events:
            event = await anext(events)
        self._waiting = None
        return {"method": deferred.method_name, "kwargs": deferred.kwargs or {}, "event": event.payload}

    # Steps, each on a thread.

    async def _run(self, step: Callable[[], T]) -> T:
        self._step = running = Steps.current().run(step)
        running.add_done_callback(_heard)
        return await asyncio.shield(running)

    async def _begin(self, owner: str | None) -> Life:
        """Make the operator anew, with its fields rendered.

        :param owner: the name under which it has claimed the attempt, and submitted nothing yet.
        """
        if self._maker is None:
            self._maker = Maker(self.recipe, self.task_instance, self._context, self.timeout_after)
        self._life = await self._run(self._maker.step(owner))
        return self._life

    def _succeed(self, result: Any) -> None:
        life = cast("Life", self._life)
        life.check_size(result)
        airflow.push_result(life.ti, life.task, result)
        life.show()

    def _show(self) -> None:
        if self._life is not None:
            self._life.show()

    async def _tell_listeners(self, state: str, error: Exception | None = None) -> None:
        """What a worker tells them, also of a task that could not be made; on no step's thread."""
        ti = getattr(self._maker, "ti", None) if self._life is None else self._life.ti
        if ti is None:
            return
        more = {"error": error} if state == "failed" else {}
        lineage = getattr(getattr(ti.task, "in_triggerer", None), "lineage", ())
        telling = Steps.current().tell(lambda: airflow.tell_listeners(state, ti, lineage, **more))
        try:
            await asyncio.shield(telling)
        except Exception:  # whatever a listener does, it is not the task's end
            self.log.exception("A listener failed")

    async def _hand_over(self, why: str) -> TriggerEvent:
        self.log.info("A worker goes on: %s", why)
        resume = self._life and self._life.to_resume()
        event: dict[str, Any] = {"why": why} | ({"resume": resume} if resume else {})
        claim = None if self._memory is None else self._memory.claim_of_another()
        if claim is not None:
            await self._noted(lambda memory: memory.seize(claim))
            await asyncio.sleep(SUBMITTED_BY)
            await self._noted(lambda _: cast("Maker", self._maker).remember())
        memory = self._memory
        if memory is not None and (begun := memory.last()) is not None:
            await self._noted(XComMemory.leave)
            event["memory"] = {"key": XCOM_KEY, "value": memory.after_success()}
            if resume is None and memory.unsettled() is not None:
                event["begun"] = {"attempt": asdict(begun), "generation": memory.identity.generation}
        return TriggerEvent(event)  # type: ignore[no-untyped-call]

    def _may_be_retried(self) -> bool:
        return bool(cast("Any", self.task).retries)

    def _tell(self, error: Exception) -> None:
        """The error, for the log; a defect with its trace."""
        expected = isinstance(error, (AirflowException, ValueError))
        self.log.error(
            "Task failed: %s: %s", type(error).__name__, error, exc_info=None if expected else error
        )


def _place_of(life: Life) -> InTriggerer:
    return cast("InTriggerer", life.task.in_triggerer)


def _soon() -> float:
    """Seconds after which it is known what somebody else does with the task."""
    return SUBMITTED_BY * random.uniform(1, 1.5)  # noqa: S311  # no secret


def _heard(step: asyncio.Future[Any]) -> None:
    """Of a step that nobody waits for any more, nobody wants to know how it ended."""
    if not step.cancelled():
        step.exception()
