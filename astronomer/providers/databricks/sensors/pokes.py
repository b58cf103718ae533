"""What the sensors that poke with SQL have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, NoReturn, cast

from airflow.providers.databricks.utils.query_tags import build_query_tags, dict_to_query_tag_list

from astronomer.deferral import (
    JobCancelled,
    JobError,
    JobFailed,
    JobLost,
    JobTimedOut,
    Outcome,
    Phase,
    Transient,
)
from astronomer.deferral._compat import (
    AirflowException,
    AirflowSensorTimeout,
    BaseSensorOperator,
    plain_connection,
    setting,
    settling_time,
)
from astronomer.deferral.settings import seconds
from astronomer.providers.databricks.hooks.workspace import Workspace
from astronomer.providers.databricks.jobs.statement import DatabricksStatement
from astronomer.providers.databricks.sql.reading import PURE_HANDLERS, read
from astronomer.providers.databricks.sql.results import ResultGone
from astronomer.providers.databricks.sql.route import Place, reject_contradiction
from astronomer.providers.databricks.triggers.sql import DatabricksSqlSensorTrigger

__all__ = ["SqlPokes"]

_ERRORS = {Phase.CANCELLED: JobCancelled, Phase.LOST: JobLost}
_EXTERNAL = {"disposition": "EXTERNAL_LINKS", "format": "ARROW_STREAM"}


class SqlPokes(BaseSensorOperator):
    """Pokes and waits in the triggerer, over the REST API.

    :param deferrable: ``False`` pokes in a worker, as the stock sensor does.
    :param poll_interval: seconds between two looks at a poke that runs.
    :param outage_tolerance: seconds (or ``timedelta``) that Databricks may be out of reach.
    """

    trigger_type: ClassVar[type[DatabricksSqlSensorTrigger]] = DatabricksSqlSensorTrigger

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
        deferrable: bool = True,
        poll_interval: float | timedelta | None = None,
        outage_tolerance: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        reject_contradiction(http_path, sql_warehouse_name, "sql_warehouse_name")
        super().__init__(http_path=http_path, sql_warehouse_name=sql_warehouse_name, **kwargs)
        self.deferrable = deferrable
        self.poll_interval = seconds(poll_interval, "poll_interval", 5.0)
        self.outage_tolerance = seconds(outage_tolerance, "outage_tolerance", 3600.0)

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

    def trigger_arguments(self, request: Any) -> dict[str, Any]:
        """More arguments of the trigger.

        :param request: makes the body of a statement's request.
        """
        return {}

    # One life of a sensor.

    def execute(self, context: Any) -> Any:
        """Defer; nothing is asked of Databricks in the worker."""
        place = self._place()
        reason = place.reason_for_connector(self.statements())
        if self.deferrable and reason is not None:
            self.log.info("Poking in the worker, through databricks-sql-connector: %s", reason)
        if not self.deferrable or reason is not None:
            return super().execute(context)
        now = time.time()
        limits = [now + self.timeout]
        if self.execution_timeout is not None:
            limits.append(now + self.execution_timeout.total_seconds())
        return self._defer(context, deadline=min(limits), next_poke=now, pokes=0)

    def execute_complete(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Judge what the trigger reported; poke again when it is not yet a yes."""
        job = DatabricksStatement.from_dict(event["job"])
        if event.get("timed_out"):
            self._time_out(event)
        if event.get("outcome") is not None:
            error = self._error(job, Outcome.from_dict(event["outcome"]))
            if not (self.silent_fail and isinstance(error, JobFailed)):
                raise error
            self.log.error("Sensor poke failed: %s", error)
        elif event.get("met") or self._met(job):
            self.log.info("Success criteria met. Exiting.")
            return
        pause = self.trigger_type.pause_after(int(event["pokes"]), *self._pace())
        self._defer(
            context,
            deadline=float(event["deadline"]),
            next_poke=float(event["started_at"]) + pause,
            pokes=int(event["pokes"]),
        )

    def _met(self, job: DatabricksStatement) -> bool:
        """The stock rule: whether the handler's output is true."""
        try:
            return bool(
                read(
                    self.stock_hook(),
                    job,
                    self.statements(),
                    self.handler,
                    last_only=self.last_only(),
                    tolerance=self.outage_tolerance,
                )
            )
        except (ResultGone, Transient) as error:
            raise JobError(f"The poke's result cannot be read: {error}. See {job.url}") from error

    def _defer(
        self, context: Mapping[str, Any], *, deadline: float, next_poke: float, pokes: int
    ) -> NoReturn:
        place = self._place()
        connection = plain_connection(self.stock_hook().databricks_conn)
        tags = build_query_tags(cast("Any", context), self.query_tags, self.include_airflow_query_tags)
        common = {**place.namespace, "query_tags": dict_to_query_tag_list(tags or {})}

        def request(text: str, form: Mapping[str, str] = _EXTERNAL) -> dict[str, Any]:
            return {"statement": text, **common, **form}

        anchor = DatabricksStatement(
            "",
            self.databricks_conn_id,
            warehouse_id=place.warehouse_id,
            address=Workspace.of(connection).address,
        )
        interval, exponential, max_wait = self._pace()
        self.defer(
            trigger=self.trigger_type(
                job=anchor.to_dict(),
                deadline=deadline,
                poll_interval=self.poll_interval,
                outage_tolerance=self.outage_tolerance,
                cancel_confirm_timeout=setting("cancel_confirm_timeout", 60.0),
                not_before=time.time() + settling_time(),
                next_poke=next_poke,
                pokes=pokes,
                poke_interval=interval,
                exponential_backoff=exponential,
                max_wait=max_wait,
                judge=self.handler in PURE_HANDLERS and self.last_only(),
                requests=[request(text) for text in self.statements()],
                warehouse_name="" if place.warehouse_id else str(place.warehouse_name),
                **self.trigger_arguments(request),
            ),
            method_name="execute_complete",
        )

    def _place(self) -> Place:
        names = {"session_configuration": "session_config"}
        connectors = ("session_configuration", "client_parameters", "hook_params", "http_headers")
        return Place(
            extra=self.stock_hook().databricks_conn.extra_dejson,
            http_path=self._http_path,
            warehouse_name=self._sql_warehouse_name,
            catalog=self.catalog,
            schema=self.schema,
            connectors={name: getattr(self, names.get(name, name)) for name in connectors},
        )

    def _pace(self) -> tuple[float, bool, float | None]:
        longest = None if self.max_wait is None else self.max_wait.total_seconds()
        return self.poke_interval, bool(self.exponential_backoff), longest

    def _time_out(self, event: Mapping[str, Any]) -> None:
        message = f"{self.task_id}: the answer was not yes after {event['pokes']} pokes, until the timeout."
        if event.get("message"):
            message += f" {event['message']}"
        timeout = self.execution_timeout
        if timeout is not None and timeout.total_seconds() < self.timeout:
            raise JobTimedOut(message)
        raise AirflowSensorTimeout(message)

    @staticmethod
    def _error(job: DatabricksStatement, outcome: Outcome) -> AirflowException:
        status = outcome.status
        said = ": ".join(part for part in (status.code, status.message) if part) or status.raw
        error: type[JobError] = _ERRORS.get(status.phase, JobFailed)
        where = f" See {job.url}" if job.statement_id else ""
        return error(f"The poke did not succeed ({said}).{where}")
