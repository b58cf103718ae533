"""What the operators and the sensor that run statements over the REST API have in common."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from airflow.providers.databricks.exceptions import DatabricksSqlExecutionError
from airflow.providers.databricks.utils.query_tags import build_query_tags, dict_to_query_tag_list

from astronomer.deferral import (
    Attempt,
    CredentialsRejected,
    JobError,
    JobFailed,
    JobLost,
    JobOperator,
    JobStatus,
    Outcome,
    Phase,
    Transient,
    clock,
)
from astronomer.deferral.memory import Memory
from astronomer.providers.databricks import lineage
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.statement import DatabricksStatement, open_client
from astronomer.providers.databricks.sql import submit
from astronomer.providers.databricks.sql.link import DatabricksQueryLink
from astronomer.providers.databricks.triggers.sql import DatabricksStatementTrigger

__all__ = ["StatementFailed", "StatementOperator"]

T = TypeVar("T")

_LONGEST_POLL_INTERVAL = 600.0  # a statement that nobody asks about for 15 minutes may be ended
_LOOK_BACK = 7 * 86_400.0  # where Airflow remembers nothing of an earlier try
_NEXT = "next"
_SENT = "sent"
_NOT_STARTED = "not started"
_SENT_WITHIN = 20.0
"""Seconds from the note of a submit to its request; in a triggerer, where a claim has to be new, to the last of them."""


class StatementFailed(JobFailed, DatabricksSqlExecutionError):
    """A statement failed. The stock operator raises ``DatabricksSqlExecutionError``, so this is one too."""


class StatementOperator(JobOperator):
    """Runs statements one after another, each submitted once.

    The next statement is submitted by a worker, when the one before it has succeeded. What is stored before each
    submit lets a retry find the statement, whatever died in between; a failed statement ends the attempt, and the
    next try begins with the first one again, as with the stock operators.
    """

    trigger_type = DatabricksStatementTrigger
    claims_submits = True  # the API has no token
    operator_extra_links = (DatabricksQueryLink(),)

    databricks_conn_id: str
    query_tags: dict[str, str | None]
    include_airflow_query_tags: bool

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.poll_interval = min(self.poll_interval, _LONGEST_POLL_INTERVAL)

    # What a subclass writes.

    def requests(self) -> list[dict[str, Any]]:
        """The body of each statement's request, without warehouse and tags."""
        raise NotImplementedError

    def warehouse(self) -> str | None:
        """The id of the warehouse to run on, where nobody has to be asked for it."""
        raise NotImplementedError

    async def look_up_warehouse(self, client: Any) -> str:
        """The id of the warehouse that has only been named."""
        raise NotImplementedError

    # What the engine asks of a family.

    def prepare(self, context: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
        """Read the statements and find the warehouse; notes where :meth:`find` has to look."""
        self.requests()
        try:
            return {"warehouse_id": self._warehouse_id(), "since": clock.now()}
        except JobError as error:
            raise JobError(f"{str(error).rstrip('.')}. No statement was started.") from error

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> DatabricksStatement:
        """Start the first statement."""
        return self._start(
            context,
            DatabricksStatement(
                "",
                self.databricks_conn_id,
                warehouse_id=str(attempt.notes["warehouse_id"]),
                submit_key=attempt.submit_key,
                deadline=attempt.deadline,
            ),
            attempt,
        )

    def find(self, context: Mapping[str, Any], attempt: Attempt) -> DatabricksStatement | None:
        """The newest statement that the attempt started, by its tag."""
        since = float(attempt.notes.get("since") or self._long_ago(context))
        warehouse_id = str(attempt.notes.get("warehouse_id") or self._warehouse_id())
        address, found = self._look_for(attempt.submit_key, warehouse_id, since, attempt)
        if not found:
            return None
        last = max(found)
        return DatabricksStatement(
            found[last],
            self.databricks_conn_id,
            warehouse_id=warehouse_id,
            address=address,
            submitted_at=since,
            submit_key=attempt.submit_key,
            deadline=attempt.deadline,
            index=last,
            count=max(last + 1, len(self.requests())),
            earlier=tuple(found[index] for index in sorted(found) if index < last),
        )

    def announce(self, context: Mapping[str, Any], job: DatabricksStatement) -> None:
        """Push the link, so that it is there while the statement runs."""
        context["ti"].xcom_push(key=DatabricksQueryLink.xcom_key, value=job.url)

    def settle(self, context: Mapping[str, Any], job: DatabricksStatement, outcome: Outcome) -> Any:
        """The end, or the next statement."""
        count = len(self.requests())
        if outcome.status.phase is not Phase.SUCCEEDED or job.index + 1 >= count:
            return super().settle(context, job, outcome)
        if job.deadline is not None and clock.now() >= job.deadline:
            left = f"{count - job.index - 1} of {count} statements were not started"
            status = JobStatus(Phase.CANCELLED, raw=_NOT_STARTED, message=left, url=job.url)
            return super().settle(context, job, Outcome(status, timed_out=True))
        attempt = self._submit_next(context, job)
        return self._go_on(context, attempt, self._glance(attempt))

    def failure(self, context: Mapping[str, Any], job: DatabricksStatement, outcome: Outcome) -> JobError:
        """The error with Databricks' own code and words."""
        kind = self.error_type(outcome)
        return (StatementFailed if kind is JobFailed else kind)(self.error_message(job, outcome))

    def external_query(self, job: DatabricksStatement) -> tuple[str, str]:
        """The statement that was run last, and its workspace; for lineage."""
        return lineage.external_query(job.statement_id, job.address)

    def query_failed(self, otherwise: bool) -> bool:
        """Not the one that ran last before the time was up for the others."""
        _, status = self.last_seen() or (None, None)
        return not (status is not None and status.raw == _NOT_STARTED) and super().query_failed(otherwise)

    # Steps.

    def _warehouse_id(self) -> str:
        return self.warehouse() or self.with_client(self.look_up_warehouse)

    def _submit_next(self, context: Mapping[str, Any], job: DatabricksStatement) -> Attempt:
        """Start the statement after one that succeeded, or find it started."""
        memory = self._memory(context)
        last = self._waited_for(context)
        attempt = last or replace(memory.first(job.deadline), submit_key=job.submit_key)
        wanted = _after(job)
        begun = attempt.notes.get(_NEXT) == wanted.index  # by a try that has not come to tell its id
        found = self._found(wanted, attempt) if begun else None
        if found is None:
            notes = attempt.notes | {_NEXT: wanted.index, "next_since": clock.now(), _SENT: None}
            attempt = memory.save(attempt, notes=notes)
            memory.confirm(attempt)
            try:
                found = self._start(context, wanted, attempt)
            except StatementFailed:
                memory.save(attempt, ended=True)
                raise
        attempt = self._keep(memory, attempt, found)
        self.announce(context, found)
        return attempt

    def _end_superseded(self, context: Mapping[str, Any], attempt: Attempt) -> None:
        """Also a statement that was started and whose id nobody has come to tell."""
        if attempt.job is not None and not attempt.ended:
            job = DatabricksStatement.from_dict(attempt.job)
            if attempt.notes.get(_NEXT) == job.index + 1:
                found = self._found(_after(job), attempt)
                attempt = attempt if found is None else replace(attempt, job=found.to_dict())
        super()._end_superseded(context, attempt)

    def _found(self, wanted: DatabricksStatement, attempt: Attempt) -> DatabricksStatement | None:
        """A statement that an earlier try has started, if it came so far."""
        since = float(attempt.notes["next_since"])
        key = submit.statement_key(wanted.submit_key, wanted.index)
        _, found = self._look_for(key, wanted.warehouse_id, since, attempt)
        if not found:
            return None
        return replace(wanted, statement_id=found[wanted.index], submitted_at=since)

    def _look_for(
        self, key: str, warehouse_id: str, since: float, attempt: Attempt
    ) -> tuple[str, dict[int, str]]:
        noted = float(attempt.notes.get(_SENT) or since)
        sent_by = min(noted + _SENT_WITHIN, clock.now())  # the clock of the worker before may be ahead

        async def look(client: Any) -> tuple[str, dict[int, str]]:
            found = await submit.find_started(
                client,
                key,
                warehouse_id,
                since,
                known_by=sent_by + submit.ARRIVES_WITHIN + submit.HISTORY_LAGS,
                tolerance=self.outage_tolerance,
            )
            return client.address, found

        return self.with_client(look)

    def _start(
        self, context: Mapping[str, Any], wanted: DatabricksStatement, attempt: Attempt
    ) -> DatabricksStatement:
        """Submit the statement that a job without an id describes."""
        requests = self.requests()
        tags = build_query_tags(cast("Any", context), self.query_tags, self.include_airflow_query_tags)
        body = {
            **requests[wanted.index],
            "warehouse_id": wanted.warehouse_id,
            "wait_timeout": "0s",
            "query_tags": dict_to_query_tag_list(tags or {}),
        }
        memory = self._memory(context)
        check = self._before_request(memory, wanted, attempt)
        key, submitted_at = submit.statement_key(wanted.submit_key, wanted.index), clock.now()

        async def start(client: Any) -> tuple[str, str]:
            answer = await submit.start(client, body, key, tolerance=self.outage_tolerance, check=check)
            return client.address, answer

        self.log.info("Executing: %s", body["statement"])
        memory.hold()
        try:
            address, statement_id = self.with_client(start)
        except JobLost as error:
            raise JobLost(f"{error} It may have been started: a retry looks for it.") from error
        job = replace(
            wanted,
            statement_id=statement_id,
            address=address,
            submitted_at=submitted_at,
            count=len(requests),
        )
        self.log.info("%s started: %s", job.name, job.url)
        return job

    def _before_request(
        self, memory: Memory, wanted: DatabricksStatement, attempt: Attempt
    ) -> Callable[[], None]:
        """What is done right before each request: a look whether it may be sent, and a note if that is late."""
        noted = float(attempt.notes["next_since" if wanted.index else "since"])

        def check() -> None:
            nonlocal noted
            memory.check()
            if self.in_triggerer is None and clock.now() - noted > _SENT_WITHIN / 2:
                noted = clock.now()
                memory.save(attempt, notes=attempt.notes | {_SENT: noted})

        return check

    def with_client(self, call: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """What ``call`` returns on the connection's client.

        :raises StatementFailed: Databricks refuses the request as such.
        :raises JobError: it refuses the login.
        :raises JobLost: it cannot be asked.
        """

        async def run() -> T:
            client = await open_client(self.databricks_conn_id, self.in_triggerer)
            try:
                return await call(client)
            finally:
                await client.close()

        try:
            return self._run(run)
        except RequestRejected as refused:
            where = (
                f"Databricks refused the request ({refused.error_code or refused.status}: {refused.message})"
            )
            hint = _NO_LINKS if "EXTERNAL_LINKS" in refused.message else _HINTS.get(refused.status, "")
            raise StatementFailed(f"{where}.{hint}") from refused
        except CredentialsRejected as refused:
            if self.in_triggerer is not None:
                self.in_triggerer.forget(self.databricks_conn_id)
            raise JobError(
                f"Databricks refused the login of the Airflow connection {self.databricks_conn_id!r}: {refused}"
            ) from refused
        except Transient as trouble:
            raise JobLost(f"Databricks could not be asked: {trouble}") from trouble

    @staticmethod
    def _long_ago(context: Mapping[str, Any]) -> float:
        """When the Dag run began, which its statements did not precede."""
        started = getattr(context.get("dag_run"), "start_date", None)
        return clock.now() - _LOOK_BACK if started is None else float(started.timestamp())


def _after(job: DatabricksStatement) -> DatabricksStatement:
    """The statement that follows, which has no id yet."""
    earlier = (*job.earlier, job.statement_id)
    return replace(job, statement_id="", index=job.index + 1, earlier=earlier)


_NO_LINKS = " With client_parameters={'use_cloud_fetch': False} it runs in the worker, without such links."
_HINTS = {
    403: " The connection's principal needs CAN USE on the warehouse.",
    404: " Look at the warehouse's id: it is the last part of `http_path`.",
}
