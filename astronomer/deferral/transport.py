"""HTTP over one aiohttp session, as all clients of a REST API send it: the only border to its errors.

Not imported by the engine itself: aiohttp comes with the families that need it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from astronomer.deferral import clock
from astronomer.deferral.connector import Connector, untrusted
from astronomer.deferral.errors import Transient

__all__ = ["HttpAnswer", "Transport", "basic"]

_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=20)
_KEEPALIVE = 75.0  # longer than the usual pause between two polls
_LONGEST_TEXT = 300

A = TypeVar("A", bound="HttpAnswer")


@dataclass(frozen=True)
class HttpAnswer:
    """One HTTP answer, read to its end.

    :param asked: the method and path, for messages.
    """

    pause_untold: ClassVar[float | None] = None
    """Seconds, after a 429 that names no time; ``None`` leaves them to whoever asks."""

    asked: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def well(self) -> bool:
        """Whether the request was done."""
        return 200 <= self.status < 300

    @cached_property
    def parsed(self) -> dict[str, Any] | None:
        """The JSON object that the answer is, if it is one: gateways and proxies on the way speak otherwise."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def document(self) -> dict[str, Any]:
        """The JSON object of a success.

        :raises Transient: it is none; a gateway's own page comes with status 200, too.
        """
        found = self.parsed
        if found is None:
            raise Transient(f"{self.asked}: HTTP {self.status}, but the answer is no JSON object")
        return found

    @property
    def retry_after(self) -> float | None:
        """Seconds for which the server wants to be left alone; ``None`` when it does not say so."""
        told = _seconds(self.headers.get("Retry-After"), self.server_time)
        return self.pause_untold if told is None and self.status == 429 else told

    @property
    def server_time(self) -> float | None:
        """The server's clock, epoch seconds."""
        return _moment(self.headers.get("Date"))


class Transport(Generic[A]):
    """Sends requests and reads answers; knows no tokens. For one event loop.

    :param kind: what an answer is made into.
    :param headers: of every request.
    :param proxies: by scheme; the environment's where there is none.
    :param trust: makes the TLS context, in a thread: it reads all certificates of the machine.
    :param trusting: another way to trust an authority, for the message about a certificate that was refused.
    :param connections: how many at the most.
    """

    def __init__(
        self,
        kind: type[A],
        headers: Mapping[str, str],
        *,
        proxies: Mapping[str, str] | None = None,
        trust: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        trusting: str = "",
        connections: int = 8,
    ) -> None:
        self._kind = kind
        self._headers = headers
        self._proxies = proxies or {}
        self._trust = trust
        self._trusting = trusting
        self._connections = connections
        self._http: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        redirected: bool = False,
        **content: Any,
    ) -> A:
        """One request, not repeated.

        :param url: quoted as it has to be: nothing in it is quoted again, or otherwise.
        :param redirected: whether redirects are followed.
        :raises Transient: no answer, or not all of it.
        """
        asked, secret = method, ""
        try:
            parts = urlsplit(url)
            # Without the query: that of a storage link is a secret.
            asked, secret = f"{method} {parts.path}", parts.query
            http = await self._open()
            proxy, identity = self._proxy(parts)
            if identity and parts.scheme == "https":
                content["proxy_headers"] = (
                    identity  # for the CONNECT; what goes through the tunnel is not for it
                )
            elif identity:
                headers = {**(headers or {}), **identity}
            target = URL(url, encoded=True)
            async with http.request(
                method, target, headers=headers, proxy=proxy, allow_redirects=redirected, **content
            ) as response:
                return self._kind(asked, response.status, response.headers, await response.read())
        except asyncio.TimeoutError:
            raise Transient(f"{asked}: no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = str(error).replace(secret or "\0", "…")[:_LONGEST_TEXT]
            hint = untrusted(error, self._trusting)
            raise Transient(f"{asked}: {type(error).__name__}: {said}{hint}") from None

    async def close(self) -> None:
        """Give the sockets back."""
        self._closed = True
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._http is None:
                context = await asyncio.to_thread(self._trust)
                if self._closed:  # perhaps meanwhile
                    raise Transient("the client was closed")
                self._http = aiohttp.ClientSession(
                    timeout=_TIMEOUT,
                    connector=Connector(ssl=context, limit=self._connections, keepalive_timeout=_KEEPALIVE),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers=self._headers,
                )
            return self._http

    def _proxy(self, parts: SplitResult) -> tuple[URL | None, dict[str, str]]:
        """The proxy for a URL, and the headers that log in there, apart, so that no error message shows them.

        aiohttp's ``trust_env`` would also read ``~/.netrc``, from the disk, for each request, and log in with it.
        """
        found = self._proxies.get(parts.scheme)
        if found is None and not proxy_bypass(parts.hostname or ""):
            found = getproxies().get(parts.scheme)
        if not found:
            return None, {}
        proxy = URL(found if "://" in found else f"http://{found}")
        if proxy.user is None:
            return proxy, {}
        identity = basic(proxy.user, proxy.password or "")["Authorization"]
        return proxy.with_user(None), {"Proxy-Authorization": identity}


def basic(login: str, password: str) -> dict[str, str]:
    """The header for a login and a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()}


def _seconds(value: str | None, server_time: float | None) -> float | None:
    """Of a ``Retry-After``: seconds, or a date by the server's clock."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        moment = _moment(value)
        if moment is None:
            return None
        seconds = moment - (clock.now() if server_time is None else server_time)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _moment(value: str | None) -> float | None:
    try:
        return None if value is None else parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
