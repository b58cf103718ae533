"""The triggers of the Databricks family. Their paths stand in Airflow's database: they never move without an alias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from astronomer.deferral import JobTrigger, RemoteJob
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.triggers.sql import (
    DatabricksPartitionSensorTrigger,
    DatabricksSqlSensorTrigger,
    DatabricksStatementTrigger,
)

__all__ = [
    "DatabricksPartitionSensorTrigger",
    "DatabricksRunTrigger",
    "DatabricksSqlSensorTrigger",
    "DatabricksStatementTrigger",
]


@dataclass(eq=False, repr=False)
class DatabricksRunTrigger(JobTrigger):
    """Wait for one run; all waits on a connection share one session, one token and one poller."""

    job_type: ClassVar[type[RemoteJob]] = DatabricksRun
