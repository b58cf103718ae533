"""A macro for templates: `{{ macros.project.bucket(ds) }}`."""

from airflow.plugins_manager import AirflowPlugin


def bucket(day: str) -> str:
    """Return where the orders of a day are."""
    return f"orders-{day}"


class ProjectPlugin(AirflowPlugin):
    """What Airflow finds in this file."""

    name = "project"
    macros = (bucket,)
