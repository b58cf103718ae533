"""The control endpoint from another process."""

from __future__ import annotations

from typing import Any

from astronomer.lab import client

__all__ = ["LabClient"]


class LabClient(client.LabClient):
    """Steers a ``SnowflakeLab`` that runs in another process, with its verbs."""

    def expire_sessions(self) -> None:
        """Expire every session token."""
        self._post("expire", session=True)

    def expire_masters(self, *, direct: bool = False) -> None:
        """Expire every session and master token."""
        self._post("expire", master=True, direct=direct)

    def expire_results(self) -> None:
        """Drop the results of ended queries."""
        self._post("expire", results=True)

    def queries(self, **select: str) -> list[dict[str, Any]]:
        """Return the queries, oldest first; ``tag=`` and ``state=`` select."""
        return list(self._get("queries", **select))

    def abort_by_admin(self, query_id: str) -> bool:
        """Cancel a query and return whether it still ran."""
        return bool(self._post("abort", query_id=query_id)["aborted"])

    def set_warehouse(self, name: str, **settings: Any) -> None:
        """Create, change or drop a warehouse."""
        self._post("warehouses", name=name, **settings)

    def suspend_warehouse(self, name: str) -> None:
        """Suspend a warehouse."""
        self._post("warehouses", name=name, suspended=True)

    def rotate_password(self, new: str) -> None:
        """Change the user's password."""
        self._post("password", password=new)

    def open_transactions(self) -> list[dict[str, Any]]:
        """Return the open transactions."""
        return list(self._get("transactions"))
