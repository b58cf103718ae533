"""What an aiohttp session connects through, so that an event loop never ends before its connections have.

Not imported by the engine itself: aiohttp comes with the families that need it.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

__all__ = ["Connector", "untrusted"]

_TURNS = 100  # of the event loop; an aborted connection takes two or three


def untrusted(error: BaseException, more: str = "") -> str:
    """What to do about a certificate that was refused, to follow the error's words; empty for every other error.

    :param more: another way to trust an authority.
    """
    if not isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)):
        return ""
    return (
        ". If it has the certificate of a private authority, let SSL_CERT_FILE name a file that also holds that "
        f"authority's{more}; verification cannot be switched off."
    )


class Connector(aiohttp.TCPConnector):
    """Closed only when all its connections are, those of requests that were given up too.

    aiohttp forgets a connection that it closes before the end of a request, and a TLS connection closes only after
    the server's answer; when the event loop ends before, the socket is left behind.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # By socket, which a tunnel and the TLS inside it share.
        self._open: dict[Any, asyncio.Transport] = {}
        make: Callable[..., ResponseHandler] = _Connection
        self._factory = functools.partial(make, self._loop, self._open)

    async def close(self, **how: Any) -> None:
        """End all connections."""
        await super().close(**how)
        for transport in list(self._open.values()):
            transport.abort()
        turns = 0
        while self._open and turns < _TURNS:
            await asyncio.sleep(0)
            turns += 1


class _Connection(ResponseHandler):
    """A connection that is in ``register`` from its beginning to its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, register: dict[Any, asyncio.Transport]) -> None:
        super().__init__(loop)
        self._register = register
        self._socket: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        self._register[self._socket] = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._register.pop(self._socket, None)
