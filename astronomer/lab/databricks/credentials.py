"""Who may ask: personal access tokens and OAuth tokens of a service principal."""

from __future__ import annotations

import base64
import binascii
import secrets
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.errors import ApiError
from astronomer.lab.issued import Issued

__all__ = ["Credentials", "invalid_token", "routes"]

USER = "lab@example.com"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


def invalid_token() -> ApiError:
    """Return the answer to a token that is unknown, expired or revoked."""
    return ApiError(
        403, 403, "Invalid access token.", {"x-databricks-reason-phrase": "Invalid access token."}
    )


class Credentials:
    """One user with a personal access token, and one service principal with a secret.

    :param token_seconds: how long an OAuth token lives.
    :param issued: keeps every credential, also those that were replaced.
    """

    def __init__(self, clock: Clock, token_seconds: float = 3600.0, issued: Issued | None = None) -> None:
        self._clock = clock
        self.token_seconds = token_seconds
        self._note = (issued or Issued()).note
        self.rotate_token()
        self.rotate_secret()
        self.client_id = "5d6f0c42-1ab0-4bd1-9be6-1ab000000001"
        self.subject_token = self._note("subject token", "lab-subject-token")
        self.issued = 0
        self._live: dict[str, float] = {}

    def rotate_token(self) -> str:
        """Return a new personal access token; the old one is invalid from now on."""
        self.token = self._note("personal access token", "dapi" + secrets.token_hex(16))
        return self.token

    def rotate_secret(self) -> str:
        """Return a new client secret; tokens that live go on living."""
        self.client_secret = self._note("client secret", "dose" + secrets.token_hex(16))
        return self.client_secret

    def expire_tokens(self) -> int:
        """End every OAuth token now, and return how many lived."""
        living = len(self._live)
        self._live.clear()
        return living

    def user(self, authorization: str) -> str:
        """Return the user name that an ``Authorization`` header stands for.

        :raises ApiError: there is none, or it is not valid.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            message = "Credential was not sent or was of an unsupported type for this API."
            raise ApiError(401, 401, message, {"www-authenticate": 'Bearer realm="DatabricksRealm"'})
        if secrets.compare_digest(token.encode(), self.token.encode()):
            return USER
        ends = self._live.get(token)
        if ends is None:
            raise invalid_token()
        if self._clock.now() >= ends:
            del self._live[token]
            raise invalid_token()
        return self.client_id

    def issue(self) -> str:
        """Return a new OAuth token of the service principal."""
        token = self._note("OAuth access token", "eyJhbGciOiJub25lIn0." + secrets.token_urlsafe(48))
        self._live[token] = self._clock.now() + self.token_seconds
        self.issued += 1
        return token


def routes(credentials: Credentials) -> list[Route]:
    """Return the endpoints that clients discover and log in with."""

    async def configuration(request: Request) -> Response:
        return JSONResponse(
            {
                "oidc_endpoint": f"{_origin(request)}/oidc",
                "workspace_id": "900800700600",
                "cloud": "AWS",
            }
        )

    async def endpoints(request: Request) -> Response:
        origin = _origin(request)
        return JSONResponse(
            {
                "issuer": f"{origin}/oidc",
                "authorization_endpoint": f"{origin}/oidc/v1/authorize",
                "token_endpoint": f"{origin}/oidc/v1/token",
                "grant_types_supported": ["client_credentials", EXCHANGE],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "scopes_supported": ["all-apis"],
            }
        )

    async def token(request: Request) -> Response:
        return await _token(credentials, request)

    discovery = "/.well-known/oauth-authorization-server"
    return [
        Route("/.well-known/databricks-config", configuration, methods=["GET"]),
        Route("/oidc" + discovery, endpoints, methods=["GET"]),
        Route(discovery, endpoints, methods=["GET"]),
        Route("/oidc/v1/token", token, methods=["POST"]),
    ]


async def _token(credentials: Credentials, request: Request) -> Response:
    form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
    grant = form.get("grant_type", "")
    if grant == EXCHANGE:
        if form.get("subject_token") != credentials.subject_token:
            return _refusal(400, "invalid_grant", "The subject token is not valid.")
    elif grant != "client_credentials":
        return _refusal(400, "unsupported_grant_type", f"The grant type {grant!r} is not supported.")
    elif _client(request, form) != (credentials.client_id, credentials.client_secret):
        return _refusal(401, "invalid_client", "Client authentication failed")
    answer = {
        "access_token": credentials.issue(),
        "scope": form.get("scope", "all-apis"),
        "token_type": "Bearer",
        "expires_in": int(credentials.token_seconds),
    }
    return JSONResponse(answer, headers={"cache-control": "no-store"})


def _client(request: Request, form: dict[str, str]) -> tuple[str, str]:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        name, _, secret = base64.b64decode(value).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, secret


def _refusal(status: int, error: str, description: str) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status)


def _origin(request: Request) -> str:
    return f"https://{request.headers.get('host', 'localhost')}"
