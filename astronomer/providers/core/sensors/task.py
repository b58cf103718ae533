"""Wait for tasks, task groups or runs of another Dag, by logical date."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.standard.sensors.external_task import ExternalTaskSensor as StockExternalTaskSensor

from astronomer.deferral._compat import AirflowException
from astronomer.providers.core.jobs.external import ExternalWait
from astronomer.providers.core.sensors.waits import DagWaitSensor

__all__ = ["ExternalTaskSensor", "ExternalTaskSensorAsync"]


class ExternalTaskSensor(DagWaitSensor, StockExternalTaskSensor):  # type: ignore[misc]
    """Wait until tasks, a task group or a run of another Dag are in a state; all such waits share their questions.

    Takes what the stock sensor takes, with the meaning that it has there in poke mode. What differs:
    ``docs/howto/external-tasks.md``.

    :param external_dag_id: the other Dag (templated).
    :param external_task_id: the task (templated); or
    :param external_task_ids: the tasks (templated); or
    :param external_task_group_id: the task group (templated); none of them: the Dag run.
    :param allowed_states: all have to be in one of these; ``["success"]`` by default.
    :param skipped_states: as soon as one is in one of these, the sensor is skipped.
    :param failed_states: as soon as one is in one of these, the sensor fails.
    :param execution_delta: how long before the logical date of this run that of the other run is.
    :param execution_date_fn: called with the logical date of this run, and with whatever it names of the context;
        returns the logical date of the other run, or several.
    :param check_existence: fail at once when there is no such Dag, task or task group.
    :param poke_interval: seconds (or ``timedelta``) between two looks, 5 by default; ``poll_interval`` likewise.
    :param deferrable: ``False`` pokes in a worker.
    :param outage_tolerance: seconds (or ``timedelta``) that Airflow's supervisor may be silent.

    :raises ExternalTaskFailedError: a task is in one of ``failed_states``; likewise ``ExternalTaskGroupFailedError``
        and ``ExternalDagFailedError``. Clear the other task, then this one.
    :raises ExternalDagNotFoundError: with ``check_existence``; likewise for a task and a task group.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    :raises ValueError: ``execution_date_fn`` has raised, or has returned no date.
    """

    def __init__(
        self,
        *,
        poke_interval: float | timedelta | None = None,
        poll_interval: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poll_interval if poke_interval is None else poke_interval, **kwargs)
        # Decided here: what a template finds to be nothing must not pass for a wait for the whole run.
        self._about_tasks = self.external_task_ids is not None
        self._about_group = self.external_task_group_id is not None
        if None in self.allowed_states:
            raise ValueError("`allowed_states` holds None, which is no state to wait for.")

    @classmethod
    def needs_worker(cls, arguments: Mapping[str, Any], task: Any) -> str | None:
        """Whether a task exists that has not run yet is known by its Dag's file."""
        about_tasks = any(arguments.get(name) for name in ("external_task_id", "external_task_ids"))
        if arguments.get("check_existence") and about_tasks:
            return "only workers have the file that tells whether a task exists: check_existence=True"
        return super().needs_worker(arguments, task)

    def job(self, context: Mapping[str, Any]) -> ExternalWait:
        """What is waited for."""
        dates = self._dates(context)
        self.external_dates_filter = self._serialize_dttm_filter(dates)  # listeners read it
        wait = ExternalWait(
            dag_id=self.named("external_dag_id", self.external_dag_id),
            task_ids=self._tasks(),
            group_id=self.named("external_task_group_id", self.external_task_group_id)
            if self._about_group
            else None,
            logical_dates=tuple(date.astimezone(timezone.utc).isoformat() for date in dates),
            allowed_states=_words(self.allowed_states),
            skipped_states=_words(self.skipped_states),
            # A poke that fails is no failure then, so what would fail it makes no difference.
            failed_states=() if self.silent_fail else _words(self.failed_states),
        )
        if self.check_existence:
            self.check(context, wait)
        return wait

    def execute_complete(self, context: Any, event: Any = None) -> Any:
        """Settle what the trigger reported."""
        if event is None or "job" not in event:  # the task has deferred with the stock sensor's trigger
            return StockExternalTaskSensor.execute_complete(self, context, event)
        self.external_dates_filter = ",".join(event["job"]["logical_dates"])
        return super().execute_complete(context, event)

    def _tasks(self) -> tuple[str, ...]:
        found = self.external_task_ids
        if isinstance(found, str):
            raise TypeError(f"`external_task_ids` must be a list of task ids, got the text {found!r}")
        tasks = tuple(self.named("external_task_ids", one) for one in found or ())
        if len(tasks) > len(set(tasks)):
            raise ValueError("Duplicate task_ids passed in external_task_ids parameter")
        if self._about_tasks and not tasks:
            raise ValueError(f"`external_task_ids` names nothing: {found!r}. Has its template found a value?")
        return tasks

    def _dates(self, context: Any) -> list[datetime]:
        if self.execution_date_fn is None:
            return list(self._get_dttm_filter(context))
        try:
            found = self._handle_execution_date_fn(context=context)
        except AirflowException:
            raise  # the user's own word, such as a skip
        except Exception as error:
            raise ValueError(
                f"`execution_date_fn` of {self.task_id} raised {type(error).__name__}: {error}"
            ) from error
        dates = list(found) if isinstance(found, list | tuple | set | frozenset) else [found]
        if not dates or not all(isinstance(one, datetime) for one in dates):
            raise ValueError(
                f"`execution_date_fn` of {self.task_id} must return a datetime or a list of them, got {found!r}"
            )
        return list(dict.fromkeys(_aware(one) for one in dates))


class ExternalTaskSensorAsync(ExternalTaskSensor):
    """The name that 1.x had for :class:`ExternalTaskSensor`."""


def _aware(date: datetime) -> datetime:
    return date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)


def _words(states: Any) -> tuple[str, ...]:
    return tuple(str(getattr(state, "value", state)) for state in states)
