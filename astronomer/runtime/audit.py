"""The audit log: one JSON object a line, without any token, and bounded but for changes. Imports no Airflow."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

__all__ = ["LOGGER", "Audit", "RequestMiddleware", "write_whatever_the_level"]

LOGGER = "astronomer.runtime.audit"

_LONGEST = 200

_request: contextvars.ContextVar[_Request | None] = contextvars.ContextVar("runtime_request", default=None)


@dataclass(frozen=True)
class _Request:
    """What a request is called, and which refusals have been told of it."""

    said: Mapping[str, Any]
    refused: set[tuple[Any, ...]] = field(default_factory=set)


def write_whatever_the_level() -> None:
    """Let the audit log be written to standard output, once, whatever ``[logging] logging_level`` says.

    Airflow's own handler has that level, and would drop what was allowed. A logger to which the deployment's logging
    configuration has given a handler is left as it is.
    """
    logger = logging.getLogger(LOGGER)
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class RequestMiddleware:
    """An ASGI middleware that lets the audit log say which request it was: method, path and client; never the query."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        said = {"method": scope["method"], "path": scope["path"], "client": client[0] if client else None}
        before = _request.set(_Request(said))
        try:
            await self._app(scope, receive, send)
        finally:
            _request.reset(before)


class _Allowance:
    """So many at once, and so many a second after that."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float]) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._left, self._at = float(burst), clock()
        self._held_back = 0
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """Return how many were held back since the last one, or ``None`` to hold this one back, too."""
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < 1:
                self._held_back += 1
                return None
            self._left -= 1
            held_back, self._held_back = self._held_back, 0
            return held_back


class Audit:
    """Writes what was refused, changed and read of secrets, to the logger ``astronomer.runtime.audit``.

    Records are bounded: ``burst`` at once and ``per_second`` after that, separately for strangers, for refusals of people
    with a good token, for sessions and for reading, so that none can fill a disk nor hide the others. A record says how
    many of its kind before it were held back. Changes are always written: their number is bounded by what admins do.
    """

    def __init__(
        self, *, burst: int = 100, per_second: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = logging.getLogger(LOGGER)
        kinds = (_Allowance(burst, per_second, clock) for _ in range(4))
        self._strangers, self._people, self._sessions, self._reading = kinds

    def token_refused(
        self,
        reason: str,
        detail: str = "",
        *,
        kid: str | None = None,
        subject: str | None = None,
        token: str | None = None,
    ) -> None:
        """Tell that a token was not accepted, once for each request: Airflow may look at the same one twice."""
        request, refusal = _request.get(), (reason, detail, kid, subject, token)
        if request is not None:
            if refusal in request.refused:
                return
            request.refused.add(refusal)
        allowance = self._people if subject else self._strangers
        said = {"reason": reason, "detail": detail, "kid": kid, "sub": subject, "token": token}
        self._bounded(allowance, logging.WARNING, "token refused", said)

    def access_refused(
        self, subject: str, roles: tuple[str, ...], resource: str, method: str, token: str
    ) -> None:
        """Tell that somebody may not do that."""
        said = {"reason": "role", **_request_of(subject, roles, resource, method, token)}
        self._bounded(self._people, logging.WARNING, "access refused", said)

    def read(self, subject: str, roles: tuple[str, ...], resource: str, token: str) -> None:
        """Tell that somebody was allowed to read what holds secrets."""
        said = _request_of(subject, roles, resource, "GET", token)
        self._bounded(self._reading, logging.INFO, "read allowed", said)

    def changed(self, subject: str, roles: tuple[str, ...], resource: str, method: str, token: str) -> None:
        """Tell that somebody was allowed a change that only some may make."""
        self._write(logging.INFO, "change allowed", _request_of(subject, roles, resource, method, token))

    def session(self, event: str, subject: str, roles: tuple[str, ...], token: str) -> None:
        """Tell that somebody has logged in, exchanged a token, or logged out."""
        said = {"sub": subject, "roles": roles, "token": token}
        self._bounded(self._sessions, logging.INFO, event, said)

    def _bounded(self, allowance: _Allowance, level: int, event: str, said: Mapping[str, Any]) -> None:
        held_back = allowance.take()
        if held_back is not None:
            self._write(level, event, {**said, "held_back": held_back or None})

    def _write(self, level: int, event: str, said: Mapping[str, Any]) -> None:
        now = datetime.now(tz=timezone.utc).isoformat(timespec="milliseconds")
        marks = {"timestamp": now, "level": logging.getLevelName(level).lower(), "logger": LOGGER}
        request = _request.get()
        record = {"event": event, **said, **(request.said if request else {}), **marks}
        self._log.log(
            level,
            "%s",
            json.dumps({name: _short(value) for name, value in record.items() if value not in (None, "")}),
        )


def _short(value: Any) -> Any:
    return f"{value[:_LONGEST]}…" if isinstance(value, str) and len(value) > _LONGEST else value


def _request_of(
    subject: str, roles: tuple[str, ...], resource: str, method: str, token: str
) -> dict[str, Any]:
    """Who wanted to do what."""
    return {"sub": subject, "roles": roles, "resource": resource, "action": method, "token": token}
