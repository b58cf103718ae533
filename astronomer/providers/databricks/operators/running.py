"""One run of a Databricks job per attempt: submitted once, waited for, and explained when it fails."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from airflow.providers.databricks.operators.databricks import DatabricksJobRunLink

from astronomer.deferral import (
    Attempt,
    JobError,
    JobFailed,
    JobOperator,
    JobStatus,
    JobTimedOut,
    Outcome,
    Phase,
    clock,
)
from astronomer.deferral._compat import AirflowFailException, AirflowSkipException, setting
from astronomer.deferral.patience import insist
from astronomer.providers.databricks import lineage
from astronomer.providers.databricks.actions import action_for, checked_actions
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.hooks.client import DatabricksClient
from astronomer.providers.databricks.hooks.patient import PatientHook
from astronomer.providers.databricks.hooks.stock import over
from astronomer.providers.databricks.jobs.poller import RunPoller
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.operators.base import WorkspaceOperator
from astronomer.providers.databricks.output import failures_of
from astronomer.providers.databricks.states import SUCCESS_WITH_FAILURES, TIMED_OUT
from astronomer.providers.databricks.submission import LONGEST_TOKEN, Submission
from astronomer.providers.databricks.triggers.databricks import DatabricksRunTrigger

__all__ = ["RunOperator", "server_timeout"]

_PATIENCE = 15.0  # for the causes of a failure
_SERVER_IS_LATER = 30  # the engine cancels at the deadline; the server is there when no triggerer is


def server_timeout(deadline: float | None) -> dict[str, Any]:
    """Databricks' own limit for a run that is to end by the deadline, as part of a request."""
    if deadline is None:
        return {}
    return {"timeout_seconds": max(1, math.ceil(deadline - clock.now())) + _SERVER_IS_LATER}


class RunOperator(WorkspaceOperator):
    """Goes before a stock operator among the bases of one that starts runs; the stock one assembles the request.

    :param result_actions: what to make of an end, by Databricks' code: ``{"SKIPPED": "skip", "USER_CANCELED":
        "fail", "CLUSTER_*": "retry"}``. Actions are ``success``, ``skip``, ``retry`` and ``fail``. Without an entry,
        ``SUCCESS`` and ``SUCCESS_WITH_FAILURES`` succeed, and everything else fails and may be retried.
    :param wait_for_termination: ``False`` returns once the run has started.
    """

    trigger_type = DatabricksRunTrigger
    path: ClassVar[str]

    idempotency_token: str | None
    wait_for_termination: bool
    run_id: int | None

    def __init__(self, *, result_actions: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.result_actions = checked_actions(result_actions)
        self._body: dict[str, Any] = {}
        self._since: float | None = None
        token = self.idempotency_token
        if isinstance(token, str) and "{{" not in token and len(token) > LONGEST_TOKEN:
            raise ValueError(
                f"`idempotency_token` has {len(token)} characters; Databricks takes {LONGEST_TOKEN}"
            )

    @cached_property
    def _hook(self) -> PatientHook:
        """What the stock operator looks up jobs and pipelines with."""
        return PatientHook(self.databricks_conn_id, self.ask_workspace, caller=type(self).__name__)

    # What a kind of run adds.

    def request(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The body of the request, as the stock operator assembles it from the arguments.

        :raises ValueError: they contradict each other.
        """
        raise NotImplementedError(f"{type(self).__name__}.request()")

    # The engine's steps.

    def prepare(self, context: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
        """Assemble the request, and note what a later try has to know of this submit."""
        self._since = self._submitted_since(context, attempt)
        try:
            self._body = self.request(context)
            if self._since is None:
                self.before_first_submit(self._body)
        except RequestRejected as refused:
            raise JobFailed(
                f"Databricks refused what has to be done before a run is started, and none was started: {refused}"
            ) from refused
        since = clock.now() if self._since is None else self._since
        return {"since": since, "inherited": self._inherited(context, attempt)}

    def before_first_submit(self, body: Mapping[str, Any]) -> None:
        """What has to be done once before a run is started; done again when the worker dies in it."""

    def submit(self, context: Mapping[str, Any], attempt: Attempt) -> DatabricksRun:
        """Start the run; the token makes a repetition harmless, in this process or the next."""
        memory = self._memory(context)
        body = {name: value for name, value in self._body.items() if name != "idempotency_token"}
        given = self._body.get("idempotency_token")

        async def start(client: DatabricksClient) -> tuple[dict[str, Any], str]:
            submission = Submission(
                client,
                self.path,
                body | self.server_limit(attempt.deadline),
                token=self._token(attempt, given),
                inherited=attempt.notes["inherited"],
                since=self._since,
                shared=given is not None,
                tolerance=self.outage_tolerance,
                on_trouble=self.telling_once(),
                check=memory.check,
            )
            return await submission.run(self._seen, self._end_run), client.address

        try:
            run, address = self.in_workspace(start)
        except RequestRejected as refused:
            raise JobFailed(
                f"Databricks refused to start a run, and none was started: {str(refused).rstrip('.')}. Correct the operator's "
                f"arguments. (POST /api/{self.path})"
            ) from refused
        self.run_id = int(run["run_id"])
        job = replace(
            self._run_of(self.run_id),
            url=str(run.get("run_page_url") or ""),
            address=address,
            job_id=run.get("job_id"),
            started_at=float(run.get("start_time") or 0) / 1000,
        )
        self.log.info("%s started: %s", job.name, job.url)
        return job

    def find(self, context: Mapping[str, Any], attempt: Attempt) -> DatabricksRun | None:
        """Nothing to look for: submitting again under the same token finds what was started."""
        return None

    def announce(self, context: Mapping[str, Any], job: DatabricksRun) -> None:
        """Push ``job_id``, ``run_id`` and ``run_page_url``, from which the link on the task's page is made."""
        self.run_id = job.run_id
        if self.do_xcom_push:
            pushed = {"job_id": job.job_id, "run_id": job.run_id, "run_page_url": job.url}
            for key, value in pushed.items():
                context["ti"].xcom_push(key=key, value=value)
            if self.in_triggerer is not None:  # which would ask Airflow for what was just pushed
                context["ti"].xcom_push(key=DatabricksJobRunLink().xcom_key, value=job.url)

    def settle(self, context: Mapping[str, Any], job: DatabricksRun, outcome: Outcome) -> Any:
        """The one end of every path, read by ``result_actions``."""
        self.run_id = job.run_id
        status = outcome.status
        if outcome.timed_out or status.phase is Phase.LOST:
            return super().settle(context, job, outcome)
        action = action_for(self.result_actions, status)
        if action == "success":
            return super().settle(context, job, Outcome(replace(status, phase=Phase.SUCCEEDED)))
        if status.phase is Phase.SUCCEEDED:
            status = replace(status, phase=Phase.FAILED)
        try:
            return super().settle(context, job, Outcome(status))
        except (JobError, AirflowFailException) as error:
            if action == "skip":
                raise AirflowSkipException(str(error)) from error
            if action == "fail":
                raise AirflowFailException(str(error)) from error
            raise

    def finish(self, context: Mapping[str, Any], job: DatabricksRun, status: JobStatus) -> Any:
        """Nothing to return; a run that succeeded in part is told of."""
        if status.code == SUCCESS_WITH_FAILURES:
            self.log.warning("%s succeeded, but some of its tasks failed. See %s", job.name, job.url)
        return None

    def failure(self, context: Mapping[str, Any], job: DatabricksRun, outcome: Outcome) -> JobError:
        """The error, with those of the tasks that failed and the tails of their traces."""
        kind = self.error_type(outcome)
        if kind is not JobFailed:
            return kind(self.error_message(job, outcome))
        kind = JobTimedOut if outcome.status.code == TIMED_OUT else JobFailed
        return kind("\n".join([self.error_message(job, outcome), *self._causes(job)]))

    def external_query(self, job: DatabricksRun) -> tuple[str, str]:
        """The run, and its workspace; for lineage. Of a member of a workflow, its task's run."""
        run_id = job.run_id or job.parent_run_id
        return lineage.external_query(run_id, job.address, None if job.address else self._host())

    def on_kill(self) -> None:
        """End the run when the task ends in the worker."""
        JobOperator.on_kill(self)

    def _deadline(self) -> float | None:
        """None for a run that nobody waits for: it may go on when the task has ended."""
        return super()._deadline() if self.wait_for_termination else None

    def server_limit(self, deadline: float | None) -> dict[str, Any]:
        """What the request says about the run's time, for the case that no triggerer is there at the deadline."""
        return {}

    # Steps.

    def _causes(self, job: DatabricksRun) -> list[str]:
        async def read(client: DatabricksClient) -> list[str]:
            whole = RunPoller(job, client).read
            run = await insist(lambda: whole(job.run_id, tasks=True), tolerance=_PATIENCE)
            return await failures_of(client, run)

        try:
            return self.in_workspace(read)
        except (JobError, RequestRejected) as error:
            return [f"(The errors of its tasks cannot be read: {error})"]

    def _submitted_since(self, context: Mapping[str, Any], attempt: Attempt) -> float | None:
        """When an earlier try may first have submitted this attempt; ``None`` if none may have."""
        if attempt.notes:
            return float(attempt.notes["since"])
        if self._memory(context).lasting or self._first_try(context):
            return None
        # Nothing is remembered, but no try is older than the Dag run.
        started = getattr(context.get("dag_run"), "start_date", None)
        return 0.0 if started is None else float(started.timestamp())

    def _inherited(self, context: Mapping[str, Any], attempt: Attempt) -> str:
        """The first token of a submit before a clear of which nobody knows whether it started anything."""
        if attempt.notes:
            return str(attempt.notes["inherited"])
        last = self._memory(context).last()
        if last is None or last.generation == attempt.generation or last.job is not None or last.ended:
            return ""
        return str(last.notes.get("inherited") or self._token(last, self._body.get("idempotency_token")))

    @staticmethod
    def _token(attempt: Attempt, given: Any) -> str:
        """The user's token, for the first run of a generation; else the submit key."""
        if not given:
            return attempt.submit_key
        if attempt.sequence == 0:
            return str(given)
        return hashlib.sha256(f"{given}:{attempt.sequence}".encode()).hexdigest()

    def _host(self) -> str | None:
        hook = self._hook if self.in_triggerer is None else over(self._hook, self.in_triggerer.connection)
        return hook.host

    def _run_of(self, run_id: int) -> DatabricksRun:
        return DatabricksRun(run_id, self.databricks_conn_id)

    def _seen(self, run_id: int) -> None:
        """From here on a kill of this worker ends the run."""
        self._job = self._run_of(run_id)

    async def _end_run(self, run_id: int) -> None:
        job = self._run_of(run_id)
        status = await self._end(job, setting("cancel_confirm_timeout", 60.0))
        self.log.info("%s of an earlier life of the task is %s", job.name, status.phase.value)
        if status.phase is Phase.LOST:
            self.log.warning("%s", status.message)
