"""Wait until a query on Snowflake gives the answer you want, without a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.sql.sensors.sql import SqlSensor
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

from astronomer.deferral import JobFailed, PokeSensor, PokeTrigger
from astronomer.deferral.lineage import emit_queries, parse_sql
from astronomer.providers.snowflake import lineage, statements
from astronomer.providers.snowflake.arguments import merge_hook_params, reject_empty
from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from astronomer.providers.snowflake.hooks.stock import ReadHook
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery, read_last
from astronomer.providers.snowflake.triggers.poke import SnowflakeSensorTrigger

if TYPE_CHECKING:
    from astronomer.deferral.lineage import Told

__all__ = ["SnowflakeSensor", "SnowflakeSensorAsync"]

_FIRST_CELL = itemgetter(0)


class _Answered:
    """Stands in for the hook of the stock ``poke``: its query has run already."""

    def __init__(self, row: Sequence[Any] | None) -> None:
        self._row = row

    def get_records(self, sql: Any, parameters: Any = None) -> list[Any]:
        return [] if self._row is None else [self._row]


class SnowflakeSensor(PokeSensor, SqlSensor):
    """Run a query again and again until its first cell says yes; pokes and waits happen in the triggerer.

    Takes what the stock ``SqlSensor`` takes, with the same meaning. A poke starts only after the one before it has
    ended. With ``success``, ``failure`` or a ``selector``, a worker is called for a moment after each poke, because
    functions cannot travel to the triggerer.

    :param sql: the query (templated).
    :param snowflake_conn_id: the Airflow connection; ``conn_id`` is accepted too.
    :param warehouse: instead of the connection's; likewise ``database``, ``role``, ``schema``, ``authenticator``
        and ``session_parameters``.
    :param deferrable: ``False`` pokes in a worker, as the stock sensor does.
    :param poll_interval: seconds between two looks at a poke that runs.
    :param outage_tolerance: seconds (or ``timedelta``) that Snowflake may be out of reach.

    :raises AirflowSensorTimeout: ``timeout`` passed; the poke that was running has been cancelled.
    :raises JobFailed: the query failed, or ``failure`` or ``fail_on_empty`` said so.
    """

    trigger_type: ClassVar[type[PokeTrigger]] = SnowflakeSensorTrigger
    template_fields: Sequence[str] = (*SqlSensor.template_fields, "snowflake_conn_id")

    def __init__(
        self,
        *,
        sql: str,
        snowflake_conn_id: str = "snowflake_default",
        conn_id: str | None = None,
        warehouse: str | None = None,
        database: str | None = None,
        role: str | None = None,
        schema: str | None = None,
        authenticator: str | None = None,
        session_parameters: dict[str, Any] | None = None,
        hook_params: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        merged = merge_hook_params(
            hook_params,
            warehouse=warehouse,
            database=database,
            role=role,
            schema=schema,
            authenticator=authenticator,
            session_parameters=session_parameters,
        )
        super().__init__(sql=sql, conn_id=conn_id or snowflake_conn_id, hook_params=merged, **kwargs)
        self.snowflake_conn_id = conn_id or snowflake_conn_id
        self._answer: _Answered | None = None
        for name, criterion in (("success", self.success), ("failure", self.failure)):
            if criterion is not None and not callable(criterion):
                raise ValueError(f"`{name}` must be a function of the first cell, got {criterion!r}")
        reject_empty(sql)

    def poke(self, context: Any) -> bool:
        """The stock rule, on a live query or on one that has run."""
        return bool(super().poke(context))

    def _get_hook(self) -> Any:
        return self._answer or self._hook()

    def _hook(self) -> SnowflakeHook:
        if self.in_triggerer is not None:
            connection = self.in_triggerer.connection(self.snowflake_conn_id)
            return ReadHook(connection, **(self.hook_params or {}))
        return SnowflakeHook(snowflake_conn_id=self.snowflake_conn_id, **(self.hook_params or {}))

    def _session(self) -> SnowflakeSession:
        return SnowflakeSession(self._hook(), patience=int(self.outage_tolerance))

    def met(self, context: Mapping[str, Any], job: Any, event: Mapping[str, Any]) -> bool:
        """As in the base class; no rows may be an error."""
        if event.get("empty"):
            raise JobFailed("No rows returned, raising as per fail_on_empty flag")
        return super().met(context, job, event)

    def judge(self, context: Mapping[str, Any], job: Any) -> bool:
        """The stock rule, on the result of the query that has run."""
        session = self._session()
        try:
            self._answer = _Answered(session.insist(lambda: read_last(session, job).fetchone()))
            return self.poke(context)
        finally:
            self._answer = None
            session.close(log_out=True)

    def anchor(self) -> SnowflakeQuery:
        """A query of the connection."""
        found, session = self._found(), self._session()
        return SnowflakeQuery(
            query_id="",
            conn_id=self.snowflake_conn_id,
            hook_params=json.loads(json.dumps(dict(self.hook_params or {}))),
            statements=len(found),
            block=len(found) > 1,
            **session.insist(session.place),
        )

    def trigger_arguments(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The query, and whether the trigger can judge its answer."""
        return {
            "sql": ";\n".join(self._found()),
            "parameters": self.parameters,
            "judge": self.success is None and self.failure is None and self._plain_selector(),
            "fail_on_empty": self.fail_on_empty,
        }

    # What OpenLineage is told.

    def external_query(self, job: SnowflakeQuery) -> tuple[str, str]:
        """The last poke's query, and its account."""
        return lineage.external_query(self._hook(), job.query_id)

    def own_lineage(self) -> Told:
        """What a poke reads."""
        hook = self._hook()
        return parse_sql(self._found(), lineage.database_of(hook), hook.get_openlineage_default_schema())

    def end_of_lineage(self, task_instance: Any, told: Told, failed: bool) -> None:
        """The pokes that are known; those in a worker have succeeded."""
        queries, ended = self.known_pokes(";\n".join(self._found())), self.query_failed(False)
        emit_queries(task_instance, queries, told, lineage.database_of(self._hook()), last_failed=ended)

    def _found(self) -> list[str]:
        return statements.split(self.sql, True)

    def _plain_selector(self) -> bool:
        selector = getattr(self, "selector", _FIRST_CELL)  # older providers have none
        return isinstance(selector, itemgetter) and repr(selector) == repr(_FIRST_CELL)


class SnowflakeSensorAsync(SnowflakeSensor):
    """The name that 1.x had for :class:`SnowflakeSensor`."""
