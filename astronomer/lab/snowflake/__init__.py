"""A local Snowflake account."""

from __future__ import annotations

from astronomer.lab.snowflake.client import LabClient
from astronomer.lab.snowflake.lab import SnowflakeLab

__all__ = ["LabClient", "SnowflakeLab"]
