"""The link from a task's page to its statement in the query history."""

from __future__ import annotations

from typing import Any

from astronomer.deferral._compat import BaseOperatorLink, XCom

__all__ = ["DatabricksQueryLink"]


class DatabricksQueryLink(BaseOperatorLink):
    """Opens the task's statement in the workspace, also while it waits.

    The operator pushes the address as an XCom as soon as it has a statement id; Airflow reads it from there.
    """

    name = "Databricks query"
    xcom_key = "databricks_query"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address pushed before the task deferred; empty when no statement was started."""
        found = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        return found if isinstance(found, str) else ""
