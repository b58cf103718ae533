"""One operator in the triggerer: its steps, and what is noted at their ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from astronomer.deferral import _compat_triggerer as airflow
from astronomer.deferral import recipe
from astronomer.deferral.in_triggerer import NeedsWorker
from astronomer.deferral.worker_free import WorkerFree
from astronomer.deferral.xcom_memory import XCOM_KEY, XComMemory

__all__ = ["Life", "loaded", "mapped_arguments"]


@dataclass
class Life:
    """One operator in the triggerer, and what it needs."""

    task: WorkerFree
    ti: Any
    context: dict[str, Any]
    memory: XComMemory
    owner: str
    patience: float = 0.0
    last_step: dict[str, Any] | None = None

    def execute(self) -> Any:
        """The first step."""
        return airflow.execute(self.task, self.context)

    def show(self) -> None:
        """Push the links while there is time; at the end, each question to Airflow holds up the next task."""
        airflow.push_links(self.ti, self.task)

    def resumed(self, step: dict[str, Any]) -> Callable[[], Any]:
        """The step after a wait."""
        self.last_step = step
        return lambda: airflow.resume(self.task, step, self.context)

    def check_size(self, result: Any) -> None:
        """Leave a result that is too large for an XCom of the triggerer to a worker."""
        if result is not None and self.task.do_xcom_push and self.task.in_triggerer is not None:
            self.task.in_triggerer.no_more_than(airflow.size_of(result), "the result")

    def to_resume(self) -> dict[str, Any] | None:
        """The step with which a worker can go on."""
        return self.task.to_resume() or self.last_step

    def noted(self) -> dict[str, Any] | None:
        """The XComs that say at the end of a success that there is nothing to find again."""
        note = self.memory.after_success()
        return None if note is None else {XCOM_KEY: note}


def loaded(path: str) -> type[WorkerFree]:
    """The class of the operator; a worker goes on where only workers have its package, or its new release."""
    try:
        found: type[WorkerFree] = recipe.load(path)
    except (ImportError, AttributeError) as error:
        raise NeedsWorker(f"this triggerer does not have {path} ({error})") from error
    return found


def mapped_arguments(expand: Any, ti: Any, kind: type[WorkerFree]) -> dict[str, Any]:
    """The mapped arguments of this task instance; a worker does not render those that are mapped over an XCom."""
    which, written = expand
    value = recipe.decode(written, lambda task, key: airflow.Pulled(ti.xcom_pull(task, key=key)))
    whole: set[str] = set()
    if isinstance(value, airflow.Pulled):  # dictionaries of arguments: a worker does render these
        value = value.value
    elif isinstance(value, dict):
        whole = {name for name, one in value.items() if isinstance(one, airflow.Pulled)}
        value = {name: one.value if name in whole else one for name, one in value.items()}
    whole &= set(kind.template_fields)
    found = airflow.expand(which, value, ti.map_index)
    if own := airflow.airflows_own(found):
        raise NeedsWorker(f"workers are told what `{own[0]}` is mapped to")
    return {name: airflow.Pulled(one) if name in whole else one for name, one in found.items()}
