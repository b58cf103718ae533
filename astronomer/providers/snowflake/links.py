"""The link from a task's page to its query in Snowsight."""

from __future__ import annotations

from typing import Any

from astronomer.deferral._compat import BaseOperatorLink, XCom

__all__ = ["SnowsightQueryLink", "snowsight_url"]


def snowsight_url(account: str, query_id: str) -> str:
    """Where a person finds the query: ``/<organization>/<account>/`` or ``/<region>/<locator>/`` of Snowsight.

    Source: docs.snowflake.com, "Account identifiers" and "Monitor query activity with Query History".

    :param account: the account as the connection names it: ``org-name``, ``locator`` or ``locator.region``.
    """
    locator, _, region = account.partition(".")
    organization, dash, name = locator.partition("-")
    if region:
        place = f"{region}/{locator}"
    elif dash:
        place = f"{organization}/{name}"
    else:
        place = f"us-west-2/{locator}"  # a bare locator belongs to Snowflake's first region
    return f"https://app.snowflake.com/{place}/#/compute/history/queries/{query_id}/detail"


class SnowsightQueryLink(BaseOperatorLink):
    """Opens the task's query in Snowsight, also while it waits.

    The operator pushes the address as an XCom as soon as it has a query id; Airflow reads it from there.
    """

    name = "Snowsight"
    xcom_key = "snowsight_query"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address pushed before the task deferred; empty when no query was started."""
        found = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        return found if isinstance(found, str) else ""
