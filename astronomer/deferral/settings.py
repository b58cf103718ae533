"""Operator arguments first, then Airflow's configuration, then a default."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from astronomer.deferral._compat import setting

__all__ = ["seconds", "tolerance_of"]

_ATTEMPTS_LOOKED_AT = 10_000


def seconds(value: float | timedelta | None, option: str, default: float) -> float:
    """An operator's duration as seconds; ``None`` means the ``[astronomer_providers]`` option.

    :raises ValueError: it is negative.
    """
    if value is None:
        return setting(option, default)
    found = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if found < 0:
        raise ValueError(f"{option} must not be negative, got {value!r}")
    return found


def tolerance_of(retry_args: Mapping[str, Any] | None) -> float | None:
    """How long tenacity arguments would go on, in seconds; ``None`` where they set no end.

    :param retry_args: arguments of ``tenacity.Retrying``; ``stop`` and ``wait`` count.
    """
    from tenacity import RetryCallState, Retrying

    if not retry_args or "stop" not in retry_args:
        return None
    retrying = Retrying(**{name: retry_args[name] for name in ("stop", "wait") if name in retry_args})
    state, elapsed = RetryCallState(retrying, None, (), {}), 0.0
    for attempt in range(1, _ATTEMPTS_LOOKED_AT):
        state.attempt_number = attempt
        state.outcome_timestamp = state.start_time + elapsed
        if retrying.stop(state):
            return elapsed
        elapsed += float(retrying.wait(state))
    return None
