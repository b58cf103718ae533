"""The environment of Airflow's processes: the same for all, and nothing of the caller's configuration."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["environment"]

_ROOT = Path(__file__).parents[1]
_FOREIGN = ("AIRFLOW_", "SNOWFLAKE_", "DATABRICKS_")


def environment(home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The variables for Airflow in a new directory, and ``given``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    home.mkdir(parents=True)
    return {
        **kept,
        **given,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "SNOWFLAKE_HOME": str(home),
    }
