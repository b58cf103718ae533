"""The audit log: what stands in it, and how much at most."""

from __future__ import annotations

import json
import logging

import pytest

from astronomer.runtime.audit import LOGGER, Audit, RequestMiddleware


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def audit(clock, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    return Audit(burst=10, per_second=1, clock=clock)


def records(caplog):
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == LOGGER]


def test_a_record_is_one_line_of_json_whatever_is_in_it(audit, caplog):
    audit.token_refused("signature", 'two\nlines "and" \u2028 more', kid="\x1b[2J\r\n" + "x" * 10_000)
    [record] = caplog.records
    assert "\n" not in record.getMessage()
    assert record.getMessage().isascii()
    assert len(record.getMessage()) < 1000
    assert records(caplog)[0]["reason"] == "signature"


def test_strangers_cannot_fill_the_disk(audit, caplog, clock):
    for _ in range(1000):
        audit.token_refused("signature")
    assert len(records(caplog)) == 10
    clock.now += 3
    for _ in range(1000):
        audit.token_refused("signature")
    assert len(records(caplog)) == 13
    assert records(caplog)[10]["held_back"] == 990


def test_strangers_cannot_hide_people_nor_people_what_was_changed(audit, caplog):
    for _ in range(1000):
        audit.token_refused("signature")
    audit.access_refused("vera", ("viewer",), "connection", "GET", "f" * 32)
    for _ in range(1000):
        audit.access_refused("vera", ("viewer",), "connection", "GET", "f" * 32)
    audit.changed("ada", ("admin",), "connection", "DELETE", "0" * 32)
    assert records(caplog)[10]["sub"] == "vera"
    assert records(caplog)[-1] == {
        "event": "change allowed",
        "sub": "ada",
        "roles": ["admin"],
        "resource": "connection",
        "action": "DELETE",
        "token": "0" * 32,
    }


async def test_it_names_the_request_without_its_query(audit, caplog):
    async def app(scope, receive, send):
        audit.token_refused("expired", subject="vera")

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "query_string": b"token=secret",
        "client": ("10.0.0.1", 1),
    }
    await RequestMiddleware(app)(scope, None, None)
    audit.token_refused("expired")
    inside, outside = records(caplog)
    assert (inside["method"], inside["path"], inside["client"]) == ("GET", "/x", "10.0.0.1")
    assert "secret" not in str(inside)
    assert "path" not in outside
