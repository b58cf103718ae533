"""A statement is started once, whatever becomes of the answers; on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from astronomer.deferral import CredentialsRejected, Phase, Transient, clock
from astronomer.deferral.testing import FakeClock
from astronomer.providers.databricks.errors import NothingDone, RequestRejected
from astronomer.providers.databricks.jobs import statement
from astronomer.providers.databricks.jobs.statement import DatabricksStatement, statement_status
from astronomer.providers.databricks.sql import submit
from tests.unit.databricks.workspace import Lost

START = 1_800_000_000.0
BODY = {"statement": "select 1", "warehouse_id": "w", "query_tags": [{"key": "team", "value": "x"}]}


class Workspace:
    """A client and its workspace. Weather comes before the effect of a post, or after it where it is lost."""

    def __init__(self, *weather, lag=0.0, latency=0.0, slow_look=0.0, ahead=0.0):
        self.weather = list(weather)
        self.ahead = ahead  # its clock
        self.lag = lag
        self.latency = latency
        self.slow_look = slow_look
        self.started = []
        self.asked = []
        self.refusal = None

    async def post(self, path, body, *, check=None):
        assert path == "2.0/sql/statements"
        await asyncio.sleep(self.latency)
        trouble = self.weather.pop(0) if self.weather else None
        if isinstance(trouble, Exception):
            raise trouble
        at = clock.now() + self.ahead
        self.started.append({"query_id": f"s{len(self.started)}", "query_tags": body["query_tags"], "at": at})
        if isinstance(trouble, Lost):
            raise trouble.error
        return {"statement_id": self.started[-1]["query_id"]}

    async def get(self, path, **question):
        assert path == "2.0/sql/history/queries"
        self.asked.append(question)
        if self.refusal is not None:
            raise self.refusal
        span = question["filter_by"]["query_start_time_range"]
        seen = [
            one
            for one in reversed(self.started)
            if one["at"] <= clock.now() + self.ahead - self.lag
            and span["start_time_ms"] <= 1000 * one["at"] <= span["end_time_ms"]
        ]
        await asyncio.sleep(self.slow_look)
        offset = int(question["page_token"] or 0)
        more = {"next_page_token": str(offset + 2)} if len(seen) > offset + 2 else {}
        return {"res": seen[offset : offset + 2], **more}


def started(workspace, key="key-0", body=BODY, tolerance=3600.0):
    return FakeClock(START).run(lambda: submit.start(workspace, body, key, tolerance=tolerance))


def found(workspace, key, since=START, known_by=0.0):
    return FakeClock(START).run(
        lambda: submit.find_started(workspace, key, "w", since, known_by=known_by, tolerance=60.0)
    )


def tagged(*keys, at=START):
    return [
        {"query_id": key, "query_tags": [{"key": submit.SUBMIT_KEY, "value": key}], "at": at} for key in keys
    ]


class TestStart:
    def test_tags_the_statement(self):
        workspace = Workspace()
        assert started(workspace) == "s0"
        assert workspace.started[0]["query_tags"] == [
            {"key": "airflow_submit_key", "value": "key-0"},
            {"key": "team", "value": "x"},
        ]
        assert workspace.asked == []

    def test_keeps_its_own_tag_among_too_many_and_cuts_long_ones(self):
        workspace = Workspace()
        many = [{"key": f"k{place}", "value": "v" * 200} for place in range(30)]
        started(workspace, body={**BODY, "query_tags": many})
        tags = workspace.started[0]["query_tags"]
        assert len(tags) == 20
        assert tags[0]["value"] == "key-0"
        assert {len(tag["value"]) for tag in tags[1:]} == {128}

    @pytest.mark.parametrize("lag", [0.0, 20.0])
    @pytest.mark.parametrize("error", [Transient("reset"), Transient("503", retry_after=1.0)], ids=str)
    def test_finds_the_statement_of_a_lost_answer(self, lag, error):
        workspace = Workspace(Lost(error), lag=lag)
        assert started(workspace) == "s0"
        assert len(workspace.started) == 1

    def test_finds_one_that_was_taken_late(self):
        workspace = Workspace(Lost(Transient("no answer in time")), lag=20.0, latency=60.0)
        assert started(workspace) == "s0"
        assert len(workspace.started) == 1

    @pytest.mark.parametrize("ahead", [3600.0, -3600.0])
    def test_finds_it_by_a_clock_that_is_an_hour_off(self, ahead):
        workspace = Workspace(Lost(Transient("reset")), ahead=ahead)
        assert started(workspace) == "s0"
        assert len(workspace.started) == 1

    def test_starts_it_when_the_request_was_lost_itself(self):
        workspace = Workspace(Transient("reset"), Transient("503"))
        assert started(workspace) == "s0"
        assert workspace.started[0]["at"] - START >= 2 * 30

    def test_comes_back_when_it_was_told_to(self):
        workspace = Workspace(NothingDone("429", retry_after=7.0))
        assert started(workspace) == "s0"
        assert 7 <= workspace.started[0]["at"] - START < 10
        assert workspace.asked == [], "what was turned away has not begun"

    def test_survives_ten_minutes_of_bad_weather(self):
        workspace = Workspace(*[Transient("503", retry_after=30.0)] * 20)
        assert started(workspace) == "s0"
        assert workspace.started[0]["at"] - START >= 600

    def test_gives_up_at_last(self):
        workspace = Workspace(*[Transient("503")] * 1000)
        with pytest.raises(Transient):
            started(workspace, tolerance=300.0)

    @pytest.mark.parametrize("refusal", [CredentialsRejected("401"), RequestRejected(400, "X", "no")])
    def test_believes_a_refusal(self, refusal):
        workspace = Workspace(refusal)
        with pytest.raises(type(refusal)):
            started(workspace)
        assert workspace.asked == []

    def test_goes_on_without_a_history(self, caplog):
        workspace = Workspace(Transient("reset"))
        workspace.refusal = RequestRejected(403, "PERMISSION_DENIED", "no")
        assert started(workspace) == "s0"
        assert "would run twice" in caplog.text


class TestFind:
    def test_every_statement_of_an_attempt(self):
        workspace = Workspace()
        workspace.started = tagged("key-0", "key-1", "keys-0", "other-0", "key-2")
        assert found(workspace, "key") == {0: "key-0", 1: "key-1", 2: "key-2"}
        assert found(workspace, "key-1") == {1: "key-1"}
        assert found(workspace, "ke") == {}

    def test_on_later_pages_until_the_first(self):
        workspace = Workspace()
        workspace.started = tagged("a-0", "key-0", "b-0", "c-0", "d-0")
        assert found(workspace, "key") == {0: "key-0"}
        assert [one["page_token"] for one in workspace.asked] == [None, "2"]

    def test_asks_about_the_warehouse_and_the_time(self):
        workspace = Workspace()
        found(workspace, "key", since=START - 100 * 86_400)
        (question,) = workspace.asked
        span = question["filter_by"]["query_start_time_range"]
        assert question["filter_by"]["warehouse_ids"] == ["w"]
        assert span["end_time_ms"] - span["start_time_ms"] <= 30 * 86_400_000
        assert question["max_results"] < 1000

    def test_waits_for_the_history(self):
        workspace = Workspace(lag=12.0)
        workspace.started = tagged("key-0")
        assert found(workspace, "key", known_by=START + 30) == {0: "key-0"}
        assert found(workspace, "key") == {}

    def test_asks_about_hours_only_in_the_look_that_decides(self):
        workspace = Workspace()
        found(workspace, "key", known_by=START + 9)
        spans = [one["filter_by"]["query_start_time_range"] for one in workspace.asked]
        *early, last = [(span["end_time_ms"] - span["start_time_ms"]) / 1000 for span in spans]
        assert early
        assert max(early) < 900
        assert last > 2 * 3600

    def test_a_look_that_began_too_soon_proves_nothing_however_late_it_ends(self):
        workspace = Workspace(lag=12.0, slow_look=20.0)
        workspace.started = tagged("key-0")
        assert found(workspace, "key", known_by=START + 12.5) == {0: "key-0"}
        assert len(workspace.asked) == 2

    def test_says_why_it_takes_long(self, caplog):
        caplog.set_level("INFO")
        assert found(Workspace(), "key", known_by=START + 9) == {}
        assert "No statement of key is in the query history; one may appear within 9 s" in caplog.text

    def test_reads_entries_without_tags(self):
        workspace = Workspace()
        workspace.started = [{"query_id": "x", "at": START}, *tagged("key-0")]
        assert found(workspace, "key") == {0: "key-0"}


class TestStates:
    @pytest.mark.parametrize(
        ("state", "phase"),
        [
            ("PENDING", Phase.ACTIVE),
            ("RUNNING", Phase.ACTIVE),
            ("SUCCEEDED", Phase.SUCCEEDED),
            ("CLOSED", Phase.SUCCEEDED),
            ("FAILED", Phase.FAILED),
            ("CANCELED", Phase.CANCELLED),
        ],
    )
    def test_that_are_known(self, state, phase):
        assert statement_status({"status": {"state": state}}, None).phase is phase

    def test_that_are_not_count_as_running_and_are_told_once(self, monkeypatch, caplog):
        monkeypatch.setattr(statement, "_unknown_seen", set())
        for _ in range(2):
            assert statement_status({"status": {"state": "HIBERNATING"}}, None).phase is Phase.ACTIVE
        assert caplog.text.count("HIBERNATING") == 1

    def test_carry_the_error(self):
        error = {"error_code": "BAD_REQUEST", "message": "[PARSE_SYNTAX_ERROR] near 'selec'"}
        status = statement_status({"status": {"state": "FAILED", "error": error}}, "https://x")
        assert (status.code, status.message, status.url) == (*error.values(), "https://x")


class TestJob:
    job = DatabricksStatement("id", "conn", address="https://w", index=1, count=3, earlier=("first",))

    def test_says_what_it_is(self):
        assert self.job.name == "Databricks statement id (2 of 3)"
        assert DatabricksStatement("id", "conn").name == "Databricks statement id"
        assert self.job.url == "https://w/sql/history?queryId=id"
        assert self.job.statement_ids == ["first", "id"]

    def test_survives_its_trip(self):
        assert DatabricksStatement.from_dict(self.job.to_dict()) == self.job

    def test_notices_another_workspace(self):
        self.job.check("https://w")
        with pytest.raises(CredentialsRejected, match=r"now points to https://v, .* submitted to https://w"):
            self.job.check("https://v")
