"""What Airflow is told about the distribution, and what Airflow makes of it."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.configuration import conf
from airflow.providers_manager import ProvidersManager

from astronomer.providers.package import get_provider_info

OPTIONS = get_provider_info()["config"]["astronomer_providers"]["options"]


def run_airflow(home, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "airflow", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=home,
        env={**environment, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
    ).stdout


def test_info_fits_airflows_own_schema():
    schema = json.loads(Path(airflow.__path__[0], "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_entry_point_leads_to_it():
    (entry,) = entry_points(group="apache_airflow_provider").select(
        value="astronomer.providers.package:get_provider_info"
    )
    assert entry.dist is not None
    assert entry.dist.name == "astronomer-providers"
    assert entry.load() is get_provider_info
    assert get_provider_info()["versions"] == [version("astronomer-providers")]


def test_airflow_lists_the_provider(tmp_path):
    listed = json.loads(run_airflow(tmp_path, "providers", "list", "--output", "json"))
    assert [row["version"] for row in listed if row["package_name"] == "astronomer-providers"] == [
        version("astronomer-providers")
    ]


def test_airflow_lists_the_options(tmp_path):
    listed = run_airflow(tmp_path, "config", "list", "--section", "astronomer_providers", "--defaults")
    assert not [name for name in OPTIONS if f"{name} = " not in listed]


@pytest.mark.parametrize("name", OPTIONS)
def test_airflow_knows_the_default(name, monkeypatch):
    monkeypatch.delenv(f"AIRFLOW__ASTRONOMER_PROVIDERS__{name.upper()}", raising=False)  # from another test
    ProvidersManager().initialize_providers_configuration()  # Airflow 3.1 does so in its commands only
    assert conf.get("astronomer_providers", name) == OPTIONS[name]["default"]


@pytest.mark.parametrize("kind", ["operators", "sensors", "hooks", "triggers"])
def test_every_module_it_names_is_there(kind):
    for group in get_provider_info()[kind]:
        for module in group["python-modules"]:
            importlib.import_module(module)


def test_every_link_it_names_is_there():
    for path in get_provider_info()["extra-links"]:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults_are_of_their_type(name):
    parse = {"float": float, "integer": int, "string": str, "boolean": lambda text: text == "True"}[
        OPTIONS[name]["type"]
    ]
    assert str(parse(OPTIONS[name]["default"])) == OPTIONS[name]["default"]
    assert str(parse(OPTIONS[name]["example"])) != OPTIONS[name]["default"]
