"""Wait until a query on Snowflake gives the answer you want, without a worker."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any, NoReturn

from airflow.providers.common.sql.sensors.sql import SqlSensor
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

from astronomer.deferral import JobCancelled, JobError, JobFailed, JobLost, JobTimedOut, Outcome, Phase
from astronomer.deferral._compat import AirflowException, AirflowSensorTimeout, setting, settling_time
from astronomer.deferral.settings import seconds
from astronomer.providers.snowflake import statements
from astronomer.providers.snowflake.arguments import merge_hook_params, reject_empty
from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery, read_last
from astronomer.providers.snowflake.triggers.poke import SnowflakeSensorTrigger

__all__ = ["SnowflakeSensor", "SnowflakeSensorAsync"]

_FIRST_CELL = itemgetter(0)
_ERRORS = {Phase.CANCELLED: JobCancelled, Phase.LOST: JobLost}


class _Answered:
    """Stands in for the hook of the stock ``poke``: its query has run already."""

    def __init__(self, row: Sequence[Any] | None) -> None:
        self._row = row

    def get_records(self, sql: Any, parameters: Any = None) -> list[Any]:
        return [] if self._row is None else [self._row]


class SnowflakeSensor(SqlSensor):
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
        deferrable: bool = True,
        poll_interval: float | timedelta | None = None,
        outage_tolerance: float | timedelta | None = None,
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
        self.deferrable = deferrable
        self.poll_interval = seconds(poll_interval, "poll_interval", 5.0)
        self.outage_tolerance = seconds(outage_tolerance, "outage_tolerance", 3600.0)
        self._answer: _Answered | None = None
        for name, criterion in (("success", self.success), ("failure", self.failure)):
            if criterion is not None and not callable(criterion):
                raise ValueError(f"`{name}` must be a function of the first cell, got {criterion!r}")
        reject_empty(sql)

    def execute(self, context: Any) -> Any:
        """Defer; nothing is asked of Snowflake in the worker."""
        if not self.deferrable:
            return super().execute(context)
        now = time.time()
        limits = [now + self.timeout]
        if self.execution_timeout is not None:
            limits.append(now + self.execution_timeout.total_seconds())
        return self._defer(deadline=min(limits), next_poke=now, pokes=0)

    def execute_complete(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Judge what the trigger reported; poke again when it is not yet a yes."""
        outcome = None if event.get("outcome") is None else Outcome.from_dict(event["outcome"])
        job = SnowflakeQuery.from_dict(event["job"])
        if event.get("timed_out"):
            self._time_out(event)
        if outcome is not None and outcome.status.phase is not Phase.SUCCEEDED:
            if not (self.silent_fail and outcome.status.phase is Phase.FAILED):
                raise self._error(job, outcome)
            self.log.error("Sensor poke failed: %s", outcome.status.message)
        elif self._met(context, job, event):
            self.log.info("Success criteria met. Exiting.")
            return
        next_poke = float(event["started_at"]) + self._pause(int(event["pokes"]))
        self._defer(deadline=float(event["deadline"]), next_poke=next_poke, pokes=int(event["pokes"]))

    def poke(self, context: Any) -> bool:
        """The stock rule, on a live query or on one that has run."""
        return bool(super().poke(context))

    def _get_hook(self) -> Any:
        return self._answer or self._hook()

    def _hook(self) -> SnowflakeHook:
        return SnowflakeHook(snowflake_conn_id=self.snowflake_conn_id, **(self.hook_params or {}))

    def _met(self, context: Mapping[str, Any], job: SnowflakeQuery, event: Mapping[str, Any]) -> bool:
        if event.get("met") is not None:
            if event.get("empty"):
                raise JobFailed("No rows returned, raising as per fail_on_empty flag")
            return bool(event["met"])
        session = SnowflakeSession(self._hook(), patience=int(self.outage_tolerance))
        try:
            self._answer = _Answered(session.insist(lambda: read_last(session, job).fetchone()))
            return self.poke(context)
        finally:
            self._answer = None
            session.close(log_out=True)

    def _defer(self, *, deadline: float, next_poke: float, pokes: int) -> NoReturn:
        session = SnowflakeSession(self._hook())
        found = statements.split(self.sql, True)
        anchor = SnowflakeQuery(
            query_id="",
            conn_id=self.snowflake_conn_id,
            hook_params=json.loads(json.dumps(dict(self.hook_params or {}))),
            statements=len(found),
            block=len(found) > 1,
            **session.place(),
        )
        in_trigger = self.success is None and self.failure is None and self._plain_selector()
        self.defer(
            trigger=SnowflakeSensorTrigger(
                job=anchor.to_dict(),
                deadline=deadline,
                poll_interval=self.poll_interval,
                outage_tolerance=self.outage_tolerance,
                cancel_confirm_timeout=setting("cancel_confirm_timeout", 60.0),
                not_before=time.time() + settling_time(),
                sql=self._text(found),
                parameters=self.parameters,
                next_poke=next_poke,
                pokes=pokes,
                poke_interval=self.poke_interval,
                exponential_backoff=bool(self.exponential_backoff),
                max_wait=None if self.max_wait is None else self.max_wait.total_seconds(),
                judge=in_trigger,
                fail_on_empty=self.fail_on_empty,
            ),
            method_name="execute_complete",
        )

    def _text(self, found: Sequence[str]) -> str:
        return ";\n".join(found)

    def _plain_selector(self) -> bool:
        selector = getattr(self, "selector", _FIRST_CELL)  # older providers have none
        return isinstance(selector, itemgetter) and repr(selector) == repr(_FIRST_CELL)

    def _pause(self, pokes: int) -> float:
        return SnowflakeSensorTrigger.pause_after(
            pokes,
            self.poke_interval,
            bool(self.exponential_backoff),
            None if self.max_wait is None else self.max_wait.total_seconds(),
        )

    def _time_out(self, event: Mapping[str, Any]) -> None:
        message = f"{self.task_id}: the answer was not yes after {event['pokes']} pokes, until the timeout."
        if event.get("message"):
            message += f" {event['message']}"
        timeout = self.execution_timeout
        if timeout is not None and timeout.total_seconds() < self.timeout:
            raise JobTimedOut(message)
        raise AirflowSensorTimeout(message)

    def _error(self, job: SnowflakeQuery, outcome: Outcome) -> AirflowException:
        status = outcome.status
        said = ": ".join(part for part in (status.code, status.message) if part) or status.raw
        error: type[JobError] = _ERRORS.get(status.phase, JobFailed)
        where = f" See {job.url}" if job.query_id else ""
        return error(f"The poke did not succeed ({said}).{where}")


class SnowflakeSensorAsync(SnowflakeSensor):
    """The name that 1.x had for :class:`SnowflakeSensor`."""
