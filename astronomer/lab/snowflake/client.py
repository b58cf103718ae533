"""The control endpoint from another process."""

from __future__ import annotations

import json
import ssl
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from astronomer.lab.front import CONTROL

__all__ = ["LabClient"]


class LabClient:
    """Steers a lab that runs in another process, with the verbs of ``SnowflakeLab``.

    :param url: the lab's ``url``.
    :param ca_file: the lab's ``ca_file``.
    """

    def __init__(self, url: str, ca_file: str | Path, *, timeout: float = 10.0) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith("https://"):
            raise ValueError(f"a lab is reached over https, not {url!r}")
        self._context = ssl.create_default_context(cafile=str(ca_file))
        self._timeout = timeout

    def health(self) -> dict[str, Any]:
        """Return that the lab is up, or raise ``urllib.error.URLError``."""
        return dict(self._call("GET", "health"))

    def requests(self) -> list[dict[str, Any]]:
        """Return the request log."""
        return list(self._call("GET", "requests"))

    def requests_summary(self) -> dict[str, Any]:
        """Return the counts of the request log: ``requests``, ``logins``, ``connections``, ``by_path``, ``by_status``."""
        return dict(self._call("GET", "requests?summary"))

    def clear_requests(self) -> None:
        """Forget the request log."""
        self._call("DELETE", "requests")

    def add_fault(self, kind: str = "status", **fault: Any) -> None:
        """Put a fault in force; arguments as ``Effect`` and ``Faults.add`` name them."""
        self._call("POST", "faults", {"kind": kind, **fault})

    def storm(self, seconds: float = 60.0, **fault: Any) -> None:
        """Start a storm of 429, 503 and resets."""
        self._call("POST", "faults", {"storm": seconds, **fault})

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults in force."""
        return list(self._call("GET", "faults"))

    def clear_faults(self) -> None:
        """End every fault."""
        self._call("DELETE", "faults")

    def expire_sessions(self) -> None:
        """Expire every session token."""
        self._call("POST", "expire", {"session": True})

    def expire_masters(self, *, direct: bool = False) -> None:
        """Expire every session and master token."""
        self._call("POST", "expire", {"master": True, "direct": direct})

    def expire_results(self) -> None:
        """Drop the results of ended queries."""
        self._call("POST", "expire", {"results": True})

    def queries(self, **select: str) -> list[dict[str, Any]]:
        """Return the queries, oldest first; ``tag=`` and ``state=`` select."""
        query = urllib.parse.urlencode(select)
        return list(self._call("GET", f"queries?{query}"))

    def abort_by_admin(self, query_id: str) -> bool:
        """Cancel a query and return whether it still ran."""
        return bool(self._call("POST", "abort", {"query_id": query_id})["aborted"])

    def set_warehouse(self, name: str, **settings: Any) -> None:
        """Create, change or drop a warehouse."""
        self._call("POST", "warehouses", {"name": name, **settings})

    def suspend_warehouse(self, name: str) -> None:
        """Suspend a warehouse."""
        self._call("POST", "warehouses", {"name": name, "suspended": True})

    def rotate_password(self, new: str) -> None:
        """Change the user's password."""
        self._call("POST", "password", {"password": new})

    def open_transactions(self) -> list[dict[str, Any]]:
        """Return the open transactions."""
        return list(self._call("GET", "transactions"))

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked in __init__
            f"{self.url}{CONTROL}/{path}", data, {"content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=self._timeout, context=self._context) as reply:  # noqa: S310
            return json.loads(reply.read())
