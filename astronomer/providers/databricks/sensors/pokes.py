"""What the sensors that poke with SQL have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from airflow.providers.databricks.utils.query_tags import build_query_tags, dict_to_query_tag_list

from astronomer.deferral import JobError, PokeSensor, PokeTrigger, Transient
from astronomer.deferral._compat import plain_connection
from astronomer.deferral.lineage import emit_queries, parse_sql
from astronomer.providers.databricks import lineage
from astronomer.providers.databricks.hooks.stock import over
from astronomer.providers.databricks.hooks.workspace import Workspace
from astronomer.providers.databricks.jobs.statement import DatabricksStatement
from astronomer.providers.databricks.sql.reading import PURE_HANDLERS, read
from astronomer.providers.databricks.sql.results import ResultGone
from astronomer.providers.databricks.sql.route import Place, reject_contradiction
from astronomer.providers.databricks.triggers.sql import DatabricksSqlSensorTrigger

if TYPE_CHECKING:
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    from astronomer.deferral.lineage import Told

__all__ = ["SqlPokes"]

_EXTERNAL = {"disposition": "EXTERNAL_LINKS", "format": "ARROW_STREAM"}


class SqlPokes(PokeSensor):
    """Pokes and waits in the triggerer, over the REST API."""

    trigger_type: ClassVar[type[PokeTrigger]] = DatabricksSqlSensorTrigger

    # Set by the stock sensors.
    databricks_conn_id: str
    _http_path: str | None
    _sql_warehouse_name: str | None
    catalog: str
    schema: str
    handler: Any
    query_tags: dict[str, str | None]
    include_airflow_query_tags: bool

    def __init__(
        self,
        *,
        http_path: str | None = None,
        sql_warehouse_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        reject_contradiction(http_path, sql_warehouse_name, "sql_warehouse_name")
        super().__init__(http_path=http_path, sql_warehouse_name=sql_warehouse_name, **kwargs)

    # What a sensor writes.

    def stock_hook(self) -> Any:
        """The stock sensor's hook."""
        raise NotImplementedError

    def statements(self) -> list[str]:
        """The statements of one poke."""
        raise NotImplementedError

    def last_only(self) -> bool:
        """Whether the last statement's rows are the answer."""
        return True

    def more_arguments(self, request: Any) -> dict[str, Any]:
        """More arguments of the trigger.

        :param request: makes the body of a statement's request.
        """
        return {}

    # What the engine asks for.

    def why_in_worker(self) -> str | None:
        """What only databricks-sql-connector can do, and that only in a worker."""
        reason = self._place().reason_for_connector(self.statements())
        return None if reason is None else f"through databricks-sql-connector: {reason}"

    def anchor(self) -> DatabricksStatement:
        """A statement of the connection."""
        return DatabricksStatement(
            "",
            self.databricks_conn_id,
            warehouse_id=self._place().warehouse_id,
            address=Workspace.of(plain_connection(self._read_hook().databricks_conn)).address,
        )

    def trigger_arguments(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The statements, and whether the trigger can judge their answer."""
        place = self._place()
        tags = build_query_tags(cast("Any", context), self.query_tags, self.include_airflow_query_tags)
        common = {**place.namespace, "query_tags": dict_to_query_tag_list(tags or {})}

        def request(text: str, form: Mapping[str, str] = _EXTERNAL) -> dict[str, Any]:
            return {"statement": text, **common, **form}

        return {
            "judge": self.handler in PURE_HANDLERS and self.last_only(),
            "requests": [request(text) for text in self.statements()],
            "warehouse_name": "" if place.warehouse_id else str(place.warehouse_name),
            **self.more_arguments(request),
        }

    def judge(self, context: Mapping[str, Any], job: DatabricksStatement) -> bool:
        """The stock rule: whether the handler's output is true."""
        try:
            return bool(
                read(
                    self._read_hook(),
                    job,
                    self.statements(),
                    self.handler,
                    last_only=self.last_only(),
                    tolerance=self.outage_tolerance,
                    in_triggerer=self.in_triggerer,
                )
            )
        except (ResultGone, Transient) as error:
            raise JobError(f"The poke's result cannot be read: {error}. See {job.url}") from error

    # What OpenLineage is told.

    def external_query(self, job: DatabricksStatement) -> tuple[str, str]:
        """The last poke's statement, and its workspace."""
        return lineage.external_query(job.statement_id, job.address)

    def own_lineage(self) -> Told:
        """What a poke reads."""
        return parse_sql(self.statements(), self._database(), self._place().schema_of_tables)

    def end_of_lineage(self, task_instance: Any, told: Told, failed: bool) -> None:
        """The pokes that are known; those in a worker have succeeded."""
        job, _ = self.last_seen() or (None, None)
        index = job.index if isinstance(job, DatabricksStatement) else -1
        queries = self.known_pokes(self.statements()[index])
        emit_queries(task_instance, queries, told, self._database(), last_failed=self.query_failed(False))

    def _database(self) -> DatabaseInfo:
        return lineage.database_of(self._read_hook().host, self._place().namespace.get("catalog"))

    def _read_hook(self) -> Any:
        hook = self.stock_hook()
        return hook if self.in_triggerer is None else over(hook, self.in_triggerer.connection)

    def _place(self) -> Place:
        names = {"session_configuration": "session_config"}
        connectors = ("session_configuration", "client_parameters", "hook_params", "http_headers")
        return Place(
            extra=self._read_hook().databricks_conn.extra_dejson,
            http_path=self._http_path,
            warehouse_name=self._sql_warehouse_name,
            catalog=self.catalog,
            schema=self.schema,
            connectors={name: getattr(self, names.get(name, name)) for name in connectors},
        )
