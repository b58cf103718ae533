"""The trigger that does all of an operator's work: submit, wait and finish, without any worker."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar, cast

from astronomer.deferral import _compat, clock, recipe
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
from astronomer.deferral.life import Life, loaded, mapped_arguments
from astronomer.deferral.outage import Outage
from astronomer.deferral.recipe import Unwritable
from astronomer.deferral.xcom_memory import SUBMITTED_BY, XCOM_KEY, Contested, Tries, XComMemory

__all__ = ["OperatorTrigger"]

T = TypeVar("T")

_AHEAD = 10.0  # of Airflow's own limit, which fails the task and leaves the job alone
_SHARE = 0.2
_STEP_PATIENCE = 5.0  # a step holds a thread, of which there are few
_KILL_BUDGET = 25.0  # Airflow gives on_kill 30 s by default
_NOTING = 600.0


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
        self._ti: Any = None
        self._step: asyncio.Future[Any] | None = None
        self._waiting: BaseTrigger | None = None
        self._taken_over = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the recipe."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"recipe": self.recipe}

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Keep the context: fields are rendered in a thread, because that may ask Airflow, and take its time."""
        self._context = context

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield once: the task's end, or what a worker has to go on with."""
        try:
            yield await self._live()
        except asyncio.CancelledError:
            if self._life is not None:
                self._life.memory.abandoned = True  # a step that still runs must not submit anything
            raise

    async def on_kill(self) -> None:
        """End what was started, because a user ended the task; leave it alone when the trigger only moved."""
        if self._waiting is None and self._life is not None:
            if await _compat.in_other_hands(self.task_instance) is not None:
                return
            killing = Steps.current().run(self._life.task.on_kill)
            await asyncio.wait({killing, *filter(None, [self._step])}, timeout=_KILL_BUDGET)
            self._waiting = self._about_to_wait()
        if self._waiting is not None:
            await self._waiting.on_kill()

    def _about_to_wait(self) -> BaseTrigger | None:
        """The trigger of a step that has deferred, unheard, because the kill came in that moment."""
        if self._step is None or not self._step.done() or self._step.cancelled():
            return None
        deferred = self._step.exception()
        if not isinstance(deferred, TaskDeferred):
            return None
        trigger: BaseTrigger = deferred.trigger
        trigger.task_instance = self.task_instance
        return trigger

    # The one life of a task.

    async def _live(self) -> TriggerEvent:
        state, error = "failed", None
        try:
            await self._begin()
            await self._tell_listeners("running")
            if cast("Life", self._life).memory.is_aging:  # nothing is claimed yet
                await self._begin()
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
        outage = Outage(self.log)
        while True:
            life = cast("Life", self._life)
            try:
                if await self._is_our_turn(life):
                    result = await self._steps(life, outage)
                    return await self._run(partial(self._succeed, result))
                await self._begin(life.owner)  # what it knew was old when it woke up; the claim is its own
                continue
            except Contested as contested:
                self.log.info("Waiting: %s", contested)
                await asyncio.sleep(_soon())
            except (AirflowSkipException, NeedsWorker):
                raise
            except Exception as error:
                pause = outage.pause(
                    error, life.patience, cast("InTriggerer", life.task.in_triggerer).deadline
                )
                if pause is None and await self._left_open(life):
                    raise
                await asyncio.sleep(pause or _soon())
            await self._begin()

    async def _left_open(self, life: Life) -> bool:
        """Note that the retry has to look for the job; ``False`` when the task has not failed: another trigger has it.

        While Airflow cannot be asked, neither is known, and a retry that finds nothing noted starts the job again.
        """
        give_up = asyncio.get_running_loop().time() + _NOTING
        while True:
            try:
                await self._run(life.leave_open)
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
                return True

    async def _steps(self, life: Life, outage: Outage) -> Any:
        step: Callable[[], Any] = life.execute
        while True:
            try:
                return await self._run(step)
            except TaskDeferred as deferred:
                outage.over()
                step = life.resumed(await self._wait_for(life, deferred))

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

    async def _begin(self, owner: str | None = None) -> None:
        """Make the operator anew, with its fields rendered.

        :param owner: the name under which it has claimed the attempt, and submitted nothing yet.
        """
        loop, steps = asyncio.get_running_loop(), Steps.current()
        self._life = await self._run(lambda: self._made(loop, steps, owner or uuid.uuid4().hex))

    def _made(self, loop: asyncio.AbstractEventLoop, steps: Steps, owner: str) -> Life:
        given = cast("Any", self.task_instance)
        written = json.loads(self.recipe)
        started_at, deadline = self._times(written["limit"])
        ti, context = airflow.adopt(given, self._context or given.get_template_context(), started_at)
        self._ti = ti  # whatever goes wrong from here on is an end that listeners are told of
        kind = loaded(written["operator"])
        memory = XComMemory(
            ti,
            tries=Tries.of(given.task, started_at),
            read=lambda: airflow.read_xcom(ti, XCOM_KEY) if kind.remembers else None,
            write=lambda value: ti.xcom_push(XCOM_KEY, value),
            owner=owner,
            claims=kind.claims_submits,
        )
        if memory.has_old_results:
            airflow.delete_result(ti)
        pull = ti.xcom_pull
        arguments = recipe.decode(written["arguments"], lambda task, key: airflow.Pulled(pull(task, key=key)))
        if written["expand"] is not None:
            arguments |= mapped_arguments(written["expand"], ti, kind)
        task = airflow.make_operator(kind, ti, arguments, context, native=written["native"])
        task.returns_dag_result = written["dag_result"]
        task.in_triggerer = InTriggerer(loop, steps, memory, started_at, deadline)
        task.render_template_fields(context)
        life = Life(task, ti, context, memory, owner, patience=getattr(task, "outage_tolerance", 0.0))
        if life.patience:
            task.outage_tolerance = min(life.patience, _STEP_PATIENCE)
        return life

    def _times(self, limit: float | None) -> tuple[float, float | None]:
        """When the task began, and by when it has to have ended, as epoch seconds.

        Airflow's own end of time is absolute, so a restart of the trigger renews nothing. At it, Airflow fails the
        task and leaves the job alone, so the engine has to be a little earlier.
        """
        timeout = getattr(cast("Any", self.task).execution_timeout, "total_seconds", lambda: None)()
        limits = [one for one in (limit, timeout) if one is not None]
        if self.timeout_after is None or not limits:
            return clock.now(), None
        end = self.timeout_after.replace(tzinfo=self.timeout_after.tzinfo or timezone.utc).timestamp()
        return end - min(limits), end - min(_AHEAD, _SHARE * min(limits))

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
        ti = self._ti if self._life is None else self._life.ti
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
        life = self._life
        event: dict[str, Any] = {"why": why}
        if life is not None:
            await self._run(life.leave)
            event |= {"resume": life.to_resume(), "memory": life.settled()}
        return TriggerEvent(event)  # type: ignore[no-untyped-call]

    def _may_be_retried(self) -> bool:
        return bool(cast("Any", self.task).retries)

    def _tell(self, error: Exception) -> None:
        """The error, for the log; a defect with its trace."""
        expected = isinstance(error, (AirflowException, ValueError))
        self.log.error(
            "Task failed: %s: %s", type(error).__name__, error, exc_info=None if expected else error
        )


def _soon() -> float:
    """Seconds after which it is known what somebody else does with the task."""
    return SUBMITTED_BY * random.uniform(1, 1.5)  # noqa: S311  # no secret


def _heard(step: asyncio.Future[Any]) -> None:
    """Of a step that nobody waits for any more, nobody wants to know how it ended."""
    if not step.cancelled():
        step.exception()
