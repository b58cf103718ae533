"""What clients asked of a stand-in: the record that tests and benchmarks count on."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Entry", "RequestLog"]


@dataclass
class Entry:
    """One request.

    :param at: when it arrived, epoch seconds.
    :param path: the path as sent, without the query.
    :param status: the HTTP status sent back; 0 when the connection was dropped before any.
    :param client_port: the client's TCP port, so that equal ports mean one connection.
    :param session: the vendor's session id, when the request belonged to one.
    :param request_id: the client's own id of the request, when it sent one.
    :param seconds: how long the answer took.
    :param fault: the fault that was applied to it, if any.
    """

    at: float
    method: str
    path: str
    query: dict[str, str]
    client_port: int
    status: int = 0
    session: int | None = None
    request_id: str | None = None
    seconds: float = 0.0
    fault: str | None = None


@dataclass
class RequestLog:
    """Every request since the last ``clear``, in order of arrival.

    :param login_path: a regular expression that names the requests which log in.
    :param on_answer: called with each entry once its answer is sent.
    """

    login_path: str = r"$^"
    on_answer: Callable[[Entry], None] | None = None
    _entries: list[Entry] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, entry: Entry) -> None:
        """Record one request."""
        with self._lock:
            self._entries.append(entry)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    @property
    def entries(self) -> list[Entry]:
        """A copy of the entries, oldest first."""
        with self._lock:
            return list(self._entries)

    def select(
        self, path_regex: str = "", method: str | None = None, status: int | None = None
    ) -> list[Entry]:
        """Return the entries whose path contains ``path_regex``, of that method and status."""
        path = re.compile(path_regex)
        return [
            entry
            for entry in self.entries
            if path.search(entry.path) and method in (None, entry.method) and status in (None, entry.status)
        ]

    def count(self, path_regex: str = "", method: str | None = None, status: int | None = None) -> int:
        """Return how many entries ``select`` would return."""
        return len(self.select(path_regex, method, status))

    @property
    def logins(self) -> int:
        """How many requests tried to log in."""
        return self.count(self.login_path)

    @property
    def connections(self) -> int:
        """How many TCP connections the requests came over."""
        return len({entry.client_port for entry in self.entries})

    def summary(self) -> dict[str, Any]:
        """Return the counts as plain JSON: ``requests``, ``logins``, ``connections``, ``by_path``, ``by_status``."""
        entries = self.entries
        return {
            "requests": len(entries),
            "logins": self.logins,
            "connections": self.connections,
            "by_path": dict(Counter(f"{e.method} {_general(e.path)}" for e in entries)),
            "by_status": dict(Counter(str(e.status) for e in entries)),
        }

    def as_json(self, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the entries that came after an epoch second as plain JSON."""
        return [asdict(entry) for entry in self.entries if entry.at > since]


def _general(path: str) -> str:
    """Return a path with its ids replaced, so that requests of one kind count together."""
    return re.sub(r"/[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}(?=/|$)", "/{id}", path)
