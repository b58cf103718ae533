"""What a user is told about the release that runs."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from markdown_it import MarkdownIt

from astronomer.runtime.notice import Notice, notices
from astronomer.runtime.versions import Tag
from tests.unit.runtime.releases import entry, manifest

DAY = date(2026, 3, 1)
OLD = {"releaseDate": "2026-01-01", "endOfMaintenance": "2027-01-01"}


def told(entries, tag="3.3-1", day=DAY):
    return [(one.level, str(one)) for one in notices(Tag.parse(tag), manifest(entries), day)]


def test_nothing_to_say():
    assert told({"3.3-1": entry(**OLD), "3.2-9": entry("3.2.2")}) == []


@pytest.mark.parametrize("tag", ["3.3-1", "3.3-1-base", "3.3-1-python-3.12"])
def test_newer_ones(tag):
    entries = {
        "3.3-1": entry(**OLD),
        "3.3-2": entry("3.3.3"),
        "3.3-3": entry("3.3.3"),
        "3.4-1": entry("3.4.0"),
    }
    assert told(entries, tag) == [
        ("info", "Runtime 3.3-3 is available, with fixes for yours (Airflow 3.3.3)."),
        ("info", "Runtime 3.4-1 is available, of a newer series (Airflow 3.4.0)."),
    ]


@pytest.mark.parametrize(
    ("mine", "other", "offered"),
    [
        ("stable", "stable", True),
        ("stable", "beta", False),
        ("stable", "alpha", False),
        ("stable", "deprecated", False),
        ("beta", "stable", True),
        ("beta", "alpha", False),
        ("alpha", "alpha", True),
        ("alpha", "deprecated", False),
        ("deprecated", "stable", True),
        ("deprecated", "alpha", False),
    ],
)
def test_nobody_is_sent_to_a_less_tried_one(mine, other, offered):
    found = told({"3.3-1": entry(channel=mine, **OLD), "3.3-2": entry(channel=other)})
    assert any("3.3-2 is available" in words for _, words in found) is offered


def test_who_runs_a_deprecated_one_is_told():
    assert told({"3.3-1": entry(channel="deprecated", **OLD)}) == [
        ("warning", "Runtime 3.3-1 is deprecated: change to another release.")
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        {"yanked": True, "yankedReason": "bad"},
        {"releaseDate": "2026-03-02"},
        {"endOfMaintenance": "2026-02-28"},
    ],
)
def test_to_none_that_is_withdrawn_or_of_the_future_or_past_its_maintenance(metadata):
    assert told({"3.3-1": entry(**OLD), "3.3-2": entry(**metadata)}) == []


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (91, None),
        (90, "ends in 90 days, on 2026-07-01."),
        (1, "ends in 1 day, on 2026-07-01."),
        (0, "ends in 0 days, on 2026-07-01."),
        (-1, "ended on 2026-07-01: it gets no more fixes."),
        (-900, "ended on 2026-07-01: it gets no more fixes."),
    ],
)
def test_the_end_of_maintenance(days, words):
    found = told({"3.3-1": entry()}, day=date(2026, 7, 1) - timedelta(days=days))
    assert found == ([("warning", f"Maintenance of Runtime 3.3-1 {words}")] if words else [])


def test_a_withdrawn_one_comes_first():
    entries = {
        "3.3-1": entry(yanked=True, yankedReason="It loses logs."),
        "3.3-2": entry(endOfMaintenance="2027-07-01"),
    }
    found = told(entries, day=date(2027, 1, 1))
    assert found[0] == (
        "error",
        "Runtime 3.3-1 has been withdrawn. Change to another release. Its makers say: It loses logs.",
    )
    assert [level for level, _ in found] == ["error", "warning", "info"]


def test_a_release_that_nobody_knows():
    assert told({"3.3-2": entry()}) == [
        ("info", "Runtime 3.3-2 is available, with fixes for yours (Airflow 3.3.2).")
    ]
    assert told({"3.3-2": entry(channel="alpha")}) == []


@pytest.mark.parametrize(
    "words",
    [
        "[click](https://evil.example)",
        "<script>alert(1)</script>",
        "![x](https://evil.example/x.png)",
        "https://evil.example and www.evil.example",
        "`` ` `` [click](https://evil.example) ```",
        "`[click](https://evil.example)",
        "\\` [click](https://evil.example) \\",
        "<https://evil.example>",
        "[a]: https://evil.example",
    ],
)
def test_foreign_words_stay_words_on_a_page(words):
    (notice,) = notices(
        Tag.parse("3.3-1"), manifest({"3.3-1": entry(yanked=True, yankedReason=words, **OLD)}), DAY
    )
    (inline,) = [token for token in MarkdownIt("commonmark").parse(notice.markdown) if token.type == "inline"]
    assert [child.type for child in inline.children] == ["text", "code_inline"]
    assert inline.children[1].content == words.replace("`", "'")


def test_our_own_words_need_no_quotes():
    assert Notice("info", "Runtime 3.3-2 is available.").markdown == "Runtime 3.3-2 is available."
