"""Tags, and the manifest that lists them."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astronomer.runtime.versions import MAX_BYTES, Manifest, ManifestError, Tag
from tests.unit.runtime.releases import entry, manifest, text

NUMBERS = st.integers(0, 99999)
TAGS = st.builds(
    Tag,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.booleans(),
    st.sampled_from(["", "3.9", "3.10", "3.13"]),
    slim=st.booleans(),
    base=st.booleans(),
)


@given(TAGS)
def test_a_tag_is_read_as_it_is_written(tag):
    assert Tag.parse(str(tag)) == tag
    assert Tag.parse(str(tag.release)) == tag.release


@pytest.mark.parametrize(
    ("words", "tag"),
    [
        ("3.3-1", Tag(3, 3, 1)),
        ("3.3-12-base", Tag(3, 3, 12, base=True)),
        ("4.2.0", Tag(4, 2, 0, of_airflow=False)),
        ("7.2.0-python-3.10-slim-base", Tag(7, 2, 0, False, "3.10", slim=True, base=True)),
    ],
)
def test_both_forms(words, tag):
    assert Tag.parse(words) == tag


@pytest.mark.parametrize(
    "words",
    [
        "",
        "3.3",
        "3.3-",
        "3.3-1-",
        "03.3-1",
        "3.3-01",
        "v3.3-1",
        "3.3-1\n",
        "3.3-1-base-slim",
        "3.3.1.1",
        "٣.3-1",
        "3.3-1-alpine",
        "3.3-999999",
        "latest",
        " 3.3-1",
    ],
)
def test_anything_else_is_refused(words):
    with pytest.raises(ValueError, match="no tag of a Runtime"):
        Tag.parse(words)


def test_the_order_is_that_of_the_releases():
    tags = [
        "4.1.9",
        "4.1.10",
        "4.2.0",
        "4.2.0-base",
        "4.2.0-slim",
        "4.2.0-python-3.9",
        "4.2.0-python-3.10",
        "13.0.1",
    ]
    tags += ["3.0-1", "3.3-9", "3.3-10", "3.3-10-base", "3.10-1"]
    shuffled = random.Random(7).sample(tags, len(tags))
    assert [str(tag) for tag in sorted(map(Tag.parse, shuffled))] == tags


@given(TAGS, TAGS)
def test_two_tags_are_equal_or_in_order(one, other):
    assert [one < other, one == other, one > other].count(True) == 1


def test_a_tag_is_compared_with_tags_only():
    with pytest.raises(TypeError):
        Tag(3, 3, 1) < "3.3-2"  # noqa: B015


def test_the_semantic_version():
    assert Tag.parse("3.3-1-base").semantic == Tag.parse("3.3.1").semantic == "3.3.1"


def test_releases_come_oldest_first():
    found = manifest({"3.3-10": entry(), "3.3-9": entry()}, {"4.2.0": entry("2.2.4")})
    assert [str(tag) for tag in found.releases] == ["4.2.0", "3.3-9", "3.3-10"]
    assert found.newest().tag == Tag(3, 3, 10)
    assert found.newest().airflow == "3.3.2"
    assert found.newest().providers == {"apache-airflow-providers-http": "6.3.0"}


def test_the_public_manifest_has_less_and_other_things():
    found = Manifest.parse(
        json.dumps(
            {
                "news": [],
                "runtimeVersionsV3": {
                    "3.3-8": {
                        "metadata": {
                            "airflowVersion": "3.3.2",
                            "channel": "stable",
                            "releaseDate": "2026-10-01",
                        },
                        "migrations": {"airflowDatabase": True, "other": 1},
                    },
                    "3.4-1.dev1": {
                        "metadata": {"airflowVersion": "3.4", "channel": "alpha", "releaseDate": "2026-10-02"}
                    },
                },
            }
        )
    )
    assert [str(tag) for tag in found.releases] == ["3.3-8"]
    assert found.newest().migrates
    assert found.newest().end_of_maintenance is None


def test_a_tag_in_the_wrong_list_is_left_out():
    assert not manifest({"4.2.0": entry(), "3.3-1-base": entry()}, {"3.3-1": entry()}).releases


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"airflowVersion": "3.3.2\x1b[31m"}, "airflowVersion"),
        ({"airflowVersion": "[click](https://example.com)"}, "airflowVersion"),
        ({"airflowVersion": None}, "airflowVersion"),
        ({"channel": "rc"}, "channel"),
        ({"releaseDate": "soon"}, "releaseDate"),
        ({"releaseDate": 20260101}, "releaseDate"),
        ({"endOfMaintenance": "2026-02-30"}, "endOfMaintenance"),
        ({"yanked": "no"}, "yanked"),
        ({"providers": {"http": "<b>"}}, "providers"),
        ({"providers": {"../http": "1"}}, "providers"),
        ({"pythonVersions": "3.13"}, "pythonVersions"),
        ({"pythonVersions": ["3.13t"]}, "pythonVersions"),
        ({"airflowVersion": "3.4.0-rc.1"}, "airflowVersion"),
    ],
)
def test_a_wrong_entry_is_left_out_and_named(wrong, where):
    """And the others are read: a later manifest may have words that this image does not know."""
    found = manifest({"3.3-1": entry(**wrong), "3.2-1": entry("3.2.0")})
    assert [str(tag) for tag in found.releases] == ["3.2-1"]
    (words,) = found.troubles
    assert words.startswith("Left out Runtime 3.3-1, whose entry cannot be read: ")
    assert where in words
    assert "\x1b" not in words
    assert "example.com" not in words


@pytest.mark.parametrize(
    "words", [b"", b"{", b"[]", b"null", b'{"runtimeVersionsV3": []}', b"\xff\xfe", b"[" * 100_000]
)
def test_no_manifest(words):
    with pytest.raises(ManifestError):
        Manifest.parse(words)


@given(st.binary(max_size=200))
def test_nothing_else_than_this_error_comes_of_any_bytes(words):
    with contextlib.suppress(ManifestError):
        Manifest.parse(words)


def test_a_long_file_is_not_read(tmp_path):
    (tmp_path / "long.json").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ManifestError, match="longer than"):
        Manifest.read(tmp_path / "long.json")


def test_a_reason_is_one_plain_line():
    found = manifest({"3.3-1": entry(yanked=True, yankedReason="bad\n\x1b[2J\u202e news " + "x" * 1000)})
    reason = found.newest().yanked_reason
    assert reason.startswith("bad [2J news xxx")
    assert len(reason) == 200


def test_the_other_one_wins():
    both = manifest({"3.3-1": entry(), "3.3-2": entry()}) | manifest(
        {"3.3-1": entry(yanked=True, yankedReason="x"), "3.2-7": entry("3.2.1")}
    )
    assert [str(tag) for tag in both.releases] == ["3.2-7", "3.3-1", "3.3-2"]
    assert both.releases[Tag(3, 3, 1)].yanked


def test_an_empty_one_has_no_newest():
    with pytest.raises(ManifestError, match="no release"):
        Manifest.parse("{}").newest()


def test_no_airflow_is_imported():
    code = (
        "import sys, astronomer.runtime.notice, astronomer.runtime.source; sys.exit('airflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_written_is_read():
    assert Manifest.parse(text({"3.3-1": entry()})) == manifest({"3.3-1": entry()})
