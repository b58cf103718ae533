"""The check of the events can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import ValidationError
from referencing.exceptions import Unresolvable

from tests.integration.lineage import schemas


def base():
    return "https://openlineage.io/spec/2-0-2/OpenLineage.json"


def facet(name, **fields):
    url = f"https://openlineage.io/spec/facets/{name}.json#/$defs/{name.partition('/')[2]}"
    return {"_producer": "https://example.com", "_schemaURL": url, **fields}


@pytest.fixture
def event():
    query = facet("1-0-2/ExternalQueryRunFacet", externalQueryId="1", source="snowflake://account")
    return {
        "eventType": "START",
        "eventTime": "2026-01-01T00:00:00+00:00",
        "producer": "https://example.com",
        "schemaURL": f"{base()}#/$defs/RunEvent",
        "run": {"runId": "01945f7a-2f5c-7c1c-8f2e-0d5f4b6f7f10", "facets": {"externalQuery": query}},
        "job": {"namespace": "n", "name": "j", "facets": {}},
        "inputs": [{"namespace": "n", "name": "t", "facets": {}}],
        "outputs": [],
    }


def test_an_event_that_fits(event):
    schemas.check(event)


def change(event, path, value):
    *way, last = path
    for key in way:
        event = event[key]
    event[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["eventType"], "DONE"),
        (["eventTime"], "yesterday"),
        (["producer"], "nobody"),
        (["run", "runId"], "17"),
        (["job", "name"], None),
        (["inputs", 0, "name"], 17),
        (["run", "facets", "externalQuery", "externalQueryId"], 17),
        (["run", "facets", "externalQuery", "source"], None),
        (["run", "facets", "externalQuery", "_producer"], "nobody"),
    ],
    ids=str,
)
def test_an_event_that_does_not(event, path, value):
    change(event, path, value)
    with pytest.raises(ValidationError):
        schemas.check(event)


def test_a_facet_without_what_it_needs(event):
    del event["run"]["facets"]["externalQuery"]["source"]
    with pytest.raises(ValidationError, match="'source' is a required property"):
        schemas.check(event)


def test_a_schema_that_nobody_knows_is_not_fetched(event):
    change(event, ["run", "facets", "externalQuery", "_schemaURL"], "https://example.com/Facet.json")
    with pytest.raises(Unresolvable):
        schemas.check(event)


def test_published_schemas_take_the_place_of_ours(event, tmp_path, monkeypatch):
    name = "https://openlineage.io/spec/facets/1-0-2/ExternalQueryRunFacet.json"
    strict = {"$id": name, "$defs": {"ExternalQueryRunFacet": {"properties": {"source": {"maxLength": 3}}}}}
    (tmp_path / "ExternalQueryRunFacet.json").write_text(
        json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **strict})
    )
    monkeypatch.setenv(schemas.SPEC, str(tmp_path))
    forget = (schemas._registry.cache_clear, schemas._validator.cache_clear)
    try:
        for one in forget:
            one()
        with pytest.raises(ValidationError, match="is too long"):
            schemas.check(event)
    finally:
        for one in forget:
            one()


def test_the_folder_of_published_schemas_reaches_the_tests():
    told = subprocess.run(
        [sys.executable, "-c", "import os, tests.conftest; print(*os.environ)"],
        env={**os.environ, schemas.SPEC: "/tmp/openlineage", "OPENLINEAGE_URL": "http://localhost"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert schemas.SPEC in told
    assert "OPENLINEAGE_URL" not in told
