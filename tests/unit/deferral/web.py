"""A web server on the loopback interface, for tests of what goes over the wire."""

from __future__ import annotations

import contextlib

from aiohttp import web

from tests.sockets import server_tls

__all__ = ["PROXY_LOGIN", "proxying", "serving"]

PROXY_LOGIN = ("me", "proxy-password")


@contextlib.asynccontextmanager
async def serving(answer, *, certificates=None):
    """Serve whatever is asked; gives the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        tls = server_tls(certificates) if certificates else None
        await web.TCPSite(runner, "localhost" if tls else "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        yield f"https://localhost:{port}" if tls else f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def proxying(monkeypatch, status=200):
    """Be a proxy for plain HTTP, the only one there is; gives the requests it has seen, and its URL with a login in it."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    seen = []

    async def answer(request):
        seen.append((str(request.url), request.headers.get("Proxy-Authorization")))
        return web.json_response({"proxied": True}, status=status)

    async with serving(answer) as url:
        yield seen, url.replace("http://", "http://{}:{}@".format(*PROXY_LOGIN))
