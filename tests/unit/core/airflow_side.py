"""An Airflow in memory: Dags, runs and task instances, and a supervisor that answers about them as the API does.

Its semantics are those of ``airflow/api_fastapi/execution_api/routes``: ``task_instances.py`` and ``dag_runs.py``.
``tests/integration/core`` asks the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from airflow.sdk.api.datamodels._generated import DagRun, DagRunType
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import comms, task_runner

from astronomer.deferral import clock

__all__ = ["DAY", "AirflowSide", "Dag", "Question", "Run", "api_error", "day", "iso", "tells_of_dags"]

DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)

tells_of_dags = pytest.mark.skipif(
    not hasattr(comms, "GetDag"), reason="Airflow tells a worker of Dags since 3.3"
)


def day(number: int) -> datetime:
    """A logical date."""
    return DAY + timedelta(days=number)


def iso(*numbers: int) -> list[str]:
    """Logical dates as a wait has them."""
    return [day(number).isoformat() for number in numbers]


def api_error(
    status: int | None, said: Any = None, kind: ErrorType = ErrorType.API_SERVER_ERROR
) -> AirflowRuntimeError:
    """What a question raises when the API behind the supervisor has answered with this status."""
    detail = {"status_code": status, "message": "Server returned error", "detail": said}
    return AirflowRuntimeError(comms.ErrorResponse(error=kind, detail=detail))


@dataclass
class Run:
    """A Dag run."""

    run_id: str
    date: datetime | None
    state: str = "running"
    tasks: dict[tuple[str, int], str | None] = field(default_factory=dict)

    def set(self, **states: str | list[str | None] | None) -> Run:
        """Put tasks into states; a list is those of the instances of a mapped task. ``__`` stands for a dot."""
        for name, state in states.items():
            task_id = name.replace("__", ".")
            if isinstance(state, list):
                self.tasks |= {(task_id, index): one for index, one in enumerate(state)}
            else:
                self.tasks[task_id, -1] = state
        return self


@dataclass
class Dag:
    """A Dag and its runs."""

    dag_id: str
    groups: dict[str, Collection[str]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    bundle_name: str = "dags-folder"
    relative_fileloc: str = "external.py"

    def run(
        self,
        date: int | datetime | None = None,
        run_id: str | None = None,
        state: str = "running",
        **tasks: str | list[str | None] | None,
    ) -> Run:
        """Create a run, of a day or of no date."""
        moment = day(date) if isinstance(date, int) else date
        run_id = run_id or (f"scheduled__{moment.isoformat()}" if moment else f"manual__{len(self.runs)}")
        assert run_id not in self.runs, "a run id is unique"
        assert moment is None or moment not in {run.date for run in self.runs.values()}, "a date has one run"
        self.runs[run_id] = Run(run_id, moment, state).set(**tasks)
        return self.runs[run_id]

    def delete(self, run: Run) -> None:
        """Delete a run."""
        del self.runs[run.run_id]


@dataclass
class Question:
    """One question: when it came, what it was, and where it came from."""

    at: float
    message: Any
    from_worker: bool


@dataclass
class AirflowSide:
    """What a task's or trigger's supervisor knows.

    :ivar weather: exceptions that meet the next questions, in order; ``None`` lets one through, a number makes the
        answer take so many seconds more.
    :ivar latency: seconds that an answer to a trigger takes.
    :ivar touched: messages that would have changed something, or that nobody may send from there.
    """

    dags: dict[str, Dag] = field(default_factory=dict)
    weather: list[Exception | float | None] = field(default_factory=list)
    latency: float = 0.0
    questions: list[Question] = field(default_factory=list)
    touched: list[Any] = field(default_factory=list)
    on_question: Callable[[Any], object] | None = None
    under_way: int = 0
    most_under_way: int = 0
    _later: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def dag(self, dag_id: str = "orders", **groups: Collection[str]) -> Dag:
        """Add a Dag, with the tasks of its groups."""
        self.dags[dag_id] = Dag(dag_id, groups)
        return self.dags[dag_id]

    def later(self, seconds: float, change: Callable[[], object]) -> None:
        """Something that happens after some virtual time."""
        self._later.append((clock.now() + seconds, change))
        self._later.sort(key=lambda one: one[0])

    @property
    def asked(self) -> list[str]:
        """The kinds of all questions."""
        return [type(question.message).__name__ for question in self.questions]

    def forget(self) -> None:
        """Count questions from here."""
        self.questions.clear()

    @contextmanager
    def in_place(self) -> Iterator[AirflowSide]:
        """Stand where tasks and triggers look for their supervisor."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task_runner, "SUPERVISOR_COMMS", self, raising=False)
            yield self

    # The supervisor.

    async def asend(self, message: Any) -> Any:
        """The supervisor of a triggerer, which answers a few kinds of questions only."""
        if not isinstance(message, comms.GetTaskStates | comms.GetDRCount | comms.GetTICount):
            self._refuse(message)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            slow = self._met(message, from_worker=False)
            await asyncio.sleep(self.latency + slow)
            return self._answer(message)
        finally:
            self.under_way -= 1

    def send(self, message: Any) -> Any:
        """The supervisor of a worker."""
        self._met(message, from_worker=True)
        return self._answer(message)

    def _met(self, message: Any, *, from_worker: bool) -> float:
        self.questions.append(Question(clock.now(), message, from_worker))
        if self.on_question is not None:
            self.on_question(message)
        weather = self.weather.pop(0) if self.weather else None
        if isinstance(weather, Exception):
            raise weather
        return weather or 0.0

    def _answer(self, message: Any) -> Any:
        while self._later and self._later[0][0] <= clock.now():
            self._later.pop(0)[1]()
        message = type(message).model_validate(message.model_dump())
        _assert_address_is_short(message)
        match message:
            case comms.GetTaskStates():
                return comms.TaskStatesResult(task_states=self._task_states(message))
            case comms.GetTICount():
                return comms.TICount(count=self._count_instances(message))
            case comms.GetDRCount():
                return comms.DRCount(count=len(self._runs(message, message.states)))
            case comms.GetPreviousDagRun():
                return comms.PreviousDagRunResult(dag_run=self._previous(message))
        if type(message).__name__ == "GetDag":  # Airflow 3.3 has it
            return self._dag(message)
        return self._refuse(message)

    def _refuse(self, message: Any) -> Any:
        self.touched.append(message)
        raise AssertionError(f"nothing else is asked, and nothing is ever changed: {message!r}")

    # The API. An empty list never arrives there: no filter.

    def _runs(self, message: Any, states: Collection[str] | None = None) -> list[Run]:
        dag = self.dags.get(message.dag_id)
        return [
            run
            for run in (dag.runs.values() if dag else ())
            if (not message.logical_dates or run.date in message.logical_dates)
            and (not message.run_ids or run.run_id in message.run_ids)
            and (not states or run.state in states)
        ]

    def _instances(self, message: Any) -> list[tuple[Run, str, int]]:
        assert not (message.task_ids and message.task_group_id), "nobody asks for both"
        wanted = self._members(message) if message.task_group_id else message.task_ids or None
        index = -1 if message.map_index is None else message.map_index
        return [
            (run, task_id, map_index)
            for run in self._runs(message)
            for task_id, map_index in run.tasks
            if (wanted is None or task_id in wanted) and (index < 0 or map_index == index)
        ]

    def _members(self, message: Any) -> Collection[str]:
        dag = self.dags.get(message.dag_id)
        if dag is None:
            raise _not_found(f"The Dag with ID: `{message.dag_id}` was not found")
        if message.task_group_id not in dag.groups:
            raise _not_found(f"Task group {message.task_group_id} not found in DAG {message.dag_id}")
        return dag.groups[message.task_group_id]

    def _task_states(self, message: Any) -> dict[str, dict[str, str | None]]:
        found: dict[str, dict[str, str | None]] = {}
        for run, task_id, index in self._instances(message):
            key = task_id if index < 0 else f"{task_id}_{index}"
            found.setdefault(run.run_id, {})[key] = run.tasks[task_id, index]
        return found

    def _count_instances(self, message: Any) -> int:
        assert message.task_group_id is None, "nobody counts the tasks of a group"
        states = message.states
        found = [run.tasks[task_id, index] for run, task_id, index in self._instances(message)]
        return sum(not states or state in states or (state is None and "null" in states) for state in found)

    def _dag(self, message: Any) -> Any:
        dag = self.dags.get(message.dag_id)
        if dag is None:
            raise _not_found(f"The Dag with dag_id: `{message.dag_id}` was not found")
        return comms.DagResult(
            dag_id=dag.dag_id,
            is_paused=False,
            bundle_name=dag.bundle_name,
            bundle_version=None,
            relative_fileloc=dag.relative_fileloc,
            owners=None,
            tags=[],
            next_dagrun=None,
        )

    def _previous(self, message: Any) -> Any:
        dag = self.dags.get(message.dag_id)
        runs = [run for run in (dag.runs.values() if dag else ()) if run.date is not None]
        before = [run for run in runs if run.date < message.logical_date]  # type: ignore[operator]
        if not before:
            return None
        run = max(before, key=lambda one: one.date)  # type: ignore[arg-type,return-value]
        return DagRun.model_construct(
            dag_id=message.dag_id,
            run_id=run.run_id,
            logical_date=run.date,
            data_interval_start=None,
            data_interval_end=None,
            run_after=run.date,
            start_date=None,
            end_date=None,
            run_type=DagRunType.SCHEDULED,
            state=run.state,
            consumed_asset_events=[],
            partition_key=None,
        )


def _not_found(said: str) -> AirflowRuntimeError:
    return api_error(404, {"detail": {"reason": "not_found", "message": said}})


def _assert_address_is_short(message: Any) -> None:
    """The supervisor puts it all into an address, and its client refuses one that is too long."""
    values = {name: value for name, value in message.model_dump(mode="json").items() if value is not None}
    httpx.URL("http://in-process.invalid./task-instances/states", params=values)
