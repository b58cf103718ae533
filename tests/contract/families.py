"""The families under the eleven laws. The next one is a module like these, and a line here."""

from __future__ import annotations

from tests.contract.databricks import DatabricksRunNowFamily, DatabricksSubmitFamily
from tests.contract.databricks_sql import DatabricksSqlFamily, DatabricksStatementFamily
from tests.contract.scripted import ScriptedFamily
from tests.contract.snowflake import SnowflakeFamily, SnowflakeSqlApiFamily
from tests.contract.world import Family

__all__ = ["FAMILIES"]

FAMILIES: tuple[Family, ...] = (
    ScriptedFamily(),
    SnowflakeFamily(),
    SnowflakeSqlApiFamily(),
    DatabricksSubmitFamily(),
    DatabricksRunNowFamily(),
    DatabricksSqlFamily(),
    DatabricksStatementFamily(),
)
