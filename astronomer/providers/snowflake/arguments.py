"""What the operators and the sensor of this family do with the arguments they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astronomer.providers.snowflake import statements

__all__ = ["merge_hook_params", "reject_empty", "tolerance_of"]

_ATTEMPTS_LOOKED_AT = 10_000


def merge_hook_params(given: Mapping[str, Any] | None, **named: Any) -> dict[str, Any]:
    """The named arguments that were set, under those of ``hook_params``, as the stock operators merge them."""
    return {name: value for name, value in named.items() if value is not None} | dict(given or {})


def reject_empty(sql: Any) -> None:
    """Fail while the Dag is parsed, when the SQL is there to be seen and holds no statement.

    :raises ValueError: it is empty, or only comment.
    """
    pieces = [sql] if isinstance(sql, str) else sql
    if not isinstance(pieces, (list, tuple)):
        return
    seen = [one for one in pieces if isinstance(one, str)]
    rendered_later = any(
        "{{" in one or "{%" in one or one.endswith((".sql", ".json", ".hql")) for one in seen
    )
    if len(seen) == len(pieces) and not rendered_later:
        statements.split(sql, True)


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
