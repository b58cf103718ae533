"""The link from a task's page to the run that it waits for."""

from __future__ import annotations

from typing import Any

from astronomer.deferral._compat import BaseOperatorLink, XCom, dag_run_url

__all__ = ["ExternalDagLink"]


class ExternalDagLink(BaseOperatorLink):
    """Opens the run that is waited for, also while the task waits; its Dag, as long as the run is not known.

    The sensor pushes the address as an XCom; Airflow reads it from there.
    """

    name = "External DAG"
    xcom_key = "external_dag_run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address that was pushed last; of a Dag elsewhere nothing, before there is one."""
        found = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        if isinstance(found, str):
            return found
        elsewhere = hasattr(operator, "astro_cloud_conn_id")
        return "" if elsewhere else dag_run_url(operator.external_dag_id, "")
