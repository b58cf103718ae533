"""The control endpoint from another process."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from astronomer.lab.front import CONTROL
from astronomer.lab.tls import control_key

__all__ = ["LabClient"]


class LabClient:
    """Steers a lab that runs in another process, with the verbs of the lab itself.

    :param url: the lab's ``url``.
    :param ca_file: the lab's ``ca_file``; the private key beside it proves the right to steer the lab.
    :param timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, ca_file: str | Path, *, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith("https://"):
            raise ValueError(f"a lab is reached over https, not {url!r}")
        self._timeout = timeout
        self._headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {control_key(Path(ca_file))}",
        }
        # A lab is on this machine: whatever proxies the environment names are not on the way.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ca_file))),
        )

    def health(self) -> dict[str, Any]:
        """Return that the lab is up, or raise ``urllib.error.URLError``."""
        return dict(self._get("health"))

    def secrets(self) -> dict[str, str]:
        """Return every credential that the lab has ever given out or accepted -> what it is."""
        return dict(self._get("secrets"))

    def requests(self, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the request log, or what came after that epoch second."""
        return list(self._get("requests", since=repr(since)))

    def requests_summary(self) -> dict[str, Any]:
        """Return the counts of the request log."""
        return dict(self._get("requests", summary=""))

    def clear_requests(self) -> None:
        """Forget the request log and what was counted with it."""
        self._call("DELETE", "requests")

    def add_fault(self, kind: str = "status", **fault: Any) -> None:
        """Put a fault in force; arguments as ``Effect`` and ``Faults.add`` name them."""
        self._post("faults", kind=kind, **fault)

    def storm(self, seconds: float = 60.0, **fault: Any) -> None:
        """Start a storm of 429, 503 and resets."""
        self._post("faults", storm=seconds, **fault)

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults in force."""
        return list(self._get("faults"))

    def clear_faults(self) -> None:
        """End every fault."""
        self._call("DELETE", "faults")

    def _get(self, path: str, /, **query: str) -> Any:
        return self._call("GET", f"{path}?{urllib.parse.urlencode(query)}")

    def _post(self, path: str, /, **body: Any) -> Any:
        return self._call("POST", path, json.dumps(body).encode())

    def _call(self, method: str, path: str, data: bytes | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked in __init__
            f"{self.url}{CONTROL}/{path}", data, self._headers, method=method
        )
        try:
            with self._opener.open(request, timeout=self._timeout) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read().decode(errors="replace")
            raise urllib.error.HTTPError(request.full_url, error.code, reason, error.headers, None) from None
