"""Operator arguments first, then Airflow's configuration, then a default."""

from __future__ import annotations

from datetime import timedelta

from astronomer.deferral._compat import setting

__all__ = ["seconds"]


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
