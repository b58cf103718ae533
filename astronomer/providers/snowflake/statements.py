"""What a text of SQL is made of: statements, and what each of them needs from the session."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

__all__ = [
    "begins_transaction",
    "bind",
    "first_word",
    "is_file_transfer",
    "needs_transaction",
    "split",
    "without_comments",
]

_COMMENT = re.compile(r"--[^\n]*|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKEN = re.compile(
    rf"""(?P<comment>{_COMMENT.pattern})|'(?:[^'\\]|\\.|'')*'|"(?:[^"]|"")*"|\$\$.*?\$\$|;|[^\s;'"$/-]+|\S""",
    re.DOTALL,
)
_LEADING = re.compile(rf"\A(?:\s|;|{_COMMENT.pattern})*", re.DOTALL)
_READ_ONLY = frozenset(
    [
        "SELECT",
        "WITH",
        "VALUES",
        "SHOW",
        "DESCRIBE",
        "DESC",
        "EXPLAIN",
        "LIST",
        "LS",
        "USE",
        "SET",
        "UNSET",
        "ALTER_SESSION",
    ]
)
_ATOMIC = frozenset(
    [
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "COPY",
        "TRUNCATE",
        "CREATE",
        "DROP",
        "ALTER",
        "COMMENT",
        "GRANT",
        "REVOKE",
        "UNDROP",
    ]
)


def without_comments(statement: str) -> str:
    """The statement without leading comments and separators; empty when there is nothing else in it."""
    return _LEADING.sub("", statement).strip()


def first_word(statement: str) -> str:
    """The keyword that says what kind of statement it is, in capitals."""
    words = re.findall(r"[A-Za-z_]+", without_comments(statement)[:200])
    if len(words) > 1 and words[0].upper() == "ALTER" and words[1].upper() == "SESSION":
        return "ALTER_SESSION"
    return words[0].upper() if words else ""


def split(sql: str | Iterable[str], split_statements_too: bool) -> list[str]:
    """The statements to run, in order, as the stock hook splits them, without those that are only comment.

    :raises ValueError: nothing is left.
    """
    # The triggerer loads this file, and importing the connector takes seconds.
    from snowflake.connector.util_text import split_statements

    if not isinstance(sql, str):
        pieces: Sequence[str] = list(sql)
    elif split_statements_too:
        pieces = [piece for piece, _ in split_statements(StringIO(sql)) if piece]
    else:
        pieces = [sql]
    found = [_without_end(piece).strip("; \t\r\n") for piece in pieces if without_comments(piece)]
    if not found:
        raise ValueError("There is no statement in `sql`: it is empty, or has only comments in it.")
    return found


def _without_end(piece: str) -> str:
    """Up to the separator behind its last word: what follows would be an empty statement inside a block."""
    end: int | None = None
    for token in _TOKEN.finditer(piece):
        if token[0] == ";":
            end = token.start() if end is None else end
        elif token["comment"] is None:
            end = None
    return piece[:end]


def is_file_transfer(statement: str) -> bool:
    """PUT and GET move files of this machine, so they cannot run without a worker."""
    return first_word(statement) in ("PUT", "GET")


def needs_transaction(statements: Sequence[str]) -> bool:
    """Whether all-or-nothing takes a transaction: not for reads, nor for one statement that is atomic itself."""
    words = [first_word(statement) for statement in statements]
    if all(word in _READ_ONLY for word in words):
        return False
    return not (len(words) == 1 and words[0] in _ATOMIC)


def begins_transaction(statements: Sequence[str]) -> bool:
    """Whether one of them opens a transaction itself."""
    return any(first_word(statement) in ("BEGIN", "START") for statement in statements)


def bind(connection: Any, cursor: Any, statement: str, parameters: Any) -> str:
    """The statement with client-side parameters in place, as the connector's ``execute`` would send it.

    A block of several statements cannot carry server-side binds, and the connector has no public function that
    only binds; this is the one its own ``execute`` calls.
    """
    if not parameters:
        return statement
    bound: str = statement % connection._process_params_pyformat(parameters, cursor)
    return bound
