"""Reading Databricks SQL: what kind of statement it is, and the DuckDB statements that do the same."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from astronomer.lab.databricks.sql_errors import DIVIDE_BY_ZERO, SqlError, syntax
from astronomer.lab.databricks.sql_parameters import Parameter, bound

if TYPE_CHECKING:
    from sqlglot import Expr

__all__ = ["CATALOG_PREFIX", "Plan", "Surroundings", "bare", "kind_of", "plan"]

CATALOG_PREFIX = "cat_"
"""A catalog is a DuckDB database of this prefix: DuckDB keeps some names, such as ``main``, for itself."""

_QUOTED = r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`(?:[^`]|``)*`"
_COMMENT = r"--[^\n]*|/\*.*?\*/"
_QUOTED_OR_COMMENT = re.compile(f"({_QUOTED})|({_COMMENT})", re.DOTALL)
_CALL = re.compile(r"call\s+(.*)", re.IGNORECASE | re.DOTALL)
_KINDS = frozenset(
    [
        "ALTER",
        "ANALYZE",
        "COPY",
        "CREATE",
        "DELETE",
        "DESCRIBE",
        "DROP",
        "EXPLAIN",
        "GRANT",
        "INSERT",
        "MERGE",
        "OPTIMIZE",
        "REFRESH",
        "REPLACE",
        "REVOKE",
        "SELECT",
        "SET",
        "SHOW",
        "TRUNCATE",
        "UPDATE",
        "USE",
    ]
)
_KIND_OF_WORD = {"WITH": "SELECT", "VALUES": "SELECT", "FROM": "SELECT", "DESC": "DESCRIBE", "CALL": "OTHER"}
_CHANGES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)
WAIT = "lab_wait"


@dataclass(frozen=True)
class Surroundings:
    """Where a statement runs: what the functions that ask for it return."""

    catalog: str
    schema: str
    principal: str


@dataclass(frozen=True)
class Plan:
    """How to do what a statement says.

    :param kind: the history's ``statement_type``.
    :param steps: DuckDB statements to run in order, in one transaction; the last one's answer counts.
    :param answer: whether the last step returns rows, a number of changed rows, or nothing.
    :param wait: seconds of the workspace to wait first.
    :param idle: whether it does nothing but wait, so that no thread and no DuckDB is needed.
    :param table: the table that is created or dropped, and ``partitions``: the columns it is partitioned by.
    """

    kind: str
    steps: tuple[str, ...]
    answer: Literal["rows", "changed", "nothing"]
    wait: float = 0.0
    idle: bool = False
    table: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()


def bare(text: str) -> str:
    """Return a statement without comments and surrounding space, quoted text untouched."""
    return _QUOTED_OR_COMMENT.sub(lambda m: m[1] if m[1] is not None else " ", text).strip(" \t\r\n;")


def kind_of(text: str) -> str:
    """Return the history's ``statement_type`` of a statement."""
    found = re.match(r"\W*(\w+)", bare(text))
    word = found[1].upper() if found else ""
    word = _KIND_OF_WORD.get(word, word)
    return word if word in _KINDS else "OTHER"


@functools.lru_cache(maxsize=256)
def plan(text: str, parameters: tuple[Parameter, ...], where: Surroundings) -> Plan:
    """Return how to do what a statement says.

    :raises SqlError: it is not SQL, not one statement, or a parameter has no value.
    """
    call = _CALL.fullmatch(bare(text))
    tree = _parsed(f"SELECT {call[1]}" if call else bare(text))
    tree = bound(tree, parameters)
    wait = _take_waits(tree)
    idle = wait > 0 and _only_waits(tree)
    _name_columns(tree)
    tree = tree.transform(_rewritten(where))
    kind = "OTHER" if call else kind_of(text)
    if isinstance(tree, exp.Insert) and tree.args.get("overwrite"):
        target = (tree.this.this if isinstance(tree.this, exp.Schema) else tree.this).copy()
        tree.set("overwrite", False)
        emptied = _duck(exp.Delete(this=target))
        return Plan(kind, (emptied, _duck(tree)), "changed", wait)
    if isinstance(tree, exp.Merge):
        _unqualify_assignments(tree)
    if isinstance(tree, _CHANGES):
        return Plan(kind, (_duck(tree),), "changed", wait)
    if isinstance(tree, (exp.Query, exp.Values)):
        return Plan(kind, (_duck(tree),), "rows", wait, idle)
    if isinstance(tree, (exp.Create, exp.Drop)):
        return _of_object(tree, kind, wait)
    return Plan(kind, (_duck(tree),), "nothing", wait)


def _parsed(text: str) -> Expr:
    if not text:
        raise syntax("end of input")
    try:
        trees = [tree for tree in sqlglot.parse(text, read="databricks") if tree is not None]
    except SqlglotError as error:
        details = getattr(error, "errors", None)
        raise syntax(str(details[0].get("highlight") or "end of input") if details else text[:40]) from None
    if len(trees) != 1 or isinstance(trees[0], (exp.Column, exp.Alias, exp.Identifier)):
        raise syntax(";" if len(trees) > 1 else text.split(maxsplit=1)[0])
    tree: Expr = trees[0]
    return tree


def _take_waits(tree: Expr) -> float:
    """Return how long the calls of ``lab_wait`` ask to wait, and leave their seconds in their place."""
    seconds = 0.0
    for call in list(tree.find_all(exp.Anonymous)):
        if call.name.lower() != WAIT or not call.expressions:
            continue
        literal = call.expressions[0].find(exp.Literal)
        try:
            seconds += float(literal.name if literal else "")
        except ValueError:
            raise SqlError("INVALID_PARAMETER_VALUE", f"{WAIT} takes a number of seconds.", "22023") from None
        in_projection = isinstance(call.parent, exp.Select)
        number = exp.Literal.number(literal.name)
        call.replace(exp.alias_(number, WAIT) if in_projection else number)
    return seconds


def _only_waits(tree: Expr) -> bool:
    """Return whether a statement is ``SELECT lab_wait(n)`` and nothing else."""
    given = [name for name, value in tree.args.items() if value and name != "kind"]
    return (
        isinstance(tree, exp.Select)
        and given == ["expressions"]
        and [one.alias for one in tree.expressions] == [WAIT]
    )


def _name_columns(tree: Expr) -> None:
    """Give the columns that have no name the one Spark gives them."""
    select = tree.find(exp.Select) if isinstance(tree, exp.Query) else None
    for column in select.expressions if select else []:
        if not isinstance(column, (exp.Alias, exp.Column, exp.Star, exp.Dot)):
            column.replace(exp.alias_(column.copy(), _spark_name(column), quoted=True))


def _spark_name(column: Expr) -> str:
    if isinstance(column, exp.Literal):
        return column.name
    if isinstance(column, exp.Explode):
        return "col"
    text: str = column.sql("databricks", normalize_functions="lower")
    return "count(1)" if text == "count(*)" else text


def _rewritten(where: Surroundings) -> Callable[[Expr], Expr]:
    """Return the transformation of one node into what DuckDB understands."""

    def rewrite(node: Expr) -> Expr:
        if isinstance(node, exp.Table):
            return _table(node)
        if isinstance(node, (exp.Div, exp.IntDiv, exp.Mod)):
            return _guarded(node)
        if isinstance(node, exp.CurrentUser):
            return exp.Literal.string(where.principal)
        if isinstance(node, exp.CurrentCatalog):
            return exp.Literal.string(where.catalog)
        if isinstance(node, exp.Anonymous) and node.name.lower() == "raise_error":
            return exp.Anonymous(this="error", expressions=node.expressions)
        return node

    return rewrite


def _table(node: exp.Table) -> exp.Table:
    if node.args.get("catalog") and not node.catalog.startswith(CATALOG_PREFIX):
        node.set("catalog", exp.to_identifier(CATALOG_PREFIX + node.catalog.lower(), quoted=True))
    call = node.this
    if isinstance(call, exp.Anonymous) and call.name.lower() == "range":
        node.set(
            "alias",
            exp.TableAlias(this=exp.to_identifier(node.alias or "range"), columns=[exp.to_identifier("id")]),
        )
    return node


def _guarded(node: Expr) -> Expr:
    """A division by zero is an error, where DuckDB returns infinity."""
    divisor = node.expression
    if (isinstance(divisor, exp.Literal) and float(divisor.name or 0) != 0) or isinstance(
        divisor, (exp.Paren, exp.Case)
    ):
        return node
    failure = exp.Anonymous(this="error", expressions=[exp.Literal.string(DIVIDE_BY_ZERO)])
    zero = exp.EQ(this=divisor.copy(), expression=exp.Literal.number(0))
    node.set("expression", exp.Case(ifs=[exp.If(this=zero, true=failure)], default=divisor.copy()))
    return node


def _unqualify_assignments(tree: exp.Merge) -> None:
    """``UPDATE SET t.a = ...`` is written without the table in DuckDB."""
    for update in tree.find_all(exp.Update):
        for assignment in update.expressions:
            if isinstance(assignment, exp.EQ) and isinstance(assignment.this, exp.Column):
                assignment.set("this", exp.column(assignment.this.this.copy()))


def _of_object(tree: exp.Create | exp.Drop, kind: str, wait: float) -> Plan:
    """Return the plan of CREATE and DROP, and which columns a table is partitioned by."""
    target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    columns: tuple[str, ...] = ()
    extra: list[exp.ColumnDef] = []
    if by := tree.find(exp.PartitionedByProperty):
        listed = by.this.expressions if isinstance(by.this, (exp.Schema, exp.Tuple)) else [by.this]
        extra = [one for one in listed if isinstance(one, exp.ColumnDef)]
        columns = tuple(one.name for one in listed)
    if extra and isinstance(tree.this, exp.Schema):
        tree.this.set("expressions", [*tree.this.expressions, *extra])
    tree.set("properties", _kept(tree))
    is_table = tree.args.get("kind", "").upper() == "TABLE" and isinstance(target, exp.Table)
    name = tuple(part.name for part in target.parts) if is_table else ()
    return Plan(kind, (_duck(tree),), "nothing", wait, table=name, partitions=columns)


def _kept(tree: Expr) -> exp.Properties | None:
    """Return the properties that DuckDB has too: only that a view is temporary."""
    properties = tree.args.get("properties")
    kept = (
        [one for one in properties.expressions if isinstance(one, exp.TemporaryProperty)]
        if properties
        else []
    )
    return exp.Properties(expressions=kept) if kept else None


def _duck(tree: Expr) -> str:
    sql: str = tree.sql("duckdb", unsupported_level=ErrorLevel.IGNORE)
    return sql
