"""Which way a statement takes: the REST API, or the connector in the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from astronomer.deferral import JobError
from astronomer.deferral.patience import insist
from astronomer.providers.databricks.hooks.verification import tell_if_off

if TYPE_CHECKING:
    from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["Place", "reject_contradiction", "resolve_warehouse"]

_WAREHOUSES = "2.0/sql/warehouses"
# Of a connection's extra: what changes what the connector does. It takes no notice of names that it does not know.
_CONNECTORS = frozenset(
    {
        "credentials_provider",
        "disable_pandas",
        "enable_query_result_lz4_compression",
        "http_headers",
        "ignore_transactions",
        "max_download_threads",
        "query_tags",
        "session_configuration",
        "use_cloud_fetch",
        "use_inline_params",
        "use_kernel",
        "use_sea",
        "user_agent_entry",
    }
)


_CONNECTORS_LOGINS = frozenset({"databricks-oauth", "azure-oauth", "azure-sp-m2m"})


@dataclass(frozen=True)
class Place:
    """Where a statement runs, from a task's arguments and its Airflow connection.

    :param extra: of the connection.
    :param http_path: the argument.
    :param warehouse_name: the argument that names a warehouse.
    :param connectors: arguments that only the connector knows, by name.
    """

    extra: Mapping[str, Any] = field(repr=False)
    http_path: str | None = None
    warehouse_name: str | None = None
    catalog: str | None = None
    schema: str | None = None
    connectors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The HTTP path; empty when a warehouse is named instead."""
        if self.http_path:
            return str(self.http_path)
        return "" if self.warehouse_name else str(self.extra.get("http_path") or "")

    @property
    def namespace(self) -> dict[str, str]:
        """The catalog and the schema to start in; the connection's win, as in the stock hook."""
        found = {name: self.extra.get(name) or getattr(self, name) for name in ("catalog", "schema")}
        return {name: str(value) for name, value in found.items() if value}

    @property
    def schema_of_tables(self) -> str:
        """The schema of tables that name none."""
        return self.namespace.get("schema", "default")

    def reason_for_connector(self, statements: Sequence[str], parameters: Any = None) -> str | None:
        """Why the REST API will not do, or ``None``.

        :raises JobError: no warehouse and no cluster is named anywhere.
        """
        from astronomer.providers.databricks.sql import texts

        tell_if_off(self.extra)
        if not self.path and not self.warehouse_name:
            raise JobError(
                "No warehouse is named: give `http_path` or the warehouse's name, or set `http_path` in the extra of "
                "the Airflow connection. No statement was started."
            )
        if self.path and texts.warehouse_of(self.path) is None:
            return f"{self.path!r} is not the path of a SQL warehouse"
        for name, value in self.connectors.items():
            if value:
                return f"`{name}` is set"
        for name, value in self.extra.items():
            own_login = name == "auth_type" and value in _CONNECTORS_LOGINS
            if own_login or (value and (name in _CONNECTORS or name.startswith("_"))):
                return f"the connection's extra sets {name!r}"
        found = texts.needs_session(statements)
        if found is not None:
            return f"{found!r} needs a session or local files"
        if any(texts.rest_parameters(one, parameters) is None for one in statements):
            return "parameters by position, arrays and maps cannot be sent"
        return None

    @property
    def warehouse_id(self) -> str:
        """The id in the HTTP path; empty when the warehouse has a name only."""
        from astronomer.providers.databricks.sql import texts

        return (texts.warehouse_of(self.path) or "") if self.path else ""


def reject_contradiction(http_path: Any, name: Any, argument: str) -> None:
    """Fail while the Dag is parsed when two warehouses are named.

    :raises ValueError: both are given.
    """
    if http_path and name:
        raise ValueError(f"`http_path` and `{argument}` both name a warehouse: give one of them.")


async def resolve_warehouse(client: DatabricksClient, name: str, *, tolerance: float) -> str:
    """The id of the warehouse with that name.

    :raises JobError: the connection's principal sees none.
    """
    answer = await insist(lambda: client.get(_WAREHOUSES), tolerance=tolerance)
    found = answer.get("warehouses") or answer.get("endpoints") or []
    for one in found:
        if one.get("name") == name:
            return str(one["id"])
    seen = ", ".join(sorted(repr(one.get("name")) for one in found)) or "none"
    raise JobError(f"There is no SQL warehouse {name!r} that this connection may see; it sees {seen}.")
