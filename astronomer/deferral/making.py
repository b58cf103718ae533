"""How a trigger makes its operator: of the recipe, with what the task remembers, and with its fields rendered."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

from astronomer.deferral import _compat_triggerer as airflow
from astronomer.deferral import clock, recipe
from astronomer.deferral.errors import Transient
from astronomer.deferral.in_triggerer import InTriggerer, NeedsWorker, Steps
from astronomer.deferral.life import Life, loaded, mapped_arguments
from astronomer.deferral.xcom_memory import XCOM_KEY, Tries, XComMemory

__all__ = ["Maker"]

_AHEAD = 10.0  # of Airflow's own limit, which fails the task and leaves the job alone
_SHARE = 0.2
_INSISTING, _PAUSE = 600.0, 15.0
_STEP_PATIENCE = 5.0  # a step holds a thread, of which there are few


@dataclass
class Maker:
    """Makes the operator of one trigger, as often as it has to be.

    :param recipe: the operator, as it was written down when the Dag was parsed.
    :param given: the task instance, as Airflow gives it to the trigger.
    :param context: of its templates, where Airflow has given one.
    :param timeout_after: when Airflow ends the trigger.
    :ivar ti: the running task instance: from then on, whatever goes wrong is an end that listeners are told of.
    :ivar memory: what the task remembers, as soon as that is known.
    """

    recipe: str
    given: Any
    context: Mapping[str, Any]
    timeout_after: datetime | None
    ti: Any = None
    memory: XComMemory | None = None
    _remember: Any = None

    def step(self, owner: str | None = None) -> Callable[[], Life]:
        """What makes the operator, with its fields rendered; for a step's thread.

        :param owner: the name under which it has claimed the attempt, and submitted nothing yet.
        """
        return partial(self._make, asyncio.get_running_loop(), Steps.current(), owner or uuid.uuid4().hex)

    async def made_at_last(self) -> Life | None:
        """The operator, through an Airflow that does not answer; ``None`` where it is not here, and not needed."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _INSISTING
        while True:
            try:
                return await Steps.current().run(self.step())
            except Transient:
                if loop.time() > give_up:
                    raise
                await asyncio.sleep(_PAUSE)
            except NeedsWorker:
                if self.memory is None or self.memory.unsettled() is None:
                    return None
                raise

    def _make(self, loop: asyncio.AbstractEventLoop, steps: Steps, owner: str) -> Life:
        """The operator.

        :raises NeedsWorker: this triggerer does not have it.
        :raises Transient: Airflow does not tell what the task remembers.
        """
        written = json.loads(self.recipe)
        started_at, deadline = self._times(written["limit"])
        context = self.context or self.given.get_template_context()
        ti, context = airflow.adopt(self.given, context, started_at)
        self.ti = ti
        tries = Tries.of(self.given.task, started_at)
        self._remember = partial(_memory_of, ti, tries, owner)
        try:
            kind = loaded(written["operator"])
        except Exception:  # a worker, or a retry, goes on with what another triggerer has begun
            self.remember()
            raise
        self._remember = partial(_memory_of, ti, tries, owner, kind.remembers, kind.claims_submits)
        memory = self.remember()
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

    def remember(self) -> XComMemory:
        """Read again what the task remembers.

        :raises Transient: Airflow does not tell.
        """
        self.memory = self._remember()
        return self.memory

    def _times(self, limit: float | None) -> tuple[float, float | None]:
        """When the task began, and by when it has to have ended, as epoch seconds.

        Airflow's own end of time is absolute, so a restart of the trigger renews nothing. At it, Airflow fails the
        task and leaves the job alone, so the engine has to be a little earlier.
        """
        timeout = getattr(self.given.task.execution_timeout, "total_seconds", lambda: None)()
        limits = [one for one in (limit, timeout) if one is not None]
        if self.timeout_after is None or not limits:
            return clock.now(), None
        end = self.timeout_after.replace(tzinfo=self.timeout_after.tzinfo or timezone.utc).timestamp()
        return end - min(limits), end - min(_AHEAD, _SHARE * min(limits))


def _memory_of(ti: Any, tries: Tries, owner: str, remembers: bool = True, claims: bool = False) -> XComMemory:
    """What the task remembers.

    :raises Transient: Airflow does not tell. Who failed then would pass for somebody who has started nothing.
    """
    try:
        return XComMemory(
            ti,
            tries=tries,
            read=lambda: airflow.read_xcom(ti, XCOM_KEY) if remembers else None,
            write=lambda value: ti.xcom_push(XCOM_KEY, value),
            owner=owner,
            claims=claims,
        )
    except Exception as error:
        raise Transient(f"Airflow does not tell what the task remembers: {error}") from error
