"""Databricks' words for the state of a run, and what each means to a wait.

Source: docs.databricks.com/api/workspace/jobs/getrun, ``status`` (``RunStatus``) and the older ``state``
(``RunState``). New codes are added there without notice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from astronomer.deferral import JobStatus, Phase

__all__ = [
    "SUCCESS_WITH_FAILURES",
    "TIMED_OUT",
    "attempts_by_task",
    "failed_tasks",
    "never_ran",
    "start_of",
    "status_of",
]

log = logging.getLogger(__name__)

SUCCESS_WITH_FAILURES = "SUCCESS_WITH_FAILURES"
TIMED_OUT = "TIMEDOUT"

_ENDED = frozenset({"TERMINATED", "SKIPPED", "INTERNAL_ERROR"})
_ACTIVE = frozenset(
    {"BLOCKED", "PENDING", "QUEUED", "RUNNING", "TERMINATING", "WAITING", "WAITING_FOR_RETRY"}
)
_CANCELLED = frozenset({"USER_CANCELED", "CANCELED"})
_SUCCEEDED = frozenset({"SUCCESS", SUCCESS_WITH_FAILURES})
_NEVER_RAN = ("UPSTREAM_", "SKIPPED", "EXCLUDED", "DISABLED")
_unknown_seen: set[str] = set()


def status_of(run: Mapping[str, Any], url: str | None = None) -> JobStatus:
    """Read a run, a task of a run, or an entry of a repair history.

    ``status`` decides where there is one; the older ``state`` calls a run with one failed task INTERNAL_ERROR. A
    state that nobody knows yet counts as running.

    :param url: where a person can look, when the entry itself does not say.
    """
    new, old = run.get("status") or {}, run.get("state") or {}
    state = str(new.get("state") or old.get("life_cycle_state") or "")
    details = new.get("termination_details") or {}
    result = str(old.get("result_state") or "")
    code = str(details.get("code") or result or "")
    if result in (SUCCESS_WITH_FAILURES, TIMED_OUT):  # `status` says no more than SUCCESS, and CANCELED
        code = result
    phase = _phase(state, code)
    ended = phase is not Phase.ACTIVE
    said = details.get("message") or old.get("state_message") or None
    return JobStatus(
        phase,
        raw=f"{state} {code}".strip() if ended else state,
        message=str(said) if ended and said else None,
        url=str(run.get("run_page_url") or url or "") or None,
        started_at=_seconds(run.get("start_time")),
        ended_at=_seconds(run.get("end_time")),
        code=(code or state) if ended else None,
    )


def start_of(run: Mapping[str, Any], url: str | None = None) -> JobStatus:
    """What a run says of its start: it has succeeded once the run has left the queue.

    A run that has ended by a failure of its tasks had started, too; they tell of it.
    """
    status = status_of(run, url)
    started = status.phase is Phase.FAILED and failed_tasks(run) if status.done else status.raw == "RUNNING"
    return replace(status, phase=Phase.SUCCEEDED, message=None, code=None) if started else status


def attempts_by_task(run: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The attempts of each task of a run by its key, oldest first; Databricks lists them in no order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for task in sorted(run.get("tasks") or [], key=lambda task: int(task.get("attempt_number") or 0)):
        found.setdefault(str(task.get("task_key") or ""), []).append(task)
    return found


def failed_tasks(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The newest attempt of each task that failed by itself; a task without siblings is the run's own entry."""
    newest = ((attempts[-1], status_of(attempts[-1])) for attempts in attempts_by_task(run).values())
    ended_badly = (Phase.FAILED, Phase.CANCELLED)
    return [task for task, status in newest if status.phase in ended_badly and not never_ran(status)]


def never_ran(status: JobStatus) -> bool:
    """Whether a task was left out because of those before it, or because the run was told to."""
    return str(status.code or "").startswith(_NEVER_RAN)


def _phase(state: str, code: str) -> Phase:
    if state not in _ENDED:
        if state not in _ACTIVE and state not in _unknown_seen:
            _unknown_seen.add(state)
            log.warning("Databricks reports the unknown run state %r; it counts as running", state)
        return Phase.ACTIVE
    if code in _SUCCEEDED:
        return Phase.SUCCEEDED
    return Phase.CANCELLED if code in _CANCELLED else Phase.FAILED


def _seconds(milliseconds: Any) -> float | None:
    return float(milliseconds) / 1000 if milliseconds else None
