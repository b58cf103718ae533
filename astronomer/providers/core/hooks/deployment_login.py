"""Where another deployment is, and how one logs in there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlsplit

from astronomer.deferral import CredentialsRejected, clock
from astronomer.deferral._compat import PlainConnection
from astronomer.deferral.transport import basic
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable, NoSuchApi, Refused

if TYPE_CHECKING:
    from astronomer.providers.core.hooks.deployment_http import Answer

__all__ = ["Deployment", "Login"]

_LEAD = 60.0  # seconds before its end at which a token is no longer used
_UNTOLD_LIFE = 900.0
_FOR_TOKENS = ("token_url", "scope", "audience", "client_auth")
_SHORTEST_SECRET = 4  # hiding what is shorter would only garble a message

# Of this process, for all its event loops: a sensor in a worker opens one for each of its looks.
_kept: dict[str, Fresh] = {}
_KEY = secrets.token_bytes(16)


@dataclass(frozen=True)
class Fresh:
    """Headers that log in, and the epoch second until which they are good."""

    headers: Mapping[str, str] = field(repr=False)
    until: float = math.inf


@dataclass(frozen=True)
class Deployment:
    """What an Airflow connection says of a deployment.

    :param address: its URL, with the path before ``/api/v2``, if there is one.
    :param token: an API token; or
    :param login: a user, or the id of an OAuth client; with
    :param secret: the password or secret.
    :param oauth: ``token_url``, ``scope``, ``audience`` and ``client_auth``, of an OAuth client.
    :param ca_file: certificates of a private authority.
    """

    conn_id: str
    address: str
    token: str = field(default="", repr=False)
    login: str = ""
    secret: str = field(default="", repr=False)
    oauth: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | None = None

    @classmethod
    def of(cls, connection: PlainConnection) -> Deployment:
        """Read a connection.

        :raises ConnectionUnusable: its fields make no sense.
        """
        extra, login = connection.extra_dejson, (connection.login or "").strip()
        password = (connection.password or "").strip()
        try:
            found = cls(
                connection.conn_id,
                _address(connection),
                token="" if login else password or str(extra.get("token") or "").strip(),
                login=login,
                secret=password if login else "",
                oauth={name: str(extra[name]) for name in _FOR_TOKENS if extra.get(name)},
                ca_file=str(extra.get("ca_file") or "") or None,
            )
            found._check()
        except ValueError as error:
            raise ConnectionUnusable(f"the Airflow connection {connection.conn_id!r}: {error}") from None
        return found

    def _check(self) -> None:
        if self.login and not self.secret:
            raise ValueError("it has a login, but no password")
        if not self.login and self.oauth:
            raise ValueError(f"it has `{next(iter(self.oauth))}` in its extra, but no login (the client id)")
        if self.oauth and "token_url" not in self.oauth:
            raise ValueError(f"it has `{next(iter(self.oauth))}` in its extra, but no `token_url`")
        if not self.login and not self.token:
            raise ValueError("it holds neither an API token (password) nor a login and a password")
        if not self.token.isprintable():
            raise ValueError("its token holds a line break or another character that no header may hold")
        if self.oauth.get("client_auth", "basic") not in ("basic", "body"):
            raise ValueError("`client_auth` in its extra must be basic or body")
        if self.oauth:
            _url(self.oauth["token_url"], "`token_url` in its extra")
        if self.ca_file and not Path(self.ca_file).is_file():
            raise ValueError(f"there is no file {self.ca_file} here, which its extra names as `ca_file`")

    def hide(self, text: object, *more: str) -> str:
        """The text with stars in place of every secret; answers of servers repeat what they were sent."""
        hidden = str(text)
        for value in sorted({self.token, self.secret, *more}, key=len, reverse=True):
            if len(value) >= _SHORTEST_SECRET:
                hidden = hidden.replace(value, "***")
        return hidden

    @property
    def digest(self) -> str:
        """Equal for the same login with the same secret; good within this process only."""
        told = json.dumps([self.address, self.login, self.secret, sorted(self.oauth.items())])
        return hashlib.blake2b(told.encode(), key=_KEY, digest_size=16).hexdigest()


class Login:
    """The headers that log in: made once for many requests, anew before they expire, and once when refused.

    :param ask: sends ``POST`` to a URL.
    """

    def __init__(self, deployment: Deployment, ask: Callable[..., Awaitable[Answer]]) -> None:
        self._deployment = deployment
        self._ask = ask
        self._turn = asyncio.Lock()
        self._fresh: Fresh | None = None
        if deployment.token:
            self._fresh = Fresh(_bearer(deployment.token))

    async def headers(self) -> Mapping[str, str]:
        """The headers of the moment.

        :raises CredentialsRejected: there are none for us.
        :raises Transient: they cannot be had just now.
        """
        async with self._turn:  # so that many who come at once fetch one token
            if self._fresh is None:
                self._fresh = _kept.get(self._deployment.digest)
            if self._fresh is None or clock.now() >= self._fresh.until:
                self._fresh = await self._fetch()
                self._keep(self._fresh)
            return self._fresh.headers

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Forget headers that were refused; whether others can be had."""
        if self._deployment.token:
            return False
        if self._fresh is not None and self._fresh.headers is refused:
            self.forget()
        return True

    def forget(self) -> None:
        """Fetch a token anew for the next question, where one is fetched at all."""
        if not self._deployment.token:
            _kept.pop(self._deployment.digest, None)
            self._fresh = None

    def _keep(self, fresh: Fresh) -> None:
        for digest, old in list(_kept.items()):  # a rotated secret's would stay for ever
            if clock.now() >= old.until:
                _kept.pop(digest, None)
        _kept[self._deployment.digest] = fresh

    async def _fetch(self) -> Fresh:
        """A token: Airflow's own for a user, or an OAuth one for a client (RFC 6749, 4.4)."""
        it = self._deployment
        url, content = f"{it.address}/auth/token", {}
        if it.oauth:
            url, content = it.oauth["token_url"], self._client_credentials()
        else:
            content = {"json": {"username": it.login, "password": it.secret}}
        answer = await self._ask(url, **content)
        if not answer.well:
            error = answer.error()
            # Whatever it refuses, it refuses to log us in.
            raise CredentialsRejected(str(error)) if isinstance(error, (Refused, NoSuchApi)) else error
        document = answer.document()
        token = str(document.get("access_token") or "")
        if not token or not token.isprintable():
            raise CredentialsRejected(f"{answer.asked}: the answer holds no access_token")
        life = float(document.get("expires_in") or _life(token) or _UNTOLD_LIFE)
        return Fresh(_bearer(token), clock.now() + life - min(_LEAD, life / 4))

    def _client_credentials(self) -> dict[str, Any]:
        it = self._deployment
        form = {"grant_type": "client_credentials"}
        form |= {name: it.oauth[name] for name in ("scope", "audience") if name in it.oauth}
        if it.oauth.get("client_auth") == "body":
            return {"data": {**form, "client_id": it.login, "client_secret": it.secret}}
        identity = basic(quote_plus(it.login), quote_plus(it.secret))  # RFC 6749, 2.3.1
        return {"data": form, "headers": identity}


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _life(token: str) -> float | None:
    """Seconds for which a JSON web token is good: Airflow tells it nowhere else."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        seconds = float(claims["exp"]) - float(claims.get("iat") or clock.now())
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return seconds if seconds > 0 else None


def _address(connection: PlainConnection) -> str:
    named = (connection.host or "").strip()
    if named and "://" not in named:
        named = f"{(connection.schema or 'https').strip().lower()}://{named}"
    url = _url(named, "its host")
    netloc = url.netloc if url.port or not connection.port else f"{url.netloc}:{connection.port}"
    return f"{url.scheme}://{netloc}{url.path.rstrip('/')}"


def _url(text: str, what: str) -> Any:
    """The parts of a URL; without encryption only if it says so itself.

    :raises ValueError: it is none.
    """
    url = urlsplit(text.strip())
    if url.scheme not in ("https", "http") or not url.hostname:
        raise ValueError(f"{what} must be the deployment's URL, such as https://airflow.example.com/orders")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError(f"{what} must be a plain URL, without a user, a query or a fragment")
    _ = url.port  # raises for one that is no number
    return url
