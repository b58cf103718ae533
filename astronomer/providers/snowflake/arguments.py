"""What the operators and the sensor of this family do with the arguments they share."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from astronomer.providers.snowflake import statements

__all__ = [
    "merge_hook_params",
    "plain",
    "reject_empty",
    "server_limit",
    "statement_options",
    "tag_of",
]

_SERVER_IS_LATER = 30  # the engine cancels at the deadline; the server is there when no triggerer is
_LONGEST_STATEMENT = 604_800  # Snowflake's maximum, in seconds


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


def plain(hook_params: Mapping[str, Any]) -> dict[str, Any]:
    """The hook parameters as plain JSON, in which they travel to the triggerer.

    :raises ValueError: one of them is not.
    """
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(hook_params)))
    except TypeError as error:
        raise ValueError(
            f"`hook_params` must be plain JSON values to reach the triggerer: {error}"
        ) from error
    return copy


def server_limit(deadline: float) -> int:
    """Seconds after which the server ends a statement: a little after the engine, which says why, would."""
    return max(1, math.ceil(deadline - time.time())) + _SERVER_IS_LATER


def statement_options(
    session: Mapping[str, Any], tag: Mapping[str, Any], deadline: float | None
) -> dict[str, Any]:
    """Parameters of one statement: a tag, unless the session has one, and the server's own time limit.

    :param session: the session's parameters, by their names in capitals; a lower limit of its own stays.
    :param tag: what the tag says; Snowflake keeps 2000 characters, so what matters comes first.
    :param deadline: epoch seconds.
    """
    options: dict[str, Any] = {}
    if not session.get("QUERY_TAG"):
        options["QUERY_TAG"] = json.dumps(dict(tag))[:2000]
    if deadline is not None:
        limit = server_limit(deadline)
        own = int(session.get("STATEMENT_TIMEOUT_IN_SECONDS") or limit)
        options["STATEMENT_TIMEOUT_IN_SECONDS"] = min(limit, own, _LONGEST_STATEMENT) if own > 0 else limit
    return options


def tag_of(ti: Any, submit_key: str | None = None) -> dict[str, Any]:
    """What the query tag says of the task instance."""
    key = {} if submit_key is None else {"submit_key": submit_key}
    return key | {
        "airflow_dag_id": ti.dag_id,
        "airflow_task_id": ti.task_id,
        "airflow_run_id": ti.run_id,
        "airflow_map_index": -1 if ti.map_index is None else ti.map_index,
    }
