"""Imports the whole package, and prints what of OpenLineage came with it."""

from __future__ import annotations

import importlib
import pkgutil
import sys


def everything() -> None:
    """Import each module of the engine and of the families."""
    for package in ("astronomer.deferral", "astronomer.providers"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)
    print(
        *[
            name
            for name, module in sys.modules.items()
            if module is not None and name.startswith("openlineage")
        ]
    )
