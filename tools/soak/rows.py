"""The waits in Airflow's database: written by Airflow's own functions, and read back when the triggerer has told them.

Import it when the environment names the database. A scheduler and workers would have left the same rows.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.models.dag_version import DagVersion
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import and_, insert, or_, select, update

from tools.soak.dags import EXTERNAL, FREE, WAITING, dags
from tools.soak.ledger import Told, Wait

__all__ = ["Rows", "Started", "Target"]

_BUNDLE = "dags-folder"
_FIRST = datetime(2025, 1, 1, tzinfo=timezone.utc)
_TIMEOUT = timedelta(days=7)
_GRACE = 600.0  # a trigger that begins its work waits for its turn with Airflow's supervisor a dozen times
_TOLD = 1  # the process id of who has been told: no worker takes these tasks
_SUBMITTED = {"next_method": "execute_complete", "next_kwargs": {}}


@dataclass(frozen=True)
class Started:
    """Work that is under way.

    :param trigger: class path and arguments, as Airflow stores them.
    :param ends: epoch seconds.
    """

    trigger: tuple[str, Mapping[str, Any]]
    ends: float
    fails: bool
    free: bool = False


@dataclass(frozen=True)
class Target:
    """A task, or without one a run, of another Dag."""

    dag_id: str
    run_id: str
    date: datetime
    task_id: str | None = None


class Rows:
    """The database."""

    def __init__(self) -> None:
        initdb()
        with create_session() as session:
            DagBundlesManager().sync_bundles_to_db(session=session)  # type: ignore[no-untyped-call,unused-ignore]
            session.flush()
            parsed = [LazyDeserializedDAG.from_dag(dag) for dag in dags()]
            errors: dict[tuple[str, str | None], str] = {}
            update_dag_parsing_results_in_db(_BUNDLE, None, parsed, errors, None, set(), session)  # type: ignore[arg-type,unused-ignore]
            if errors:
                raise RuntimeError(f"Airflow refuses the Dags: {errors}")
        self._minutes = itertools.count()
        self._kinds: dict[str, tuple[Any, Any, dict[str, dict[str, Any]]]] = {}
        self._free_places: dict[str, list[tuple[str, str]]] = {}
        self._targets: dict[str, list[Target]] = {}
        self._next_dag = itertools.cycle(EXTERNAL)

    def begin(self, family: str, started: Sequence[Started]) -> list[Wait]:
        """Defer a task for each of them."""
        if not started:
            return []
        now = datetime.now(timezone.utc)
        with create_session() as session:
            triggers = [Trigger(classpath=one.trigger[0], kwargs=dict(one.trigger[1])) for one in started]
            session.add_all(triggers)
            session.flush()
            rows, waits = [], []
            for one, trigger in zip(started, triggers, strict=True):
                row = self._deferred(one, now, session) | {"trigger_id": trigger.id}
                rows.append(row)
                folder = f"dag_id={row['dag_id']}/run_id={row['run_id']}/task_id={row['task_id']}"
                waits.append(Wait(str(row["id"]), family, one.ends, one.fails, folder, _GRACE * one.free))
            session.execute(insert(TaskInstance), rows)
        return waits

    def _deferred(self, one: Started, now: datetime, session: Any) -> dict[str, Any]:
        dag_id = FREE if one.free else WAITING
        run_id, task_id = self._place(dag_id, session)
        row = dict(self._kind(dag_id, session)[2][task_id])
        how = {"next_method": "resume_in_worker", "next_kwargs": {}} if one.free else _SUBMITTED
        times = {"start_date": now, "updated_at": now, "trigger_timeout": now + _TIMEOUT}
        state = {"state": TaskInstanceState.DEFERRED, "try_number": 1}
        return {**row, **how, **times, **state, "id": uuid.uuid4(), "run_id": run_id}

    def told(self) -> list[Told]:
        """Who has been told since the last time. They do not go on: for that, there would have to be a worker."""
        ended = (TaskInstanceState.SUCCESS, TaskInstanceState.FAILED, TaskInstanceState.UP_FOR_RETRY)
        asked = select(
            TaskInstance.id,
            TaskInstance.dag_id,
            TaskInstance.state,
            TaskInstance.next_method,
            TaskInstance.next_kwargs,
            TaskInstance.scheduled_dttm,
            TaskInstance.end_date,
        ).where(
            TaskInstance.dag_id.in_((WAITING, FREE)),
            or_(
                TaskInstance.state == TaskInstanceState.SCHEDULED,
                and_(TaskInstance.dag_id == FREE, TaskInstance.state.in_(ended), TaskInstance.pid.is_(None)),
            ),
        )
        with create_session() as session:
            found = session.execute(asked).all()
            if found:
                done = {"state": TaskInstanceState.SUCCESS, "pid": _TOLD}
                session.execute(update(TaskInstance), [{"id": one.id, **done} for one in found])
        return [_told(one) for one in found]

    # What is waited for in this Airflow itself.

    def tasks(self, number: int) -> list[Target]:
        """So many tasks of other Dags that run."""
        with create_session() as session:
            return [self._task(next(self._next_dag), session) for _ in range(number)]

    def _task(self, dag_id: str, session: Any) -> Target:
        left = self._targets.setdefault(dag_id, [])
        if not left:
            run = self._run(dag_id, session)
            rows = self._kind(dag_id, session)[2].values()
            begun = {"state": TaskInstanceState.RUNNING, "try_number": 1, "run_id": run.run_id}
            session.execute(insert(TaskInstance), [{**row, **begun, "id": uuid.uuid4()} for row in rows])
            left.extend(Target(dag_id, run.run_id, run.logical_date, row["task_id"]) for row in rows)
        return left.pop()

    def runs(self, number: int) -> list[Target]:
        """So many runs of other Dags that run."""
        with create_session() as session:
            found = [
                (dag_id, self._run(dag_id, session)) for dag_id in itertools.islice(self._next_dag, number)
            ]
            return [Target(dag_id, run.run_id, run.logical_date) for dag_id, run in found]

    @staticmethod
    def end(ended: Iterable[tuple[Target, bool]]) -> None:
        """End them as the scheduler or a worker would; true for those that fail."""
        moment = datetime.now(timezone.utc)
        with create_session() as session:
            for target, fails in ended:
                kind: Any = DagRun if target.task_id is None else TaskInstance
                where = [kind.dag_id == target.dag_id, kind.run_id == target.run_id]
                if target.task_id is not None:
                    where.append(kind.task_id == target.task_id)
                state = "failed" if fails else "success"
                changed = {"state": state, "end_date": moment, "updated_at": moment}
                session.execute(
                    update(kind).where(*where).values(changed).execution_options(synchronize_session=False)
                )

    # Dags, runs and places.

    def _place(self, dag_id: str, session: Any) -> tuple[str, str]:
        """A task of a run that nobody has had yet."""
        left = self._free_places.setdefault(dag_id, [])
        if not left:
            run = self._run(dag_id, session)
            left.extend((run.run_id, task_id) for task_id in self._kind(dag_id, session)[2])
        return left.pop()

    def _run(self, dag_id: str, session: Any) -> Any:
        date = _FIRST + timedelta(minutes=next(self._minutes))
        run: Any = DagRun(
            dag_id,
            f"scheduled__{date.isoformat()}",
            logical_date=date,
            run_after=date,
            data_interval=(date, date),
            start_date=datetime.now(timezone.utc),
            state=DagRunState.RUNNING,
            run_type=DagRunType.SCHEDULED,
            triggered_by=DagRunTriggeredByType.TIMETABLE,
        )
        run.created_dag_version_id = self._kind(dag_id, session)[1]
        session.add(run)
        session.flush()
        return run

    def _kind(self, dag_id: str, session: Any) -> tuple[Any, Any, dict[str, dict[str, Any]]]:
        """The Dag, its version, and what Airflow writes for each of its tasks, but for the run."""
        if dag_id not in self._kinds:
            dag: Any = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
            version: Any = DagVersion.get_latest_version(dag_id, session=session)
            run: Any = DagRun(
                dag_id, "none", logical_date=_FIRST, run_after=_FIRST, run_type=DagRunType.SCHEDULED
            )
            mapping: Callable[..., dict[str, Any]] = TaskInstance.insert_mapping
            rows = {
                task.task_id: mapping("none", task, -1, dag_version_id=version.id, dag_run=run)
                for task in dag.task_dict.values()
            }
            self._kinds[dag_id] = dag, version.id, rows
        return self._kinds[dag_id]


def _told(row: Any) -> Told:
    moment = row.scheduled_dttm if row.dag_id == WAITING else row.end_date or row.scheduled_dttm
    return Told(str(row.id), moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp(), _outcome(row))


def _outcome(row: Any) -> str:
    """How it ended, by the event; or what else was written."""
    if row.dag_id == FREE and row.state != TaskInstanceState.SCHEDULED:
        return {"success": "succeeded"}.get(str(row.state), str(row.state))
    kwargs = row.next_kwargs if isinstance(row.next_kwargs, Mapping) else {}
    if row.next_method != _SUBMITTED["next_method"]:
        return f"{row.next_method}: {kwargs.get('error') or kwargs.get('event')}"[:300]
    event = kwargs.get("event") or {}
    status = (event.get("outcome") or {}).get("status") or {}
    if (event.get("outcome") or {}).get("timed_out"):
        return "timed out"
    phase = str(status.get("phase") or "without an outcome")
    return phase if phase in {"succeeded", "failed"} else f"{phase}: {status.get('message')}"[:300]
