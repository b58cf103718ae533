"""What the distribution adds to Airflow's processes: operators that are imported once, and not by every parse."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from astronomer.providers.package import get_provider_info

__all__ = ["AstronomerProvidersPlugin"]

_DAG_PROCESSOR = "dag-processor"


class AstronomerProvidersPlugin(AirflowPlugin):
    """Imports the operators and sensors where Dag files are parsed, before they are.

    Airflow parses each file in a process of its own, made of one that has imported the file's ``airflow`` modules, and
    no others. What a file imports from here would be imported anew each time it is parsed, and each time a task without
    a worker ends, of which Airflow tells the file.
    """

    name = "astronomer_providers"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:  # noqa: ARG003  # Airflow's
        """Airflow calls it once in each of its processes; only the one that parses Dags needs it."""
        if _DAG_PROCESSOR not in sys.argv[1:2]:
            return
        info = get_provider_info()
        groups = [*info["operators"], *info["sensors"]]
        for module in [one for group in groups for one in group["python-modules"]]:
            with suppress(ImportError):  # the vendor's own provider is not installed
                importlib.import_module(module)
