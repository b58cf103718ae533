"""Wait for a statement on Databricks, one's own or somebody else's, without a worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.databricks.sensors.databricks import (
    DatabricksSQLStatementsSensor as StockStatementsSensor,
)

from astronomer.deferral import Attempt, JobError, JobTimedOut, Outcome
from astronomer.deferral._compat import AirflowSensorTimeout, AirflowSkipException
from astronomer.providers.databricks.jobs.statement import DatabricksStatement
from astronomer.providers.databricks.operators.statements import OneStatement
from astronomer.providers.databricks.sql import texts

__all__ = ["DatabricksSQLStatementsSensor", "DatabricksSQLStatementsSensorAsync"]


class SensorTimedOut(JobError, AirflowSensorTimeout):
    """The sensor's ``timeout`` passed, and the statement was cancelled. Airflow does not retry it."""


class DatabricksSQLStatementsSensor(OneStatement, StockStatementsSensor):  # type: ignore[misc,unused-ignore]
    """Wait until a statement has succeeded; it is submitted first, once, unless its id is given.

    Takes what the stock sensor takes, and waits with ``deferrable=False`` too.

    :param warehouse_id: the warehouse (templated, as ``catalog``, ``schema`` and ``parameters`` are).
    :param statement: the SQL (templated); or
    :param statement_id: the id of a statement that was submitted already, by the same principal (templated).
    :param timeout: seconds after which the statement is cancelled, whoever has submitted it.

    :raises AirflowSensorTimeout: ``timeout`` passed.
    :raises StatementFailed: the statement failed.
    """

    template_fields = (*StockStatementsSensor.template_fields, *OneStatement.where_and_with)

    def __init__(
        self,
        warehouse_id: str,
        *,
        statement: str | None = None,
        statement_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        texts.reject_empty(statement, False)
        super().__init__(warehouse_id=warehouse_id, statement=statement, statement_id=statement_id, **kwargs)
        self._given_id = statement_id

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Submit or re-attach; wait, unless ``wait_for_termination`` is off."""
        if not self.statement and not self.statement_id:
            raise ValueError("One of either statement or statement_id must be provided.")
        self._given_id = self.statement_id
        try:
            return super().execute(context)
        except JobError as error:  # once deferred, the base class of all sensors does it
            for name in ("soft_fail", "never_fail"):
                if getattr(self, name):
                    raise AirflowSkipException(f"Skipping due to {name} is set to True.") from error
            raise

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> DatabricksStatement:
        """Start the statement, or look at the one that was given."""
        if not self._given_id:
            return super().submit(context, attempt)

        async def address(client: Any) -> str:
            return str(client.address)

        return DatabricksStatement(
            str(self._given_id),
            self.databricks_conn_id,
            warehouse_id=str(self.warehouse_id),
            address=self.with_client(address),
            deadline=attempt.deadline,
        )

    def _end_superseded(self, context: Mapping[str, Any], attempt: Attempt) -> None:
        """A clear waits on for a statement that was given: no other one would run beside it."""
        if not self._given_id:
            super()._end_superseded(context, attempt)

    def failure(self, context: Mapping[str, Any], job: DatabricksStatement, outcome: Outcome) -> JobError:
        """The error; the sensor's own timeout is told apart."""
        error = super().failure(context, job, outcome)
        limit = self.execution_timeout
        own = limit is None or limit.total_seconds() > self.timeout
        if isinstance(error, JobTimedOut) and own:
            return SensorTimedOut(str(error))
        return error


class DatabricksSQLStatementsSensorAsync(DatabricksSQLStatementsSensor):
    """The name that 1.x had for :class:`DatabricksSQLStatementsSensor`."""
