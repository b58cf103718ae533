"""Wait until partitions of a table on Databricks are there, without a worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any, ClassVar

from airflow.providers.databricks.sensors.databricks_partition import (
    DatabricksPartitionSensor as StockPartitionSensor,
)
from airflow.providers.databricks.utils.query_tags import build_query_tags

from astronomer.deferral import PokeTrigger
from astronomer.providers.databricks.sensors.pokes import SqlPokes
from astronomer.providers.databricks.triggers.sql import (
    DatabricksPartitionSensorTrigger,
    check_partition_columns,
)

__all__ = ["DatabricksPartitionSensor", "DatabricksPartitionSensorAsync"]

_PARTITION_COLUMNS = 7  # its place in what DESCRIBE DETAIL returns
_VALUES = (str, int, float, date)  # a datetime is a date
_JSON = {"disposition": "EXTERNAL_LINKS", "format": "JSON_ARRAY"}


class DatabricksPartitionSensor(SqlPokes, StockPartitionSensor):  # type: ignore[misc,unused-ignore]
    """Look for rows in partitions of a table again and again; pokes and waits happen in the triggerer.

    Takes what the stock sensor takes. A partition that does not exist yet is waited for, where the stock sensor
    fails; a table that does not exist, is not partitioned, or not by these columns, fails the task.

    :param table_name: the table, in ``catalog`` and ``schema``; or ``delta.`` and a path (templated).
    :param partitions: for each column its value, or a list of values of which one will do (templated).
    :param partition_operator: compares a column with its value; lists are always looked through.
    :param http_path: of the warehouse; else the connection's.
    :param sql_warehouse_name: the warehouse's name, instead.

    :raises AirflowSensorTimeout: ``timeout`` passed; the poke that was running has been cancelled.
    :raises JobFailed: a poke failed, or the table is not partitioned by these columns.
    """

    trigger_type: ClassVar[type[PokeTrigger]] = DatabricksPartitionSensorTrigger

    def __init__(self, *, table_name: str, partitions: dict[str, Any], **kwargs: Any) -> None:
        if partitions == {}:
            raise ValueError("No partitions specified to check with the sensor.")
        super().__init__(table_name=table_name, partitions=partitions, **kwargs)

    def stock_hook(self) -> Any:
        """The stock sensor's hook."""
        return self._get_hook

    def statements(self) -> list[str]:
        """The one statement of a poke."""
        parts = [self._condition(column, value) for column, value in self.partitions.items()]
        return [f"SELECT 1 FROM {self._table()} WHERE {' AND '.join(parts)} LIMIT 1"]  # noqa: S608  # the user's own

    def more_arguments(self, request: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """What the trigger needs to look at the table first."""
        detail = request(f"DESCRIBE DETAIL {self._table()}", _JSON)
        return {"detail": detail, "columns": list(self.partitions)}

    def poke(self, context: Any) -> bool:
        """One poke in a worker, over the connector; a partition that is missing is a no."""
        tags = build_query_tags(context, self.query_tags, self.include_airflow_query_tags)
        self._get_hook.query_tags = tags
        return bool(self._check_table_partitions())

    def _check_table_partitions(self) -> Any:
        found = self._sql_sensor(f"DESCRIBE DETAIL {self._table()}")[0][_PARTITION_COLUMNS]
        check_partition_columns(list(found), list(self.partitions))
        return self._sql_sensor(self.statements()[0])

    def _sql_sensor(self, sql: str) -> Any:
        return self._get_hook.run(sql, handler=self.handler)

    def _table(self) -> str:
        if self.table_name.split(".")[0] == "delta":
            return str(self.table_name)
        return ".".join(part for part in (self.catalog, self.schema, self.table_name) if part)

    def _condition(self, column: str, value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return f"{column} IN ({', '.join(map(self._literal, value))})"
        return f"{column}{self.partition_operator}{self._literal(value)}"

    def _literal(self, value: Any) -> str:
        if not isinstance(value, _VALUES):
            raise TypeError(
                f"A partition's value must be a string, a number, a date or a list of these, got {value!r}."
            )
        return str(self.escaper.escape_item(value))  # type: ignore[no-untyped-call,unused-ignore]


class DatabricksPartitionSensorAsync(DatabricksPartitionSensor):
    """The name that 1.x had for :class:`DatabricksPartitionSensor`."""
