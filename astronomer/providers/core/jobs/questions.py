"""The questions that a process may put to its supervisor about Dags of this Airflow; the only border to it.

A triggerer has no access to the metadata database. Its supervisor answers about one message per loop, and each loop
costs some twenty SQL statements, whatever is asked; so few questions are asked, and not all at once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from astronomer.deferral import Transient
from astronomer.deferral._compat import ask_supervisor

__all__ = ["Questions", "UnknownToAirflow"]

_BREATH = 0.25  # of the time that the answer took: four fifths of the supervisor's time at most are ours
_NO_GROUP = "astronomer-providers asks whether the Dag exists"
_NO_DAG = re.compile(r"^The Dag with\b.*\bnot found")  # airflow/api_fastapi/common/dagbag.py
_LONGEST_BREATH = 5.0  # after an answer that never came, others need not wait long

Ask = Callable[[Any], Coroutine[Any, Any, Any]]


class UnknownToAirflow(Exception):
    """Airflow knows no such Dag or task group. Correct the id, or wait until the Dag has been parsed."""


class _Gate:
    """One question at a time in each event loop, with a breath after it, so that others are heard in between."""

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._ready = 0.0

    @classmethod
    def current(cls) -> _Gate:
        return cls._of_loop.setdefault(asyncio.get_running_loop(), cls())

    async def through(self, ask: Ask, message: Any) -> Any:
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(max(0.0, self._ready - loop.time()))
            begun = loop.time()
            try:
                return await ask(message)
            finally:
                self._ready = loop.time() + min(_LONGEST_BREATH, _BREATH * (loop.time() - begun))


class Questions:
    """What can be asked about one Dag. Every question raises :class:`Transient` in bad weather.

    :param ask: sends one message, and returns its answer.
    """

    def __init__(self, dag_id: str, ask: Ask = ask_supervisor) -> None:
        self._dag_id = dag_id
        self._ask = ask
        self.asked = 0

    async def task_states(
        self,
        *,
        task_ids: Sequence[str] | None = None,
        group_id: str | None = None,
        dates: Sequence[str] | None = None,
        run_ids: Sequence[str] | None = None,
    ) -> dict[str, dict[str, str | None]]:
        """State by task instance by run id.

        :raises UnknownToAirflow: there is no such task group, or no such Dag.
        """
        from airflow.sdk.execution_time.comms import GetTaskStates

        answer = await self._answer(
            GetTaskStates(
                dag_id=self._dag_id,
                task_ids=None if task_ids is None else list(task_ids),
                task_group_id=group_id,
                logical_dates=_moments(dates),
                run_ids=None if run_ids is None else list(run_ids),
            )
        )
        return {run_id: _words(states) for run_id, states in answer.task_states.items()}

    async def count_runs(
        self,
        states: Sequence[str] | None = None,
        *,
        dates: Sequence[str] | None = None,
        run_ids: Sequence[str] | None = None,
    ) -> int:
        """How many of these runs are there, or are in one of these states."""
        from airflow.sdk.execution_time.comms import GetDRCount

        answer = await self._answer(
            GetDRCount(
                dag_id=self._dag_id,
                states=None if states is None else list(states),
                logical_dates=_moments(dates),
                run_ids=None if run_ids is None else list(run_ids),
            )
        )
        return int(answer.count)

    async def count_task_instances(self, task_id: str | None = None) -> int:
        """How many instances of a task, or of all tasks, all runs of the Dag together have."""
        from airflow.sdk.execution_time.comms import GetTICount

        ids = None if task_id is None else [task_id]
        return int((await self._answer(GetTICount(dag_id=self._dag_id, task_ids=ids))).count)

    async def dag(self) -> Any:
        """What Airflow knows of the Dag; ``None`` where this Airflow does not tell. A worker may ask this.

        :raises UnknownToAirflow: there is no such Dag.
        """
        from airflow.sdk.execution_time import comms

        if not hasattr(comms, "GetDag"):  # before Airflow 3.3
            return None
        return await self._answer(comms.GetDag(dag_id=self._dag_id))

    async def exists(self) -> bool:
        """Whether there is such a Dag. A triggerer may not ask for it, but for a task group of it."""
        try:
            await self.task_states(group_id=_NO_GROUP)
        except UnknownToAirflow as error:
            return _NO_DAG.search(str(error)) is None
        return True

    async def run_with(self, date: str) -> str | None:
        """The id of the run with that logical date, if it has tasks. A triggerer may ask this."""
        return next(iter(await self.task_states(dates=[date])), None)

    async def run_at(self, date: str) -> str | None:
        """The id of the run with that logical date, if there is one. A worker may ask this."""
        from airflow.sdk.execution_time.comms import GetPreviousDagRun

        moment = datetime.fromisoformat(date)
        answer = await self._answer(
            GetPreviousDagRun(dag_id=self._dag_id, logical_date=moment + timedelta(microseconds=1))
        )
        run = answer.dag_run
        return run.run_id if run is not None and run.logical_date == moment else None

    async def _answer(self, message: Any) -> Any:
        from airflow.sdk.exceptions import AirflowRuntimeError

        self.asked += 1
        try:
            return await _Gate.current().through(self._ask, message)
        except AirflowRuntimeError as error:
            detail = error.error.detail or {}
            if detail.get("status_code") == 404 and (said := _not_found(detail)):
                raise UnknownToAirflow(said) from error
            raise Transient(f"Airflow's supervisor could not answer: {detail or error}") from error
        except (OSError, EOFError) as error:
            raise Transient(f"Airflow's supervisor was not heard: {error!r}") from error


def _moments(dates: Sequence[str] | None) -> list[datetime] | None:
    return None if dates is None else [datetime.fromisoformat(date) for date in dates]


def _words(states: Mapping[str, Any]) -> dict[str, str | None]:
    return {
        key: None if state is None else str(getattr(state, "value", state)) for key, state in states.items()
    }


def _not_found(detail: Mapping[str, Any]) -> str:
    """Airflow's words on what it does not know; empty for a 404 of something on the way, or of an unknown route."""
    inner: Any = detail
    while isinstance(inner, Mapping) and isinstance(inner.get("detail"), Mapping):
        inner = inner["detail"]
    return str(inner.get("message") or "not found") if inner.get("reason") == "not_found" else ""
