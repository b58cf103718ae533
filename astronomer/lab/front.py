"""The outermost layer of every stand-in: records each request and applies the scripted faults to it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

from astronomer.lab.faults import Effect, Faults
from astronomer.lab.request_log import Entry, RequestLog

__all__ = ["CONTROL", "Application", "Front"]

log = logging.getLogger(__name__)

CONTROL = "/_lab"
"""Requests under this path steer the stand-in: never recorded, never disturbed."""

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""

Send = Callable[[Any], Awaitable[None]]


class Front:
    """An ASGI application round ``app``.

    :param expired: the vendor's answer to an expired credential on that path: HTTP status and JSON body.
    :param now: the time that the answers say, epoch seconds.
    """

    def __init__(
        self,
        app: Application,
        log: RequestLog,
        faults: Faults,
        expired: Callable[[str], tuple[int, Any]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._log = log
        self._faults = faults
        self._expired = expired
        self._now = now

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        send = _dated(self._now, send)
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            await self._app(scope, receive, send)
            return
        entry = self._open(scope)
        effect = self._faults.pick(entry.method, entry.path)
        entry.fault = None if effect is None else str(effect)
        started = time.monotonic()
        try:
            await self._answer(effect, entry, scope, receive, _noting(entry, send))
        except Exception:
            log.exception("the stand-in could not answer %s %s", entry.method, entry.path)
            raise
        finally:
            entry.seconds = time.monotonic() - started
            if self._log.on_answer:
                self._log.on_answer(entry)

    def _open(self, scope: Any) -> Entry:
        query = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
        entry = Entry(
            at=time.time(),
            method=scope["method"],
            path=scope["path"],
            query=query,
            client_port=(scope.get("client") or ("", 0))[1],
            request_id=query.get("requestId") or query.get("request_id"),
        )
        scope["state"]["entry"] = entry
        self._log.add(entry)
        return entry

    async def _answer(
        self, effect: Effect | None, entry: Entry, scope: Any, receive: Any, send: Send
    ) -> None:
        if effect is None:
            await self._app(scope, receive, send)
        elif effect.kind == "slow":
            await asyncio.sleep(effect.delay)
            await self._app(scope, receive, send)
        elif effect.kind == "late":
            await self._app(scope, receive, _held(effect.delay, send))
        elif effect.kind == "reset":
            await _drop(scope, receive, reset=True)
        elif effect.kind == "lose_answer":
            await self._app(scope, receive, _discard)
            await _drop(scope, receive, reset=True)
        elif effect.kind == "cut":
            await self._app(scope, receive, _half_of(send))
            await _drop(scope, receive, reset=False)
        elif effect.kind == "rewrite":
            await self._app(scope, receive, _rewritten(effect, entry, send))
        elif effect.kind == "expired":
            status, body = self._expired(scope["path"])
            await _reply(send, status, body)
        else:
            headers = {} if effect.retry_after is None else {"retry-after": f"{effect.retry_after:g}"}
            await _reply(send, effect.status, {"message": "scripted fault"}, headers)


def _dated(now: Callable[[], float], send: Send) -> Send:
    async def dated(message: Any) -> None:
        if message["type"] == "http.response.start":
            date = formatdate(now(), usegmt=True).encode()
            message = {**message, "headers": [(b"date", date), *message.get("headers", [])]}
        await send(message)

    return dated


def _noting(entry: Entry, send: Send) -> Send:
    async def noting(message: Any) -> None:
        if message["type"] == "http.response.start":
            entry.status = message["status"]
        await send(message)

    return noting


async def _discard(_message: Any) -> None:
    return None


def _held(delay: float, send: Send) -> Send:
    async def held(message: Any) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(delay)
        await send(message)

    return held


def _rewritten(effect: Effect, entry: Entry, send: Send) -> Send:
    """Hold an answer until it is whole, for its length changes with its text; one that stays the same is no fault."""
    start: dict[str, Any] = {}
    body = bytearray()

    async def rewritten(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        text = bytes(body).replace(effect.old.encode(), effect.new.encode())
        if text == body:
            entry.fault = None
        length = (b"content-length", str(len(text)).encode())
        others = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        await send({**start, "headers": [*others, length]})
        await send({"type": "http.response.body", "body": text})

    return rewritten


def _half_of(send: Send) -> Send:
    async def half(message: Any) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            message = {**message, "body": body[: len(body) // 2], "more_body": True}
        await send(message)

    return half


async def _drop(scope: Any, receive: Any, *, reset: bool) -> None:
    """End the connection: with a TCP reset, or in an orderly way but too early."""
    transport = scope["state"]["transport"]
    raw = transport.get_extra_info("socket")
    if reset and raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    # The server must learn that the client is gone before this returns, or it tries to answer with a 500.
    while (await receive())["type"] != "http.disconnect":
        continue


async def _reply(send: Send, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    content = json.dumps(body).encode()
    fields = {"content-type": "application/json", "content-length": str(len(content)), **(headers or {})}
    raw = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
