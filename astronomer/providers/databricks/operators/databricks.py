"""The address of the operators that run jobs and statements, as in the stock provider and in 1.x."""

from __future__ import annotations

from astronomer.providers.databricks.operators.run import (
    DatabricksRunNowOperator,
    DatabricksRunNowOperatorAsync,
    DatabricksSubmitRunOperator,
    DatabricksSubmitRunOperatorAsync,
)
from astronomer.providers.databricks.operators.statements import (
    DatabricksSQLStatementsOperator,
    DatabricksSQLStatementsOperatorAsync,
)
from astronomer.providers.databricks.operators.task import (
    DatabricksNotebookOperator,
    DatabricksNotebookOperatorAsync,
    DatabricksTaskOperator,
    DatabricksTaskOperatorAsync,
)

__all__ = [
    "DatabricksNotebookOperator",
    "DatabricksNotebookOperatorAsync",
    "DatabricksRunNowOperator",
    "DatabricksRunNowOperatorAsync",
    "DatabricksSQLStatementsOperator",
    "DatabricksSQLStatementsOperatorAsync",
    "DatabricksSubmitRunOperator",
    "DatabricksSubmitRunOperatorAsync",
    "DatabricksTaskOperator",
    "DatabricksTaskOperatorAsync",
]
