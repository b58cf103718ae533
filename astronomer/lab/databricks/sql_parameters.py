"""Parameter markers: ``:name`` and ``?``, and ``IDENTIFIER(:name)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlglot import exp
from sqlglot.errors import SqlglotError

from astronomer.lab.databricks.sql_errors import SqlError, unbound

if TYPE_CHECKING:
    from sqlglot import Expr

__all__ = ["Parameter", "bound"]


@dataclass(frozen=True)
class Parameter:
    """The value of a parameter marker.

    :param name: of ``:name``; empty for the next ``?``.
    :param value: its text, or None for NULL.
    :param type: the SQL type it is cast to.
    """

    name: str
    value: str | None
    type: str = "STRING"


def bound(tree: Expr, parameters: Sequence[Parameter]) -> Expr:
    """Return the statement with each parameter marker replaced by its value."""
    named = {one.name: one for one in parameters if one.name}
    ordered = iter([one for one in parameters if not one.name])

    def bind(node: Expr) -> Expr:
        if not isinstance(node, exp.Placeholder):
            return node
        name = str(node.args.get("this") or "")
        found = named.get(name) if name else next(ordered, None)
        if found is None:
            raise unbound(name or "_0")
        return _literal(found)

    return tree.transform(bind).transform(_named_by_identifier)


def _literal(parameter: Parameter) -> Expr:
    if parameter.value is None or parameter.type.upper() == "VOID":
        return exp.Null()
    if parameter.type.upper() == "STRING":
        return exp.Literal.string(parameter.value)
    try:
        kind = exp.DataType.build(parameter.type, dialect="databricks")
    except SqlglotError:
        reason = f'Data type "{parameter.type}" is not supported.'
        raise SqlError("UNSUPPORTED_DATATYPE", reason, "0A000") from None
    return exp.Cast(this=exp.Literal.string(parameter.value), to=kind)


def _named_by_identifier(node: Expr) -> Expr:
    """``IDENTIFIER('a.b')`` is the table of that name."""
    if (
        isinstance(node, exp.Table)
        and isinstance(node.this, exp.Anonymous)
        and node.this.name.upper() == "IDENTIFIER"
    ):
        name = node.this.expressions[0]
        if isinstance(name, exp.Literal):
            return exp.to_table(name.name, dialect="databricks", alias=node.alias or None)
    return node
