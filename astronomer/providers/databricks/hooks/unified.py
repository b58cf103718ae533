"""The ways to log in of databricks-sdk, for a connection whose extra names an `auth_type` of it. For a thread.

Source: docs.databricks.com/dev-tools/auth/unified-auth.
"""

from __future__ import annotations

import os
from typing import Any

from databricks.sdk.core import Config

from astronomer.deferral._compat import PlainConnection
from astronomer.providers.databricks.hooks.verification import SKIP, tell_if_off

__all__ = ["UnifiedLogin", "arguments"]

_ASKED_EVERY = 20.0  # seconds; the SDK makes a new token 40 seconds before the end of the old one
_LOGIN_NAMES = {
    "pat": ("", "token"),
    "basic": ("username", "password"),
    "oauth-m2m": ("client_id", "client_secret"),
    "azure-client-secret": ("azure_client_id", "azure_client_secret"),
}


class UnifiedLogin:
    """Makes headers, and says for how many seconds they are good."""

    def __init__(self, connection: PlainConnection, address: str) -> None:
        self._arguments = arguments(connection, address)
        self._config: Any = None

    def headers(self, *, anew: bool) -> tuple[dict[str, str], float]:
        """The headers that the SDK would send."""
        if self._config is None or anew:
            self._config = Config(**self._arguments)
        return dict(self._config.authenticate()), _ASKED_EVERY


def arguments(connection: PlainConnection, address: str) -> dict[str, Any]:
    """What the connection says, and nothing that a file or a variable of the machine would say instead."""
    extra = connection.extra_dejson
    tell_if_off(extra)
    known = {attribute.name for attribute in Config.attributes()}
    login, password = _LOGIN_NAMES.get(str(extra["auth_type"]), ("", ""))
    found: dict[str, Any] = {login: connection.login, password: connection.password}
    found |= {
        "config_file": os.devnull,
        "profile": "",
        "retry_timeout_seconds": 10,
        "http_timeout_seconds": 5,
    }
    found |= {name: value for name, value in extra.items() if name in known and value is not None}
    found |= {"host": address}
    found.pop("", None)
    found.pop(SKIP, None)
    return found
