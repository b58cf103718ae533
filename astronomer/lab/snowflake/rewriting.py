"""What fakesnow does not know: context functions, system functions, result and history table functions, x / 0.

A statement is parsed once; calls that only the account can answer are replaced by their values or by tables that hold
them, and the rest is left to fakesnow.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from astronomer.lab.snowflake.errors import SnowflakeError, compilation, translate, unsupported
from astronomer.lab.snowflake.history import FUNCTIONS, history_table
from astronomer.lab.snowflake.queries import Query
from astronomer.lab.snowflake.results import Result
from astronomer.lab.snowflake.sqltext import bare

if TYPE_CHECKING:
    from sqlglot import Expr

    from astronomer.lab.snowflake.account import Account

__all__ = ["Rewriter", "Rewritten", "lock_target", "parse"]

_CALL = re.compile(r"^CALL\s+(SYSTEM\$\w+)\s*(\(.*\))$", re.IGNORECASE | re.DOTALL)
_UNITS = {"DAYS": 86400.0, "HOURS": 3600.0, "MINUTES": 60.0, "SECONDS": 1.0, "MILLISECONDS": 0.001}

Evaluate = Callable[[str], Awaitable[Any]]


@dataclass
class Rewritten:
    """A statement ready for DuckDB.

    :param waits: lab seconds its SYSTEM$WAIT calls take.
    :param tables: the tables its table functions were replaced by.
    :param result: its whole result, when nothing is left for DuckDB to do.
    """

    sql: str
    waits: float = 0.0
    tables: dict[str, pa.Table] = field(default_factory=dict)
    result: Result | None = None


def parse(sql: str) -> Expr:
    """Return the syntax tree of a statement; ``CALL SYSTEM$...`` is read as a SELECT of it.

    :raises SnowflakeError: 001003, it cannot be parsed.
    """
    text = bare(sql)
    if call := _CALL.match(text):
        text = f'SELECT {call[1]}{call[2]} AS "{call[1].upper()}"'
    try:
        return sqlglot.parse_one(text, read="snowflake")
    except SqlglotError as error:
        raise translate(error) from None


def lock_target(tree: Expr, database: str | None, schema: str | None) -> str | None:
    """Return the full name of the table that a statement locks until its transaction ends, if it locks one."""
    if isinstance(tree, (exp.Update, exp.Delete, exp.Merge)):
        table = tree.this
    elif isinstance(tree, exp.TruncateTable):
        table = tree.expressions[0] if tree.expressions else None
    else:
        return None
    if not isinstance(table, exp.Table):
        return None
    parts = (table.catalog or database or "", table.db or schema or "", table.name)
    return ".".join(part.upper() for part in parts)


class Rewriter:
    """Replaces the calls that only ``account`` can answer."""

    def __init__(self, account: Account) -> None:
        self._account = account

    async def rewrite(self, query: Query, tree: Expr, evaluate: Evaluate) -> Rewritten:
        """Return the statement with every such call replaced.

        :param evaluate: runs a SELECT in the query's session and returns its one value.
        :raises SnowflakeError: a call is wrong, or not supported.
        """
        out = Rewritten(query.sql)
        changed = bare(query.sql)[:4].upper() == "CALL"
        for node in list(tree.walk(bfs=False)):
            new = await self._replacement(node, query, out, evaluate)
            if new is not None:
                changed = True
                _replace(node, new)
        if changed:
            out.sql = tree.sql(dialect="snowflake")
            out.result = _constant(tree)
        return out

    async def _replacement(self, node: Expr, query: Query, out: Rewritten, evaluate: Evaluate) -> Expr | None:
        if isinstance(node, exp.TableFromRows):
            return await self._table(node, query, out, evaluate)
        if isinstance(node, exp.Div):
            return _guarded(node)
        name = _function_name(node)
        if name == "SYSTEM$WAIT":
            seconds, text = _wait(_literals(node))
            out.waits += seconds
            return exp.Literal.string(text)
        if name.startswith("SYSTEM$"):
            return exp.Literal.string(await self._account.system_function(name, _literals(node), query))
        found, value = _context(name, query, self._account.name)
        return _literal(value) if found else None

    async def _table(
        self, node: exp.TableFromRows, query: Query, out: Rewritten, evaluate: Evaluate
    ) -> Expr | None:
        call = node.this.expression if isinstance(node.this, exp.Dot) else node.this
        name = _function_name(call)
        if name == "RESULT_SCAN":
            table = self._account.scanned(_scanned_id(call, query), query.user).table
        elif name in FUNCTIONS:
            arguments = {key: await _argument(value, evaluate) for key, value in _keywords(call)}
            table = history_table(name, arguments, query, self._account.queries.newest_first())
        else:
            return None
        local = f"LAB_{query.id.replace('-', '_')}_{len(out.tables)}".upper()
        out.tables[local] = table
        return exp.Table(
            this=exp.to_identifier(local),
            db=exp.to_identifier("MAIN"),
            catalog=exp.to_identifier("TEMP"),
            alias=node.args.get("alias"),
        )


def _function_name(node: Any) -> str:
    if isinstance(node, exp.Anonymous):
        return str(node.this).upper()
    if isinstance(node, exp.Func):
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(node).__name__).upper()
    return ""


def _context(name: str, query: Query, account: str) -> tuple[bool, Any]:
    """Return whether ``name`` is a context function, and its value."""
    session = query.session
    values: dict[str, Callable[[], Any]] = {
        "CURRENT_SESSION": lambda: session.id,
        "CURRENT_DATABASE": lambda: session.database,
        "CURRENT_SCHEMA": lambda: session.schema,
        "CURRENT_USER": lambda: session.user,
        "CURRENT_ROLE": lambda: session.role,
        "CURRENT_WAREHOUSE": lambda: session.warehouse,
        "CURRENT_ACCOUNT": account.upper,
        "CURRENT_ACCOUNT_NAME": account.upper,
        "CURRENT_REGION": lambda: "LAB_LOOPBACK",
        "CURRENT_TRANSACTION": lambda: session.transaction and str(session.transaction.id),
        "LAST_TRANSACTION": lambda: session.last_transaction and str(session.last_transaction),
        "LAST_QUERY_ID": lambda: session.last_query_id,
    }
    return (True, values[name]()) if name in values else (False, None)


def _literal(value: Any) -> Expr:
    return exp.Null() if value is None else exp.Literal.string(str(value))


def _replace(node: Expr, new: Expr) -> None:
    """Put ``new`` in the place of ``node``; a column of a SELECT keeps the name Snowflake would give it."""
    if isinstance(node.parent, exp.Select) and node.arg_key == "expressions":
        new = exp.alias_(new, node.sql(dialect="snowflake").upper(), quoted=True)
    node.replace(new)


def _guarded(node: exp.Div) -> Expr | None:
    """Return a division that fails on zero, as in Snowflake; DuckDB returns infinity."""
    divisor = node.expression
    number = divisor.this if isinstance(divisor, exp.Paren) else divisor
    if divisor.find(exp.Placeholder) or (isinstance(number, exp.Literal) and float(number.this or 1) != 0):
        return None
    failing = exp.Anonymous(this="ERROR", expressions=[exp.Literal.string("Division by zero")])
    zero = exp.EQ(this=exp.paren(divisor.copy()), expression=exp.Literal.number(0))
    checked = exp.Case(ifs=[exp.If(this=zero, true=failing)], default=divisor.copy())
    return exp.Div(
        this=node.this.copy(), expression=checked, typed=node.args.get("typed"), safe=node.args.get("safe")
    )


def _literals(node: Expr) -> list[Any]:
    values: list[Any] = []
    for argument in node.args.get("expressions") or []:
        if not isinstance(argument, exp.Literal):
            raise unsupported(f"{_function_name(node)} with an argument that is not a constant")
        # A transaction id has more digits than a float keeps.
        number = int if argument.is_int else float
        values.append(argument.this if argument.is_string else number(argument.this))
    return values


def _wait(arguments: list[Any]) -> tuple[float, str]:
    try:
        amount, unit = float(arguments[0]), str(arguments[1] if len(arguments) > 1 else "SECONDS").upper()
        return amount * _UNITS[unit], f"waited {amount:g} {unit.lower()}"
    except (IndexError, KeyError, ValueError):
        raise compilation("001044", "42P13", "Invalid argument types for function 'SYSTEM$WAIT'") from None


def _keywords(call: Expr) -> list[tuple[str, Expr]]:
    found = []
    for argument in call.expressions:
        if not isinstance(argument, exp.Kwarg):
            raise unsupported(f"positional arguments of {_function_name(call)}")
        found.append((argument.this.name.upper(), argument.expression))
    return found


async def _argument(value: Expr, evaluate: Evaluate) -> Any:
    if isinstance(value, exp.Literal):
        return value.this
    return await evaluate(f"SELECT {value.sql(dialect='snowflake')}")


def _scanned_id(call: Expr, query: Query) -> str:
    argument = call.expressions[0] if call.expressions else None
    if isinstance(argument, exp.Literal):
        return str(argument.this)
    if argument is not None and _function_name(argument) == "LAST_QUERY_ID":
        return query.session.last_query_id or ""
    raise SnowflakeError(
        "001044", "42P13", "SQL compilation error:\nInvalid argument for function 'RESULT_SCAN'"
    )


def _constant(tree: Expr) -> Result | None:
    """Return the result of a SELECT of nothing but string constants, so that waiting costs no DuckDB connection."""
    if not isinstance(tree, exp.Select) or any(
        tree.args.get(part) for part in ("from_", "from", "where", "joins")
    ):
        return None
    columns: list[tuple[str, pa.DataType]] = []
    row: list[str | None] = []
    for column in tree.expressions:
        value = column.unalias()
        if not (isinstance(value, exp.Null) or (isinstance(value, exp.Literal) and value.is_string)):
            return None
        columns.append((_column_name(column), pa.string()))
        row.append(None if isinstance(value, exp.Null) else value.this)
    return Result.of(columns, [row], type_id=0x1000)


def _column_name(column: Expr) -> str:
    if isinstance(column, exp.Alias):
        name = column.args["alias"]
        return str(name.this if name.args.get("quoted") else name.this.upper())
    return column.sql(dialect="snowflake").upper()
