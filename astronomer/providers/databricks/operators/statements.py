"""Run one statement over the SQL Statement Execution API and wait for it without a worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from airflow.providers.common.sql.hooks.lineage import send_sql_hook_lineage
from airflow.providers.databricks.operators.databricks import (
    DatabricksSQLStatementsOperator as StockStatementsOperator,
)

from astronomer.deferral import Attempt, JobError, JobStatus, Outcome, clock
from astronomer.deferral.in_triggerer import lineage_sender
from astronomer.deferral.lazy import lazy_property
from astronomer.deferral.lineage import emit_queries
from astronomer.providers.databricks import lineage
from astronomer.providers.databricks.hooks.stock import over
from astronomer.providers.databricks.jobs.statement import DatabricksStatement
from astronomer.providers.databricks.operators.base import WorkspaceOperator
from astronomer.providers.databricks.operators.statement_jobs import StatementFailed, StatementOperator
from astronomer.providers.databricks.sql import texts

if TYPE_CHECKING:
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    from astronomer.deferral.lineage import Told

__all__ = ["DatabricksSQLStatementsOperator", "DatabricksSQLStatementsOperatorAsync", "StatementFailed"]


class OneStatement(WorkspaceOperator, StatementOperator):
    """What the statements operator and the statements sensor have in common: the arguments of the stock mixin."""

    statement: str
    parameters: list[dict[str, Any]] | None
    catalog: str | None
    schema: str | None
    warehouse_id: str
    timeout: float
    wait_for_termination: bool

    _given_id: str | None = None
    """Of a statement that somebody else has started."""

    where_and_with = ("warehouse_id", "catalog", "schema", "parameters")
    """Arguments that are templated here, and not by stock."""

    asks_stock = False  # it tells the text with the values of parameters in it

    def __init__(
        self,
        *,
        polling_period_seconds: float = 30,
        deferrable: bool = True,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(polling_period_seconds=polling_period_seconds, **kwargs)
        # The stock classes set these from defaults of their own.
        self.deferrable = deferrable
        self.cancel_on_kill = cancel_on_kill

    def requests(self) -> list[dict[str, Any]]:
        """The body that the stock class sends."""
        named = {name: getattr(self, name) for name in ("catalog", "schema", "parameters")}
        return [{"statement": self.statement, **{name: value for name, value in named.items() if value}}]

    def warehouse(self) -> str:
        """The warehouse that was given."""
        return str(self.warehouse_id)

    def announce(self, context: Mapping[str, Any], job: DatabricksStatement) -> None:
        """Push the ``statement_id``, as the stock class does, and the link."""
        self.statement_id = job.statement_id
        if self.do_xcom_push:
            context["ti"].xcom_push(key="statement_id", value=job.statement_id)
        super().announce(context, job)

    def failure(self, context: Mapping[str, Any], job: DatabricksStatement, outcome: Outcome) -> JobError:
        """The error; the statement's id is left for listeners."""
        self.statement_id = job.statement_id
        return super().failure(context, job, outcome)

    def finish(self, context: Mapping[str, Any], job: DatabricksStatement, status: JobStatus) -> Any:
        """Nothing, as in the stock class; the statement's id is left for listeners."""
        self.statement_id = job.statement_id

    @lazy_property
    def _hook(self) -> Any:
        """The stock hook; without a worker, over a connection that was read for all tasks."""
        hook = cast("Any", super())._hook
        return hook if self.in_triggerer is None else over(hook, self.in_triggerer.connection)

    def database(self) -> DatabaseInfo:
        """Where the statement runs; for lineage."""
        return lineage.database_of(self._hook.host, self.catalog)

    def own_lineage(self) -> Told | None:
        """What the statement reads and writes."""
        if not self.statement:
            return None
        return lineage.of_statement(
            self.statement, self.parameters, self.database(), self.schema or "default"
        )

    def end_of_lineage(self, task_instance: Any, told: Told, failed: bool) -> None:
        """The statement, if it is this task's own."""
        job, _ = self.last_seen() or (None, None)
        if not self._given_id and isinstance(job, DatabricksStatement):
            queries, ended = {job.statement_id: self.statement}, self.query_failed(failed)
            emit_queries(task_instance, queries, told, self.database(), last_failed=ended)

    def error_message(self, job: Any, outcome: Outcome) -> str:
        """The engine's words, with the argument that counts."""
        words = super().error_message(job, outcome)
        limit = self.execution_timeout
        if limit is not None and limit.total_seconds() <= self.timeout:
            return words
        return words.replace("the task's execution_timeout", f"its `timeout` of {self.timeout:g} s")

    def _deadline(self) -> float | None:
        if not self.wait_for_termination:
            return None
        limits = [float(self.timeout)]
        if self.execution_timeout is not None:
            limits.append(self.execution_timeout.total_seconds())
        if self.in_triggerer is None:
            return clock.now() + min(limits)
        deadline = self.in_triggerer.started_at + min(limits)
        return min(deadline, self.in_triggerer.deadline or deadline)


class DatabricksSQLStatementsOperator(OneStatement, StockStatementsOperator):  # type: ignore[misc,unused-ignore]
    """Run one statement on a SQL warehouse, once, and wait for it in the triggerer.

    Takes what the stock operator takes, and pushes the ``statement_id``. Rows are not fetched; use
    :class:`~astronomer.providers.databricks.operators.databricks_sql.DatabricksSqlOperator` for these.

    :param statement: the SQL, or the name of a ``.sql`` file (templated, as are the four that follow; the stock
        operator's are not).
    :param warehouse_id: the warehouse; then ``catalog``, ``schema`` and ``parameters``.
    :param timeout: seconds after which the statement is cancelled; ``execution_timeout`` counts too, if it is less.
    :param polling_period_seconds: seconds between two looks at the statement; ``poll_interval`` is the same.
    :param databricks_retry_args: tenacity arguments. Their ``stop`` and ``wait`` say how long an outage is
        tolerated, also while deferred; without them, and without ``outage_tolerance``, it is an hour.
    :param databricks_retry_limit: accepted for the stock operator's sake, like ``databricks_retry_delay``.

    :raises StatementFailed: with Databricks' code, words, statement id and link.
    :raises JobTimedOut: ``timeout`` or ``execution_timeout`` passed, and the statement was cancelled.
    """

    template_fields = (
        *StockStatementsOperator.template_fields,
        "statement",
        *OneStatement.where_and_with,
    )
    template_ext = (*StockStatementsOperator.template_ext, ".sql")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **StockStatementsOperator.template_fields_renderers,
        "statement": "sql",
    }

    def __init__(self, statement: str, warehouse_id: str, **kwargs: Any) -> None:
        if not warehouse_id:
            raise ValueError("`warehouse_id` is empty: it is the last part of the warehouse's HTTP path.")
        texts.reject_empty(statement, False)
        super().__init__(statement=statement, warehouse_id=warehouse_id, **kwargs)

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> DatabricksStatement:
        """Start the statement, and report it to the lineage collector, as the stock hook does."""
        job = super().submit(context, attempt)
        send = lineage_sender(self.in_triggerer, send_sql_hook_lineage)
        send(
            context=self._hook,
            sql=self.statement,
            sql_parameters=self.parameters,
            job_id=job.statement_id,
            default_db=self.catalog,
            default_schema=self.schema,
        )
        return job


class DatabricksSQLStatementsOperatorAsync(DatabricksSQLStatementsOperator):
    """The name that 1.x had for :class:`DatabricksSQLStatementsOperator`."""
