"""Run SQL on Snowflake and wait for it without a worker."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow.providers.common.sql.hooks.handlers import fetch_all_handler, fetch_one_handler
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator, default_output_processor
from snowflake import connector

from astronomer.deferral import (
    Attempt,
    JobError,
    JobOperator,
    JobStatus,
    JobTimedOut,
    Outcome,
    Phase,
    Poller,
    Transient,
)
from astronomer.deferral.in_triggerer import NeedsWorker
from astronomer.providers.snowflake import lineage, reading, statements
from astronomer.providers.snowflake.arguments import (
    merge_hook_params,
    plain,
    reject_empty,
    statement_options,
    tag_of,
)
from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from astronomer.providers.snowflake.hooks.stock import ReadHook
from astronomer.providers.snowflake.jobs.query import SnowflakePoller, SnowflakeQuery
from astronomer.providers.snowflake.links import SnowsightQueryLink
from astronomer.providers.snowflake.states import STATEMENT_TIMEOUT
from astronomer.providers.snowflake.triggers.snowflake_trigger import SnowflakeTrigger

__all__ = ["SnowflakeOperator", "SnowflakeOperatorAsync"]

_NO_WAREHOUSE = "000606"
_NO_WAREHOUSE_HINT = (
    " The warehouse does not exist, is not granted to the role, or none is named: see `warehouse` of the connection "
    "or the operator."
)
_LOGIN_PATIENCE = 300.0  # seconds; a mistyped account looks like an outage, and somebody waits for the error
_IN_WORKER = "PUT, GET or server-side parameters of several statements"
_JSON_HANDLERS = (fetch_all_handler, fetch_one_handler)


class SnowflakeOperator(JobOperator, SQLExecuteQueryOperator):
    """Run SQL on Snowflake once, wait for it in the triggerer, and return what the stock operator returns.

    Everything that ``SQLExecuteQueryOperator`` and ``SnowflakeHook`` take keeps its meaning. Several statements run
    in order as one block, in one session, up to the first failure; with ``autocommit=False`` they are committed
    together or not at all. PUT and GET need this machine's files, so a text with one of them runs in the worker, as
    the stock operator runs it; the same goes for server-side (``qmark``) parameters of several statements.

    :param sql: a string, a list, or the name of a ``.sql`` file (templated).
    :param snowflake_conn_id: the Airflow connection. ``conn_id`` is accepted too.
    :param warehouse: instead of the connection's; likewise ``database``, ``role``, ``schema``, ``authenticator``
        and ``session_parameters``.
    :param kwargs: what the stock operator and :class:`~astronomer.deferral.JobOperator` take.

    :raises JobFailed: Snowflake reports a failure; the message has its words, number, SQLSTATE, query id and link.
    :raises JobTimedOut: ``execution_timeout`` passed, and the query was cancelled.
    :raises JobCancelled: somebody cancelled the query outside Airflow.
    :raises JobLost: Snowflake could not be asked for ``outage_tolerance``, or knows no such query.
    """

    trigger_type = SnowflakeTrigger
    claims_submits = True  # a repeated request id starts nothing in one session only
    conn_id_field = "snowflake_conn_id"
    template_fields: Sequence[str] = (*SQLExecuteQueryOperator.template_fields, "snowflake_conn_id")
    operator_extra_links = (SnowsightQueryLink(),)
    ui_color = "#e2f1fb"

    def __init__(
        self,
        *,
        sql: str | list[str],
        snowflake_conn_id: str = "snowflake_default",
        conn_id: str | None = None,
        warehouse: str | None = None,
        database: str | None = None,
        role: str | None = None,
        schema: str | None = None,
        authenticator: str | None = None,
        session_parameters: dict[str, Any] | None = None,
        hook_params: dict[str, Any] | None = None,
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
        self._session: SnowflakeSession | None = None
        self._own_hook: ReadHook | None = None
        reject_empty(sql)

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Run the SQL; returns the rows as the stock operator does."""
        if self._needs_worker():
            if self.in_triggerer is not None:
                raise NeedsWorker(_IN_WORKER)
            self.log.info("Running in the worker: %s", _IN_WORKER)
            try:
                self.end_earlier(context)
            finally:
                self._close(log_out=True)
            return SQLExecuteQueryOperator.execute(self, context)  # type: ignore[no-untyped-call]
        try:
            result = super().execute(context)
        except BaseException:  # a logout would end what is waited for, or may be found again
            self._close(log_out=False)
            raise
        self._close(log_out=True)
        return result

    def execute_complete(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> Any:
        """Read the results, or the error, that the trigger reported the end of."""
        try:
            return super().execute_complete(context, event)
        finally:
            self._close(log_out=True)

    # What the engine asks of a family.

    def prepare(self, context: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
        """Split the SQL and log in; notes the session, in which :meth:`find` looks for a query."""
        self._statements()
        plain(self.hook_params)
        self._close(log_out=True)  # a session of its own, so that the first query in it is this attempt's
        session = self._open()
        return {"session_id": session.session_id, "since": time.time()}

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> SnowflakeQuery:
        """Start the query or block; a lost answer is asked for again under the same request id."""
        session, found, block = self._open(), self._statements(), self._is_block()
        text, parameters, count = self._text(session, found, block)
        request_id = str(uuid.UUID(hashlib.sha256(attempt.submit_key.encode()).hexdigest()[:32], version=4))
        tag = tag_of(context["ti"], attempt.submit_key)
        options = statement_options(session.parameters, tag, attempt.deadline)
        self.log.info("Executing: %s", self.sql)
        submitted_at = time.time()
        memory = self._memory(context)

        def send() -> str:
            memory.hold()
            return session.submit(text, parameters, request_id=request_id, options=options, count=count)

        query_id = session.insist(send)
        job = self._query(session, query_id, block=block, statements=len(found), submitted_at=submitted_at)
        self.log.info("%s started: %s", job.name, job.url)
        return job

    def find(self, context: Mapping[str, Any], attempt: Attempt) -> SnowflakeQuery | None:
        """The query of a submit whose answer was never heard: by its session, else by its tag."""
        session, since = self._open_again(attempt), float(attempt.notes.get("since") or 0.0)
        query_id = session.insist(lambda: reading.find_query(session, attempt))
        self._close(log_out=True)
        if query_id is None:
            return None
        count, block = len(self._statements()), self._is_block()
        job = self._query(session, query_id, block=block, statements=count, submitted_at=since)
        return replace(job, session_id=attempt.notes.get("session_id"))

    def announce(self, context: Mapping[str, Any], job: SnowflakeQuery) -> None:
        """Push the Snowsight link, so that it is there while the query runs."""
        context["ti"].xcom_push(key=SnowsightQueryLink.xcom_key, value=job.url)

    def recall(self, event: Mapping[str, Any]) -> None:
        """As in the base class; the query's id is left on the hook. The statements of a block have others."""
        super().recall(event)
        job = SnowflakeQuery.from_dict(event["job"])
        self.get_db_hook().query_ids = [] if job.block else [job.query_id]

    def external_query(self, job: SnowflakeQuery) -> tuple[str, str]:
        """The query or block, and its account; for lineage."""
        return lineage.external_query(self.get_db_hook(), job.query_id)

    @classmethod
    def get_hook(cls, conn_id: str, hook_params: dict[str, Any] | None = None) -> Any:
        """The stock hook. It gets a copy, because the stock operator adds the connection's extra, with its secrets."""
        return super().get_hook(conn_id, hook_params=dict(hook_params or {}))

    def get_db_hook(self) -> Any:
        """The stock hook; without a worker, over a connection that was read for all tasks."""
        if self.in_triggerer is None:
            return super().get_db_hook()
        if self._own_hook is None:
            connection = self.in_triggerer.connection(self.snowflake_conn_id)
            self._own_hook = ReadHook(connection, **(self.hook_params or {}))
        return self._own_hook

    def poller(self, job: SnowflakeQuery) -> Poller[SnowflakeQuery]:
        """Polls over the session this worker has open."""
        return SnowflakePoller(job, self._session_or_new())

    def finish(self, context: Mapping[str, Any], job: SnowflakeQuery, status: JobStatus) -> Any:
        """The results, by the same rules as the stock hook and operator."""
        wanted = self._should_run_output_processing() or self.requires_result_fetch
        hook = self.get_db_hook()
        session = self._session_or_new()
        handler = self.handler if wanted else None
        try:
            job.check(session.insist(session.place))
            ids = session.insist(lambda: reading.ids_of(session, job))
            if handler is not None:
                session.insist(session.open)
            output = reading.read(self, hook, session, job, ids, handler, self.in_triggerer)
        except Transient as error:
            raise JobError(
                f"{job.name} succeeded, but its result cannot be read: {error}. See {job.url}"
            ) from error
        if not self._should_run_output_processing():
            return None
        result = reading.process(self, hook, output)
        if self.handler not in _JSON_HANDLERS or self._output_processor is not default_output_processor:
            reading.check_serialisable(result, job)
        return result

    def failure(self, context: Mapping[str, Any], job: SnowflakeQuery, outcome: Outcome) -> JobError:
        """The error with Snowflake's own words; the query ids are left on the hook, for lineage."""
        status, cause = outcome.status, None
        try:
            self.get_db_hook().query_ids = [job.query_id]
            if status.phase is not Phase.LOST:
                session = self._session_or_new()
                self.get_db_hook().query_ids = reading.ids_of_failed(session, job)
                if status.phase is Phase.FAILED:
                    status, cause = reading.explain(session, job, status)
        except Exception:  # whatever it is, it must not hide the failure
            self.log.debug("No more is known of the failure", exc_info=True)
        if status.code in STATEMENT_TIMEOUT and not outcome.timed_out:
            return JobTimedOut(
                f"{job.name} was ended by Snowflake's STATEMENT_TIMEOUT_IN_SECONDS ({status.code}: {status.message}). "
                "The task's execution_timeout sets it, unless the session, warehouse or account has a lower one. "
                f"See {job.url}"
            )
        hint = _NO_WAREHOUSE_HINT if status.code == _NO_WAREHOUSE else ""
        error = self.error_type(outcome)(self.error_message(job, replace(outcome, status=status)) + hint)
        error.__cause__ = cause
        return error

    # Parts.

    def _statements(self) -> list[str]:
        return statements.split(self.sql, self.split_statements is not False)

    def _needs_worker(self) -> bool:
        found = self._statements()
        server_side = bool(self.parameters) and connector.paramstyle in ("qmark", "numeric")
        return any(map(statements.is_file_transfer, found)) or (server_side and self._is_block())

    def _commits_itself(self) -> bool:
        """Whether Snowflake commits each statement, by the stock hook's rule."""
        hook = self.get_db_hook()
        by_session = getattr(hook, "_has_autocommit_session_parameter", lambda: False)
        return bool(self.autocommit or by_session())

    def _ending(self) -> str | None:
        """What has to follow the user's statements: the session lives on, so it must not keep a transaction."""
        found = statements.split(self.sql, True)
        if self._commits_itself():
            return "ROLLBACK" if statements.begins_transaction(found) else None
        return "COMMIT" if statements.needs_transaction(found) else None

    def _is_unsplit(self) -> bool:
        return isinstance(self.sql, str) and self.split_statements is False

    def _is_block(self) -> bool:
        return self._is_unsplit() or len(self._statements()) > 1 or self._ending() is not None

    def _text(
        self, session: SnowflakeSession, found: Sequence[str], block: bool
    ) -> tuple[str, Any, int | None]:
        """What is sent, and how many statements: one with its parameters, or a block with them in place."""
        if not block:
            return found[0], self.parameters, None
        connection = session.open()
        with connection.cursor() as cursor:
            bound = [statements.bind(connection, cursor, one, self.parameters) for one in found]
        bound += filter(None, [self._ending()])
        text = ";\n".join(f"{one}\n" if "--" in one or "//" in one else one for one in bound)
        return text, None, 0 if self._is_unsplit() else len(bound)

    def _query(self, session: SnowflakeSession, query_id: str, **known: Any) -> SnowflakeQuery:
        return SnowflakeQuery(
            query_id=query_id,
            conn_id=self.snowflake_conn_id,
            hook_params=plain(self.hook_params),
            session_id=session.session_id if session.is_open else None,
            **session.insist(session.place),
            **known,
        )

    def _session_or_new(self, autocommit: bool | None = None) -> SnowflakeSession:
        """This worker's session, logged in at its first use."""
        if self._session is None:
            patience = int(self.outage_tolerance)
            self._session = SnowflakeSession(self.get_db_hook(), autocommit=autocommit, patience=patience)
        return self._session

    def _open_again(self, attempt: Attempt) -> SnowflakeSession:
        """A session to look in for what the try before has started: where that one could log in, nothing is mistyped."""
        patience = self.outage_tolerance if attempt.notes.get("session_id") else _LOGIN_PATIENCE
        return self._open(
            patience, "Whether the try before has started a query is not known. This one has not."
        )

    def _open(
        self, patience: float = _LOGIN_PATIENCE, otherwise: str = "No query was started."
    ) -> SnowflakeSession:
        """A session to submit in, logged in; nothing has been started when it fails."""
        autocommit = None if self._commits_itself() and not self.autocommit else self._ending() != "COMMIT"
        if self._session is not None and self._session.autocommit != autocommit:
            self._close(log_out=True)
        session = self._session_or_new(autocommit)
        try:
            session.insist(session.open, at_most=patience)
        except JobError as error:
            if self.in_triggerer is not None:
                self.in_triggerer.forget(self.snowflake_conn_id)
            raise JobError(f"{str(error.__cause__).rstrip('.')}. {otherwise}") from error.__cause__
        return session

    def _close(self, *, log_out: bool) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close(log_out=log_out)


class SnowflakeOperatorAsync(SnowflakeOperator):
    """The name that 1.x had for :class:`SnowflakeOperator`."""
