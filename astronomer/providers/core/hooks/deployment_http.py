"""HTTP to another Airflow over one aiohttp session: the only border to its errors."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from astronomer.deferral import CredentialsRejected, Transient, clock
from astronomer.deferral.connector import Connector, untrusted
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable, NoSuchApi, Refused
from astronomer.providers.package import DISTRIBUTION

__all__ = ["Answer", "Transport"]

_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=20)
_CONNECTIONS = 8
_KEEPALIVE = 75.0  # longer than the usual pause between two looks
_LONGEST_TEXT = 300
_PAUSE_UNTOLD = 5.0  # after a 429 that names no time


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, read to its end.

    :param asked: the method and path, for messages.
    """

    asked: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def well(self) -> bool:
        """Whether the request was done."""
        return 200 <= self.status < 300

    @property
    def refuses_token(self) -> bool:
        """Whether it is the login that was refused: Airflow says 401 of an expired token, and 403 of a revoked one."""
        return self.status == 401 or (self.status == 403 and "token" in self._complaint().lower())

    def document(self) -> dict[str, Any]:
        """The JSON object of a success.

        :raises Transient: anything else: a gateway's own page comes with status 200, too.
        """
        found = self._json()
        if found is None:
            raise Transient(f"{self.asked}: HTTP {self.status}, but the answer is no JSON object")
        return found

    def error(self) -> Exception:
        """What to raise for an answer that is not a success."""
        text = f"{self.asked}: HTTP {self.status} {self._complaint()}".rstrip()
        if self.refuses_token:
            return CredentialsRejected(text)
        if self.status in (408, 425, 429) or self.status >= 500:
            return Transient(text, retry_after=self._retry_after())
        if 300 <= self.status < 400 or self.status == 405 or (self.status == 404 and not self._by_airflow()):
            return NoSuchApi(text)
        if self._json() is None:  # a gateway or a firewall on the way
            return Transient(text)
        return Refused(self.status, self._complaint(), text)

    def _json(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.body)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _by_airflow(self) -> bool:
        """Whether an Airflow 3 says that it has no such thing, rather than that it has no such route."""
        detail = (self._json() or {}).get("detail")
        return bool(detail) and detail != "Not Found"

    def _complaint(self) -> str:
        if 300 <= self.status < 400:
            return f"redirected to {urlsplit(self.headers.get('Location', '')).netloc or 'another path'}"
        said = self._json()
        if said is None:
            text = self.body[: 4 * _LONGEST_TEXT].decode(errors="replace")
        else:
            detail = said.get("detail") or said.get("error_description") or said.get("error")
            detail = detail or said.get("message") or said.get("title") or ""
            text = str(detail.get("message", detail) if isinstance(detail, dict) else detail)
        return " ".join(text.split())[:_LONGEST_TEXT]

    def _retry_after(self) -> float | None:
        told = _seconds(self.headers.get("Retry-After"))
        return _PAUSE_UNTOLD if told is None and self.status == 429 else told


class Transport:
    """Sends requests and reads answers; knows no tokens.

    :param ca_file: certificates of a private authority, which count beside the machine's.
    """

    def __init__(self, ca_file: str | None = None) -> None:
        self._ca_file = ca_file
        self._http: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **content: Any
    ) -> Answer:
        """One request, not repeated, no redirect followed.

        :raises Transient: no answer, or not all of it.
        """
        asked = f"{method} {urlsplit(url).path}"
        try:
            http = await self._open()
            proxy, identity = _proxy(url)
            if identity and url.startswith("https:"):
                content["proxy_headers"] = identity  # for the CONNECT only
            elif identity:
                headers = {**(headers or {}), **identity}
            target = URL(url, encoded=True)  # a run id has characters that must stay quoted
            async with http.request(
                method, target, headers=headers, proxy=proxy, allow_redirects=False, **content
            ) as response:
                return Answer(asked, response.status, response.headers, await response.read())
        except asyncio.TimeoutError:
            raise Transient(f"{asked}: no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = str(error)[:_LONGEST_TEXT]
            hint = untrusted(error, ", or `ca_file` in the extra of the Airflow connection")
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
                # In a thread, because it reads all certificates of the machine.
                context = await asyncio.to_thread(self._trust)
                if self._closed:  # perhaps meanwhile
                    raise Transient("the client was closed")
                self._http = aiohttp.ClientSession(
                    timeout=_TIMEOUT,
                    connector=Connector(ssl=context, limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={
                        "User-Agent": f"{DISTRIBUTION}/{version(DISTRIBUTION)}",
                        "Accept": "application/json",
                    },
                )
            return self._http

    def _trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._ca_file:
            try:
                context.load_verify_locations(self._ca_file)
            except OSError as error:
                raise ConnectionUnusable(f"`ca_file` {self._ca_file} cannot be read: {error}") from None
        return context


def _proxy(url: str) -> tuple[URL | None, dict[str, str]]:
    """The environment's proxy for a URL, and the headers that log in there, apart, so that no message shows them.

    aiohttp's ``trust_env`` would also read ``~/.netrc``, from the disk, for each request.
    """
    parts = urlsplit(url)
    found = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if not found:
        return None, {}
    proxy = URL(found if "://" in found else f"http://{found}")
    if proxy.user is None:
        return proxy, {}
    told = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return proxy.with_user(None), {"Proxy-Authorization": f"Basic {told}"}


def _seconds(value: str | None) -> float | None:
    """Of a ``Retry-After``: seconds, or a date."""
    try:
        seconds = float(value or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value or "").timestamp() - clock.now()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
