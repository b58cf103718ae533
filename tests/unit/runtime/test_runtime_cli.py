"""`airflow runtime …`, as Airflow's own parser finds and runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from importlib.metadata import version as installed

import pytest
import yaml
from airflow.cli import cli_parser
from airflow.version import version as airflow_version

from astronomer.runtime import commands
from astronomer.runtime.cli import get_cli_commands
from tests.unit.runtime.releases import entry, text

if not airflow_version.startswith("3.3."):
    pytest.skip("Airflow 3.3 finds the commands of providers", allow_module_level=True)

LIST = text(
    {
        "3.3-1": entry(yanked=True, yankedReason="[/] It loses [red]logs.", endOfMaintenance="2126-01-01"),
        "3.3-2": entry(endOfMaintenance="2126-01-01"),
        "3.2-1": entry("3.2.0"),
    }
)


@pytest.fixture
def parser(monkeypatch):
    """Airflow's parser with our commands, whether or not the installed metadata names them."""
    group = types.MappingProxyType({**cli_parser.ALL_COMMANDS_DICT, "runtime": get_cli_commands()[0]})
    monkeypatch.setattr(cli_parser, "ALL_COMMANDS_DICT", group)
    cli_parser.get_parser.cache_clear()
    yield cli_parser.get_parser()
    cli_parser.get_parser.cache_clear()


@pytest.fixture
def run(parser, capsys):
    def run(*words):
        args = parser.parse_args(["runtime", *words])
        assert args.func(args) is None
        return capsys.readouterr().out

    return run


@pytest.fixture
def image(monkeypatch, tmp_path):
    """The environment of an image."""
    (tmp_path / "versions.json").write_text(LIST)
    monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSIONS", str(tmp_path / "versions.json"))
    monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSION", "3.3-1-base")


@pytest.fixture
def outside(monkeypatch):
    monkeypatch.delenv("ASTRONOMER_RUNTIME_VERSIONS", raising=False)
    monkeypatch.delenv("ASTRONOMER_RUNTIME_VERSION", raising=False)


@pytest.mark.usefixtures("image")
class TestInAnImage:
    SAID = (
        "Runtime 3.3-1 has been withdrawn. Change to another release. Its makers say: [/] It loses [red]logs."
    )

    def test_version(self, run):
        out = run("version")
        for words in (
            "3.3-1-base",
            airflow_version,
            installed("astronomer-providers"),
            "2126-01-01",
            self.SAID,
        ):
            assert words in out

    def test_version_for_programs(self, run):
        found = json.loads(run("version", "--output", "json"))
        assert found == yaml.safe_load(run("version", "--output", "yaml"))
        assert found["runtime"] == "3.3-1-base"
        assert found["airflow"] == airflow_version
        assert found["notices"] == [
            self.SAID,
            "Runtime 3.3-2 is available, with fixes for yours (Airflow 3.3.2).",
        ]

    def test_versions(self, run):
        out = run("versions")
        rows = [line for line in out.splitlines() if line.startswith("3.")]
        assert [row.split()[0] for row in rows] == ["3.3-2", "3.3-1", "3.2-1"]
        assert "this image, withdrawn: [/] It loses [red]logs." in rows[1]
        assert "maintenance ended" in rows[2]

    def test_versions_for_programs(self, run):
        rows = json.loads(run("versions", "-o", "json"))
        assert [row["runtime"] for row in rows] == ["3.3-2", "3.3-1", "3.2-1"]
        assert rows[2]["end of maintenance"] == "2026-07-01"
        assert rows[1]["note"] == "this image, withdrawn: [/] It loses [red]logs."

    def test_a_newer_list(self, run, monkeypatch, tmp_path):
        (tmp_path / "newer.json").write_text(text({"3.3-3": entry("3.3.3", endOfMaintenance="2126-01-01")}))
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_RUNTIME__VERSIONS_URL", str(tmp_path / "newer.json"))
        assert "Runtime 3.3-3 is available" in run("version")
        assert "3.3-3" in run("versions")

    @pytest.mark.parametrize("words", [("version",), ("versions", "-o", "json")])
    def test_a_url_that_is_wrong_is_told_beside_the_output(self, parser, capsys, monkeypatch, words):
        def told():
            args = parser.parse_args(["runtime", *words])
            args.func(args)
            return capsys.readouterr()

        before = told()
        monkeypatch.setenv("AIRFLOW__ASTRONOMER_RUNTIME__VERSIONS_URL", "http://example.com/versions.json")
        after = told()
        assert (after.out, before.err) == (before.out, "")
        assert after.err == (
            "Could not read the manifest of [astronomer_runtime] versions_url: "
            "versions_url has to start with https:// or file:///, or be the path of a file\n"
        )

    def test_a_tag_that_nobody_understands(self, run, monkeypatch):
        monkeypatch.setenv("ASTRONOMER_RUNTIME_VERSION", "latest")
        assert json.loads(run("version", "-o", "json"))["runtime"] == commands.NO_TAG
        assert len(json.loads(run("versions", "-o", "json"))) == 3


@pytest.mark.usefixtures("outside")
class TestOutside:
    def test_version(self, run):
        out = run("version")
        assert "this is not a Runtime image" in out
        assert airflow_version in out
        assert installed("astronomer-providers") in out

    def test_version_for_programs(self, run):
        found = json.loads(run("version", "-o", "json"))
        assert found["runtime"] == commands.NO_IMAGE
        assert found["notices"] == []

    def test_versions(self, run):
        assert "No release is known" in run("versions")
        assert json.loads(run("versions", "-o", "json")) == []


def test_the_names_cost_little():
    """Every `airflow` command imports them."""
    code = (
        "import airflow.cli.cli_config, sys; before = set(sys.modules); import astronomer.runtime.cli; "
        "print([name for name in set(sys.modules) - before if not name.startswith('astronomer')])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_it_has_nothing_to_do_with_listeners():
    from astronomer.runtime.plugin import RuntimePlugin

    assert RuntimePlugin.listeners == []
