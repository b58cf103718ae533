"""Session parameters: which exist, their defaults, and the statements that set them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from astronomer.lab.snowflake.errors import compilation
from astronomer.lab.snowflake.sqltext import bare

__all__ = ["DEFAULTS", "Parameters", "parse_set", "parse_unset"]

DEFAULTS: dict[str, Any] = {
    "ABORT_DETACHED_QUERY": False,
    "AUTOCOMMIT": True,
    "BINARY_OUTPUT_FORMAT": "HEX",
    "CLIENT_PREFETCH_THREADS": 4,
    "CLIENT_RESULT_CHUNK_SIZE": 160,
    "CLIENT_SESSION_KEEP_ALIVE": False,
    "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY": 3600,
    "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD": 0,
    "CLIENT_TELEMETRY_ENABLED": False,
    "DATE_OUTPUT_FORMAT": "YYYY-MM-DD",
    "ERROR_ON_NONDETERMINISTIC_MERGE": True,
    "JSON_INDENT": 2,
    "LOCK_TIMEOUT": 43200,
    "MULTI_STATEMENT_COUNT": 1,
    "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "ARROW",
    "QUERY_TAG": "",
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    "ROWS_PER_RESULTSET": 0,
    "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS": 0,
    "STATEMENT_TIMEOUT_IN_SECONDS": 172800,
    "STRICT_JSON_OUTPUT": False,
    "TIMESTAMP_LTZ_OUTPUT_FORMAT": "",
    "TIMESTAMP_NTZ_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3",
    "TIMESTAMP_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3 TZHTZM",
    "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ",
    "TIMESTAMP_TZ_OUTPUT_FORMAT": "",
    "TIMEZONE": "Etc/UTC",
    "TIME_OUTPUT_FORMAT": "HH24:MI:SS",
    "TRANSACTION_ABORT_ON_ERROR": False,
    "TRANSACTION_DEFAULT_ISOLATION_LEVEL": "READ COMMITTED",
    "USE_CACHED_RESULT": True,
    "WEEK_OF_YEAR_POLICY": 0,
    "WEEK_START": 0,
}

_SET = re.compile(r"^ALTER\s+SESSION\s+SET\s+(.*)$", re.IGNORECASE | re.DOTALL)
_UNSET = re.compile(r"^ALTER\s+SESSION\s+UNSET\s+(.*)$", re.IGNORECASE | re.DOTALL)
_PAIR = re.compile(r"\s*,?\s*([\w]+)\s*=\s*('(?:[^'\\]|\\.|'')*'|\$\$.*?\$\$|[^\s,]+)", re.DOTALL)


class Parameters:
    """The parameters of one session, over the account's defaults."""

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self.own: dict[str, Any] = {}
        for name, value in (given or {}).items():
            if name.upper() in DEFAULTS:
                self.own[name.upper()] = typed(name.upper(), value)

    def __getitem__(self, name: str) -> Any:
        return self.own.get(name, DEFAULTS[name])

    def set(self, pairs: Mapping[str, Any]) -> None:
        """Set parameters, all or none.

        :raises SnowflakeError: a parameter does not exist, or the value is of the wrong type.
        """
        new = {}
        for name, value in pairs.items():
            if name.upper() not in DEFAULTS:
                raise compilation("001420", "22023", f"invalid property '{name.upper()}' for 'SESSION'")
            new[name.upper()] = typed(name.upper(), value)
        self.own |= new

    def unset(self, names: list[str]) -> None:
        """Return parameters to their defaults."""
        for name in names:
            self.own.pop(name.upper(), None)

    def for_statement(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return every parameter as one statement sees it: its own first, then the session's."""
        given = {name.upper(): value for name, value in (given or {}).items() if value is not None}
        known = {name: typed(name, value) for name, value in given.items() if name in DEFAULTS}
        return {**DEFAULTS, **self.own, **known}

    def as_login_reply(self) -> list[dict[str, Any]]:
        """Return the parameters as the login answer lists them."""
        return [{"name": name, "value": self[name]} for name in DEFAULTS]


def typed(name: str, value: Any) -> Any:
    """Return a value as the type of the parameter's default.

    :raises SnowflakeError: it cannot be one.
    """
    default = DEFAULTS[name]
    text = str(value).strip()
    if isinstance(default, bool):
        if text.lower() in ("true", "false", "1", "0", "on", "off"):
            return text.lower() in ("true", "1", "on")
    elif isinstance(default, int):
        if re.fullmatch(r"\d+", text):
            return int(text)
    else:
        return str(value)
    raise compilation("001008", "22023", f"invalid value [{value}] for parameter '{name}'")


def parse_set(sql: str) -> dict[str, str] | None:
    """Return the parameters an ALTER SESSION SET names, or None when the statement is another one."""
    found = _SET.match(bare(sql))
    if not found:
        return None
    return {name: _unquoted(value) for name, value in _PAIR.findall(found[1])}


def parse_unset(sql: str) -> list[str] | None:
    """Return the parameters an ALTER SESSION UNSET names, or None when the statement is another one."""
    found = _UNSET.match(bare(sql))
    return None if not found else re.findall(r"\w+", found[1])


def _unquoted(value: str) -> str:
    if value.startswith("$$"):
        return value[2:-2]
    if value.startswith("'"):
        return re.sub(r"\\(.)|''", lambda m: m[1] or "'", value[1:-1])
    return value
