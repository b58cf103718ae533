"""Snowflake's words for the state of a query, and what each means to a wait.

Source: the connector's ``QueryStatus``; ``GET /monitoring/queries/<id>`` as the connector reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from astronomer.deferral import JobStatus, Phase

__all__ = ["CANCELLED", "STATEMENT_TIMEOUT", "status_of"]

log = logging.getLogger(__name__)

CANCELLED = "000604"
STATEMENT_TIMEOUT = frozenset({"000630", "000631"})

# QUEUED_REPARING_WAREHOUSE is the server's own spelling. ABORTING is not final on the server, and RESTARTED is
# missing from the connector's lists altogether.
_ACTIVE = frozenset(
    [
        "RUNNING",
        "QUEUED",
        "RESUMING_WAREHOUSE",
        "QUEUED_REPARING_WAREHOUSE",
        "QUEUED_REPAIRING_WAREHOUSE",
        "BLOCKED",
        "NO_DATA",
        "RESTARTED",
        "ABORTING",
    ]
)
_FAILED = frozenset(["FAILED_WITH_ERROR", "FAILED_WITH_INCIDENT", "DISCONNECTED"])
_unknown_seen: set[str] = set()


def _seconds(milliseconds: Any) -> float | None:
    return float(milliseconds) / 1000 if milliseconds else None


def _code(entry: Mapping[str, Any]) -> str | None:
    """The error code with its leading zeros; the server sends a number or a string."""
    code = entry.get("errorCode")
    return None if code in (None, "", 0, "0") else str(code).zfill(6)


def _phase(raw: str, code: str | None) -> Phase:
    if raw == "SUCCESS":
        return Phase.SUCCEEDED
    if raw in _FAILED:
        # A cancelled query reports FAILED_WITH_ERROR and this code, not ABORTED.
        return Phase.CANCELLED if code == CANCELLED else Phase.FAILED
    if raw == "ABORTED":
        return Phase.CANCELLED
    if raw not in _ACTIVE and raw not in _unknown_seen:
        _unknown_seen.add(raw)
        log.warning("Snowflake reports the unknown query state %r; it counts as running", raw)
    return Phase.ACTIVE


def status_of(entry: Mapping[str, Any], url: str | None) -> JobStatus:
    """What an entry of ``/monitoring/queries`` says about a query."""
    raw, code = str(entry.get("status") or "NO_DATA"), _code(entry)
    return JobStatus(
        _phase(raw, code),
        raw=raw,
        message=entry.get("errorMessage") or None,
        url=url,
        started_at=_seconds(entry.get("startTime")),
        ended_at=_seconds(entry.get("endTime")),
        code=code,
    )
