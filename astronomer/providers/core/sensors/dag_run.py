"""Wait for runs of another Dag, by their ids."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from airflow.sdk import DagRunState

from astronomer.providers.core.jobs.external import ExternalWait
from astronomer.providers.core.sensors.states import states_given
from astronomer.providers.core.sensors.waits import DagWaitSensor

__all__ = ["ExternalDagRunSensor"]

_STATES = frozenset(state.value for state in DagRunState)


class ExternalDagRunSensor(DagWaitSensor):
    """Wait until runs of another Dag are in a state, each named by its id; also runs without a logical date.

    After ``TriggerDagRunOperator(task_id="start", ...)``, the run is
    ``"{{ ti.xcom_pull(task_ids='start', key='trigger_run_id') }}"``.

    :param external_dag_id: the other Dag (templated).
    :param external_run_id: the run (templated); or
    :param external_run_ids: the runs (templated).
    :param allowed_states: all have to be in one of these; ``["success"]`` by default.
    :param skipped_states: as soon as one is in one of these, the sensor is skipped.
    :param failed_states: as soon as one is in one of these, the sensor fails; ``["failed"]`` by default, as in
        ``TriggerDagRunOperator``.
    :param check_existence: fail at once when there is no such Dag, or no such run.
    :param poke_interval: seconds (or ``timedelta``) between two looks, 5 by default.
    :param deferrable: ``False`` pokes in a worker.
    :param outage_tolerance: seconds (or ``timedelta``) that Airflow's supervisor may be silent.

    :raises ExternalDagFailedError: a run is in one of ``failed_states``. Clear it, then this task.
    :raises ExternalDagNotFoundError: with ``check_existence``.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    """

    template_fields: Sequence[str] = ("external_dag_id", "external_run_id", "external_run_ids")
    ui_color = "#4db7db"

    def __init__(
        self,
        *,
        external_dag_id: str,
        external_run_id: str | None = None,
        external_run_ids: Collection[str] | None = None,
        allowed_states: Collection[str] | None = None,
        skipped_states: Collection[str] | None = None,
        failed_states: Collection[str] | None = None,
        check_existence: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (external_run_id is None) == (external_run_ids is None):
            raise ValueError("Give one of `external_run_id` and `external_run_ids`.")
        self.external_dag_id = external_dag_id
        self.external_run_id = external_run_id
        self.external_run_ids = external_run_ids
        # Decided here: a template that finds nothing must not blame the other argument.
        self._which = "external_run_ids" if external_run_id is None else "external_run_id"
        self.allowed_states = states_given(allowed_states, "allowed_states", ["success"], _STATES)
        self.skipped_states = states_given(skipped_states, "skipped_states", [], _STATES)
        self.failed_states = states_given(failed_states, "failed_states", ["failed"], _STATES)
        taken = [*self.allowed_states, *self.skipped_states, *self.failed_states]
        if len(taken) > len(set(taken)):
            raise ValueError(
                "The same state stands in two of `allowed_states`, `skipped_states` and `failed_states`."
            )
        self.check_existence = check_existence
        self._has_checked_existence = False

    def job(self, context: Mapping[str, Any]) -> ExternalWait:
        """What is waited for."""
        wait = ExternalWait(
            dag_id=self.named("external_dag_id", self.external_dag_id),
            run_ids=self._runs(),
            allowed_states=tuple(self.allowed_states),
            skipped_states=tuple(self.skipped_states),
            failed_states=() if self.silent_fail else tuple(self.failed_states),
        )
        if self.check_existence:
            self.check(context, wait)
        return wait

    def _runs(self) -> tuple[str, ...]:
        if self._which == "external_run_id":
            runs: tuple[Any, ...] = (self.external_run_id,)
        elif isinstance(self.external_run_ids, str):
            raise TypeError(f"`external_run_ids` must be a list, got the text {self.external_run_ids!r}")
        else:
            runs = tuple(self.external_run_ids or ())
        if not runs or any(not isinstance(run, str) or run in {"", "None"} for run in runs):
            raise ValueError(
                f"`{self._which}` names no run: {runs!r}. Has the task that starts the run pushed its id?"
            )
        return tuple(dict.fromkeys(runs))
