"""What it means that somebody else's code could not make a token."""

from __future__ import annotations

import pytest
import requests

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral._compat import AirflowException
from astronomer.deferral.login_errors import understood


class Aad(Exception):
    pass


def http_error(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"HTTP {status}", response=response)


def botocore_error(status):
    error = Exception("An error occurred (ExpiredToken)")
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}}
    return error


def no_json():
    page = requests.Response()
    page._content = b"<html>sign in to the network</html>"
    try:
        page.json()
    except ValueError as error:
        return error


def because_of(cause):
    error = ValueError("no token")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (requests.ConnectionError("reset"), Transient),
        (http_error(503), Transient),
        (http_error(429), Transient),
        (http_error(401), CredentialsRejected),
        (http_error(400), CredentialsRejected),
        (botocore_error(503), Transient),
        (botocore_error(403), CredentialsRejected),
        (no_json(), Transient),
        (because_of(http_error(503)), Transient),
        (because_of(http_error(401)), CredentialsRejected),
        (ConnectionError("Can't reach Azure Metadata Service: no route"), Transient),
        (type("ServiceRequestError", (Aad,), {})("timeout"), Transient),
        (type("CredentialUnavailableError", (Aad,), {})("the metadata service is busy"), Transient),
        (type("ClientAuthenticationError", (Aad,), {})("AADSTS7000215"), CredentialsRejected),
        (AirflowException("Response: invalid_client, Status Code: 401"), CredentialsRejected),
        (ValueError("Could not deserialize key data"), CredentialsRejected),
        (KeyError("client_secret"), CredentialsRejected),
        (ImportError("No module named 'azure'"), CredentialsRejected),
        (FileNotFoundError("/var/run/secrets"), CredentialsRejected),
        (RuntimeError("a control plane's own error"), Transient),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_weather_or_a_refusal(error, kind):
    found = understood(error, "logging in with 'it'")
    assert type(found) is kind
    assert str(found) == f"logging in with 'it': {type(error).__name__}: {error}"


def test_what_is_understood_already_stays_as_it_is():
    known = CredentialsRejected("no", retry_after=3.0)
    assert understood(known, "logging in") is known


def test_a_chain_that_bites_its_tail_has_an_end():
    first, second = RuntimeError("one"), RuntimeError("two")
    first.__cause__, second.__cause__ = second, first
    assert type(understood(first, "logging in")) is Transient


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (
            "401 Client Error: Unauthorized for url: https://me:secret@idp.example/token?client_secret=secret&a=b",
            "401 Client Error: Unauthorized for url: https://…idp.example/token?…",
        ),
        (
            "Max retries exceeded with url: /token?key=secret (Caused by NewConnectionError('<no route>'))",
            "Max retries exceeded with url: /token?… (Caused by NewConnectionError('<no route>'))",
        ),
        ("is it there? mail me@example.com", "is it there? mail me@example.com"),
    ],
)
def test_no_secret_of_a_url_is_seen(text, seen):
    assert str(understood(RuntimeError(text), "it")) == f"it: RuntimeError: {seen}"
