"""The operators of the Snowflake family, under the path that 1.x had."""

from __future__ import annotations

from astronomer.providers.snowflake.operators.query import SnowflakeOperator, SnowflakeOperatorAsync
from astronomer.providers.snowflake.operators.sql_api import (
    SnowflakeSqlApiOperator,
    SnowflakeSqlApiOperatorAsync,
)

__all__ = [
    "SnowflakeOperator",
    "SnowflakeOperatorAsync",
    "SnowflakeSqlApiOperator",
    "SnowflakeSqlApiOperatorAsync",
]
