"""What holds for every operator and sensor of the package."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.openlineage import conf
from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.extractors.manager import ExtractorManager
from airflow.providers.openlineage.utils.emission_policy import resolve_task_emission_policy
from airflow.sdk import BaseOperator
from openlineage.client import OpenLineageClient

import astronomer.providers
from astronomer.deferral.lineage import Lineage
from tests.integration.lineage.page import PAGE, variables

ROOT = Path(__file__).parents[3]
FAMILIES = ("core", "databricks", "snowflake")


def classes():
    """The operators and sensors that users import, without the other names of 1.x."""
    found = set()
    for family in FAMILIES:
        name = f"astronomer.providers.{family}"
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            loaded = importlib.import_module(module.name)
            for exported in getattr(loaded, "__all__", ()):
                one = getattr(loaded, exported)
                if inspect.isclass(one) and issubclass(one, BaseOperator) and not exported.endswith("Async"):
                    found.add(one)
    bases = {base for one in found for base in one.__mro__[1:]}
    return sorted(found - bases, key=lambda one: one.__name__)


CLASSES = classes()


def test_they_are_found():
    assert astronomer.providers
    assert len(CLASSES) > 15


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_tells_openlineage(kind):
    assert issubclass(kind, Lineage)
    methods = ("on_start", "on_complete", "on_failure")
    assert all(callable(getattr(kind, f"get_openlineage_facets_{one}")) for one in methods)
    found = ExtractorManager().get_extractor_class(
        SimpleNamespace(task_type=kind.__name__, get_openlineage_facets_on_start=lambda: None)
    )
    assert found.__name__ == "DefaultExtractor"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_none_ends_from_its_trigger(kind):
    """Airflow refuses a Dag with such a task as soon as anything listens, and OpenLineage listens."""
    assert not getattr(kind, "end_from_trigger", False)
    defaults = [
        parameter.default
        for base in kind.__mro__
        if "__init__" in vars(base)
        for name, parameter in inspect.signature(base.__init__).parameters.items()
        if name == "end_from_trigger"
    ]
    assert not any(one is True for one in defaults)


@pytest.mark.parametrize(
    "package",
    ["openlineage", pytest.param("airflow.providers.openlineage.extractors", marks=pytest.mark.long)],
)
def test_all_can_be_imported_without_openlineage(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from tests.integration.lineage.imports import everything\n"
        "everything()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"openlineage", "openlineage.client"}


class Told(Lineage):
    """Between ours and a stock operator, whose part may fail."""

    def own_lineage(self):
        return OperatorLineage(job_facets={"sql": "ours", "more": "ours"})


class Stock:
    trouble: Exception | None = None

    def get_openlineage_facets_on_start(self):
        if self.trouble:
            raise self.trouble
        return OperatorLineage(job_facets={"sql": "stock"})

    def get_openlineage_facets_on_complete(self, task_instance):
        assert task_instance == "ti"
        return self.get_openlineage_facets_on_start()


class Both(Told, Stock):
    inlets = outlets = ()


def test_what_stock_tells_stays():
    told = Both().get_openlineage_facets_on_failure("ti")
    assert told.job_facets == {"sql": "stock", "more": "ours"}


def test_what_stock_cannot_tell_takes_nothing_from_ours(caplog):
    both = Both()
    both.trouble = ValueError("no dialect")
    told = both.get_openlineage_facets_on_complete("ti")
    assert told.job_facets == {"sql": "ours", "more": "ours"}
    assert both.stock_lineage_failed
    assert "A part of the lineage is missing: ValueError: no dialect" in caplog.text


def test_what_we_cannot_tell_takes_nothing_from_stock(monkeypatch):
    monkeypatch.setattr(Both, "own_lineage", lambda self: 1 / 0)
    assert Both().get_openlineage_facets_on_start().job_facets == {"sql": "stock"}


def test_the_page_names_every_class():
    named = set(re.findall(r"^\| `([A-Z][a-z]\w+)`", PAGE.read_text(), re.MULTILINE))
    assert named == {kind.__name__ for kind in CLASSES}


def test_the_clients_take_the_transports_of_the_page():
    for name, kind in (("file", "file"), ("http", "http")):
        transport = json.loads(variables(name)["AIRFLOW__OPENLINEAGE__TRANSPORT"])
        assert OpenLineageClient(config={"transport": transport}).transport.kind == kind


def test_the_policy_of_the_page_silences_that_task(monkeypatch):
    (policy,) = variables("policy").values()
    monkeypatch.setattr(conf, "emission_policy", lambda: json.loads(policy))
    operator = SimpleNamespace(params={}, operator_class=None)
    told = {
        task_id: resolve_task_emission_policy(operator, "payroll", task_id).emit
        for task_id in ("look_up", "another")
    }
    assert told == {"look_up": False, "another": True}
