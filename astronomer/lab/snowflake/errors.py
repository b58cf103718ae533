"""The errors a Snowflake account answers with: six-digit code, SQLSTATE and message as the real service words them."""

from __future__ import annotations

import re

import duckdb
from sqlglot.errors import ParseError

__all__ = ["SnowflakeError", "canceled", "compilation", "translate", "unsupported"]


class SnowflakeError(Exception):
    """An error as the service reports it.

    :param code: six digits, such as ``002003``.
    :param sqlstate: five characters, such as ``42S02``.
    :param message: the text clients show.
    """

    def __init__(self, code: str, sqlstate: str, message: str) -> None:
        super().__init__(code, sqlstate, message)
        self.code = code
        self.sqlstate = sqlstate
        self.message = message

    def __str__(self) -> str:
        return f"{self.code} ({self.sqlstate}): {self.message}"


def compilation(code: str, sqlstate: str, text: str) -> SnowflakeError:
    """Return an error found while a statement is compiled."""
    return SnowflakeError(code, sqlstate, f"SQL compilation error:\n{text}")


def unsupported(feature: str) -> SnowflakeError:
    """Return the error for something the account cannot do."""
    return SnowflakeError("000002", "0A000", f"Unsupported feature '{feature}'.")


def canceled() -> SnowflakeError:
    """Return the error of a query that somebody cancelled."""
    return SnowflakeError("000604", "57014", "SQL execution canceled")


def timed_out(seconds: float) -> SnowflakeError:
    """Return the error of a query that ran longer than STATEMENT_TIMEOUT_IN_SECONDS."""
    text = f"Statement reached its statement or warehouse timeout of {seconds:g} second(s) and was canceled."
    return SnowflakeError("000630", "57014", text)


def missing(kind: str, name: str) -> SnowflakeError:
    """Return the error for a name that does not exist, or that the user may not see."""
    sqlstate = "42S02" if kind == "Object" else "02000"
    return compilation("002003", sqlstate, f"{kind} '{name}' does not exist or not authorized.")


# What DuckDB says -> how Snowflake says it; groups of the pattern fill the message. The first match wins.
_COMPILATION = (
    (r"SET schema: No catalog \+ schema named \"([^\"]+)\"", "002043", "02000",
     "Object does not exist, or operation cannot be performed."),
    (r"because schema \"([^\".]+)\.[^\"]+\" does not exist|Catalog \"([^\"]+)\" does not exist", "002003", "02000",
     "Database '{0}' does not exist or not authorized."),
    (r"Table with name \"?([^\"\s]+)\"? does not exist because schema \"([^\"]+)\"", "002003", "02000",
     "Schema '{1}' does not exist or not authorized."),
    (r"(?:Table|View) with name \"?([^\"\s]+?)\"? does not exist", "002003", "42S02",
     "Object '{0}' does not exist or not authorized."),
    (r"Schema with name \"?([^\"\s]+?)\"? does not exist", "002003", "02000",
     "Schema '{0}' does not exist or not authorized."),
    (r"(?:Table|View|Schema|Sequence) with name \"?([^\"\s]+?)\"? already exists", "002002", "42710",
     "Object '{0}' already exists."),
    (r"Function with name \"?([^\"\s]+?)\"? does not exist", "002140", "42601", "Unknown function {0}"),
    (r"Referenced column \"([^\"]+)\" not found", "000904", "42000", "error line 1 at position 0\ninvalid identifier '{0}'"),
    (r"does not have a column (?:with name|named) \"([^\"]+)\"", "000904", "42000", "error line 1 at position 0\ninvalid identifier '{0}'"),
    (r"syntax error at or near \"([^\"]*)\"", "001003", "42000", "syntax error line 1 at position 0 unexpected '{0}'."),
    (r"syntax error at end of input", "001003", "42000", "syntax error line 1 at position 0 unexpected '<EOF>'."),
    (r"must appear in the GROUP BY clause", "000979", "42601", "expression is not a valid group by expression"),
)  # fmt: skip

_EXECUTION = (
    (r"Division by zero", "100051", "22012", "Division by zero"),
    (r"NOT NULL constraint failed", "100072", "22000", "NULL result in a non-nullable column"),
    (r"Could not convert string '(.*)' to (?:U?(?:BIG|HUGE|SMALL|TINY)?INT\w*|DECIMAL|DOUBLE|FLOAT)", "100038", "22018",
     "Numeric value '{0}' is not recognized"),
    (r"(?:date|DATE) field value out of range: \"(.*?)\"|invalid date field format: \"(.*?)\"", "100040", "22007",
     "Date '{0}' is not recognized"),
    (r"timestamp field value out of range: \"(.*?)\"|invalid timestamp field format: \"(.*?)\"", "100035", "22007",
     "Timestamp '{0}' is not recognized"),
    (r"Could not convert string '(.*)' to BOOL", "100037", "22018", "Boolean value '{0}' is not recognized"),
    (r"Out of Range Error", "100039", "22003", "Numeric value is out of representable range"),
    (r"Conflict on|write-write conflict|Transaction conflict|has been altered", "000625", "57014",
     "Statement was aborted because of a concurrent change of the same data."),
)  # fmt: skip


def translate(error: Exception) -> SnowflakeError:
    """Return what Snowflake would have answered where fakesnow or DuckDB raised ``error``."""
    if isinstance(error, SnowflakeError):
        return error
    if isinstance(error, ParseError):
        return _syntax(error)
    if isinstance(error, NotImplementedError):
        return unsupported(str(error) or "statement")
    text = str(getattr(error, "raw_msg", None) or error)
    for pattern, code, sqlstate, message in _COMPILATION:
        if found := re.search(pattern, text):
            return compilation(code, sqlstate, message.format(*_groups(found)))
    for pattern, code, sqlstate, message in _EXECUTION:
        if found := re.search(pattern, text, re.DOTALL):
            return SnowflakeError(code, sqlstate, message.format(*_groups(found)))
    if isinstance(error, duckdb.InterruptException):
        return canceled()
    number, state = getattr(error, "errno", None), getattr(error, "sqlstate", None)
    if isinstance(number, int) and number > 0 and state:
        return _named(number, str(state), text)
    first_line = text.partition("\n")[0]
    return SnowflakeError(
        "000603", "XX000", f"SQL execution internal error:\nProcessing aborted: {first_line}"
    )


def _groups(found: re.Match[str]) -> list[str]:
    return [group for group in found.groups() if group is not None]


def _named(errno: int, sqlstate: str, text: str) -> SnowflakeError:
    """Return an error that fakesnow already numbered."""
    if errno == 1003:
        line, col = re.search(r"Line (\d+)", text), re.search(r"Col: (\d+)", text)
        token = (text.splitlines()[-1].split() or ["<EOF>"])[-1]
        at = f"line {line[1] if line else 1} at position {max(int(col[1]) - len(token), 0) if col else 0}"
        return compilation("001003", "42000", f"syntax error {at} unexpected '{token}'.")
    prefix = "" if text.startswith("SQL compilation error") or errno >= 90000 else "SQL compilation error:\n"
    return SnowflakeError(f"{errno:06d}", sqlstate, prefix + text)


def _syntax(error: ParseError) -> SnowflakeError:
    found = error.errors[0] if error.errors else {}
    token = found.get("highlight") or "<EOF>"
    position = max(int(found.get("col") or 1) - len(str(token)), 0)
    text = f"syntax error line {found.get('line') or 1} at position {position} unexpected '{token}'."
    return compilation("001003", "42000", text)
