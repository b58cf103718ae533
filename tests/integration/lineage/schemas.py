"""Whether an event fits its JSON schemas, without a network.

The client's classes are what OpenLineage generates of its published schemas; here they become schemas again, under the
same ids. The schemas of Airflow's own facets are published within its provider. Where the published files of
OpenLineage are at hand, ``OPENLINEAGE_SPEC`` names their folder, and they take the place of those with the same ids.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import typing
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union

import attr
from airflow.providers.openlineage import facets as airflow_facets
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client import event_v2, generated
from referencing import Registry, Resource

__all__ = ["SPEC", "check", "derived", "published"]

SPEC = "OPENLINEAGE_SPEC"
FOLDERS = (("run", "facets"), ("job", "facets"))
DATASET_FACETS = ("facets", "inputFacets", "outputFacets")
_FORMATS = {
    "runId": "uuid",
    "eventTime": "date-time",
    "producer": "uri",
    "_producer": "uri",
    "_schemaURL": "uri",
}
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number"}

_formats = FormatChecker()


@_formats.checks("uri")
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or "://" in value


@_formats.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def check(event: dict[str, Any]) -> None:
    """Fail unless the event, and each of its facets, fits the schema that it names.

    :raises jsonschema.ValidationError: it does not.
    """
    _validator(event["schemaURL"]).validate(event)
    for facet in _facets(event):
        _validator(facet["_schemaURL"]).validate(facet)


def _facets(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one, facets in FOLDERS:
        yield from event[one].get(facets, {}).values()
    for dataset in [*event["inputs"], *event["outputs"]]:
        for facets in DATASET_FACETS:
            yield from dataset.get(facets, {}).values()


@cache
def _validator(url: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": url}, registry=_registry(), format_checker=_formats)


@cache
def _registry() -> Registry[Any]:
    documents = {**derived(), **dict(_of_airflow())}
    if folder := os.environ.get(SPEC):
        documents |= published(Path(folder))
    resources = [(name, Resource.from_contents(one)) for name, one in documents.items()]
    return Registry().with_resources(resources)  # and nothing that could retrieve others


def published(folder: Path) -> dict[str, Any]:
    """The schemas in a folder, by their ids."""
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]
    return {one["$id"]: one for one in found if "$id" in one}


def _of_airflow() -> Iterator[tuple[str, Any]]:
    """They have no ids: their facets name the address of the file in Airflow's repository, at a release."""
    from airflow.providers.openlineage.plugins import facets

    for kind in vars(facets).values():
        if isinstance(kind, type) and attr.has(kind) and hasattr(kind, "_get_schema"):
            url = kind._get_schema().partition("#")[0]
            path = Path(next(iter(airflow_facets.__path__)), url.rpartition("/")[2])
            if path.exists():
                yield url, json.loads(path.read_text())


def derived() -> dict[str, Any]:
    """The schemas of which the client's classes are made, by their ids."""
    modules = [
        importlib.import_module(f"{generated.__name__}.{one.name}")
        for one in pkgutil.iter_modules(generated.__path__)
    ]
    found: dict[str, Any] = {}
    for kind in _classes([*modules, event_v2]):
        name, _, definition = kind._get_schema().partition("#/$defs/")
        document = found.setdefault(
            name, {"$schema": Draft202012Validator.META_SCHEMA["$id"], "$id": name, "$defs": {}}
        )
        document["$defs"].setdefault(definition, _object(kind))
    return found


def _classes(modules: Iterable[Any]) -> Iterator[Any]:
    for module in modules:
        for kind in vars(module).values():
            if isinstance(kind, type) and attr.has(kind) and hasattr(kind, "_get_schema"):
                yield kind


def _object(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in attr.fields(kind)}
    return {
        "type": "object",
        "properties": {
            name: _of(hints[name]) | ({"format": _FORMATS[name]} if name in _FORMATS else {})
            for name in fields
        },
        "required": [
            name
            for name, field in fields.items()
            if field.default is attr.NOTHING or name in ("_producer", "_schemaURL")
        ],
    }


def _of(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, UnionType):
        return {"anyOf": [_of(one) for one in arguments]}
    if origin is list:
        return {"type": "array", "items": _of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1])}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is type(None):
        return {"type": "null"}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [one.value for one in hint]}
    return {"$ref": hint._get_schema()} if hasattr(hint, "_get_schema") else {}
