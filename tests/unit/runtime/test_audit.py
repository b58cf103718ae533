"""The audit log: what stands in it, and how much at most."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime

import pytest

from astronomer.runtime.audit import LOGGER, Audit, RequestMiddleware, write_whatever_the_level


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
    last = records(caplog)[-1]
    assert datetime.fromisoformat(last.pop("timestamp")).tzinfo
    assert last == {
        "event": "change allowed",
        "level": "info",
        "logger": LOGGER,
        "sub": "ada",
        "roles": ["admin"],
        "resource": "connection",
        "action": "DELETE",
        "token": "0" * 32,
    }


def test_nobody_can_fill_the_disk_by_logging_in_or_reading(audit, caplog):
    for _ in range(1000):
        audit.session("token exchanged", "vera", ("viewer",), "f" * 32)
        audit.read("ada", ("admin",), "connection", "0" * 32)
    audit.token_refused("signature")
    audit.access_refused("vera", ("viewer",), "connection", "GET", "f" * 32)
    events = [record["event"] for record in records(caplog)]
    assert {event: events.count(event) for event in events} == {
        "token exchanged": 10, "read allowed": 10, "token refused": 1, "access refused": 1
    }  # fmt: skip


@pytest.fixture
def logger(monkeypatch):
    """The logger as Airflow leaves it at ``logging_level = ERROR``."""
    logger, root = logging.getLogger(LOGGER), logging.getLogger()
    for name, value in {"handlers": [], "level": logging.NOTSET, "propagate": True}.items():
        monkeypatch.setattr(logger, name, value)
    handler = logging.StreamHandler(sys.stdout)
    handler.setLevel(logging.ERROR)
    monkeypatch.setattr(root, "handlers", [*root.handlers, handler])
    before = root.level
    root.setLevel(logging.ERROR)
    yield logger
    root.setLevel(before)
    logger._cache.clear()


class TestWhateverTheLevel:
    def tell(self, audit):
        audit.changed("ada", ("admin",), "connection", "DELETE", "0" * 32)
        audit.access_refused("vera", ("viewer",), "connection", "GET", "f" * 32)

    def test_each_is_written_once(self, logger, capsys):
        for _ in range(2):
            write_whatever_the_level()
        self.tell(Audit())
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["event"] for line in lines] == ["change allowed", "access refused"]

    def test_but_where_the_deployment_wants_it(self, logger, capsys, tmp_path):
        logger.addHandler(logging.FileHandler(tmp_path / "audit.log"))
        logger.setLevel(logging.INFO)
        write_whatever_the_level()
        self.tell(Audit())
        assert len((tmp_path / "audit.log").read_text().splitlines()) == 2
        assert capsys.readouterr().out == ""
        logger.handlers.pop().close()


SCOPE = {
    "type": "http", "method": "GET", "path": "/x", "query_string": b"token=secret", "client": ("10.0.0.1", 1),
}  # fmt: skip


async def test_it_names_the_request_without_its_query(audit, caplog):
    async def app(scope, receive, send):
        audit.token_refused("expired", subject="vera")

    await RequestMiddleware(app)(SCOPE, None, None)
    audit.token_refused("expired")
    inside, outside = records(caplog)
    assert (inside["method"], inside["path"], inside["client"]) == ("GET", "/x", "10.0.0.1")
    assert "secret" not in str(inside)
    assert "path" not in outside


async def test_a_token_that_a_request_shows_is_refused_once(audit, caplog):
    async def app(scope, receive, send):
        for reason in ("expired", "expired", "revoked"):
            audit.token_refused(reason, subject="vera")

    for _ in range(2):
        await RequestMiddleware(app)(SCOPE, None, None)
    assert [record["reason"] for record in records(caplog)] == ["expired", "revoked"] * 2
