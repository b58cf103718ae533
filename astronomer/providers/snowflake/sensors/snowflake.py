"""The sensors of the Snowflake family, under the path that 1.x had."""

from __future__ import annotations

from astronomer.providers.snowflake.sensors.query import SnowflakeSensor, SnowflakeSensorAsync

__all__ = ["SnowflakeSensor", "SnowflakeSensorAsync"]
