"""The list of releases keeps its rules, agrees with what is built, and the page says the same."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astronomer.runtime.versions import Manifest, Tag
from tests.unit.runtime.releases import entry, manifest
from tools.runtime_versions.__main__ import main
from tools.runtime_versions.pins import differences, provider_pins, refreshed
from tools.runtime_versions.rules import objections, repeated, unnamed

ROOT = Path(__file__).resolve().parents[3]
RUNTIME = ROOT / "runtime"
FILE = (RUNTIME / "versions.json").read_text()
SCHEMA = json.loads((RUNTIME / "versions.schema.json").read_text())
HTTP = "apache-airflow-providers-http"
LINEAGE = "apache-airflow-providers-openlineage"


def fits(data):
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(data)


class TestTheFile:
    def test_fits_its_schema(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        jsonschema.validate(json.loads(FILE), SCHEMA)

    def test_every_entry_is_read(self):
        data = json.loads(FILE)
        listed = [*data["runtimeVersions"], *data["runtimeVersionsV3"]]
        assert {str(tag) for tag in Manifest.parse(FILE).releases} == set(listed)

    def test_keeps_the_rules(self):
        assert objections(Manifest.parse(FILE)) == []
        assert repeated(FILE) == []

    def test_names_its_changes(self):
        assert unnamed(Manifest.parse(FILE), (ROOT / "CHANGELOG.md").read_text()) == []

    def test_the_newest_has_the_providers_that_are_pinned(self):
        pins = provider_pins(RUNTIME)
        assert len(pins) > 10
        assert Manifest.parse(FILE).newest().providers == pins

    def test_the_newest_is_what_would_be_built(self):
        assert differences(RUNTIME, version("astronomer-providers")) == []

    def test_it_and_the_page_are_up_to_date(self):
        assert main(["--check"]) == 0


@pytest.mark.parametrize(
    ("tag", "metadata"),
    [
        ("3.3", {}),
        ("3.3-0", {}),
        ("3.3-1-base", {}),
        ("3.3-1", {"airflowVersion": "3.3"}),
        ("3.3-1", {"channel": "nightly"}),
        ("3.3-1", {"releaseDate": "26-11-2026"}),
        ("3.3-1", {"yanked": True}),
        ("3.3-1", {"yankedReason": "none"}),
        ("3.3-1", {"debianVersion": "trixie"}),
        ("3.3-1", {"providers": {}}),
        ("3.3-1", {"note": "a name that nobody knows"}),
    ],
)
def test_the_schema_refuses(tag, metadata):
    whole = {"runtimeVersions": {}, "runtimeVersionsV3": {"3.3-1": entry()}}
    assert fits(whole)
    assert not fits({**whole, "runtimeVersionsV3": {tag: entry(**metadata)}})


@pytest.mark.parametrize("name", SCHEMA["$defs"]["metadata"]["required"])
def test_the_schema_wants_all_of_it(name):
    lacking = entry()
    del lacking["metadata"][name]
    assert not fits({"runtimeVersions": {}, "runtimeVersionsV3": {"3.3-1": lacking}})


# Histories that keep the rules: a series after the other, each patch with versions that only rise.

BUMPS = st.lists(st.sampled_from(["airflow", "http", "package", "nothing"]), max_size=4)


@st.composite
def histories(draw):
    """({tag: entry}, of the form of Airflow 3)."""
    of_airflow, day = draw(st.booleans()), date(2026, 1, 1)
    versions = {"http": [draw(st.integers(1, 9)), 0], "package": [2, 0]}
    entries = {}
    for minor in range(draw(st.integers(1, 3))):
        versions["http"][0] += draw(st.integers(0, 1))
        python = draw(st.sampled_from(["3.12", "3.13"]))
        airflow = [3, minor, draw(st.integers(0, 3))]
        for patch, bump in enumerate(["nothing", *draw(BUMPS)], 1 if of_airflow else 0):
            day += timedelta(days=draw(st.integers(0, 40)))
            airflow[2] += bump == "airflow"
            for name, numbers in versions.items():
                numbers[1] += bump == name
            tag = Tag(3, minor, patch) if of_airflow else Tag(4 + minor, 0, patch, of_airflow=False)
            maintained = 182 if of_airflow else draw(st.integers(1, 400))
            entries[str(tag)] = entry(
                ".".join(map(str, airflow)),
                releaseDate=str(day),
                endOfMaintenance=str(day + timedelta(days=maintained)),
                pythonVersions=[python],
                defaultPythonVersion=python,
                packageVersion="{}.{}.0".format(*versions["package"]),
                providers={HTTP: "{}.{}.0".format(*versions["http"])},
            )
    return entries, of_airflow


def judged(entries, of_airflow):
    return objections(manifest(entries) if of_airflow else manifest({}, entries))


@given(histories())
def test_a_history_that_keeps_the_rules(history):
    assert judged(*history) == []


BREAKS = {
    "it ends on": {"endOfMaintenance": "2020-01-01"},
    "it appears earlier": {"releaseDate": "2020-01-01", "endOfMaintenance": "2020-07-01"},
    "keeps its Python": {"pythonVersions": ["3.11"], "defaultPythonVersion": "3.11"},
    "is not among": {"defaultPythonVersion": "3.11"},
    "keeps Debian": {"debianVersion": "14"},
    "keeps Debian 13": {"debianName": "forky"},
    "alpha after a stable one": {"channel": "alpha"},
    "http falls": {"providers": {HTTP: "0.9"}},
    "http .* becomes": {"providers": {HTTP: "99.0"}},
    "keeps apache-airflow-providers-http": {"providers": {"apache-airflow-providers-ftp": "1.0"}},
    "astronomer-providers falls": {"packageVersion": "1.9"},
    "astronomer-providers .* becomes": {"packageVersion": "3.0"},
    "has a reason": {"yanked": True},
    "apache-airflow .* becomes|its tag says|falls": {"airflowVersion": "3.9.0"},
    "apache-airflow falls|its tag says|Airflow falls": {"airflowVersion": "2.11.0"},
}


@pytest.mark.parametrize("words", BREAKS)
@settings(max_examples=25)
@given(history=histories(), data=st.data())
def test_a_patch_that_breaks_a_rule_is_found(words, history, data):
    entries, of_airflow = history
    first = 1 if of_airflow else 0
    patches = [tag for tag in entries if Tag.parse(tag).patch > first]
    if not patches:  # make one
        last = Tag.parse(list(entries)[-1])
        patches = [str(Tag(last.major, last.minor, last.patch + 1, of_airflow))]
        entries[patches[0]] = json.loads(json.dumps(entries[str(last)]))
    tag = data.draw(st.sampled_from(patches))
    entries[tag]["metadata"] |= BREAKS[words]
    found = judged(entries, of_airflow)
    assert [one for one in found if tag in one and re.search(words, one)], found


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"endOfMaintenance": "2026-01-02"}, "it is maintained for 1 days, and not for half a year"),
        ({"endOfMaintenance": "2027-01-01"}, "it is maintained for 365 days, and not for half a year"),
        ({"pythonVersions": ["3.12", "3.13"]}, "it has the Pythons 3.12, 3.13, and each release has one"),
    ],
)
def test_what_was_not_promised_for_the_older_form(metadata, words):
    assert objections(manifest({"3.3-1": entry(**metadata)})) == [f"3.3-1: {words}"]
    assert not objections(manifest({}, {"5.0.0": entry(**metadata)}))


@given(histories(), st.data())
def test_a_release_that_is_left_out_is_missed(history, data):
    entries, of_airflow = history
    followed = [tag for tag in entries if str(following(tag)) in entries]
    if followed:
        del entries[data.draw(st.sampled_from(followed))]
        assert judged(entries, of_airflow)


def following(tag):
    one = Tag.parse(tag)
    return Tag(one.major, one.minor, one.patch + 1, one.of_airflow)


def test_a_minor_of_the_older_form_keeps_airflows():
    older = {"5.0.0": entry("2.3.0"), "5.1.0": entry("2.4.0")}
    assert objections(manifest({}, older)) == [
        "5.0.0 -> 5.1.0: Airflow 2.3.0 becomes 2.4.0, which needs a new major version"
    ]
    assert not objections(manifest({}, {"5.0.0": entry("2.3.0"), "6.0.0": entry("2.3.4")}))


def of_month(month):
    return {"releaseDate": f"2026-{month:02}-01", "endOfMaintenance": f"2026-{month + 6:02}-01"}


def test_a_series_may_get_fixes_after_the_next_one_has_begun():
    months = {"3.2-1": 1, "3.2-2": 3, "3.3-1": 2}
    entries = {tag: entry(f"{tag[:3]}.0", **of_month(month)) for tag, month in months.items()}
    assert objections(manifest(entries)) == []
    entries["3.3-1"]["metadata"] |= {"releaseDate": "2025-12-01", "endOfMaintenance": "2026-06-01"}
    assert objections(manifest(entries)) == ["3.3-1: its series begins before that of 3.2-1"]


@pytest.mark.parametrize(("tag", "first"), [("3.3-0", 1), ("3.3-2", 1), ("5.0.1", 0)])
def test_a_series_begins_with(tag, first):
    entries = {tag: entry()}
    found = objections(manifest(entries) if "-" in tag else manifest({}, entries))
    assert found == [f"{tag}: the first of a series has the number {first}"]


def test_a_name_that_stands_twice():
    assert repeated('{"a": {"3.3-1": 1, "3.3-1": 2}, "b": {"3.3-1": 1}}') == ["3.3-1"]


class TestTheChangelog:
    two = manifest(
        {
            "3.3-1": entry("3.3.2", packageVersion="2.0.0", providers={LINEAGE: "2.20.3"}),
            "3.3-2": entry("3.3.3", packageVersion="2.0.1", providers={LINEAGE: "2.21.0"}),
        }
    )
    words = f"## [2.0.1]\n\n- Runtime 3.3-2 has Airflow 3.3.3 and `{LINEAGE}` 2.21.0.\n\n## [2.0.0]\n"

    def test_names_all(self):
        assert unnamed(self.two, self.words) == []

    @pytest.mark.parametrize("lost", ["## [2.0.1]", "## [2.0.0]", "Airflow 3.3.3", f"`{LINEAGE}` 2.21.0"])
    def test_lacks_one(self, lost):
        assert len(unnamed(self.two, self.words.replace(lost, ""))) == 1

    def test_a_longer_version_is_another(self):
        assert unnamed(self.two, self.words.replace("3.3.3", "3.3.30"))


class TestTheProgram:
    @pytest.fixture
    def checkout(self, tmp_path):
        (tmp_path / "docs" / "reference").mkdir(parents=True)
        for name in ("CHANGELOG.md", "docs/reference/runtime-versions.md"):
            shutil.copy(ROOT / name, tmp_path / name)
        (tmp_path / "runtime").mkdir()
        for name in ("versions.json", "requirements.txt", "constraints.txt"):
            shutil.copy(RUNTIME / name, tmp_path / "runtime" / name)
        return tmp_path

    @pytest.fixture
    def raised(self, checkout):
        """A checkout whose constraints have a newer provider."""
        pins = checkout / "runtime" / "constraints.txt"
        old = f"{HTTP}=={provider_pins(RUNTIME)[HTTP]}"
        assert old in pins.read_text()
        pins.write_text(pins.read_text().replace(old, f"{HTTP}==98.7.6"))
        return checkout

    def test_a_check_finds_a_newer_pin_and_writes_nothing(self, raised, capsys):
        assert main(["--check"], raised) == 1
        assert "versions.json is out of date" in capsys.readouterr().err
        assert (raised / "runtime" / "versions.json").read_text() == FILE

    def test_it_writes_the_pin_into_the_list_and_the_page(self, raised):
        assert main([], raised) == 0
        assert Manifest.read(raised / "runtime" / "versions.json").newest().providers[HTTP] == "98.7.6"
        assert f"| `{HTTP}` | 98.7.6 |" in (raised / "docs/reference/runtime-versions.md").read_text()
        assert main(["--check"], raised) == 0

    @pytest.mark.parametrize("channel", ["beta", "stable", "deprecated"])
    def test_it_leaves_what_has_appeared(self, raised, capsys, channel):
        path = raised / "runtime" / "versions.json"
        path.write_text(FILE.replace('"alpha"', f'"{channel}"'))
        before = path.read_text()
        assert main([], raised) == 1
        assert path.read_text() == before
        (line,) = capsys.readouterr().err.splitlines()
        assert f"lists {HTTP} {provider_pins(RUNTIME)[HTTP]}, and the image would hold 98.7.6" in line

    def test_an_entry_that_cannot_be_read_is_told(self, checkout, capsys):
        data = json.loads(FILE)
        newest = str(Manifest.parse(FILE).newest().tag)
        data["runtimeVersionsV3"][str(following(newest))] = {"metadata": {}}
        (checkout / "runtime" / "versions.json").write_text(json.dumps(data, indent=2) + "\n")
        assert main(["--check"], checkout) == 1
        assert "cannot be read" in capsys.readouterr().err

    def test_only_the_newest_release_changes(self, raised):
        data = json.loads(FILE)
        newest = str(Manifest.parse(FILE).newest().tag)
        other = str(following(newest))
        data["runtimeVersionsV3"][other] = json.loads(json.dumps(data["runtimeVersionsV3"][newest]))
        (raised / "runtime" / "versions.json").write_text(json.dumps(data))
        found = json.loads(refreshed(raised / "runtime"))["runtimeVersionsV3"]
        assert found[newest] == data["runtimeVersionsV3"][newest]
        assert found[other]["metadata"]["providers"][HTTP] == "98.7.6"

    def test_a_page_that_was_changed_by_hand(self, checkout, capsys):
        page = checkout / "docs/reference/runtime-versions.md"
        page.write_text(page.read_text().replace("| 3.3.2 |", "| 3.3.1 |"))
        assert main(["--check"], checkout) == 1
        assert "runtime-versions.md is out of date" in capsys.readouterr().err

    def test_a_broken_rule(self, checkout, capsys):
        path = checkout / "runtime" / "versions.json"
        path.write_text(FILE.replace('"yanked": false', '"yanked": true'))
        assert main([], checkout) == 1
        assert "has a reason" in capsys.readouterr().err

    def test_another_airflow_than_the_pinned_one(self, checkout):
        path = checkout / "runtime" / "constraints.txt"
        path.write_text(path.read_text().replace("apache-airflow==", "apache-airflow==9"))
        assert len(differences(checkout / "runtime", version("astronomer-providers"))) == 1

    def test_a_provider_without_a_pin(self, checkout):
        with (checkout / "runtime" / "requirements.txt").open("a") as file:
            file.write("apache-airflow-providers-nowhere[x]>=1\n")
        with pytest.raises(ValueError, match="no pin of apache-airflow-providers-nowhere;"):
            provider_pins(checkout / "runtime")
