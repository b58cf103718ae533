"""The triggers of the Snowflake family. Their paths stand in Airflow's database: they never move without an alias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from astronomer.deferral import JobTrigger, RemoteJob
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery
from astronomer.providers.snowflake.jobs.statements import SnowflakeStatements
from astronomer.providers.snowflake.triggers.poke import SnowflakeSensorTrigger

__all__ = ["SnowflakeSensorTrigger", "SnowflakeSqlApiTrigger", "SnowflakeTrigger"]


@dataclass(eq=False, repr=False)
class SnowflakeTrigger(JobTrigger):
    """Wait for one Snowflake query; all waits on a connection share one login and one poller."""

    job_type: ClassVar[type[RemoteJob]] = SnowflakeQuery


@dataclass(eq=False, repr=False)
class SnowflakeSqlApiTrigger(JobTrigger):
    """Wait for statements of the SQL API; all waits on a connection share one HTTP session and one token."""

    job_type: ClassVar[type[RemoteJob]] = SnowflakeStatements
