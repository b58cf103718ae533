"""Keeps Airflow's renewal of session cookies away from the pages that set and delete the cookie themselves."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse

__all__ = ["STILL_LOGGED_IN", "TOKENS", "SessionMiddleware"]

log = logging.getLogger(__name__)

STILL_LOGGED_IN = "You are still logged in. The metadata database could not be asked. Try again in a minute."

TOKENS = "astronomer.runtime.tokens"
"""In the scope of such a page: the tokens of the session cookies that the browser has brought."""

_LOGOUT = "/api/v2/auth/logout"
_PAGES = {"/auth/callback", "/auth/logout"}
_NAME = COOKIE_NAME_JWT_TOKEN.encode()


class SessionMiddleware:
    """An ASGI middleware around Airflow's own, which renews the cookie of a session that is half over.

    Airflow's sets or deletes the cookie after the page has done so, and of two a browser keeps the last. So it is not
    shown the cookie of a request to log in or out. And it says ``Secure`` of a cookie only if the request came by https,
    as it did for the browser, if not for what stands behind a proxy.

    :param https: whether browsers reach this Airflow by https.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, https: bool) -> None:
        self._app, self._https = app, https

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        try:
            await self._app(self._seen(scope) if scope["type"] == "http" else scope, receive, send)
        except SQLAlchemyError:
            # Airflow's middleware has asked whose cookie it is, before there was anything to answer an error.
            if scope["type"] != "http" or _route(scope) != _LOGOUT:
                raise
            log.exception("A session could not be ended")
            await JSONResponse({"detail": STILL_LOGGED_IN}, 503)(scope, receive, send)

    def _seen(self, scope: Any) -> Any:
        headers, tokens = _without_session(scope["headers"])
        if self._https and tokens:
            scope = {**scope, "scheme": "https"}
        return {**scope, "headers": headers, TOKENS: tokens} if _route(scope) in _PAGES else scope


def _route(scope: Any) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _without_session(headers: Any) -> tuple[list[tuple[bytes, bytes]], list[str]]:
    """Return the headers without session cookies, and what these held."""
    kept, tokens = [], []
    for name, value in headers:
        if name != b"cookie":
            kept.append((name, value))
            continue
        others = []
        for cookie in value.split(b";"):
            key, _, held = (part.strip() for part in cookie.partition(b"="))
            if key == _NAME:
                tokens.append(held.strip(b'"').decode("latin-1"))
            else:
                others.append(cookie)
        kept.append((name, b";".join(others)))
    return kept, tokens
