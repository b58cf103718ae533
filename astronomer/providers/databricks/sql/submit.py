"""Start a statement once, and find one that was started before.

The REST API has no idempotency token. Each statement carries its submit key as a query tag instead, and whoever does
not know whether an earlier submit arrived looks for that tag in the warehouse's query history first.

Source: docs.databricks.com/api/workspace/statementexecution/executestatement and .../queryhistory/list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from astronomer.deferral import CredentialsRejected, Transient, clock
from astronomer.deferral.patience import insist
from astronomer.providers.databricks.errors import NothingDone, RequestRejected
from astronomer.providers.databricks.jobs.statement import STATEMENTS

if TYPE_CHECKING:
    from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["ARRIVES_WITHIN", "HISTORY_LAGS", "SUBMIT_KEY", "find_started", "start", "statement_key"]

log = logging.getLogger(__name__)

SUBMIT_KEY = "airflow_submit_key"

_HISTORY = "2.0/sql/history/queries"
ARRIVES_WITHIN = 60.0  # seconds for which a request may be under way: then its sender gives it up
HISTORY_LAGS = 30.0  # seconds after which a statement that is not in the history was not started
_LOOK_AGAIN = 5.0
_USUAL_SKEW = 300.0  # seconds between the clocks of a worker and of Databricks
_LARGEST_SKEW = 7200.0
_LONGEST_RANGE = 29 * 86_400.0  # the history answers for 30 days at once
_PAGE = 500
_PAGES = 40
_TAGS = 20  # of one statement
_LONGEST_TAG = 128
_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


def statement_key(submit_key: str, index: int) -> str:
    """What the tag of the ``index``-th statement of an attempt says."""
    return f"{submit_key}-{index}"


async def start(
    client: DatabricksClient,
    body: Mapping[str, Any],
    key: str,
    *,
    tolerance: float,
    check: Callable[[], None] | None = None,
) -> str:
    """Start a statement, once; its id.

    :param body: of the request, without the tag.
    :param key: the tag's value, different for every statement.
    :param tolerance: seconds for which bad weather is waited out.
    :param check: raises where somebody else may be starting it; called right before each request.

    :raises RequestRejected: Databricks does not take it; nothing was started.
    :raises CredentialsRejected: likewise.
    :raises Transient: it was not answered; it may have been started.
    """
    tags = [{"key": SUBMIT_KEY, "value": key}, *map(_fitting, body.get("query_tags") or [])][:_TAGS]
    checked = {} if check is None else {"check": check}
    began, pause = clock.now(), _PAUSE
    while True:
        try:
            answer = await client.post(STATEMENTS, {**body, "query_tags": tags}, **checked)
            return str(answer["statement_id"])
        except CredentialsRejected:
            raise
        except Transient as trouble:
            heard = clock.now()
            left = began + tolerance - heard
            if left <= 0:
                raise
            log.warning("Databricks did not answer the submit of a statement: %s", trouble)
            await asyncio.sleep(max(pause, trouble.retry_after or 0.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
            if isinstance(trouble, NothingDone):
                continue
            # Not by Retry-After: a gateway sends it with a 503, too, when the warehouse has taken the statement.
            # And not from when it was sent: it may have been taken at the end of a minute without an answer.
            where, known_by = str(body.get("warehouse_id") or ""), heard + HISTORY_LAGS
            found = await find_started(client, key, where, began, known_by=known_by, tolerance=left)
            if found:
                return next(iter(found.values()))


def _fitting(tag: Mapping[str, Any]) -> dict[str, str]:
    """A tag of the length that Databricks keeps, as the connector's hook cuts it."""
    return {"key": str(tag["key"]), "value": str(tag["value"])[:_LONGEST_TAG]}


async def find_started(
    client: DatabricksClient, key: str, warehouse_id: str, since: float, *, known_by: float, tolerance: float
) -> dict[int, str]:
    """The ids of the statements whose tag is ``key``, or begins with it, by their index.

    :param key: a submit key, or the key of one statement.
    :param warehouse_id: where they run; empty for all warehouses.
    :param since: epoch seconds before which none was submitted.
    :param known_by: until then a statement may be missing in the history, and the look is repeated.
    :param tolerance: seconds for which bad weather is waited out.

    :raises Transient: the history could not be asked.
    """
    begun, told = clock.now(), False

    async def look() -> dict[int, str]:
        nonlocal begun
        begun = clock.now()
        # A wide range may have many pages, so only the look that decides asks for it.
        skew = _USUAL_SKEW if begun < known_by else _LARGEST_SKEW
        return await _look(client, key, warehouse_id, since, skew)

    while True:
        try:
            found = await insist(look, tolerance=tolerance)
        except RequestRejected as refused:
            log.warning(
                "The query history could not be searched for an earlier submit, so a statement that was started and "
                "never heard of would run twice: %s",
                refused,
            )
            return {}
        # By when it began, not when it ended: a process may have been stopped in between.
        left = known_by - begun
        if found or left <= 0:
            return found
        if not told:
            log.info("No statement of %s is in the query history; one may appear within %.0f s", key, left)
            told = True
        await asyncio.sleep(min(left, _LOOK_AGAIN))


async def _look(
    client: DatabricksClient, key: str, warehouse_id: str, since: float, skew: float
) -> dict[int, str]:
    """One pass over the history, newest first."""
    until = clock.now() + skew
    start = max(since - skew, until - _LONGEST_RANGE)
    span = {"start_time_ms": int(1000 * start), "end_time_ms": int(1000 * until)}
    place = {"warehouse_ids": [warehouse_id]} if warehouse_id else {}
    found: dict[int, str] = {}
    token = None
    for _ in range(_PAGES):
        page = await client.get(
            _HISTORY, filter_by={"query_start_time_range": span, **place}, max_results=_PAGE, page_token=token
        )
        for entry in page.get("res") or []:
            index = _index(entry, key)
            if index is not None:
                found[index] = str(entry["query_id"])
        token = page.get("next_page_token")
        whole = key.rpartition("-")[0] and found  # the key is that of one statement
        if not token or whole or 0 in found:  # the first statement is the oldest
            return found
    log.warning("The query history is too long to be searched to its beginning for %s", key)
    return found


def _index(entry: Mapping[str, Any], key: str) -> int | None:
    """Which statement of ``key`` the entry is."""
    for tag in entry.get("query_tags") or []:
        value = str(tag.get("value") or "")
        if tag.get("key") == SUBMIT_KEY and (value == key or value.startswith(f"{key}-")):
            return int(value.rpartition("-")[2])
    return None
