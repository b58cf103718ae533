"""What Airflow learns about this distribution from its `apache_airflow_provider` entry point."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from astronomer.providers.options import CONFIG

__all__ = ["get_provider_info"]

DISTRIBUTION = "astronomer-providers"


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
        "auth-managers": ["astronomer.runtime.auth_manager.RuntimeAuthManager"],
        "cli": [
            "astronomer.runtime.cli.get_cli_commands",
            "astronomer.runtime.auth_cli.get_cli_commands",
        ],
        "config": CONFIG,
    }


def _modules(integration: str, *modules: str) -> dict[str, Any]:
    return {
        "integration-name": integration,
        "python-modules": [f"astronomer.providers.{module}" for module in modules],
    }
