"""The statements that the account answers itself: session settings, transactions, warehouses, SHOW, scripting blocks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pyarrow as pa
from fakesnow import statement_type

from astronomer.lab.snowflake.errors import compilation
from astronomer.lab.snowflake.history import INSTANT, moment
from astronomer.lab.snowflake.parameters import DEFAULTS, parse_set, parse_unset
from astronomer.lab.snowflake.queries import Query
from astronomer.lab.snowflake.results import Result
from astronomer.lab.snowflake.sqltext import bare

if TYPE_CHECKING:
    from astronomer.lab.snowflake.account import Account

__all__ = ["Command", "find"]

Command = Callable[["Account", Query, "re.Match[str]"], Awaitable[Result]]
_NAME = r"(\"[^\"]+\"|[\w$]+)"


def find(sql: str) -> tuple[Command, re.Match[str]] | None:
    """Return the command that answers a statement, or None when it is for DuckDB."""
    text = bare(sql)
    for pattern, command in _COMMANDS:
        if found := pattern.match(text):
            return command, found
    return None


async def _alter_session(account: Account, query: Query, _found: re.Match[str]) -> Result:
    parameters = query.session.parameters
    if (pairs := parse_set(query.sql)) is not None:
        if not pairs:
            raise compilation("001003", "42000", "syntax error line 1 at position 18 unexpected '<EOF>'.")
        if any(name.upper() == "AUTOCOMMIT" for name in pairs):
            await account.runner.end_transaction(query.session, commit=True)
        parameters.set(pairs)
    else:
        parameters.unset(parse_unset(query.sql) or [])
    return Result.status(type_id=statement_type.SCL)


async def _begin(account: Account, query: Query, found: re.Match[str]) -> Result:
    if query.session.transaction is None:
        await account.runner.begin(query.session, found[1])
    return Result.status(type_id=statement_type.TCL)


async def _commit(account: Account, query: Query, _found: re.Match[str]) -> Result:
    await account.runner.end_transaction(query.session, commit=True)
    return Result.status(type_id=statement_type.TCL)


async def _rollback(account: Account, query: Query, _found: re.Match[str]) -> Result:
    await account.runner.end_transaction(query.session, commit=False)
    return Result.status(type_id=statement_type.TCL)


async def _use_warehouse(account: Account, query: Query, found: re.Match[str]) -> Result:
    query.session.warehouse = account.warehouses.named(_plain(found[1])).name
    return Result.status(type_id=statement_type.USE)


async def _use_role(account: Account, query: Query, found: re.Match[str]) -> Result:
    role = _plain(found[1])
    if role not in account.roles:
        raise compilation("002043", "02000", "Object does not exist, or operation cannot be performed.")
    query.session.role = role
    return Result.status(type_id=statement_type.USE)


async def _use_secondary(_account: Account, _query: Query, _found: re.Match[str]) -> Result:
    return Result.status(type_id=statement_type.USE)


async def _create_warehouse(account: Account, _query: Query, found: re.Match[str]) -> Result:
    name = _plain(found[3])
    if account.warehouses.get(name) is None or found[1]:
        account.warehouses.set(name)
        return Result.status(f"Warehouse {name} successfully created.", statement_type.DDL)
    if found[2]:
        return Result.status(f"{name} already exists, statement succeeded.", statement_type.DDL)
    raise compilation("002002", "42710", f"Object '{name}' already exists.")


async def _drop_warehouse(account: Account, _query: Query, found: re.Match[str]) -> Result:
    name = _plain(found[2])
    if account.warehouses.get(name) is None and not found[1]:
        raise compilation("002003", "02000", f"Warehouse '{name}' does not exist or not authorized.")
    account.warehouses.set(name, exists=False)
    return Result.status(f"{name} successfully dropped.", statement_type.DDL)


async def _alter_warehouse(account: Account, _query: Query, found: re.Match[str]) -> Result:
    warehouse = account.warehouses.named(_plain(found[1]))
    if found[2].upper().startswith("SUSPEND"):
        warehouse.suspended = True
    elif found[2].upper().startswith("RESUME"):
        warehouse.suspended = False
    return Result.status(type_id=statement_type.DDL)


async def _show_transactions(account: Account, query: Query, _found: re.Match[str]) -> Result:
    columns = [("id", pa.int64()), ("user", pa.string()), ("session", pa.int64()), ("name", pa.string())]
    columns += [("started_on", INSTANT), ("state", pa.string()), ("scope", pa.int64())]
    rows = [
        (one.id, one.user, one.session_id, one.name or str(one.id), moment(one.started_at), "running", 0)
        for one in account.open_transactions()
        if one.user == query.user
    ]
    return Result.of(columns, rows, statement_type.SHOW)


async def _show_locks(account: Account, _query: Query, _found: re.Match[str]) -> Result:
    columns = [
        ("resource", pa.string()),
        ("type", pa.string()),
        ("transaction", pa.int64()),
        ("status", pa.string()),
    ]
    held = account.locks.held()
    rows = [(table, "PARTITIONS", getattr(by, "id", None), "HOLDING") for table, by in held.items()]
    rows = [row for row in rows if isinstance(row[2], int)]
    return Result.of(columns, rows, statement_type.SHOW)


async def _show_parameters(_account: Account, query: Query, found: re.Match[str]) -> Result:
    columns = [(name, pa.string()) for name in ("key", "value", "default", "level", "description", "type")]
    wanted = re.compile(_like(found[1]), re.IGNORECASE) if found[1] else None
    own = query.session.parameters.own
    rows = [
        (
            name,
            _shown(own.get(name, value)),
            _shown(value),
            "SESSION" if name in own else "",
            "",
            _type(value),
        )
        for name, value in DEFAULTS.items()
        if wanted is None or wanted.fullmatch(name)
    ]
    return Result.of(columns, rows, statement_type.SHOW)


async def _show_warehouses(account: Account, _query: Query, _found: re.Match[str]) -> Result:
    names = ("name", "state", "type", "size")
    columns: list[tuple[str, pa.DataType]] = [(name, pa.string()) for name in names] + [
        ("running", pa.int64())
    ]
    columns.append(("queued", pa.int64()))
    rows = [
        (
            one.name,
            "SUSPENDED" if one.suspended else "STARTED",
            "STANDARD",
            "X-Small",
            one.running,
            len(one.line),
        )
        for one in account.warehouses.all()
    ]
    return Result.of(columns, rows, statement_type.SHOW)


async def _execute_immediate(account: Account, query: Query, found: re.Match[str]) -> Result:
    text = found[1] if found[1] is not None else re.sub(r"\\(.)|''", lambda m: m[1] or "'", found[2])
    return await account.runner.block(query, text)


def _plain(name: str) -> str:
    return name[1:-1] if name.startswith('"') else name.upper()


def _like(pattern: str) -> str:
    return re.escape(pattern).replace("%", ".*").replace("_", ".")


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(value: object) -> str:
    return "BOOLEAN" if isinstance(value, bool) else "NUMBER" if isinstance(value, int) else "STRING"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(rf"^{text}$".replace(" ", r"\s+"), re.IGNORECASE | re.DOTALL)


_COMMANDS: tuple[tuple[re.Pattern[str], Command], ...] = (
    (_pattern(r"ALTER SESSION (?:SET|UNSET)\b.*"), _alter_session),
    (_pattern(rf"(?:BEGIN|START)(?: (?:TRANSACTION|WORK))?(?: NAME {_NAME})?"), _begin),
    (_pattern(r"COMMIT(?: WORK)?"), _commit),
    (_pattern(r"ROLLBACK(?: WORK)?"), _rollback),
    (_pattern(rf"USE WAREHOUSE {_NAME}"), _use_warehouse),
    (_pattern(rf"USE ROLE {_NAME}"), _use_role),
    (_pattern(r"USE SECONDARY ROLES? .*"), _use_secondary),
    (_pattern(rf"CREATE( OR REPLACE)? WAREHOUSE( IF NOT EXISTS)? {_NAME}.*"), _create_warehouse),
    (_pattern(rf"DROP WAREHOUSE( IF EXISTS)? {_NAME}"), _drop_warehouse),
    (_pattern(rf"ALTER WAREHOUSE (?:IF EXISTS )?{_NAME} (\w+).*"), _alter_warehouse),
    (_pattern(r"SHOW TRANSACTIONS.*"), _show_transactions),
    (_pattern(r"SHOW LOCKS.*"), _show_locks),
    (_pattern(r"SHOW PARAMETERS(?: LIKE '([^']*)')?(?: (?:IN|FOR) .*)?"), _show_parameters),
    (_pattern(r"SHOW WAREHOUSES.*"), _show_warehouses),
    (_pattern(r"EXECUTE IMMEDIATE (?:\$\$(.*)\$\$|'((?:[^'\\]|\\.|'')*)')"), _execute_immediate),
)
