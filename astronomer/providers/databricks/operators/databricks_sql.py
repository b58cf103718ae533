"""Run SQL on Databricks and wait for it without a worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.sql.hooks.handlers import return_single_query_results
from airflow.providers.databricks.operators.databricks_sql import DatabricksSqlOperator as StockSqlOperator

from astronomer.deferral import JobError, JobStatus, Outcome, Transient
from astronomer.deferral._compat import AirflowFailException
from astronomer.deferral.in_triggerer import NeedsWorker
from astronomer.deferral.lineage import emit_queries, parse_sql
from astronomer.providers.databricks import lineage
from astronomer.providers.databricks.hooks.stock import over
from astronomer.providers.databricks.jobs.statement import DatabricksStatement
from astronomer.providers.databricks.operators.statement_jobs import StatementFailed, StatementOperator
from astronomer.providers.databricks.sql import texts
from astronomer.providers.databricks.sql.reading import PURE_HANDLERS, read
from astronomer.providers.databricks.sql.results import ResultGone
from astronomer.providers.databricks.sql.route import Place, reject_contradiction, resolve_warehouse

if TYPE_CHECKING:
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    from astronomer.deferral.lineage import Told

__all__ = ["DatabricksSqlOperator", "DatabricksSqlOperatorAsync", "StatementFailed"]

_NESTED = frozenset({"array", "map", "struct"})


class DatabricksSqlOperator(StatementOperator, StockSqlOperator):  # type: ignore[misc,unused-ignore]
    """Run SQL on a SQL warehouse once, wait for it in the triggerer, and return what the stock operator returns.

    Statements go over the SQL Statement Execution API, one after another. A quick one never defers; after a long
    one, a worker comes for a moment to submit the next. Rows are fetched at the end, once all statements have
    succeeded; Databricks keeps a result for one hour.

    What that API cannot do runs in the worker, through ``databricks-sql-connector``, as in the stock operator, and
    the log says why: an ``http_path`` of an all-purpose cluster; ``session_configuration``, ``client_parameters``,
    ``hook_params`` or ``http_headers``, here or in the connection's extra; several statements of which one leaves
    something to the next in its session (``USE``, ``SET``, ``DECLARE``, temporary views, transactions); ``PUT`` and
    ``GET`` of local files; parameters by position, arrays and maps. There, a worker that dies leaves its statement
    running, and the next try starts another one.

    :param sql: a string, a list, or the name of a ``.sql`` file (templated).
    :param databricks_conn_id: the Airflow connection (templated).
    :param http_path: of the warehouse; else the connection's.
    :param sql_endpoint_name: the warehouse's name, instead.
    :param kwargs: what the stock operator and :class:`~astronomer.deferral.JobOperator` take.

    :raises StatementFailed: Databricks reports a failure; the message has its code, words, statement id and link.
    :raises JobTimedOut: ``execution_timeout`` passed, and the statement was cancelled.
    :raises JobCancelled: somebody cancelled the statement outside Airflow.
    :raises JobLost: Databricks could not be asked for ``outage_tolerance``, or does not show the statement.
    """

    def __init__(
        self,
        *,
        sql: str | list[str],
        http_path: str | None = None,
        sql_endpoint_name: str | None = None,
        split_statements: bool | None = None,
        **kwargs: Any,
    ) -> None:
        reject_contradiction(http_path, sql_endpoint_name, "sql_endpoint_name")
        texts.reject_empty(sql, split_statements)
        super().__init__(
            sql=sql,
            http_path=http_path,
            sql_endpoint_name=sql_endpoint_name,
            split_statements=split_statements,
            **kwargs,
        )

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Run the SQL; returns the rows as the stock operator does."""
        reason = self._place().reason_for_connector(self._statements(), self.parameters)
        if reason is not None and self.in_triggerer is not None:
            raise NeedsWorker(f"through databricks-sql-connector: {reason}")
        if reason is not None:
            self.log.info("Running in the worker, through databricks-sql-connector: %s", reason)
            self.end_earlier(context)
            return StockSqlOperator.execute(self, cast("Any", context))
        return super().execute(context)

    # What a statement operator says of itself.

    def requests(self) -> list[dict[str, Any]]:
        """One body for each statement; the parameters go with every one."""
        common = {
            **self._place().namespace,
            # The links of a result may be asked for again and again; rows that come inline may not.
            "disposition": "EXTERNAL_LINKS",
            "format": "ARROW_STREAM",
        }
        bodies = []
        for one in self._statements():
            said = texts.rest_parameters(one, self.parameters)
            if said is None:
                raise ValueError("The REST API takes no parameters by position, arrays or maps.")
            text, parameters = said
            bodies.append({"statement": text, **common, **({"parameters": parameters} if parameters else {})})
        return bodies

    def warehouse(self) -> str | None:
        """The id in the HTTP path."""
        return self._place().warehouse_id or None

    async def look_up_warehouse(self, client: Any) -> str:
        """The id of the warehouse with that name."""
        return await resolve_warehouse(client, str(self.sql_endpoint_name), tolerance=self.outage_tolerance)

    def finish(self, context: Mapping[str, Any], job: DatabricksStatement, status: JobStatus) -> Any:
        """The results, by the same rules as the stock hook and operator."""
        wanted = self._should_run_output_processing() or self.requires_result_fetch
        output = self._read(job, self.handler if wanted else None)
        if not self._should_run_output_processing():
            return None
        hook = self.get_db_hook()
        if self._single:
            result = self._process_output([output], hook.descriptions)[-1]
        else:
            result = self._process_output(output, hook.descriptions)
            self.log.info("result: %s", result)
        return self._as_xcom(result, job) if self.do_xcom_push else result

    def get_db_hook(self) -> Any:
        """The stock hook; without a worker, over a connection that was read for all tasks."""
        hook: Any = super().get_db_hook()
        if self.in_triggerer is not None:
            over(hook, self.in_triggerer.connection)
        # It lets the connection's win when it connects, and not when it tells of lineage.
        place = Place(hook.databricks_conn.extra_dejson, catalog=self.catalog, schema=self.schema).namespace
        hook.catalog, hook.schema = place.get("catalog"), place.get("schema")
        return hook

    def failure(self, context: Mapping[str, Any], job: DatabricksStatement, outcome: Outcome) -> JobError:
        """The error; the statement ids are left on the hook, for lineage."""
        self.get_db_hook().query_ids = job.statement_ids
        return super().failure(context, job, outcome)

    # What OpenLineage is told.

    def recall(self, event: Mapping[str, Any]) -> None:
        """As in the base class; the statement ids are left on the hook."""
        super().recall(event)
        self.get_db_hook().query_ids = DatabricksStatement.from_dict(event["job"]).statement_ids

    def own_lineage(self) -> Told:
        """What the statements read and write; the stock operator needs SQLAlchemy's dialect to tell it."""
        from airflow.providers.openlineage.sqlparser import SQLParser
        from openlineage.client.facet_v2 import sql_job

        known = self._statements()
        parsed = [texts.with_rest_markers(one) for one in known] if self.parameters else known
        told = parse_sql(parsed, self._database(), self._place().schema_of_tables)
        told.job_facets["sql"] = sql_job.SQLJobFacet(query=SQLParser.normalize_sql(self.sql))
        return told

    def end_of_lineage(self, task_instance: Any, told: Told, failed: bool) -> None:
        """Each statement, if the stock operator did not come so far; the connector's have succeeded."""
        if self.stock_lineage_failed:
            queries = dict(zip(self.get_db_hook().query_ids, self._statements(), strict=False))
            ended = self.query_failed(False)
            emit_queries(task_instance, queries, told, self._database(), last_failed=ended)

    def _database(self) -> DatabaseInfo:
        return lineage.database_of(self.get_db_hook().host, self._place().namespace.get("catalog"))

    # Parts.

    @property
    def _single(self) -> bool:
        return bool(return_single_query_results(self.sql, self.return_last, self.split_statements))

    def _statements(self) -> list[str]:
        return texts.split(self.sql, self.split_statements)

    def _place(self) -> Place:
        return Place(
            extra=self.get_db_hook().databricks_conn.extra_dejson,
            http_path=self.http_path,
            warehouse_name=self.sql_endpoint_name,
            catalog=self.catalog,
            schema=self.schema,
            connectors={
                name: getattr(self, name)
                for name in ("session_configuration", "client_parameters", "hook_params", "http_headers")
            },
        )

    def _read(self, job: DatabricksStatement, handler: Any) -> Any:
        """What the stock hook's ``run`` returns.

        :raises AirflowFailException: Databricks no longer has a result.
        """
        try:
            return read(
                self.get_db_hook(),
                job,
                self._statements(),
                handler,
                parameters=self.parameters,
                last_only=self._single,
                tolerance=self.outage_tolerance,
                in_triggerer=self.in_triggerer,
            )
        except ResultGone as gone:
            raise AirflowFailException(
                f"{job.name} succeeded, but Databricks no longer has its result, which it keeps for one hour ({gone}). "
                f"A retry would not run it again; clear the task to do so. See {job.url}"
            ) from gone
        except Transient as trouble:
            raise JobError(
                f"{job.name} succeeded, but its result cannot be read: {trouble}. A retry does not run it again. Where "
                "workers may not reach the workspace's cloud storage, set client_parameters={'use_cloud_fetch': "
                f"False}}. See {job.url}"
            ) from trouble

    def _as_xcom(self, result: Any, job: DatabricksStatement) -> Any:
        """The result with arrays as lists, which can be XComs; refused when it cannot be one all the same.

        :raises AirflowFailException: a retry would meet the same result.
        """
        from airflow.sdk.serde import serialize

        kinds = {column[1] for description in self.get_db_hook().descriptions for column in description or ()}
        if kinds & _NESTED:
            result = _without_arrays(result)
        if self.handler in PURE_HANDLERS and not kinds & (_NESTED | {"binary"}):
            return result
        try:
            serialize(result)
        except Exception as error:
            raise AirflowFailException(
                f"{job.name} succeeded, but its output cannot become an XCom: {error}. Return plain values from "
                "`handler` or `output_processor`, or set do_xcom_push=False; then clear the task to run it again."
            ) from error
        return result


def _without_arrays(value: Any) -> Any:
    """A copy with numpy's arrays as lists."""
    if isinstance(value, dict):
        return {key: _without_arrays(one) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_without_arrays, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without_arrays, value))
    return _without_arrays(value.tolist()) if hasattr(value, "tolist") else value


class DatabricksSqlOperatorAsync(DatabricksSqlOperator):
    """The name that 1.x had for :class:`DatabricksSqlOperator`."""
