"""The end of a job whose task a user has ended, in a worker and in a triggerer alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from astronomer.deferral import _compat
from astronomer.deferral.hub import Hub
from astronomer.deferral.job import JobStatus, Phase, RemoteJob
from astronomer.deferral.watch import cancel_and_confirm, look_once

__all__ = ["end_for_user", "in_spite_of_cancels"]

log = logging.getLogger(__name__)

_KILL_BUDGET = 25.0  # seconds; Airflow gives on_kill 30 by default
_going_on: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references


async def in_spite_of_cancels(work: Coroutine[Any, Any, None]) -> bool:
    """Do what a user's end of a task asks for, whatever becomes of the caller; whether it is done yet.

    Airflow 3.3 cancels a trigger again at each sync, about once a second, until it has ended. So the work is a task of
    its own, and goes on when ``on_kill`` is cut short or has used up its time.
    """
    doing = asyncio.ensure_future(work)
    _going_on.add(doing)
    doing.add_done_callback(_has_ended)
    await asyncio.wait({doing}, timeout=_KILL_BUDGET)
    return doing.done()


def _has_ended(doing: asyncio.Task[None]) -> None:
    _going_on.discard(doing)
    if not doing.cancelled() and (error := doing.exception()) is not None:
        log.error("The job of a task that was ended may still be running", exc_info=error)


async def end_for_user(
    job: RemoteJob,
    task: Any,
    *,
    hub: Hub,
    look_for: float,
    go_on_for: float,
    ask: Callable[[Any], Awaitable[Any]] | None = None,
) -> JobStatus | None:
    """End the job of a task that is over, unless the task has succeeded by it.

    A process that was paused hears late of the end of its task: another one has seen the job succeed meanwhile. What
    has come of it since may be of use to others, as the run of a workflow is that has been started.

    :param task: has ``dag_id``, ``run_id``, ``task_id`` and ``map_index``.
    :param look_for: seconds for which it is asked, through bad weather, what the task has succeeded by.
    :param go_on_for: seconds for which the job is asked to end.
    :param ask: puts questions to Airflow; :func:`~astronomer.deferral._compat.ask_supervisor` by default.
    :returns: the last status; ``None`` when the job is left alone, because that cannot be known.
    """
    succeeded = await _compat.has_succeeded(task, ask)
    if succeeded is None:
        return None
    if succeeded:
        status = await look_once(job, hub, look_for, through_weather=True)
        if status is None or status.phase is Phase.SUCCEEDED:
            return status
    return await cancel_and_confirm(job, hub=hub, timeout=go_on_for)
