"""How a statement fails: Databricks' error conditions, and DuckDB's errors in their words."""

from __future__ import annotations

import re

__all__ = ["DIVIDE_BY_ZERO", "SqlError", "quoted", "syntax", "translate", "unbound", "unknown_object"]

DIVIDE_BY_ZERO = "lab:divide-by-zero"
"""The text by which a division by zero is known in DuckDB's error."""


class SqlError(Exception):
    """The error of a statement that was accepted and then failed.

    :param condition: Databricks' name for it, such as ``TABLE_OR_VIEW_NOT_FOUND``; empty for a bare message.
    :param code: the ``error_code`` of the statement's status.
    """

    def __init__(self, condition: str, text: str, sql_state: str = "", code: str = "BAD_REQUEST") -> None:
        super().__init__(condition, text, sql_state)
        self.condition = condition
        self.sql_state = sql_state
        self.code = code
        self.message = f"[{condition}] {text} SQLSTATE: {sql_state}" if condition else text

    def __str__(self) -> str:
        return self.message


_QUALIFY = (
    "Verify the spelling and correctness of the schema and catalog.\n"
    "If you did not qualify the name with a schema, verify the current_schema() output, or qualify the name with the "
    "correct schema and catalog.\nTo tolerate the error on drop use DROP VIEW IF EXISTS or DROP TABLE IF EXISTS."
)
_DOES_NOT_EXIST = re.compile(
    r"(Table|View|Schema|Scalar Function|Table Function|Catalog) with name \"?([^\"!]+)\"? does not exist"
)
_EXISTS = re.compile(r"(Table|View|Schema) with name \"?([^\"]+?)\"? already exists")
_NO_COLUMN = re.compile(r"Referenced (?:update )?column \"([^\"]+)\" (?:was )?not found")
_NO_NAMESPACE = re.compile(r"(?:Catalog|No catalog \+ schema named) \"([^\"]+)\"")
_CAST = re.compile(r"Could not convert string '(.*?)' to (\w+)", re.DOTALL)
_SYNTAX = re.compile(r"syntax error at (?:or near )?\"?([^\"\n]+)\"?", re.IGNORECASE)


def unknown_object(kind: str, name: str) -> SqlError:
    """Return the error for a table, schema, catalog or function that does not exist."""
    if kind in {"Table", "View"}:
        text = f"The table or view {quoted(name)} cannot be found. {_QUALIFY}"
        return SqlError("TABLE_OR_VIEW_NOT_FOUND", text, "42P01")
    if kind == "Schema":
        return SqlError("SCHEMA_NOT_FOUND", f"The schema {quoted(name)} cannot be found. {_QUALIFY}", "42704")
    if kind == "Catalog":
        return SqlError("NO_SUCH_CATALOG_EXCEPTION", f"Catalog '{name}' was not found.", "42704")
    text = f"Cannot resolve routine {quoted(name)} on search path [`system`.`builtin`, `system`.`session`]."
    return SqlError("UNRESOLVED_ROUTINE", text, "42883")


def unbound(name: str) -> SqlError:
    """Return the error for a parameter marker without a value."""
    text = (
        f"Found the unbound parameter: {name}. Please, fix `args` and provide a mapping of the parameter to either a SQL "
        "literal or collection constructor functions such as `map()`, `array()`, `struct()`."
    )
    return SqlError("UNBOUND_SQL_PARAMETER", text, "42P02")


def syntax(near: str) -> SqlError:
    """Return the error for a text that is not SQL."""
    return SqlError("PARSE_SYNTAX_ERROR", f"Syntax error at or near '{near}'.", "42601")


def quoted(name: str) -> str:
    """Return a dotted name with each part in backticks, without the lab's own prefix of catalogs."""
    return ".".join(f"`{part.removeprefix('cat_')}`" for part in name.replace('"', "").split("."))


def translate(error: Exception) -> SqlError:
    """Return what Databricks would say where DuckDB says ``error``."""
    if isinstance(error, SqlError):
        return error
    text = str(error)
    if DIVIDE_BY_ZERO in text:
        reason = "Division by zero. Use `try_divide` to tolerate divisor being 0 and return NULL instead."
        return SqlError("DIVIDE_BY_ZERO", reason, "22012")
    if found := _DOES_NOT_EXIST.search(text):
        return unknown_object(found[1], found[2])
    if found := _EXISTS.search(text):
        return _already_exists(found[1], found[2])
    if found := _NO_COLUMN.search(text):
        reason = f"A column, variable, or function parameter with name `{found[1]}` cannot be resolved."
        return SqlError("UNRESOLVED_COLUMN.WITHOUT_SUGGESTION", reason, "42703")
    if found := _CAST.search(text):
        reason = f'The value \'{found[1]}\' of the type "STRING" cannot be cast to "{found[2]}" because it is malformed.'
        return SqlError("CAST_INVALID_INPUT", reason, "22018")
    return _by_class(type(error).__name__, text)


def _already_exists(kind: str, name: str) -> SqlError:
    if kind == "Schema":
        return SqlError(
            "SCHEMA_ALREADY_EXISTS",
            f"Cannot create schema {quoted(name)} because it already exists.",
            "42P06",
        )
    text = f"Cannot create table or view {quoted(name)} because it already exists."
    return SqlError("TABLE_OR_VIEW_ALREADY_EXISTS", text, "42P07")


def _by_class(name: str, text: str) -> SqlError:
    if name == "ParserException":
        found = _SYNTAX.search(text)
        return syntax(found[1].strip() if found else "end of input")
    if name == "InvalidInputException":
        return SqlError("USER_RAISED_EXCEPTION", text.partition(": ")[2], "P0001")
    if found := _NO_NAMESPACE.search(text):
        return unknown_object("Schema" if "." in found[1] else "Table", found[1])
    first_line = text.partition("\n")[0]
    return SqlError("INTERNAL_ERROR", first_line, "XX000", "INTERNAL_ERROR")
