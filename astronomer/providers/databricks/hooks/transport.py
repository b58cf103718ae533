"""HTTP over one aiohttp session: the only border to its errors."""

from __future__ import annotations

import asyncio
import platform
import ssl
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from astronomer.deferral import Transient
from astronomer.deferral.connector import Connector, untrusted
from astronomer.providers.databricks.hooks.answers import Answer
from astronomer.providers.databricks.hooks.credentials import basic
from astronomer.providers.package import DISTRIBUTION

__all__ = ["Transport"]

_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=20)
_CONNECTIONS = 8
_KEEPALIVE = 75.0  # longer than the usual pause between two polls
_LONGEST_TEXT = 300


class Transport:
    """Sends requests and reads answers; knows neither tokens nor budgets.

    :param proxies: the connection's own, by scheme; the environment's where it has none.
    :param caller: goes into the User-Agent.
    :ivar agent: the whole of it.
    """

    def __init__(self, proxies: Mapping[str, str], caller: str) -> None:
        self._proxies = proxies
        self.agent = f"{DISTRIBUTION}/{version(DISTRIBUTION)} python/{platform.python_version()}"
        if caller != DISTRIBUTION:
            self.agent += f" caller/{caller}"
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
            proxy, identity = self._proxy(url)
            if identity and url.startswith("https:"):
                content["proxy_headers"] = (
                    identity  # for the CONNECT; what goes through the tunnel is not for it
                )
            elif identity:
                headers = {**(headers or {}), **identity}
            async with http.request(
                method, url, headers=headers, proxy=proxy, allow_redirects=False, **content
            ) as response:
                body = await response.read()
                return Answer(asked, response.status, response.headers, body)
        except asyncio.TimeoutError:
            raise Transient(f"{asked}: no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Without the query: that of a storage link is a secret.
            said = str(error).replace(urlsplit(url).query or "\0", "…")[:_LONGEST_TEXT]
            raise Transient(f"{asked}: {type(error).__name__}: {said}{untrusted(error)}") from None

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
                context = await asyncio.to_thread(ssl.create_default_context)
                if self._closed:  # perhaps meanwhile
                    raise Transient("the client was closed")
                self._http = aiohttp.ClientSession(
                    timeout=_TIMEOUT,
                    connector=Connector(ssl=context, limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"User-Agent": self.agent},
                )
            return self._http

    def _proxy(self, url: str) -> tuple[URL | None, dict[str, str]]:
        """The proxy for a URL, and the headers that log in there, apart, so that no error message shows them.

        aiohttp's ``trust_env`` would also read ``~/.netrc``, from the disk, for each request.
        """
        parts = urlsplit(url)
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
