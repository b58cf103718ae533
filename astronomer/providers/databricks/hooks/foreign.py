"""What it means when somebody else's code could not make a token: bad weather, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral._compat import AirflowException

__all__ = ["understood"]

# By name, so that nobody has to be installed, or imported, to be understood: tenacity, requests, azure-core,
# azure-identity (whose metadata service is often only busy), botocore, urllib3.
_WEATHER = frozenset(
    {
        "RetryError",
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


def understood(error: Exception, what: str) -> Transient:
    """The engine's error for one of the stock hook, databricks-sdk, or what they call.

    What nobody knows counts as weather: a wait outlives it.

    :param what: what was tried.
    """
    if isinstance(error, Transient):
        return error
    text = f"{what}: {type(error).__name__}: {error}"
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
