"""Snowflake's words for states."""

from __future__ import annotations

import pytest
from snowflake.connector.connection import SnowflakeConnection
from snowflake.connector.constants import QueryStatus

from astronomer.deferral import Phase
from astronomer.providers.snowflake import states


@pytest.fixture(autouse=True)
def forget():
    states._unknown_seen.clear()
    yield
    states._unknown_seen.clear()


def phase(raw, **entry):
    return states.status_of({"status": raw, **entry}, None).phase


@pytest.mark.parametrize("status", [one.name for one in QueryStatus])
def test_every_state_of_the_connector_is_known(status, caplog):
    """ABORTING is an error to the connector, but on the server it is not final."""
    known = QueryStatus[status]
    found = phase(status)
    if known is QueryStatus.SUCCESS:
        assert found is Phase.SUCCEEDED
    elif SnowflakeConnection.is_an_error(known) and known is not QueryStatus.ABORTING:
        assert found in (Phase.FAILED, Phase.CANCELLED)
    else:
        assert found is Phase.ACTIVE
    assert caplog.records == []


@pytest.mark.parametrize("code", ["000604", "604", 604])
def test_a_cancelled_query_says_failed(code):
    assert phase("FAILED_WITH_ERROR", errorCode=code) is Phase.CANCELLED
    assert phase("FAILED_WITH_ERROR", errorCode="000630") is Phase.FAILED
    assert phase("SUCCESS", errorCode=code) is Phase.SUCCEEDED


def test_a_new_state_is_running_and_told_once(caplog):
    assert phase("PONDERING") is phase("PONDERING") is Phase.ACTIVE
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("code", "told"),
    [(2003, "002003"), ("002003", "002003"), (0, None), ("0", None), ("", None), (None, None)],
)
def test_codes_have_six_digits(code, told):
    assert states.status_of({"status": "FAILED_WITH_ERROR", "errorCode": code}, None).code == told


def test_times_are_epoch_seconds_and_zero_is_none():
    status = states.status_of(
        {"status": "RUNNING", "startTime": 1_700_000_000_500, "endTime": 0}, "https://x"
    )
    assert (status.started_at, status.ended_at, status.url) == (1_700_000_000.5, None, "https://x")


def test_an_entry_without_a_status_is_not_the_end():
    assert states.status_of({}, None).raw == "NO_DATA"
    assert phase(None) is Phase.ACTIVE
