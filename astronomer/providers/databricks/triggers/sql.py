"""The triggers that wait for SQL statements. Their paths stand in Airflow's database: they never move."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from astronomer.deferral import JobFailed, JobTrigger, PokeTrigger, RemoteJob, clock
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.statement import STATEMENTS, DatabricksStatement

if TYPE_CHECKING:
    from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = [
    "DatabricksPartitionSensorTrigger",
    "DatabricksSqlSensorTrigger",
    "DatabricksStatementTrigger",
    "check_partition_columns",
]

_PARTITION_COLUMNS = "partitionColumns"


@dataclass(eq=False, repr=False)
class DatabricksStatementTrigger(JobTrigger):
    """Wait for one statement; all waits on a connection share one HTTP session and one token."""

    job_type: ClassVar[type[RemoteJob]] = DatabricksStatement


@dataclass(eq=False, repr=False)
class DatabricksSqlSensorTrigger(PokeTrigger):
    """Run statements again and again, until the last one returns rows.

    :param requests: the body of each statement's request, but for the warehouse.
    :param warehouse_name: names the warehouse, where the job has no id of one.
    """

    requests: list[dict[str, Any]] = field(default_factory=list)
    warehouse_name: str = ""

    job_type: ClassVar[type[RemoteJob]] = DatabricksStatement
    id_field: ClassVar[str] = "statement_id"
    remote_side: ClassVar[str] = "Databricks"

    async def poke(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        """Run the statements in order; ``None`` when the last one has returned nothing."""
        earlier: list[str] = []
        for body in self.requests:
            event = await self.run_statement(poller, body, deadline, earlier)
            if event is not None:
                return event
            earlier.append(self.job["statement_id"])
        if not self.judge:
            return {}
        job = self.statement
        rows = await self.patiently(lambda: poller().row_count(job), deadline)
        return {"met": True} if rows else None

    @property
    def statement(self) -> DatabricksStatement:
        """The statement of the moment."""
        return DatabricksStatement.from_dict(self.job)

    async def run_statement(
        self, poller: Callable[[], Any], body: dict[str, Any], deadline: float, earlier: list[str]
    ) -> dict[str, Any] | None:
        """Start one statement and wait for it; ``None`` when it has succeeded."""

        async def start() -> DatabricksStatement:
            statement_id = await poller().ask(lambda one: self._start(one, body, deadline))
            return replace(
                self.statement,
                statement_id=statement_id,
                submitted_at=clock.now(),
                index=len(earlier),
                count=max(len(self.requests), len(earlier) + 1),
                earlier=tuple(earlier),
            )

        return await self.run_job(start, deadline)

    async def _start(self, client: DatabricksClient, body: dict[str, Any], deadline: float) -> str:
        from astronomer.providers.databricks.sql import route, submit

        tolerance = max(0.0, min(self.outage_tolerance, deadline - clock.now()))
        try:
            if not self.job["warehouse_id"]:
                found = await route.resolve_warehouse(client, self.warehouse_name, tolerance=tolerance)
                self.job = self.job | {"warehouse_id": found}
            whole = {**body, "warehouse_id": self.job["warehouse_id"], "wait_timeout": "0s"}
            key = submit.statement_key(uuid.uuid4().hex, 0)
            return await submit.start(client, whole, key, tolerance=tolerance)
        except RequestRejected as refused:
            raise JobFailed(
                f"Databricks refused the request ({refused.error_code or refused.status}: {refused.message})."
            ) from refused


@dataclass(eq=False, repr=False)
class DatabricksPartitionSensorTrigger(DatabricksSqlSensorTrigger):
    """First look which columns a table is partitioned by, then poke until the partitions are there.

    :param detail: the body of the request that describes the table.
    :param columns: those that must be partition columns.
    """

    detail: dict[str, Any] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)

    async def poke(self, poller: Callable[[], Any], deadline: float) -> dict[str, Any] | None:
        """As in the base class, after the look at the table."""
        if self.detail:
            event = await self.run_statement(poller, self.detail, deadline, [])
            if event is not None:
                return event
            job = self.statement
            found = await self.patiently(
                lambda: poller().ask(lambda one: _partition_columns(one, job)), deadline
            )
            check_partition_columns(found, self.columns)
            self.detail = {}
        return await super().poke(poller, deadline)


def check_partition_columns(found: Sequence[str], wanted: Sequence[str]) -> None:
    """As the stock sensor does.

    :raises JobFailed: the table is not partitioned by these columns.
    """
    if not found:
        raise JobFailed("The table does not have partitions.")
    for column in wanted:
        if column not in found:
            raise JobFailed(f"Column {column} not part of table partitions: {list(found)}")


async def _partition_columns(client: DatabricksClient, job: DatabricksStatement) -> list[str]:
    """What ``DESCRIBE DETAIL`` says of the columns that a table is partitioned by."""
    answer = await client.get(f"{STATEMENTS}/{job.statement_id}")
    schema = (answer.get("manifest") or {}).get("schema") or {}
    names = [column.get("name") for column in schema.get("columns") or []]
    links = (answer.get("result") or {}).get("external_links") or []
    if _PARTITION_COLUMNS not in names or not links:
        raise JobFailed("DESCRIBE DETAIL does not tell the table's partition columns.")
    content = await client.fetch(str(links[0]["external_link"]), links[0].get("http_headers"))
    value = json.loads(content)[0][names.index(_PARTITION_COLUMNS)]
    return [str(one) for one in (json.loads(value) if isinstance(value, str) else value or [])]
