"""What is checked of every Kubernetes file: that Kubernetes knows each field, and that no secret is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import yaml
from kubernetes import client

__all__ = [
    "FOLDER",
    "HOME",
    "QUEUES",
    "check_limits",
    "check_no_secret",
    "check_pod",
    "check_values",
    "deployment",
    "known",
    "load",
    "merged",
    "rendered",
]

FOLDER = Path(__file__).parents[3] / "runtime" / "kubernetes"
QUEUES = ("snowflake", "databricks", "default")
HOME = "/opt/airflow"
"""Airflow's home, as the chart has it where no file says another."""
_SCHEMA = json.loads(Path(__file__).with_name("chart_values.schema.json").read_text())
_API = client.ApiClient()

_SECRET_NAME = re.compile(
    r"secret|password|passwd|token|private|fernet|_conn|broker_url|result_backend", re.IGNORECASE
)
_PATH = re.compile(r"(/[\w.-]+)+\.\w+")
_SECRET_VALUE = re.compile(r"://[^/\s]*:[^/\s]*@|-----BEGIN|[\w+/=-]{40,}")


def rendered(name: str, home: str = HOME) -> str:
    """What Helm makes of a file in runtime/kubernetes, which names Airflow's home and nothing else."""
    text = (FOLDER / name).read_text().replace("{{ .Values.airflowHome }}", home)
    assert "{{" not in text
    return text


def load(name: str, home: str = HOME) -> Any:
    """The one document of a file in runtime/kubernetes."""
    return yaml.safe_load(rendered(name, home))


def deployment(queue: str = "snowflake") -> Any:
    """What the command in triggerer-queue.yaml applies."""
    text = (FOLDER / "triggerer-queue.yaml").read_text()
    for one, other in re.findall(r"-e s/(\w+)/(\w+)/g", text):
        made = {"databricks": queue, "DATABRICKS": queue.upper()}
        text = text.replace(one, made[other])
    return yaml.safe_load(text)


def known(kind: str, document: Any) -> Any:
    """The document as a model of the Kubernetes client, which knows each of its fields.

    :raises AssertionError: a field is lost, because there is none of that name there.
    :raises ValueError: a field is missing.
    """
    model = _API.deserialize(SimpleNamespace(data=json.dumps(document)), kind)
    assert _API.sanitize_for_serialization(model) == document
    return model


def merged(*files: str) -> dict[str, Any]:
    """What Helm makes of several values files: mappings are merged, everything else is replaced."""

    def merge(under: Any, over: Any) -> Any:
        if not isinstance(under, dict) or not isinstance(over, dict):
            return over
        return {**under, **{key: merge(under.get(key), value) for key, value in over.items()}}

    home = next((found for file in files if (found := load(file).get("airflowHome"))), HOME)
    values: dict[str, Any] = {}
    for file in files:
        values = merge(values, load(file, home))
    return values


def check_values(values: Any) -> None:
    """The chart takes them.

    :raises jsonschema.ValidationError: there is no such value, or it is of another type.
    :raises AssertionError: Kubernetes knows no such field.
    """
    validator = jsonschema.validators.extend(
        jsonschema.Draft202012Validator,
        {"kubernetes": lambda _, kind, document, __: known(kind, document) and None},
    )
    validator(_SCHEMA).validate(values)


def check_no_secret(document: Any) -> None:
    """Secrets are named, never written.

    :raises AssertionError: where one is.
    """
    for path, value in _texts(document):
        harmless = path[-2:] == ("env", "name") or _PATH.fullmatch(value)
        assert harmless or not _SECRET_VALUE.search(value), path
        assert path[-1].endswith("SecretName") or not _SECRET_NAME.search(path[-1]), path
    for env in _environments(document):
        if _SECRET_NAME.search(env["name"]):
            assert set(env) == {"name", "valueFrom"}, env
            assert set(env["valueFrom"]) == {"secretKeyRef"}, env


def check_pod(spec: Any) -> None:
    """A pod's specification has what a cluster with the restricted Pod Security Standard asks for, and its limits.

    :raises AssertionError: what it lacks.
    """
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        check_limits(container["resources"])


def check_limits(resources: Any) -> None:
    """:raises AssertionError: CPU or memory is not asked for, or has no limit."""
    for bound in ("requests", "limits"):
        assert set(resources[bound]) == {"cpu", "memory"}, resources


def _texts(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _texts(value, (*path, key))
    elif isinstance(document, list):
        for value in document:
            yield from _texts(value, path)
    elif isinstance(document, str):
        yield path, document


def _environments(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        yield from document.get("env") or ()
        for value in document.values():
            yield from _environments(value)
    elif isinstance(document, list):
        for value in document:
            yield from _environments(value)
