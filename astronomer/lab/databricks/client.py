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
    """Steers a lab that runs in another process, with the verbs of ``DatabricksLab``.

    :param url: the lab's ``url``.
    :param ca_file: the lab's ``ca_file``.
    """

    def __init__(self, url: str, ca_file: str | Path, *, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith("https://"):
            raise ValueError(f"a lab is reached over https, not {url!r}")
        self._context = ssl.create_default_context(cafile=str(ca_file))
        self._timeout = timeout

    def health(self) -> dict[str, Any]:
        """Return that the lab is up, or raise ``urllib.error.URLError``."""
        return dict(self._call("GET", "health"))

    @property
    def active(self) -> int:
        """How many runs have not ended."""
        return int(self.health()["active"])

    def requests(self) -> list[dict[str, Any]]:
        """Return the request log."""
        return list(self._call("GET", "requests"))

    def requests_summary(self) -> dict[str, Any]:
        """Return ``requests``, ``logins``, ``connections``, ``by_path``, ``by_status``, ``throttled``, ``tokens``, ``active``."""
        return dict(self._call("GET", "requests?summary"))

    def clear_requests(self) -> None:
        """Forget the request log and the counts of throttled requests and tokens."""
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

    def runs(self, *, state: str = "", active: bool = False) -> list[dict[str, Any]]:
        """Return the runs, oldest first, of that result or life cycle, or those that go on."""
        select = {**({"state": state} if state else {}), **({"active": "1"} if active else {})}
        return list(self._call("GET", f"runs?{urllib.parse.urlencode(select)}"))

    def seed(self, count: int, **options: Any) -> list[int]:
        """Start many runs that only wait, and return their ids; see ``seeding.seed``."""
        return list(self._call("POST", "seed", {"count": count, **options})["run_ids"])

    def advance(self, seconds: float) -> float:
        """Let so much time pass at once, and return the lab's time."""
        return float(self._call("POST", "clock", {"advance": seconds})["now"])

    def set_speed(self, speed: float) -> None:
        """Change how many seconds of the lab pass per second."""
        self._call("POST", "clock", {"speed": speed})

    def set_quotas(self, factor: float) -> None:
        """Multiply the real limits; 0 is none at all."""
        self._call("POST", "quotas", {"factor": factor})

    def rotate_token(self) -> str:
        """Return a new personal access token; the old one is invalid."""
        return str(self._call("POST", "credentials", {"rotate_token": True})["token"])

    def rotate_secret(self) -> str:
        """Return a new client secret; the old one is invalid."""
        return str(self._call("POST", "credentials", {"rotate_secret": True})["client_secret"])

    def expire_tokens(self) -> None:
        """End every OAuth token now."""
        self._call("POST", "credentials", {"expire_tokens": True})

    def cancel_by_user(self, run_id: int) -> None:
        """Cancel a run as somebody does in the workspace's pages."""
        self._call("POST", "end", {"run_id": run_id})

    def delete_run(self, run_id: int) -> None:
        """Delete a run, whatever its state."""
        self._call("POST", "end", {"run_id": run_id, "delete": True})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked in __init__
            f"{self.url}{CONTROL}/{path}", data, {"content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=self._timeout, context=self._context) as reply:  # noqa: S310
            return json.loads(reply.read())
