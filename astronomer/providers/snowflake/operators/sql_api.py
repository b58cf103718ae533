"""Run statements through Snowflake's SQL API and wait for them without a worker."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator as StockSqlApiOperator

from astronomer.deferral import (
    Attempt,
    JobError,
    JobFailed,
    JobOperator,
    JobStatus,
    JobTimedOut,
    Outcome,
    Transient,
)
from astronomer.deferral._compat import AirflowFailException
from astronomer.deferral.lazy import lazy_property
from astronomer.deferral.patience import insist, telling_once
from astronomer.deferral.settings import tolerance_of
from astronomer.providers.snowflake import lineage, statements
from astronomer.providers.snowflake.arguments import plain, reject_empty, server_limit, tag_of
from astronomer.providers.snowflake.hooks.sql_api import ReadSqlApiHook, SqlApiClient, StatementRejected
from astronomer.providers.snowflake.jobs.statements import SnowflakeStatements
from astronomer.providers.snowflake.links import SnowsightQueryLink
from astronomer.providers.snowflake.states import STATEMENT_TIMEOUT
from astronomer.providers.snowflake.triggers.snowflake_trigger import SnowflakeSqlApiTrigger

__all__ = ["SnowflakeSqlApiOperator", "SnowflakeSqlApiOperatorAsync", "StatementFailed"]


class StatementFailed(JobFailed, RuntimeError):
    """A statement failed. The stock operator raises ``RuntimeError``, so this is one too."""


class SnowflakeSqlApiOperator(JobOperator, StockSqlApiOperator):  # type: ignore[misc,unused-ignore]
    """Run statements through the SQL API once, and wait for them in the triggerer.

    Takes what the stock operator takes. For a key pair, OAuth or a programmatic access token; ``host`` and
    ``port`` of the connection count here, and ``session_parameters`` are sent.

    :param sql: the statements (templated).
    :param fetch_results: return the rows: a list per statement, of dictionaries. The stock operator returns none.
    :param snowflake_api_retry_args: tenacity arguments. Their ``stop`` and ``wait`` say how long an outage is
        tolerated, also while deferred; without them, and without ``outage_tolerance``, it is an hour.
    :param durable: accepted for the stock operator's sake: a retry always finds its statements again.

    :raises StatementFailed: with Snowflake's message, code, SQLSTATE, handle and link.
    """

    trigger_type = SnowflakeSqlApiTrigger
    operator_extra_links = (SnowsightQueryLink(),)

    def __init__(
        self,
        *,
        sql: str | list[str],
        deferrable: bool = True,
        fetch_results: bool = False,
        poll_interval: float | timedelta | None = None,
        outage_tolerance: Any = None,
        snowflake_api_retry_args: dict[str, Any] | None = None,
        bindings: dict[str, Any] | None = None,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        if outage_tolerance is None:
            outage_tolerance = tolerance_of(snowflake_api_retry_args)
        super().__init__(
            sql=sql,
            poll_interval=poll_interval,
            outage_tolerance=outage_tolerance,
            snowflake_api_retry_args=snowflake_api_retry_args,
            bindings=bindings,
            **kwargs,
        )
        # The stock class sets these from defaults of its own.
        self.deferrable = deferrable
        self.cancel_on_kill = cancel_on_kill
        self.fetch_results = fetch_results
        reject_empty(sql)
        if bindings is not None and not isinstance(bindings, dict):
            raise TypeError("Bindings should be a dictionary or None.")

    def prepare(self, context: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
        """Reject what the API would ignore."""
        if self.bindings and len(statements.split(self._text(), True)) > 1:
            raise ValueError(
                "The SQL API takes no `bindings` with several statements; use SnowflakeOperator with `parameters`."
            )
        plain(self.hook_params)
        return {}

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> SnowflakeStatements:
        """Start the statements; the request id makes a repetition harmless, in this process or the next."""
        digest = hashlib.sha256(attempt.submit_key.encode()).hexdigest()
        request_id = str(uuid.UUID(digest[:32], version=4))
        tag = tag_of(context["ti"], attempt.submit_key)

        async def start(client: SqlApiClient) -> SnowflakeStatements:
            connection = await self._log_in(client)
            body, submitted_at = self._body(connection, attempt, tag), time.time()
            return SnowflakeStatements(
                query_ids=tuple(await self._insist(client.submit, body, request_id)),
                conn_id=self.snowflake_conn_id,
                hook_params=plain(self.hook_params),
                account=str(connection.get("account") or ""),
                submitted_at=submitted_at,
            )

        self.log.info("Executing: %s", self.sql)
        try:
            job: SnowflakeStatements = self._with_client(start)
        except StatementRejected as error:
            raise StatementFailed(f"The SQL API refused the statement: {error}") from error
        self.query_ids = list(job.query_ids)
        self.log.info("%s started: %s", job.name, job.url)
        return job

    def find(self, context: Mapping[str, Any], attempt: Attempt) -> SnowflakeStatements | None:
        """Nothing to look for: submitting again under the same request id finds what was started."""
        return None

    def announce(self, context: Mapping[str, Any], job: SnowflakeStatements) -> None:
        """Push the ``query_ids``, as the stock operator does, and the Snowsight link."""
        if self.do_xcom_push:
            context["ti"].xcom_push(key="query_ids", value=list(job.query_ids))
        context["ti"].xcom_push(key=SnowsightQueryLink.xcom_key, value=job.url)

    def finish(self, context: Mapping[str, Any], job: SnowflakeStatements, status: JobStatus) -> Any:
        """The rows, if they were asked for."""
        self._leave_ids(job)
        if not self.fetch_results:
            return None

        limit = None if self.in_triggerer is None else self.in_triggerer.no_more_than

        async def read(client: SqlApiClient) -> list[list[dict[str, Any]]]:
            handles = [one for parent in job.query_ids for one in await self._insist(client.children, parent)]
            return [await self._insist(client.rows, one, limit) for one in handles]

        try:
            return self._with_client(read)
        except StatementRejected as error:
            raise AirflowFailException(
                f"{job.name} succeeded, but Snowflake no longer gives its result, which it keeps for 24 hours "
                f"({error}). A retry would not run it again; clear the task to do so. See {job.url}"
            ) from error

    def failure(self, context: Mapping[str, Any], job: SnowflakeStatements, outcome: Outcome) -> JobError:
        """The error with the API's own words."""
        self._leave_ids(job)
        kind = self.error_type(outcome)
        if kind is JobFailed:
            kind = JobTimedOut if outcome.status.code in STATEMENT_TIMEOUT else StatementFailed
        return kind(self.error_message(job, outcome))

    def recall(self, event: Mapping[str, Any]) -> None:
        """As in the base class; the handles are left on the hook."""
        super().recall(event)
        self._leave_ids(SnowflakeStatements.from_dict(event["job"]))

    def external_query(self, job: SnowflakeStatements) -> tuple[str, str]:
        """The first statement, and its account; for lineage."""
        return lineage.external_query(self._hook, job.query_ids[0])

    def on_kill(self) -> None:
        """End the statements when the task ends in the worker."""
        JobOperator.on_kill(self)

    @lazy_property
    def _hook(self) -> Any:
        """The stock hook; without a worker, over a connection that was read for all tasks."""
        if self.in_triggerer is None:
            return vars(StockSqlApiOperator)["_hook"].func(self)
        connection = self.in_triggerer.connection(self.snowflake_conn_id)
        return ReadSqlApiHook(
            connection,
            token_life_time=self.token_life_time,
            token_renewal_delta=self.token_renewal_delta,
            **self.hook_params,
        )

    def _leave_ids(self, job: SnowflakeStatements) -> None:
        """For lineage, which reads them from operator and hook."""
        self.query_ids = list(job.query_ids)
        self._hook.query_ids = list(job.query_ids)

    def _text(self) -> str:
        return self.sql if isinstance(self.sql, str) else ";\n".join(self.sql)

    def _body(
        self, connection: Mapping[str, Any], attempt: Attempt, tag: Mapping[str, Any]
    ) -> dict[str, Any]:
        parameters = {
            **(connection.get("session_parameters") or {}),
            "MULTI_STATEMENT_COUNT": self.statement_count,
        }
        named = {str(name).upper() for name in parameters}
        if "QUERY_TAG" not in named:
            parameters["QUERY_TAG"] = json.dumps(dict(tag))[:2000]
        body: dict[str, Any] = {
            "statement": self._text(),
            "resultSetMetaData": {"format": "json"},
            "bindings": self.bindings or {},
            "parameters": {
                name: str(value) if isinstance(value, bool) else value for name, value in parameters.items()
            },
        }
        for name in ("database", "schema", "warehouse", "role"):
            body[name] = getattr(self._hook, name, None) or connection.get(name)
        timeout = self.timeout
        if attempt.deadline is not None:
            left = server_limit(attempt.deadline)
            timeout = min(timeout, left) if timeout else left
        return body if timeout is None else body | {"timeout": timeout}

    def _with_client(self, call: Callable[[SqlApiClient], Coroutine[Any, Any, Any]]) -> Any:
        hook = self._hook  # read here, and not in the loop

        async def run() -> Any:
            client = SqlApiClient(hook)
            try:
                return await call(client)
            finally:
                await client.close()

        try:
            return self._run(run)
        except Transient as error:
            if self.in_triggerer is not None:
                self.in_triggerer.forget(self.snowflake_conn_id)
            raise JobError(str(error)) from error

    async def _log_in(self, client: SqlApiClient) -> dict[str, Any]:
        """The connection's parameters, once requests can be signed; nothing is started when it fails."""
        try:
            found: dict[str, Any] = await self._insist(client.parameters)
        except Transient as error:
            raise type(error)(f"{str(error).rstrip('.')}. This try has started no statement.") from error
        return found

    async def _insist(self, call: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        """Repeat a harmless call through bad weather, for as long as an outage is tolerated."""
        return await insist(
            lambda: call(*arguments),
            tolerance=self.outage_tolerance,
            on_trouble=telling_once(self.log, "Snowflake"),
        )


class SnowflakeSqlApiOperatorAsync(SnowflakeSqlApiOperator):
    """The name that 1.x had for :class:`SnowflakeSqlApiOperator`."""
