"""What the sensors on other Dags of this Airflow have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow.providers.standard.exceptions import (
    ExternalDagFailedError,
    ExternalDagNotFoundError,
    ExternalTaskFailedError,
    ExternalTaskGroupFailedError,
    ExternalTaskGroupNotFoundError,
    ExternalTaskNotFoundError,
)

from astronomer.deferral import JobStatus, JobTrigger, RemoteJob, Transient, WatchSensor
from astronomer.deferral._compat import (
    AirflowNotFoundException,
    AirflowSkipException,
    BaseHook,
    absolute_url,
    ask_supervisor_in_worker,
    dag_run_url,
    tasks_in_bundle,
    text_setting,
)
from astronomer.deferral.in_triggerer import NeedsWorker
from astronomer.deferral.patience import insist
from astronomer.providers.core.jobs.dag_poller import ExternalDagPoller
from astronomer.providers.core.jobs.external import NOT_FOUND, SKIPPED, ExternalWait
from astronomer.providers.core.jobs.questions import Questions, UnknownToAirflow
from astronomer.providers.core.lineage import awaits
from astronomer.providers.core.links import ExternalDagLink
from astronomer.providers.core.triggers.external_task import ExternalTaskTrigger

if TYPE_CHECKING:
    from astronomer.deferral.lineage import Told

__all__ = ["DagWaitSensor"]

T = TypeVar("T")


class DagWaitSensor(WatchSensor):
    """Looks over the supervisor of its process, and shows a link to the run that it waits for."""

    trigger_type: ClassVar[type[JobTrigger]] = ExternalTaskTrigger
    operator_extra_links = (ExternalDagLink(),)

    external_dag_id: str
    allowed_states: Any
    _has_checked_existence: bool

    def poller(self, job: ExternalWait) -> ExternalDagPoller:
        """What looks in this worker."""
        return ExternalDagPoller(job.dag_id, self._questions())

    def own_lineage(self) -> Told:
        """What has to end first: the tasks; for a task group, or for whole runs, the Dag."""
        tasks = getattr(self, "external_task_ids", None) or ()
        return awaits(self.external_dag_id, tasks, self.allowed_states)

    @staticmethod
    def named(argument: str, value: Any) -> str:
        """An id, after its template was rendered.

        :raises ValueError: it names nothing.
        """
        if not isinstance(value, str) or value in {"", "None"}:
            raise ValueError(f"`{argument}` names nothing: {value!r}. Has its template found a value?")
        return value

    def _questions(self) -> Questions:
        if self.in_triggerer is not None:
            return Questions(self.external_dag_id)
        return Questions(self.external_dag_id, ask_supervisor_in_worker)

    def _ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run(call()) if self.in_triggerer is None else self.in_triggerer.run(call)

    def _insist(self, call: Any) -> Any:
        """A question that has to be answered before anything else, through bad weather."""
        return self._ask(lambda: insist(call, tolerance=self.outage_tolerance))

    def make_trigger(self, job: RemoteJob, deadline: float) -> JobTrigger:
        """The trigger that waits on: over the supervisor, or over this Airflow's own API where a connection is set."""
        conn_id = text_setting("airflow_conn_id")
        if type(job) is not ExternalWait or not conn_id:
            return super().make_trigger(job, deadline)
        from astronomer.providers.core.jobs.deployment import DeploymentWait
        from astronomer.providers.core.triggers.astro import AstroDeploymentTrigger

        try:
            self._read(conn_id)
        except AirflowNotFoundException:
            self.log.warning(
                "There is no Airflow connection %r, which [astronomer_providers] airflow_conn_id names: asking over "
                "the supervisor instead",
                conn_id,
            )
            return super().make_trigger(job, deadline)
        wait = DeploymentWait(conn_id=conn_id, **job.to_dict())
        trigger = super().make_trigger(wait, deadline)
        return AstroDeploymentTrigger(**trigger.serialize()[1])

    def _read(self, conn_id: str) -> object:
        read = BaseHook.get_connection if self.in_triggerer is None else self.in_triggerer.connection
        return read(conn_id)

    def seen(self, context: Mapping[str, Any], job: ExternalWait, status: JobStatus) -> None:
        """Push the link; in a triggerer, where each question counts, to the run only at the end."""
        url = absolute_url(status.url or "")
        if not url:
            asks = self.in_triggerer is None or status.done or not job.logical_dates
            url = dag_run_url(job.dag_id, self._run_of(job) if asks else "")
        self._last_seen = job, replace(status, url=url)
        context["ti"].xcom_push(key=ExternalDagLink.xcom_key, value=url)

    def _run_of(self, job: ExternalWait) -> str:
        """The run of the last date, where the wait itself cannot know its id; empty when there is none."""
        if not job.logical_dates:
            return job.run_ids[-1]
        questions, date = self._questions(), job.logical_dates[-1]
        find = questions.run_at if self.in_triggerer is None else questions.run_with
        try:
            return self._ask(lambda: find(date)) or ""
        except Transient:  # a link is not worth a wait
            return ""

    # How it ends badly.

    def failure(self, context: Mapping[str, Any], job: ExternalWait, status: JobStatus) -> Exception:
        """The stock sensor's exceptions and words, with what has failed and where."""
        where = f" See {status.url}" if status.url else ""
        detail = f" ({status.message}).{where}"
        if status.code == NOT_FOUND:
            return _missing_group(job, status.message or "")
        if status.code == SKIPPED:
            return AirflowSkipException(
                f"{_capital(_subject(job))} reached a state in our states-to-skip-on list. Skipping.{detail}"
            )
        if self.soft_fail:
            return AirflowSkipException(
                f"{_capital(_subject(job))} failed. Skipping due to soft_fail.{detail}"
            )
        return _failed(job)(f"{_capital(_subject(job))} failed.{detail}")

    # Whether it is there at all.

    def check(self, context: Mapping[str, Any], job: ExternalWait) -> None:
        """Fail if what is waited for does not exist; once per process.

        :raises ExternalDagNotFoundError: there is no such Dag; likewise for a task, a group, and a run.
        """
        if self._has_checked_existence:
            return
        if job.task_ids and self.in_triggerer is not None:  # mapped ones are not known when the Dag is parsed
            raise NeedsWorker("only workers have the file that tells whether a task exists")
        questions = self._questions()
        try:
            dag = self._find_dag(questions)
        except UnknownToAirflow as error:
            raise ExternalDagNotFoundError(f"The external DAG {job.dag_id} does not exist.") from error
        if job.task_ids:
            self._check_tasks(context, job, dag)
        elif job.group_id:
            try:
                self._insist(lambda: questions.task_states(group_id=job.group_id, dates=job.logical_dates))
            except UnknownToAirflow as error:
                raise _missing_group(job, str(error)) from error
        elif job.run_ids:
            self._check_runs(job)
        self._has_checked_existence = True

    def _find_dag(self, questions: Questions) -> Any:
        if self.in_triggerer is None:
            return self._insist(questions.dag)
        if not self._insist(questions.exists):
            raise UnknownToAirflow(self.external_dag_id)
        return None

    def _check_tasks(self, context: Mapping[str, Any], job: ExternalWait, dag: Any) -> None:
        questions = self._questions()
        unseen = [
            one
            for one in job.task_ids
            if not self._insist(lambda one=one: questions.count_task_instances(one))
        ]
        if not unseen:
            return
        tasks = tasks_in_bundle(context["ti"], dag)
        if tasks is None:  # it may have been added since the last run
            self.log.warning(
                "No run of Dag %s has had %s yet, and its file is not in the bundle of this task: nobody knows "
                "whether it exists",
                job.dag_id,
                ", ".join(unseen),
            )
            return
        missing = [one for one in unseen if one not in tasks]
        if missing:
            raise ExternalTaskNotFoundError(
                f"The external task {', '.join(missing)} in DAG {job.dag_id} does not exist."
            )

    def _check_runs(self, job: ExternalWait) -> None:
        questions = self._questions()
        missing = [
            run_id
            for run_id in job.run_ids
            if not self._insist(lambda run_id=run_id: questions.count_runs(run_ids=[run_id]))
        ]
        if missing:
            raise ExternalDagNotFoundError(f"The external DAG {job.dag_id} has no run {', '.join(missing)}.")


def _subject(job: ExternalWait) -> str:
    if job.task_ids:
        return f"some of the external tasks {list(job.task_ids)} in DAG {job.dag_id}"
    if job.group_id:
        return f"the external task_group {job.group_id!r} in DAG {job.dag_id!r}"
    return f"the external DAG {job.dag_id}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _failed(job: ExternalWait) -> type[Exception]:
    if job.task_ids:
        return ExternalTaskFailedError
    return ExternalTaskGroupFailedError if job.group_id else ExternalDagFailedError


def _missing_group(job: ExternalWait, said: str) -> Exception:
    return ExternalTaskGroupNotFoundError(
        f"The external task group {job.group_id!r} in DAG {job.dag_id!r} does not exist ({said.rstrip('.')})."
    )
