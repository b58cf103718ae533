"""Send the requests for a vendor's host name to a stand-in, for clients that cannot be given another address."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["redirected"]


@contextmanager
def redirected(names: dict[str, int]) -> Iterator[None]:
    """In this process and for this block, resolve each host name to 127.0.0.1 and the port given for it.

    Works for clients that take the port from the resolver's answer, as ``requests``, ``urllib3`` and ``aiohttp`` with
    its default threaded resolver do.
    """
    original = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in names:
            return original("127.0.0.1", names[name], *args, **kwargs)
        return original(host, port, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = original
