"""Wait for tasks, task groups or Dag runs of another Airflow 3 deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import DagRunState, TaskInstanceState

from astronomer.deferral import (
    CredentialsRejected,
    Hub,
    JobLost,
    JobStatus,
    JobTrigger,
    Poller,
    RemoteJob,
    Transient,
    clock,
)
from astronomer.deferral._compat import AirflowException, BaseHook, PlainConnection, plain_connection
from astronomer.deferral.patience import insist
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable, NoSuchApi
from astronomer.providers.core.hooks.deployment_login import Deployment
from astronomer.providers.core.jobs.deployment import DeploymentWait, moment, run_url
from astronomer.providers.core.jobs.deployment_poller import DeploymentPoller
from astronomer.providers.core.lineage import awaits
from astronomer.providers.core.links import ExternalDagLink
from astronomer.providers.core.sensors.deployment_check import check_existence as check_that_it_exists
from astronomer.providers.core.sensors.states import states_given
from astronomer.providers.core.sensors.waits import DagWaitSensor
from astronomer.providers.core.triggers.astro import AstroDeploymentTrigger

if TYPE_CHECKING:
    from astronomer.deferral.lineage import Told
    from astronomer.providers.core.hooks.deployment import DeploymentClient

__all__ = ["ExternalDeploymentSensor"]

_TASK_STATES = frozenset(state.value for state in TaskInstanceState)
_RUN_STATES = frozenset(state.value for state in DagRunState)
_TASKS = ("external_task_id", "external_task_ids", "external_task_group_id")
_RUNS = ("external_run_id", "external_run_ids", "external_logical_date", "run")


class ExternalDeploymentSensor(DagWaitSensor):
    """Wait until tasks, a task group or a run of a Dag of another deployment are in a state, over its REST API.

    All sensors of a triggerer over one connection share one session, and their questions. Without one of
    ``external_run_id``, ``external_run_ids`` and ``external_logical_date``, it is about the latest run: of all runs that
    were due when this task began, the one that was due last (``run_after``), whatever its state. The wait stays with
    that run, also when newer ones come. If the Dag has no run yet, the first one is waited for.

    :param external_dag_id: the other Dag (templated).
    :param astro_cloud_conn_id: the Airflow connection that leads to the deployment (templated).
    :param external_task_id: the task (templated); or
    :param external_task_ids: the tasks (templated); or
    :param external_task_group_id: the task group (templated), if the other Airflow is 3.1.6 or newer; none of them: the
        Dag run.
    :param external_run_id: the run (templated); or
    :param external_run_ids: the runs (templated); or
    :param external_logical_date: the logical date of the run, or several of them, each a ``datetime`` or ISO 8601
        (templated); without a zone, it is UTC; or
    :param run: ``"latest"``, the default. A run that is named in another way may begin to exist later.
    :param allowed_states: all have to be in one of these; ``["success"]`` by default.
    :param skipped_states: as soon as one is in one of these, the sensor is skipped.
    :param failed_states: as soon as one is in one of these, the sensor fails; ``["failed"]`` by default, and
        ``"upstream_failed"`` for tasks.
    :param check_existence: fail at once when the Dag, the task or the task group does not exist.
    :param timeout: seconds (or ``timedelta``) after which the sensor gives up; a week by default.
    :param poke_interval: seconds (or ``timedelta``) between two looks, 5 by default.
    :param deferrable: ``False`` pokes in a worker.
    :param outage_tolerance: seconds (or ``timedelta``) that the deployment may be out of reach.

    :raises ExternalTaskFailedError: a task is in one of ``failed_states``; likewise ``ExternalTaskGroupFailedError``
        and ``ExternalDagFailedError``. Clear the other task, then this one.
    :raises ExternalDagNotFoundError: with ``check_existence``; likewise for a task and a task group.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    :raises JobLost: the login was refused, or the deployment was out of reach for too long. A retry looks again.
    :raises ValueError: an argument makes no sense.
    """

    trigger_type: ClassVar[type[JobTrigger]] = AstroDeploymentTrigger
    template_fields: Sequence[str] = ("external_dag_id", "astro_cloud_conn_id", *_TASKS, *_RUNS[:-1])
    ui_color = "#4db7db"

    def __init__(
        self,
        *,
        external_dag_id: str,
        astro_cloud_conn_id: str = "astro_cloud_default",
        external_task_id: str | None = None,
        external_task_ids: Collection[str] | None = None,
        external_task_group_id: str | None = None,
        external_run_id: str | None = None,
        external_run_ids: Collection[str] | None = None,
        external_logical_date: str | datetime | Collection[str | datetime] | None = None,
        run: str | None = None,
        allowed_states: Collection[str] | None = None,
        skipped_states: Collection[str] | None = None,
        failed_states: Collection[str] | None = None,
        check_existence: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.external_dag_id = external_dag_id
        self.astro_cloud_conn_id = astro_cloud_conn_id
        self.external_task_id = external_task_id
        self.external_task_ids = external_task_ids
        self.external_task_group_id = external_task_group_id
        self.external_run_id = external_run_id
        self.external_run_ids = external_run_ids
        self.external_logical_date = external_logical_date
        self.run = run
        # Decided here: an argument whose template finds nothing must not pass for one that was not given.
        self._about, self._which = self._only_one(_TASKS), self._only_one(_RUNS)
        about_tasks = self._about is not None
        if run not in (None, "latest"):
            raise ValueError(f'`run` takes "latest" only; got {run!r}. A run id goes into `external_run_id`.')
        known = _TASK_STATES if about_tasks else _RUN_STATES
        failed = ["failed", "upstream_failed"] if about_tasks else ["failed"]
        self.allowed_states = states_given(allowed_states, "allowed_states", ["success"], known)
        self.skipped_states = states_given(skipped_states, "skipped_states", [], known)
        taken = {*self.allowed_states, *self.skipped_states}
        self.failed_states = states_given(
            failed_states, "failed_states", [one for one in failed if one not in taken], known
        )
        total = [*self.allowed_states, *self.skipped_states, *self.failed_states]
        if len(total) > len(set(total)):
            raise ValueError(
                "The same state stands in two of `allowed_states`, `skipped_states` and `failed_states`."
            )
        self.check_existence = check_existence
        self._has_checked_existence = False
        self._latest: str | None = None
        self._as_of: str | None = None

    def _only_one(self, names: Sequence[str]) -> str | None:
        """Which of the arguments is given.

        :raises ValueError: more than one is.
        """
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"Give only one of {', '.join(f'`{name}`' for name in given)}.")
        return given[0] if given else None

    # What is waited for.

    def job(self, context: Mapping[str, Any]) -> DeploymentWait:
        """What is waited for."""
        which = self._which
        runs: dict[str, Any] = {}
        if which == "external_logical_date":
            runs["logical_dates"] = tuple(_date(one) for one in self._values(which))
        elif which in ("external_run_id", "external_run_ids"):
            runs["run_ids"] = self._values(which)
        else:
            runs |= {"latest": True, **self._which_latest(context)}
        about = self._about
        (dag_id,) = self._values("external_dag_id")
        return DeploymentWait(
            dag_id=dag_id,
            task_ids=self._values(about) if about in _TASKS[:2] else (),
            group_id=self._values(about)[0] if about == _TASKS[2] else None,
            allowed_states=tuple(self.allowed_states),
            skipped_states=tuple(self.skipped_states),
            failed_states=() if self.silent_fail else tuple(self.failed_states),
            conn_id=self.astro_cloud_conn_id,
            address=self._address(),
            **runs,
        )

    def own_lineage(self) -> Told:
        """What has to end first, in the other deployment: its address is the namespace."""
        tasks = self._values(self._about) if self._about in _TASKS[:2] else ()
        return awaits(self.external_dag_id, tasks, self.allowed_states, self._address())

    def _which_latest(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The run that an earlier look of this try has found, or of which moment it is the latest."""
        if self._latest is not None:
            return {"run_ids": (self._latest,)}
        if self._as_of is None:
            first = None
            started_at = clock.now() if self.in_triggerer is None else self.in_triggerer.started_at
            if not self.deferrable and self.mode == "reschedule":
                first = context["ti"].get_first_reschedule_date(context)
            begun = first or datetime.fromtimestamp(started_at, timezone.utc)
            self._as_of = moment(begun.isoformat())
        return {"as_of": self._as_of}

    def _values(self, name: str) -> tuple[Any, ...]:
        """An argument, after its templates were rendered, as one or more values.

        :raises ValueError: it is empty, or has a value twice.
        """
        given = getattr(self, name)
        several = name.endswith("s") or (
            name == "external_logical_date" and not isinstance(given, str | date | None)
        )
        if several and isinstance(given, str):
            raise TypeError(f"`{name}` must be a list, got the text {given!r}")
        values = tuple(given or ()) if several else (given,)
        if not values or any(one in (None, "", "None") for one in values):
            raise ValueError(f"`{name}` names nothing: {given!r}. Has its template found a value?")
        known = (str, date) if name == "external_logical_date" else str
        if not all(isinstance(one, known) for one in values):
            raise TypeError(f"`{name}` must be a text, or a list of texts; got {given!r}")
        if len(values) > len(set(values)):
            raise ValueError(f"`{name}` names something twice: {given!r}")
        return values

    def execute(self, context: Any) -> Any:
        """Look once; then wait in the triggerer, unless that was enough."""
        if self.in_triggerer is not None and self.check_existence:
            job = self.job(context)
            self.in_triggerer.run(lambda: self._check_in_triggerer(job))
        return super().execute(context)

    async def _check_in_triggerer(self, job: DeploymentWait) -> None:
        """Over the session of the waits, as soon as the weather allows."""
        async with Hub.current().lease(job) as poller:
            await insist(lambda: poller().check(job), tolerance=self.outage_tolerance)

    def _address(self) -> str:
        try:
            return Deployment.of(self._connection()).address
        except ConnectionUnusable as error:  # which is weather to a wait, but not to a task that begins
            raise AirflowException(f"{self.task_id} cannot ask the deployment: {error}") from error

    def _connection(self) -> PlainConnection:
        if self.in_triggerer is not None:
            return self.in_triggerer.connection(self.astro_cloud_conn_id)
        return plain_connection(BaseHook.get_connection(self.astro_cloud_conn_id))

    # The look in the worker.

    def look(self, job: RemoteJob) -> JobStatus | None:
        """Ask once in this worker; ``None`` in bad weather, which the wait will outlast.

        :raises JobLost: the login was refused, or no Airflow 3 answers.
        """
        assert isinstance(job, DeploymentWait)  # noqa: S101  # for the type
        try:
            return asyncio.run(self._look(job))
        except (CredentialsRejected, NoSuchApi) as refused:
            raise JobLost(f"Cannot ask about {job.name}: {refused}") from refused
        except Transient as trouble:
            self.log.warning("%s cannot be asked just now: %s", job.name, trouble)
            return None

    def poller(self, job: DeploymentWait) -> Poller[Any]:  # type: ignore[override]
        """What looks, with a session of its own."""
        return job.poller()

    async def _look(self, job: DeploymentWait) -> JobStatus | None:
        client = self.client()
        try:
            if self.check_existence and not self._has_checked_existence:
                await check_that_it_exists(client, job)
                self._has_checked_existence = True
            poller = DeploymentPoller(job, client)
            status = (await poller.poll([job])).get(job)
            self._latest = poller.run_of(job)
            return status
        finally:
            await client.close()

    def client(self) -> DeploymentClient:
        """Who asks in this worker."""
        from astronomer.providers.core.hooks.deployment import DeploymentClient

        return DeploymentClient(self._connection())

    def make_trigger(self, job: RemoteJob, deadline: float) -> JobTrigger:
        """The trigger that waits on, for the run that was found to be the latest."""
        if isinstance(job, DeploymentWait) and job.latest and self._latest is not None:
            job = job.pinned(self._latest)
        return super().make_trigger(job, deadline)

    def seen(self, context: Mapping[str, Any], job: Any, status: JobStatus) -> None:
        """Push the link: to the run, as soon as it is known."""
        url = status.url or run_url(job.address, job.dag_id, None)
        context["ti"].xcom_push(key=ExternalDagLink.xcom_key, value=url)


def _date(given: Any) -> str:
    """A logical date in one spelling.

    :raises ValueError: it is none.
    """
    try:
        return moment(given.isoformat() if isinstance(given, date) else str(given))
    except ValueError:
        raise ValueError(f"`external_logical_date` is no ISO 8601 date: {given!r}") from None
