"""Wait until a query on Databricks returns rows, without a worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor as StockSqlSensor
from airflow.providers.databricks.utils.query_tags import build_query_tags

from astronomer.providers.databricks.sensors.pokes import SqlPokes
from astronomer.providers.databricks.sql import texts

__all__ = ["DatabricksSqlSensor", "DatabricksSqlSensorAsync"]


class DatabricksSqlSensor(SqlPokes, StockSqlSensor):  # type: ignore[misc,unused-ignore]
    """Run a query again and again until it returns rows; pokes and waits happen in the triggerer.

    Takes what the stock sensor takes, with the same meaning; a poke starts only after the one before it has ended.
    With a ``handler`` of one's own, a worker is called for a moment after each poke, because functions cannot travel
    to the triggerer. What the REST API cannot do pokes in a worker, through ``databricks-sql-connector``: see
    :class:`~astronomer.providers.databricks.operators.databricks_sql.DatabricksSqlOperator`.

    :param sql: the query, or several, of which the last one's rows count (templated). With a list, all of them
        having run is the answer, as in the stock sensor.
    :param http_path: of the warehouse; else the connection's.
    :param sql_warehouse_name: the warehouse's name, instead.
    :param handler: makes the answer of the cursor; true is yes.

    :raises AirflowSensorTimeout: ``timeout`` passed; the poke that was running has been cancelled.
    :raises JobFailed: the query failed.
    """

    def __init__(self, *, sql: str | Iterable[str], **kwargs: Any) -> None:
        texts.reject_empty(sql)
        super().__init__(sql=sql, **kwargs)

    def stock_hook(self) -> Any:
        """The stock sensor's hook."""
        return self.hook

    def statements(self) -> list[str]:
        """The statements of one poke."""
        return texts.split(self.sql, None)

    def last_only(self) -> bool:
        """Whether the last statement's rows are the answer."""
        return isinstance(self.sql, str)

    def poke(self, context: Any) -> bool:
        """One poke in a worker, over the connector."""
        self.hook.query_tags = build_query_tags(context, self.query_tags, self.include_airflow_query_tags)
        return bool(self.hook.run(self.sql, handler=self.handler))


class DatabricksSqlSensorAsync(DatabricksSqlSensor):
    """The name that 1.x had for :class:`DatabricksSqlSensor`."""
