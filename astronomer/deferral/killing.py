"""The end of a job whose task a user has ended, in a worker and in a triggerer alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from astronomer.deferral import _compat
from astronomer.deferral.hub import Hub
from astronomer.deferral.job import JobStatus, Phase, RemoteJob
from astronomer.deferral.watch import cancel_and_confirm, look_once

__all__ = ["end_for_user"]


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
