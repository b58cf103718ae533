"""What a connection's extra may say against the verification of certificates, and that it is not said unseen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

__all__ = ["SKIP", "tell_if_off"]

log = logging.getLogger(__name__)

SKIP = "skip_verify"
"""What databricks-sdk is told in order not to verify. It is left out: no request of this package needs it."""

_TRUST = "To trust a private authority, let SSL_CERT_FILE name its certificates (databricks-sdk: REQUESTS_CA_BUNDLE)."


def tell_if_off(extra: Mapping[str, Any]) -> None:
    """Warn, once in a process for each of the names, of what would switch verification off.

    Only databricks-sql-connector obeys, in a worker: it may be told so in order to reach a test server.
    """
    if extra.get(SKIP):
        _warn(f"takes no notice of {SKIP!r} in the extra of an Airflow connection: certificates are verified")
    for name, off in (("_tls_no_verify", True), ("_tls_verify_hostname", False)):
        if name in extra and bool(extra[name]) is off:
            _warn(
                f"lets databricks-sql-connector go without verification, because the extra of an Airflow connection has "
                f"{name!r}: whoever is on the way can read the token"
            )


@cache
def _warn(what: str) -> None:
    log.warning("astronomer-providers %s. %s", what, _TRUST)
