"""What it means when somebody else's code could not make a token: bad weather, or a refusal."""

from __future__ import annotations

import re
from collections.abc import Iterator

from astronomer.deferral._compat import AirflowException
from astronomer.deferral.errors import CredentialsRejected, Transient

__all__ = ["understood"]

# By name, so that nobody has to be installed, or imported, to be understood: tenacity, requests (to which a gateway's
# page is invalid JSON), azure-core, azure-identity (whose metadata service is often only busy), botocore, urllib3.
_WEATHER = frozenset(
    {
        "RetryError",
        "InvalidJSONError",
        "ConnectionError",
        "Timeout",
        "TimeoutError",
        "ServiceRequestError",
        "ServiceResponseError",
        "CredentialUnavailableError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "HTTPClientError",
        "TooManyRequests",
        "InternalError",
        "TemporarilyUnavailable",
    }
)
_REFUSALS = frozenset({"ClientAuthenticationError", "NoCredentialsError", "DatabricksError", "OAuthError"})
_DEFINITE = (
    AirflowException,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    FileNotFoundError,
    PermissionError,
)
# Of a URL: who logs in there, and its query, which may hold a secret.
_PRIVATE = re.compile(r"(?<=://)[^/@\s]+@|(?<=\?)\S*=[^\s'\")>]*")


def understood(error: Exception, what: str) -> Transient:
    """The engine's error for one of a stock hook, of a vendor's SDK, or of what they call.

    What nobody knows counts as weather: a wait outlives it. Raise it without a cause: a traceback of foreign code
    may show what it was called with.

    :param what: what was tried, and with which connection.
    """
    if isinstance(error, Transient):
        return error
    text = f"{what}: {type(error).__name__}: {_PRIVATE.sub('…', str(error))}"
    return Transient(text) if _is_weather(error) else CredentialsRejected(text)


def _is_weather(error: Exception) -> bool:
    for one in _chain(error):
        status = _status(one)
        if status is not None:
            return status == 429 or status >= 500
        if _names(one) & _WEATHER:
            return True
    return not (isinstance(error, _DEFINITE) or _names(error) & _REFUSALS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _names(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error of requests, azure-core or botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None
