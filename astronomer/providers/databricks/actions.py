"""What the task makes of the way its run ended."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from astronomer.deferral import JobStatus, Phase

__all__ = ["ACTIONS", "action_for", "checked_actions"]

ACTIONS = ("success", "skip", "retry", "fail")


def checked_actions(given: Mapping[str, str] | None) -> dict[str, str]:
    """The mapping, with codes in capitals.

    :param given: Databricks' termination or result code, or a pattern such as ``CLUSTER_*``, to ``success``,
        ``skip``, ``retry`` (fail, and let Airflow retry) or ``fail`` (fail without a retry).
    :raises ValueError: an action is none of these.
    """
    found = {str(code).upper(): action for code, action in (given or {}).items()}
    for code, action in found.items():
        if action not in ACTIONS:
            raise ValueError(
                f"`result_actions` maps {code} to {action!r}, which is none of {', '.join(ACTIONS)}"
            )
    return found


def action_for(actions: Mapping[str, str], status: JobStatus) -> str:
    """What to do about the end of a run; a code by its name goes before one by a pattern."""
    code = status.code or ""
    if code in actions:
        return actions[code]
    for pattern, action in actions.items():
        if code and fnmatchcase(code, pattern):
            return action
    return "success" if status.phase is Phase.SUCCEEDED else "retry"
