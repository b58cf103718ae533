"""Faults and the request log, seen from a client."""

import time

import pytest
import requests


@pytest.fixture
def http(lab):
    with requests.Session() as session:
        session.verify = str(lab.ca_bundle)
        yield session


def ask(http, lab):
    return http.post(f"{lab.url}/telemetry/send", json={"logs": []}, timeout=60)


def test_a_status_fault_answers_instead(http, lab):
    lab.faults.status(429, retry_after=7, times=1)
    assert (ask(http, lab).status_code, ask(http, lab).status_code) == (429, 200)
    lab.faults.status(503, retry_after=7, times=1)
    assert ask(http, lab).headers["retry-after"] == "7"


def test_a_reset_breaks_the_connection_before_anything_is_done(http, lab, connection):
    lab.faults.reset("/queries/", times=1)
    before = len(lab.queries)
    with pytest.raises(requests.ConnectionError):
        http.post(f"{lab.url}/queries/v1/query-request?requestId=1", json={"sqlText": "select 1"}, timeout=60)
    assert len(lab.queries) == before
    assert [entry.status for entry in lab.requests.select("/queries/")] == [0]


def test_a_cut_answer_is_incomplete(http, lab):
    lab.faults.cut(times=1)
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        ask(http, lab)
    assert ask(http, lab).ok


def test_a_lost_answer_keeps_its_effect(lab, connection):
    lab.faults.lose_answer("query-request", times=1)
    connection.cursor().execute("create or replace table kept as select 1 as a")
    assert connection.cursor().execute("select count(*) from kept").fetchone() == (1,)
    [query] = [
        one for one in lab.queries.values() if one.sql == "create or replace table kept as select 1 as a"
    ]
    first, second = lab.requests.select("query-request")[:2]
    assert (first.fault, first.status, second.fault, second.status) == ("lose_answer", 0, None, 200)
    assert query.started_at < second.at


def test_a_late_answer_comes_after_its_effect(http, lab, connection):
    lab.faults.late(1.0, "query-request", times=1)
    connection.cursor().execute("select 'a late answer'")
    answered = time.time()
    [query] = [one for one in lab.queries.values() if one.sql == "select 'a late answer'"]
    assert answered - query.ended_at >= 0.95


def test_a_rewritten_answer_says_something_else(lab, cursor):
    lab.faults.rewrite('"BEFORE"', '"AFTERWARDS"', "query-request", times=1)
    assert cursor.execute("select 1 as before").description[0].name == "AFTERWARDS"
    assert cursor.execute("select 1 as before").description[0].name == "BEFORE"
    assert [bool(one.fault) for one in lab.requests.entries if "query-request" in one.path][-2:] == [
        True,
        False,
    ]


def test_an_answer_without_the_text_is_not_disturbed(lab, cursor):
    lab.faults.rewrite('"NEVER"', '"EVER"', "query-request")
    cursor.execute("select 1 as before")
    assert not [one for one in lab.requests.entries if one.fault]


def test_the_request_log_can_be_read_from_a_moment_on(http, lab):
    ask(http, lab)
    [first] = lab.requests.as_json()
    ask(http, lab)
    assert len(lab.requests.as_json()) == 2
    [second] = lab.requests.as_json(first["at"])
    assert second["at"] > first["at"]


def test_a_slow_answer_takes_its_time(http, lab):
    lab.faults.slow(0.2, times=1)
    started = time.monotonic()
    assert ask(http, lab).ok
    assert time.monotonic() - started >= 0.2


def test_an_expired_token_is_answered_in_the_vendors_way(lab, cursor):
    lab.faults.expired("query-request", times=1)
    assert cursor.execute("select 1").fetchone() == (1,)
    assert lab.requests.count("token-request") == 1


def test_a_request_already_being_answered_is_left_alone(lab, cursor):
    lab.faults.slow(0.2, "query-request", times=1)
    fault = lab.faults.reset("heartbeat")
    cursor.execute("select 1")
    assert fault.hits == 0


def test_the_log_counts_requests_logins_and_connections(http, lab, connect):
    connect()
    connect()
    ask(http, lab)
    assert lab.requests.logins == 2
    assert lab.requests.connections == 3
    assert lab.requests.count("telemetry", method="POST") == 1
    assert lab.requests.count(status=200) == 3
    first = lab.requests.entries[0]
    assert first.path == "/session/v1/login-request"
    assert first.session == lab.logins[-2].session
    assert first.request_id
    lab.requests.clear()
    assert lab.requests.summary() == {
        "requests": 0,
        "logins": 0,
        "connections": 0,
        "by_path": {},
        "by_status": {},
    }


def test_control_requests_are_neither_logged_nor_disturbed(http, lab):
    lab.faults.status(500)
    assert http.get(f"{lab.url}/_lab/health", timeout=60).json()["status"] == "ok"
    assert lab.requests.entries == []


def test_ids_are_counted_together(lab, cursor):
    for _ in range(3):
        cursor.connection.get_query_status("01b2f3a4-0000-0000-0000-000000000000")
    assert lab.requests.summary()["by_path"]["GET /monitoring/queries/{id}"] == 3
