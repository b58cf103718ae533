"""What an account can be told over ``/_lab`` beside what every stand-in can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from astronomer.lab.control import Command
from astronomer.lab.snowflake.errors import SnowflakeError

if TYPE_CHECKING:
    from astronomer.lab.snowflake.lab import SnowflakeLab

__all__ = ["COMMANDS"]


def expire(lab: SnowflakeLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Expire what is true of ``session``, ``master`` (with ``direct``) and ``results``."""
    if asked.get("session"):
        lab.expire_sessions()
    if asked.get("master"):
        lab.expire_masters(direct=bool(asked.get("direct")))
    if asked.get("results"):
        lab.expire_results()
    return {"expired": sorted(name for name, wanted in asked.items() if wanted)}


def queries(lab: SnowflakeLab, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Tell every query, oldest first; ``tag`` and ``state`` select."""
    return [
        query.as_json()
        for query in lab.queries.values()
        if asked.get("tag") in (None, query.tag) and asked.get("state") in (None, query.state)
    ]


def abort(lab: SnowflakeLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Cancel ``query_id`` as an administrator would."""
    return {"aborted": lab.abort_by_admin(str(asked.get("query_id")))}


def warehouses(lab: SnowflakeLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Create or change the warehouse ``name``, suspend it (``suspended``) or drop it (``"exists": false``)."""
    name = str(asked.pop("name"))
    try:
        if asked.pop("suspended", False):
            lab.suspend_warehouse(name)
        else:
            lab.set_warehouse(name, **asked)
    except SnowflakeError as error:
        raise LookupError(str(error)) from error
    return {"name": name}


def password(lab: SnowflakeLab, asked: dict[str, Any]) -> dict[str, Any]:
    """Change the user's password to ``password``."""
    lab.rotate_password(str(asked["password"]))
    return {"user": lab.user}


def transactions(lab: SnowflakeLab, _asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Tell the open transactions."""
    return [
        {"id": one.id, "user": one.user, "session_id": one.session_id, "name": one.name}
        for one in lab.open_transactions()
    ]


COMMANDS: dict[str, Command] = {
    "POST expire": expire,
    "GET queries": queries,
    "POST abort": abort,
    "POST warehouses": warehouses,
    "POST password": password,
    "GET transactions": transactions,
}
