"""Manifests made up for tests."""

from __future__ import annotations

import json

from astronomer.runtime.versions import Manifest


def entry(airflow="3.3.2", **metadata):
    return {
        "metadata": {
            "airflowVersion": airflow,
            "channel": "stable",
            "releaseDate": "2026-01-01",
            "endOfMaintenance": "2026-07-01",
            "pythonVersions": ["3.13"],
            "defaultPythonVersion": "3.13",
            "yanked": False,
            "debianVersion": "13",
            "debianName": "trixie",
            "packageVersion": "2.0.0",
            "providers": {"apache-airflow-providers-http": "6.3.0"},
            **metadata,
        },
        "migrations": {"airflowDatabase": False},
    }


def text(newer, older=None):
    return json.dumps({"runtimeVersions": older or {}, "runtimeVersionsV3": newer})


def manifest(newer, older=None):
    return Manifest.parse(text(newer, older))
