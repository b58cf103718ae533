"""What Airflow learns about this distribution from its `apache_airflow_provider` entry point."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

__all__ = ["get_provider_info"]

DISTRIBUTION = "astronomer-providers"
_FIRST = "2.0.0a1"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata in the form of `airflow/provider_info.schema.json`.

    Raises `importlib.metadata.PackageNotFoundError` when the distribution is not installed: run
    `pip install -e .` in a source checkout.
    """
    return {
        "package-name": DISTRIBUTION,
        "name": "Astronomer Providers",
        "description": "Deferrable operators and sensors that start once, wait for free and stop what they started.",
        "versions": [version(DISTRIBUTION)],
        "integrations": [
            {
                "integration-name": "Airflow",
                "external-doc-url": "https://airflow.apache.org/",
                "tags": ["software"],
            },
            {
                "integration-name": "Databricks",
                "external-doc-url": "https://docs.databricks.com/",
                "tags": ["service"],
            },
            {
                "integration-name": "Snowflake",
                "external-doc-url": "https://docs.snowflake.com/",
                "tags": ["service"],
            },
        ],
        "operators": [
            _modules(
                "Databricks",
                "databricks.operators.databricks",
                "databricks.operators.databricks_sql",
                "databricks.operators.databricks_workflow",
            ),
            _modules("Snowflake", "snowflake.operators.snowflake"),
        ],
        "sensors": [
            _modules(
                "Databricks",
                "databricks.sensors.databricks",
                "databricks.sensors.databricks_partition",
                "databricks.sensors.databricks_sql",
            ),
            _modules("Snowflake", "snowflake.sensors.snowflake"),
            _modules(
                "Airflow", "core.sensors.astro", "core.sensors.external_task", "core.sensors.filesystem"
            ),
        ],
        "connection-types": [
            {
                "connection-type": "Astro Cloud",
                "hook-class-name": "astronomer.providers.core.hooks.astro.AstroHook",
            },
        ],
        "hooks": [
            _modules("Airflow", "core.hooks.astro"),
            _modules("Databricks", "databricks.hooks.client"),
            _modules("Snowflake", "snowflake.hooks.session", "snowflake.hooks.sql_api"),
        ],
        "triggers": [
            _modules(
                "Airflow", "core.triggers.astro", "core.triggers.external_task", "core.triggers.filesystem"
            ),
            _modules("Databricks", "databricks.triggers.databricks"),
            _modules("Snowflake", "snowflake.triggers.poke", "snowflake.triggers.snowflake_trigger"),
        ],
        "extra-links": [
            "astronomer.providers.core.links.ExternalDagLink",
            "astronomer.providers.databricks.sql.link.DatabricksQueryLink",
            "astronomer.providers.snowflake.links.SnowsightQueryLink",
        ],
        "config": {
            "astronomer_providers": {
                "description": "How deferrable operators of astronomer-providers wait. An operator argument wins over these.",
                "options": {
                    "poll_interval": _option(
                        "Seconds between two looks at the remote jobs of one connection.",
                        "float",
                        5.0,
                        example=10.0,
                    ),
                    "outage_tolerance": _option(
                        "Seconds a remote service may be unreachable before its jobs are reported lost. "
                        "They are not cancelled.",
                        "float",
                        3600.0,
                        example=7200.0,
                    ),
                    "quick_wait": _option(
                        "Seconds the worker waits for a quick job before it defers. 0 defers at once.",
                        "float",
                        1.5,
                        example=0.0,
                    ),
                    "cancel_confirm_timeout": _option(
                        "Seconds to wait for the remote service to confirm a cancel.",
                        "float",
                        60.0,
                        example=120.0,
                    ),
                    "databricks_requests_per_second": _option(
                        "Requests a second that one process sends to one Databricks workspace, to begin with. It "
                        "slows down when the workspace complains, and speeds up to at most twice as many, or 25.",
                        "float",
                        10.0,
                        example=5.0,
                    ),
                    "airflow_conn_id": _option(
                        "An Airflow connection (type Astro Cloud) to this deployment's own REST API. With it, sensors on "
                        "other Dags ask about all Dags with one request per look, over the API server instead of the "
                        "triggerer's supervisor.",
                        "string",
                        "",
                        example="this_airflow",
                    ),
                    "worker_free": _option(
                        "Whether tasks start in the triggerer, and need no worker, where their operator is not told. What "
                        "only a worker can do for a task is found when its Dag is parsed; it then starts in a worker.",
                        "boolean",
                        False,
                        example=True,
                    ),
                    "worker_free_threads": _option(
                        "Threads of one triggerer that render, submit and read results for tasks without a worker.",
                        "integer",
                        8,
                        example=16,
                    ),
                    "worker_free_result_bytes": _option(
                        "The largest result, as JSON, that a triggerer reads for a task without a worker. A larger one is "
                        "read by a worker.",
                        "integer",
                        49152,
                        example=16384,
                    ),
                    "waits_folder": _option(
                        "Where a triggerer keeps, in small files, what it waits for: ids of jobs and of tasks, no secrets. "
                        "The next triggerer that sees the folder ends the jobs of tasks that were ended while none ran, so "
                        "put it where it outlives the triggerer. By default astronomer_waits in AIRFLOW_HOME.",
                        "string",
                        "",
                        example="/opt/airflow/logs/astronomer_waits",
                    ),
                    "poll_threads": _option(
                        "Threads of one triggerer for remote clients that block.", "integer", 4, example=8
                    ),
                },
            },
        },
    }


def _modules(integration: str, *modules: str) -> dict[str, Any]:
    return {
        "integration-name": integration,
        "python-modules": [f"astronomer.providers.{module}" for module in modules],
    }


def _option(description: str, kind: str, default: float | str, *, example: float | str) -> dict[str, Any]:
    """One option: the schema takes numbers, but Airflow writes and compares defaults as strings."""
    return {
        "description": description + "\n",
        "version_added": _FIRST,
        "type": kind,
        "example": str(example),
        "default": str(default),
    }
