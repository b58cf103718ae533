"""The states that a sensor is given."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["states_given"]


def states_given(
    given: Collection[str] | None, name: str, default: list[str], known: Collection[str]
) -> list[str]:
    """The states as plain words.

    :raises ValueError: one is not a state of what is waited for.
    """
    found = default if given is None else [str(getattr(state, "value", state)) for state in given]
    wrong = sorted(set(found) - set(known))
    if name == "allowed_states" and not found:
        raise ValueError("`allowed_states` is empty, so the sensor could never succeed.")
    if wrong or isinstance(given, str):
        raise ValueError(f"`{name}` takes a list of {', '.join(sorted(known))}; got {given!r}")
    return found
