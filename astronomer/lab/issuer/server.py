"""The platform over HTTP: its keys, a token for the asking, and the pages to log in and out."""

from __future__ import annotations

import html
import socket
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from typing_extensions import Self

from astronomer.lab.issuer.platform import PEOPLE, Platform
from astronomer.lab.server import LOOPBACK, PortInUseError

__all__ = ["IssuerServer"]

_STARTUP_SECONDS = 30.0
_HERE = {"localhost", LOOPBACK, "[::1]"}


class IssuerServer:
    """A local platform that listens from ``start()`` to ``stop()``.

    :param audience: the ``aud`` of its tokens: whatever the Airflow under test is told.
    :param port: 0 for any free one, known at once.
    :raises PortInUseError: the port is taken.
    """

    def __init__(
        self, audience: str = "airflow.localhost", *, port: int = 0, algorithm: str = "RS256"
    ) -> None:
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        self.platform = Platform(self.url, audience, algorithm)
        self.fetches = 0
        self.answer: Response | None = None
        """What is answered instead of the keys, for tests."""
        self._server = uvicorn.Server(
            uvicorn.Config(self._app(), log_config=None, access_log=False, lifespan="off", ws="none")
        )
        self._thread: threading.Thread | None = None

    def settings(self) -> dict[str, str]:
        """Return the variables that make an Airflow believe it."""
        return {
            "AIRFLOW__CORE__AUTH_MANAGER": "astronomer.runtime.auth_manager.RuntimeAuthManager",
            "AIRFLOW__ASTRONOMER_RUNTIME__ISSUER": self.url,
            "AIRFLOW__ASTRONOMER_RUNTIME__AUDIENCE": self.platform.audience,
            "AIRFLOW__ASTRONOMER_RUNTIME__JWKS_URL": f"{self.url}/jwks.json",
            "AIRFLOW__ASTRONOMER_RUNTIME__LOGIN_URL": f"{self.url}/login",
            "AIRFLOW__ASTRONOMER_RUNTIME__LOGOUT_URL": f"{self.url}/logout",
        }

    def start(self) -> Self:
        """Return once it answers."""
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listener],), name="issuer", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _STARTUP_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the issuer did not start on port {self.port}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Close the port."""
        self._server.should_exit = self._server.force_exit = True
        if self._thread is not None:
            self._thread.join(10)
        self._listener.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _app(self) -> Starlette:
        # Any page could have a name of its own lead to this machine, and would then read an admin's token as its own.
        by_name = Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", LOOPBACK])
        return Starlette(
            middleware=[by_name],
            routes=[
                Route("/jwks.json", self._jwks),
                Route("/token", self._token),
                Route("/login", self._login),
                Route("/login", self._posted, methods=["POST"]),
                Route("/logout", self._logout),
            ],
        )

    async def _jwks(self, _request: Request) -> Response:
        self.fetches += 1
        return self.answer or JSONResponse(self.platform.jwks())

    async def _token(self, request: Request) -> Response:
        role = request.query_params.get("role", "viewer")
        if role not in PEOPLE:
            return PlainTextResponse(f"role is one of {', '.join(PEOPLE)}", 400)
        return PlainTextResponse(self.platform.token(role))

    async def _login(self, request: Request) -> Response:
        target, state = (request.query_params.get(name, "") for name in ("redirect_uri", "state"))
        if not _is_here(target):
            return PlainTextResponse("redirect_uri must lead to this machine: http://localhost:<port>/…", 400)
        if request.query_params.get("response_mode") != "form_post":
            return PlainTextResponse(
                "response_mode must be form_post: a token in an address would be in logs and histories", 400
            )
        fields = _hidden({"redirect_uri": target, "state": state})
        buttons = "".join(
            f'<p><button name="role" value="{role}">{html.escape(who)}, {role}</button></p>'
            for role, who in PEOPLE.items()
        )
        return _page("Who are you?", f'<form method="post" action="login">{fields}{buttons}</form>')

    async def _posted(self, request: Request) -> Response:
        sent = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        target, role = sent.get("redirect_uri", ""), sent.get("role", "")
        if not _is_here(target) or role not in PEOPLE:
            return PlainTextResponse("that is not what the page has sent", 400)
        fields = _hidden({"access_token": self.platform.token(role), "state": sent.get("state", "")})
        form = f'<form method="post" action="{html.escape(target)}">{fields}<button>Go on to Airflow</button></form>'
        return _page("Logging in", f"{form}<script>document.forms[0].submit()</script>")

    async def _logout(self, _request: Request) -> Response:
        return _page("Logged out", "<p>The platform has forgotten you, too.</p>")


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise PortInUseError(error.errno, f"port {port} on {LOOPBACK} is already in use") from error
    return listener


def _is_here(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.netloc.rpartition(":")[0] in _HERE and "@" not in parts.netloc


def _hidden(fields: dict[str, Any]) -> str:
    return "".join(
        f'<input type="hidden" name="{name}" value="{html.escape(value)}">' for name, value in fields.items()
    )


def _page(title: str, body: str) -> HTMLResponse:
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><h1>{title}</h1>{body}",
        headers={"cache-control": "no-store", "x-frame-options": "DENY"},
    )
