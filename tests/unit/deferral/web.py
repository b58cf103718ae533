"""A web server on the loopback interface, for tests of what goes over the wire."""

from __future__ import annotations

import contextlib

from aiohttp import web

__all__ = ["serving"]


@contextlib.asynccontextmanager
async def serving(answer, *, tls=None):
    """Serve whatever is asked; gives the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "localhost" if tls else "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        yield f"https://localhost:{port}" if tls else f"http://{host}:{port}"
    finally:
        await runner.cleanup()
