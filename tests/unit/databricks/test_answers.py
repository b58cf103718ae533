"""What the answers of Databricks, and of what stands in between, mean."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.providers.databricks.errors import NothingDone, RequestRejected
from tests.unit.databricks.fakes import answer

NOW = 1_800_000_000.0


def said(code, message=""):
    return {"error_code": code, "message": message}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, said("INVALID_PARAMETER_VALUE", "limit must be at most 25"), RequestRejected),
        (400, said("COULD_NOT_ACQUIRE_LOCK"), Transient),
        (400, said("TEMPORARILY_UNAVAILABLE"), Transient),
        (400, said("INVALID_STATE", "Please try again later or try a faster operation."), Transient),
        (
            401,
            said("401", "Credential was not sent or was of an unsupported type for this API."),
            CredentialsRejected,
        ),
        (401, b"<html>Unauthorized</html>", Transient),
        (403, said(403, "Invalid access token."), CredentialsRejected),
        (403, b"<html>Forbidden</html>", Transient),
        (403, b"<title>Error 403 Invalid access token.</title>", CredentialsRejected),
        (403, said("403", "Unauthorized access to Org: 123"), CredentialsRejected),
        (403, said("PERMISSION_DENIED", "The access token is expired"), CredentialsRejected),
        (403, said("PERMISSION_DENIED", "Invalid token"), CredentialsRejected),
        (403, said("PERMISSION_DENIED", "user does not have View permissions on job 7"), RequestRejected),
        (
            403,
            said("403", "Source IP address: 1.2.3.4 is blocked by Databricks IP ACL for workspace: 1"),
            Transient,
        ),
        (404, said("RESOURCE_DOES_NOT_EXIST", "Run 7 does not exist."), RequestRejected),
        (404, b"<html>", Transient),
        (408, None, Transient),
        (409, said("ABORTED"), Transient),
        (409, said("RESOURCE_ALREADY_EXISTS"), RequestRejected),
        (429, said("REQUEST_LIMIT_EXCEEDED"), NothingDone),
        (500, said("INTERNAL_ERROR"), Transient),
        (501, said("NOT_IMPLEMENTED"), RequestRejected),
        (502, b"", Transient),
        (503, b"\xff\xfe", Transient),
        (504, [1, 2], Transient),
        (302, None, Transient),
    ],
)
def test_what_to_raise(status, body, kind):
    error = answer(status, body).error()
    assert type(error) is kind
    assert str(status) in str(error)
    for field in body.values() if isinstance(body, dict) else ():
        assert str(field) in str(error)


def test_a_rejection_in_parts():
    error = answer(404, said("RESOURCE_DOES_NOT_EXIST", "Run 7 does not exist.")).error()
    assert (error.status, error.error_code) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert error.message == "Run 7 does not exist."


def test_the_words_of_a_gateway_are_kept_short():
    text = str(answer(503, b"<p>  sorry\n\n</p>" * 1000).error())
    assert "<p> sorry </p>" in text
    assert len(text) < 700


def test_a_redirect_says_where_to():
    error = answer(302, headers={"Location": "https://login.example.com"}).error()
    assert "https://login.example.com" in str(error)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"null", b'{"run_id":', b"\xff"])
def test_a_success_that_is_none(body):
    with pytest.raises(Transient, match="no JSON object"):
        answer(200, body).document()


def test_a_success():
    assert answer(200, {"run_id": 7}).document() == {"run_id": 7}
    assert answer(200, b"").document() == {}
    assert answer(200).well
    assert not answer(302).well


@pytest.mark.parametrize(
    ("status", "told", "seconds"),
    [
        (429, "30", 30.0),
        (429, "0.5", 0.5),
        (429, "-3", 0.0),
        (429, None, 1.0),
        (429, "soon", 1.0),
        (429, "inf", 1.0),
        (429, "nan", 1.0),
        (429, formatdate(NOW + 90, usegmt=True), 90.0),
        (429, formatdate(NOW - 90, usegmt=True), 0.0),
        (503, "7", 7.0),
        (503, None, None),
        (200, "7", None),
        (404, "7", None),
    ],
)
def test_for_how_long_it_wants_to_be_left_alone(status, told, seconds):
    headers = {"Date": formatdate(NOW, usegmt=True)} | ({} if told is None else {"Retry-After": told})
    found = answer(status, headers=headers)
    assert found.retry_after == seconds
    if status in (429, 503):
        assert found.error().retry_after == seconds


def test_the_servers_clock():
    assert answer(headers={"Date": formatdate(NOW, usegmt=True)}).server_time == NOW
    assert answer(headers={"Date": "yesterday"}).server_time is None
    assert answer().server_time is None


def test_the_token_endpoints_words():
    body = {"error": "invalid_client", "error_description": "Client authentication failed"}
    error = answer(401, json.dumps(body).encode(), asked="POST /oidc/v1/token").error()
    assert str(error) == "POST /oidc/v1/token: HTTP 401 invalid_client Client authentication failed"
    assert isinstance(error, CredentialsRejected)


def test_no_body_in_its_repr():
    assert "SECRET" not in repr(answer(200, {"access_token": "SECRET"}, headers={"Set-Cookie": "SECRET"}))


def test_a_page_of_somebody_on_the_way_is_no_refusal_unless_it_asks_for_a_login():
    page = b"<html>Unauthorized</html>"
    assert not answer(401, page).refuses_token
    assert answer(401, page, headers={"WWW-Authenticate": "Bearer"}).refuses_token
