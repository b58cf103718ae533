"""Sensors on other Dags of the same Airflow, which is in memory, and on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from airflow.providers.standard.sensors.external_task import ExternalTaskSensor as StockExternalTaskSensor
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from astronomer.providers.core.sensors.external_task import ExternalDagRunSensor, ExternalTaskSensor
from tests.contract.waits import WaitFamily, WaitWorld
from tests.unit.core.airflow_side import DAY, AirflowSide, api_error, day
from tests.unit.deferral.fakes import Timeline

__all__ = ["EXTERNAL_WAITS"]

_TROUBLES: dict[str, Any] = {
    "error": api_error(500, "Internal Server Error"),
    "refused": api_error(401, "Unauthorized"),
    "reset": ConnectionResetError("Connection reset by peer"),
    "ended": EOFError("Request socket closed before length"),
    "hang": 1000.0,
}


class ExternalWorld(WaitWorld):
    """Each thing is what is waited for of one run of the Dag ``orders``."""

    def __init__(self, timeline: Timeline, airflow: AirflowSide, family: ExternalFamily) -> None:
        super().__init__(timeline)
        self.airflow = airflow
        self.family = family
        self.dag = airflow.dag("orders", g=["g.a", "g.b"])
        self.touched = airflow.touched

    def make(self, thing: int, **arguments: Any) -> Any:
        return self._sensor(self.family.sensor_type, thing, arguments)

    def make_stock(self, thing: int, **arguments: Any) -> Any:
        if not self.family.pairs:
            return super().make_stock(thing, **arguments)
        return self._sensor(self.family.pairs[0][1], thing, arguments)

    def _sensor(self, cls: type[Any], thing: int, arguments: dict[str, Any]) -> Any:
        which = self.family.which(thing)
        return cls(**{"external_dag_id": "orders"} | which | arguments)

    def context(self, ti: Any) -> dict[str, Any]:
        for name in ("get_ti_count", "get_task_states", "get_dr_count"):
            setattr(ti, name, getattr(RuntimeTaskInstance, name))  # the stock sensor asks through them
        return super().context(ti)

    def begin(self, thing: int) -> None:
        self.dag.run(thing, f"run-{thing}")
        self._set(thing, "running")

    def come_true(self, thing: int) -> None:
        self._set(thing, "success")

    def go_wrong(self, thing: int) -> None:
        self._set(thing, "failed")

    @property
    def fragile(self) -> dict[str, Any]:
        return {"failed_states": ["failed"]}

    def vanish(self, thing: int) -> None:
        self.dag.delete(self.dag.runs[f"run-{thing}"])

    def report_unknown_state(self, thing: int) -> None:
        self._set(thing, "wobbling")

    def _set(self, thing: int, state: str) -> None:
        run = self.dag.runs[f"run-{thing}"]
        run.state = state
        run.set(load=state, g__a=state, g__b=state)

    def weather(self, *kinds: str, times: int | None = 1) -> None:
        many = 10_000 if times is None else times
        self.airflow.weather = [_TROUBLES[kind] for kind in kinds for _ in range(many)]

    def clear_up(self) -> None:
        self.airflow.weather = []

    @property
    def questions(self) -> list[float]:
        return [question.at for question in self.airflow.questions]

    def forget(self) -> None:
        self.airflow.forget()


class ExternalFamily(WaitFamily):
    """A sensor on the Dag ``orders``.

    :param which: arguments that name the thing with a number.
    """

    kinds = tuple(_TROUBLES)
    sensor_type: ClassVar[type[Any]] = ExternalTaskSensor

    def __init__(self, name: str, which: Callable[[int], dict[str, Any]]) -> None:
        self.name = name
        self.which = which

    @contextmanager
    def world(self) -> Iterator[WaitWorld]:
        with AirflowSide().in_place() as airflow, Timeline().in_place() as timeline:
            yield ExternalWorld(timeline, airflow, self)


class ExternalTaskFamily(ExternalFamily):
    """By logical date."""

    pairs = ((ExternalTaskSensor, StockExternalTaskSensor),)

    def __init__(self, name: str, **what: Any) -> None:
        super().__init__(name, lambda thing: {"execution_delta": DAY - day(thing)} | what)


class ExternalDagRunFamily(ExternalFamily):
    """By run id."""

    sensor_type = ExternalDagRunSensor

    def __init__(self) -> None:
        super().__init__("external-dag-run", lambda thing: {"external_run_id": f"run-{thing}"})


EXTERNAL_WAITS: tuple[WaitFamily, ...] = (
    ExternalTaskFamily("external-task", external_task_id="load"),
    ExternalTaskFamily("external-task-group", external_task_group_id="g"),
    ExternalTaskFamily("external-dag"),
    ExternalDagRunFamily(),
)
