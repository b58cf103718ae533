"""The pages under ``/auth``: to the platform and back, the exchange of a token, and out.

The platform's token comes back in the body of a form that the browser posts (``response_mode=form_post`` of OAuth 2.0),
never in an address: addresses are written to logs, histories and ``Referer`` headers. The browser must bring a cookie
that it was given when it set out, so that nobody can be logged in as somebody else by a link.
"""

from __future__ import annotations

import html
import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit, urlunsplit

from airflow.api_fastapi.app import get_cookie_path
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jwt import ExpiredSignatureError, InvalidTokenError

from astronomer.runtime.middleware import TOKENS
from astronomer.runtime.tokens import TokenRefused

if TYPE_CHECKING:
    from astronomer.runtime.auth_manager import RuntimeAuthManager
    from astronomer.runtime.user import RuntimeUser

__all__ = ["pages", "safe_next"]

_STATE = "runtime_login_"
_STATE_SECONDS = 600
# What a stranger's page makes a browser bring along has to fit into a request.
_MAXIMUM_STATES = 5
_MAXIMUM_NEXT = 1000
_MAXIMUM_BODY = 65536
# Over http a page of another port of this machine can set cookies, whose names may be such that none can be deleted.
_A_STATE = re.compile(r"[A-Za-z0-9_-]+")
_PORTS = {"http": 80, "https": 443}
# RFC 6749, 4.1.2.1. Other words are a stranger's, and not shown.
_OAUTH_ERRORS = {
    "invalid_request", "unauthorized_client", "access_denied", "unsupported_response_type", "invalid_scope", "server_error",
    "temporarily_unavailable",
}  # fmt: skip
_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'",
}


def pages(manager: RuntimeAuthManager) -> FastAPI:
    """Return the application that Airflow mounts under ``/auth``."""
    app = FastAPI(openapi_url=None)
    desk = _Desk(manager)
    app.add_api_route("/login", desk.login, methods=["GET"], response_class=RedirectResponse)
    app.add_api_route("/callback", desk.callback, methods=["POST"], response_class=RedirectResponse)
    app.add_api_route("/logout", desk.logout, methods=["GET"], response_class=RedirectResponse)
    app.add_api_route("/token", desk.token, methods=["POST"], status_code=201)
    return app


def safe_next(target: str | None, base_url: str) -> str:
    """Return an address of this Airflow: the target if it is one and short enough for a cookie, else the home page.

    It is put together anew under ``base_url``, so that no trick of spelling can lead to another host.
    """
    home = f"{base_url}/"
    if not target or not target.isprintable() or "\\" in target or " " in target:
        return home
    if len(quote(target, safe="")) > _MAXIMUM_NEXT:
        return home
    base = urlsplit(base_url)
    try:
        parts = urlsplit(target)
        same_host = not (parts.scheme or parts.netloc) or _origin(parts) == _origin(base)
    except ValueError:
        return home
    path = parts.path or "/"
    under_base = path.startswith("/") and not path.startswith("//") and f"{path}/".startswith(f"{base.path}/")
    if not same_host or not under_base or target.startswith("//") or ".." in unquote(path).split("/"):
        return home
    return urlunsplit((base.scheme, base.netloc, path, parts.query, parts.fragment))


class _Desk:
    """Where people come in and go out."""

    def __init__(self, manager: RuntimeAuthManager) -> None:
        self._manager = manager
        self._settings = manager.settings

    async def login(self, request: Request) -> Response:
        """Send the browser to the platform, and remember that it was this one."""
        wanted = safe_next(request.query_params.get("next"), self._settings.base_url)
        if self._settings.login_url is None:
            return await self._through_the_platform(request, wanted)
        if request.headers.get("sec-fetch-dest", "document") != "document":
            return _page("Log in", "Only a page in a tab of its own can lead to the platform.", status=403)
        if (
            request.url.netloc != urlsplit(self._settings.base_url).netloc
            and "moved" not in request.query_params
        ):
            # Cookies belong to a host name: set out from the one that the platform will send the browser back to.
            again = urlencode({"next": wanted, "moved": "1"})
            return RedirectResponse(f"{self._settings.base_url}/auth/login?{again}", 303, headers=_HEADERS)
        state = secrets.token_urlsafe(24)
        asked = {
            "redirect_uri": f"{self._settings.base_url}/auth/callback",
            "response_mode": "form_post",
            "state": state,
        }
        answer = RedirectResponse(_with_query(self._settings.login_url, asked), 303, headers=_HEADERS)
        # The form comes from another site, to which a browser shows only cookies that say so; that needs https.
        answer.set_cookie(
            self._state_cookie(state),
            quote(wanted, safe=""),
            max_age=_STATE_SECONDS,
            path="/",
            secure=self._settings.https,
            httponly=True,
            samesite="none" if self._settings.https else "lax",
        )
        # Oldest first, as RFC 6265 has browsers send those of one path.
        before = [name for name in request.cookies if self._is_state_cookie(name)]
        for name in before[: -(_MAXIMUM_STATES - 1)]:
            answer.delete_cookie(name, path="/", secure=self._settings.https, httponly=True)
        return answer

    async def _through_the_platform(self, request: Request, wanted: str) -> Response:
        """Lead back who brings a good token, as a proxy adds: an error of a moment has sent the browser here."""
        again = f"login?{urlencode({'next': wanted})}", "Try again"
        try:
            if token := _bearer(request):
                await self._manager.get_user_from_token(token)
                here = urlunsplit(("", "", *urlsplit(wanted)[2:]))  # the proxy need not be at base_url
                return RedirectResponse(here, 303, headers=_HEADERS)
        except InvalidTokenError:
            pass  # the audit log says why
        except HTTPException as error:
            return _page("Not logged in", str(error.detail), status=error.status_code, link=again)
        return _page(
            "Come from the platform",
            "This Airflow has no page to log in: its users come through the platform, which sends a token along "
            "with each request. An administrator can set [astronomer_runtime] login_url.",
            status=401,
            link=again,
        )

    async def callback(self, request: Request) -> Response:
        """Take the platform's token from the posted form, and give the browser one of ours."""
        form = await _form(request)
        name = self._state_cookie(form.get("state", ""))
        wanted = request.cookies.get(name) if self._is_state_cookie(name) else None
        if wanted is None:
            return _page(
                "Log in again",
                "This browser did not set out from here, or did so more than ten minutes ago.",
                status=403,
            )
        answer = await self._arrived(form, wanted)
        answer.delete_cookie(name, path="/", secure=self._settings.https, httponly=True)
        return answer

    async def _arrived(self, form: dict[str, str], wanted: str) -> Response:
        if "error" in form and "access_token" not in form:
            word = form["error"] if form["error"] in _OAUTH_ERRORS else ""
            self._manager.audit.token_refused("not let in", word)
            said = f"The platform has not let you in{word and f': {word}'}."
            return _page("Not logged in", said, status=403)
        try:
            _, session = await self._exchange(form.get("access_token", ""), "logged in")
        except InvalidTokenError as error:
            said = "you have no role in this deployment" if _reason(error) == "role" else _reason(error)
            return _page("Not logged in", f"The platform's token was not accepted: {said}.", status=403)
        except HTTPException as error:
            return _page("Not logged in", str(error.detail), status=error.status_code)
        answer = RedirectResponse(safe_next(unquote(wanted), self._settings.base_url), 303, headers=_HEADERS)
        self._keep(answer, session)
        return answer

    async def token(self, request: Request) -> Response:
        """Exchange the platform's token, shown as ``Authorization: Bearer``, for one of ours that ends no later."""
        token = _bearer(request)
        if not token:
            raise HTTPException(401, "Show the platform's token: Authorization: Bearer <token>")
        try:
            user, session = await self._exchange(token, "token exchanged")
        except ExpiredSignatureError as error:
            raise HTTPException(401, "Token Expired") from error
        except InvalidTokenError as error:
            raise HTTPException(403, "Invalid JWT token") from error
        said = {
            "access_token": session,
            "token_type": "bearer",
            "expires_in": self._manager.session_seconds(user),
        }
        return JSONResponse(said, 201, headers=_HEADERS)

    async def logout(self, request: Request) -> Response:
        """End the session, if Airflow's own endpoint has not done so before, and send the browser to the platform."""
        try:
            for token in filter(None, (_bearer(request), *request.scope.get(TOKENS, ()))):
                await run_in_threadpool(self._manager.revoke_token, token)
        except HTTPException as error:
            return _page("Not logged out", str(error.detail), status=error.status_code)
        if self._settings.logout_url is not None:
            answer: Response = RedirectResponse(self._settings.logout_url, 303, headers=_HEADERS)
        else:
            answer = _page(
                "Logged out", "Your session in this Airflow has ended. The one on the platform may go on."
            )
        for path in {get_cookie_path(), "/"}:
            answer.delete_cookie(
                COOKIE_NAME_JWT_TOKEN, path=path, secure=self._settings.https, httponly=True, samesite="lax"
            )
        return answer

    async def _exchange(self, token: str, event: str) -> tuple[RuntimeUser, str]:
        user = await self._manager.get_user_from_token(token)
        if not self._manager.is_of_the_platform(token):
            raise TokenRefused("foreign", "only the platform's own token can be exchanged")
        session = self._manager.generate_jwt(user)
        self._manager.audit.session(event, user.subject, user.roles, user.session)
        return user, session

    def _keep(self, answer: Response, session: str) -> None:
        answer.set_cookie(
            COOKIE_NAME_JWT_TOKEN,
            session,
            path=get_cookie_path(),
            secure=self._settings.https,
            httponly=True,
            samesite="lax",
        )

    def _state_cookie(self, state: str) -> str:
        # A browser lets only this very host set a cookie of that prefix, not one beside or above it.
        return f"{'__Host-' if self._settings.https else ''}{_STATE}{state}"

    def _is_state_cookie(self, name: str) -> bool:
        prefix = self._state_cookie("")
        return name.startswith(prefix) and _A_STATE.fullmatch(name, len(prefix)) is not None


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """What makes two addresses one server; raises ValueError of one that names a user, or a port that is none."""
    if "@" in parts.netloc:
        raise ValueError("a user is named")
    port = parts.port if parts.port is not None else _PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _bearer(request: Request) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _reason(error: InvalidTokenError) -> str:
    return error.reason if isinstance(error, TokenRefused) else "refused"


def _with_query(url: str, asked: dict[str, str]) -> str:
    parts = urlsplit(url)
    query = "&".join(part for part in (parts.query, urlencode(asked)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, parts.fragment))


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAXIMUM_BODY:
            raise HTTPException(413, "The form is too long.")
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=20)
    except ValueError as error:
        raise HTTPException(400, "That is no form.") from error
    return {name: values[0] for name, values in fields.items() if len(values) == 1}


def _page(
    title: str, text: str, *, status: int = 200, link: tuple[str, str] = ("login", "Log in")
) -> HTMLResponse:
    title, text, target, name = (html.escape(one) for one in (title, text, *link))
    again = f'<p><a href="{target}">{name}</a></p>'
    body = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><h1>{title}</h1><p>{text}</p>{again}"
    return HTMLResponse(body, status, headers=_HEADERS)
