"""Which workspace an Airflow connection means, and how it logs in there. Reads fields only; asks nobody."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import SplitResult, urlsplit

from astronomer.deferral._compat import PlainConnection
from astronomer.providers.databricks.errors import ConnectionUnusable

__all__ = ["Mode", "Secrets", "Workspace"]

_DEFAULT_PORTS = {"https": 443, "http": 80}
_AZURE = ("use_azure_managed_identity", "use_default_azure_credential")
_FEDERATED = ("federated_token_provider", "federated_aws", "federated_k8s")
# Values of `auth_type` that the SQL connector reads, and databricks-sdk does not know.
_CONNECTORS_OWN = frozenset({"databricks-oauth", "azure-oauth", "azure-sp-m2m"})
_FOR_SQL_ONLY = frozenset({"http_path", "session_configuration", "catalog", "schema"})
_SECRET_NAME = re.compile(
    r"(token|secret|password|passphrase|key|credentials|metadata_service_url)$", re.IGNORECASE
)
_SHORTEST_SECRET = 6
# What no connection holds: a token in the answer of somebody else's token endpoint, or any JSON web token.
_TOKENS = re.compile(
    r"((?:access_token|id_token|refresh_token|subject_token|client_secret)['\"]?\s*[:=]\s*['\"]?)[^'\"\s,}&]+"
    r"|eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"
)
_KEY = os.urandom(32)


class Mode(Enum):
    """Who makes the headers that log in."""

    TOKEN = "a personal access token"  # noqa: S105  # says what it is
    OAUTH = "a service principal's OAuth secret"
    UNIFIED = "databricks-sdk"
    STOCK = "the stock hook"


class Secrets:
    """Strings that must not be seen, and the means to keep them out of a text."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self.add(*values)

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)})"

    def add(self, *values: str) -> None:
        """Keep these out, too. What is very short stays: hiding it would only garble the text."""
        self._values.update(value for value in values if len(value) >= _SHORTEST_SECRET)

    def hide(self, text: object) -> str:
        """The text with stars in their place."""
        hidden = str(text)
        for value in sorted(self._values, key=len, reverse=True):
            hidden = hidden.replace(value, "***")
        return _TOKENS.sub(r"\1***", hidden)


@dataclass(frozen=True)
class Workspace:
    """What the fields of a connection come to, by the stock hook's rules.

    :param address: scheme, host and, where it is not the usual one, port.
    :param mode: how it logs in.
    :param proxies: the connection's own, by scheme.
    :param principal: equal for connections that log in as the same principal with the same secret. Good within
        this process only.
    """

    address: str
    mode: Mode
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    principal: str = ""

    @classmethod
    def of(cls, connection: PlainConnection) -> Workspace:
        """Read a connection.

        :raises ConnectionUnusable: its fields make no sense. An edit of the connection helps, so it is read anew.
        """
        try:
            return cls(_address(connection), _mode(connection), _proxies(connection), _principal(connection))
        except ValueError as error:
            raise ConnectionUnusable(f"the Airflow connection {connection.conn_id!r}: {error}") from None

    @staticmethod
    def secrets(connection: PlainConnection) -> Secrets:
        """All of a connection that nobody may see."""
        return Secrets([connection.password or "", *_secret_texts(connection.extra_dejson)])


def _address(connection: PlainConnection) -> str:
    named = str(connection.extra_dejson.get("host") or connection.host or "").strip()
    url = urlsplit(named if "://" in named else f"//{named}")
    if not url.hostname:
        raise ValueError("it names no host")
    port = connection.port or url.port
    scheme = _scheme(connection, url, port)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS[scheme]) else f":{port}")


def _scheme(connection: PlainConnection, url: SplitResult, port: int | None) -> str:
    """The connection's schema, or what the URL says.

    The stock hook reads `http://name` as https, and many a connection says so by mistake: its token must not
    travel in the clear. Beside a port, or for this very machine, it is meant.
    """
    scheme = (connection.schema or "").strip().lower()
    if not scheme:
        meant = url.scheme == "http" and (port is not None or _is_loopback(str(url.hostname)))
        scheme = "http" if meant else "https"
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"its schema is {scheme!r}; it must be https or http")
    return scheme


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _mode(connection: PlainConnection) -> Mode:
    """The order is the stock hook's, so that a connection means what it meant."""
    extra = connection.extra_dejson
    mode = _first_mode(connection)
    # A token for Azure's resource manager goes with each request, and only the stock hook can fetch it.
    return Mode.STOCK if "azure_resource_id" in extra and mode is not Mode.UNIFIED else mode


def _first_mode(connection: PlainConnection) -> Mode:
    extra, login = connection.extra_dejson, connection.login
    if "token" in extra:
        return Mode.TOKEN if extra["token"] else Mode.STOCK
    if not login and connection.password:
        return Mode.TOKEN
    if "azure_tenant_id" in extra or any(extra.get(name) for name in _AZURE):
        return Mode.STOCK
    if extra.get("service_principal_oauth"):
        return Mode.OAUTH
    if login in _FEDERATED or any(extra.get(name) for name in _FEDERATED):
        return Mode.STOCK
    if extra.get("auth_type") and extra["auth_type"] not in _CONNECTORS_OWN:
        return Mode.UNIFIED
    return Mode.STOCK


def _proxies(connection: PlainConnection) -> dict[str, str]:
    proxies = connection.extra_dejson.get("proxies")
    if proxies is None:
        return {}
    if not isinstance(proxies, dict) or set(proxies) - {"http", "https"}:
        raise ValueError("`proxies` in its extra must be an object with the keys http and https")
    if not all(isinstance(url, str) and url for url in proxies.values()):
        raise ValueError("`proxies` in its extra must hold URLs")
    whole = {scheme: url if "://" in url else f"http://{url}" for scheme, url in proxies.items()}
    for url in whole.values():
        _ = urlsplit(url).port  # raises for a URL that is none, and shows no more of it than that
    return whole


def _principal(connection: PlainConnection) -> str:
    extra = {name: value for name, value in connection.extra_dejson.items() if name not in _FOR_SQL_ONLY}
    told = json.dumps([connection.login, connection.password, extra], sort_keys=True, default=str)
    return hashlib.blake2b(told.encode(), key=_KEY, digest_size=16).hexdigest()


def _secret_texts(extra: Mapping[str, Any]) -> Iterable[str]:
    for name, value in extra.items():
        if isinstance(value, str) and _SECRET_NAME.search(name):
            yield value
        elif name == "proxies" and isinstance(value, dict):
            yield from (urlsplit(url).password or "" for url in value.values())
