"""A real metadata database with the real Execution API before it, asked as a supervisor asks it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from a2wsgi import ASGIMiddleware
from airflow.sdk.api.client import Client, ServerResponseError
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import comms, request_handlers, task_runner

__all__ = ["DAGS", "DAY", "RealAirflow", "day"]

DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)
DAGS = """
from datetime import datetime
from airflow.sdk import DAG, TaskGroup, task
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("ext", schedule=None, start_date=datetime(2026, 1, 1)):
    for name in "abc":
        EmptyOperator(task_id=name)
    with TaskGroup("g"):
        EmptyOperator(task_id="x")
        EmptyOperator(task_id="y")

    @task
    def m(number): ...

    m.expand(number=[1, 2, 3])

with DAG("never_ran", schedule=None, start_date=datetime(2026, 1, 1)):
    EmptyOperator(task_id="a")
"""


def day(number: int) -> datetime:
    """A logical date."""
    return DAY + timedelta(days=number)


class _Api:
    """Airflow's in-process Execution API, on an event loop that is closed at the end; its own is not."""

    def __init__(self) -> None:
        from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI

        app = InProcessExecutionAPI().app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._lifespan = app.router.lifespan_context(app)
        self._run(self._lifespan.__aenter__())
        self.transport = httpx.WSGITransport(app=ASGIMiddleware(app, loop=self._loop))  # type: ignore[arg-type]

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        self._run(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class RealAirflow:
    """The database of this test process, and the messages that a worker or triggerer sends about it.

    Airflow's own in-process API and request handlers are between them, as in a triggerer.
    """

    def __init__(self) -> None:
        self.folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
        self.asked: list[Any] = []
        self._make_database()
        self._api = _Api()
        self._client = Client(base_url=None, token="", dry_run=True, transport=self._api.transport)
        self._client.base_url = "http://in-process.invalid./"
        self.read(DAGS)

    def _make_database(self) -> None:
        from airflow import settings
        from airflow.models import import_all_models
        from airflow.models.base import Base
        from airflow.utils.db import synchronize_log_template

        import_all_models()
        Base.metadata.create_all(settings.engine)
        synchronize_log_template()

    def close(self) -> None:
        """End the API."""
        self._client.close()
        self._api.close()

    def read(self, text: str, name: str = "external.py") -> None:
        """Put a Dag file into the bundle, and let Airflow parse it."""
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        path.write_text(text)
        DagBundlesManager().sync_bundles_to_db()
        bag = DagBag(dag_folder=str(path), bundle_path=self.folder, bundle_name="dags-folder")
        assert not bag.import_errors
        sync_bag_to_db(bag, "dags-folder", None)

    # What other processes do.

    def run(self, run_id: str, date: datetime | None, dag_id: str = "ext", state: str = "running") -> str:
        """Create a run with its task instances."""
        from airflow.models.dagbag import DBDagBag
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        with create_session() as session:
            dag = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
            dag.create_dagrun(
                run_id=run_id,
                logical_date=date,
                data_interval=None if date is None else (date, date),
                run_after=date or DAY,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState(state),
                session=session,
            )
        return run_id

    def set(self, run_id: str, dag_id: str = "ext", **states: str | None) -> None:
        """Set the states of tasks; ``_run`` is the run itself, and ``m_1`` an instance of the mapped task."""
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import update

        with create_session() as session:
            for name, state in states.items():
                if name == "_run":
                    where = (DagRun.dag_id == dag_id, DagRun.run_id == run_id)
                    session.execute(update(DagRun).where(*where).values(state=state))
                    continue
                task_id, index = ("m", int(name[2:])) if name.startswith("m_") else (name, -1)
                task_id = f"g.{task_id}" if task_id in {"x", "y"} else task_id
                where = (
                    TaskInstance.dag_id == dag_id,
                    TaskInstance.run_id == run_id,
                    TaskInstance.task_id == task_id,
                    TaskInstance.map_index == index,
                )
                session.execute(update(TaskInstance).where(*where).values(state=state))

    def delete(self, run_id: str | None = None) -> None:
        """Delete a run, or all."""
        from airflow.models.dagrun import DagRun
        from airflow.utils.session import create_session
        from sqlalchemy import delete

        with create_session() as session:
            session.execute(delete(DagRun).where(*([DagRun.run_id == run_id] if run_id else [])))

    def states(self, dag_id: str = "ext") -> dict[str, Any]:
        """What every task is in, by run."""
        return dict(self._client.task_instances.get_task_states(dag_id).task_states)

    # What a task sees.

    def send(self, message: Any) -> Any:
        """The supervisor of a worker."""
        self.asked.append(message)
        try:
            return self._handle(message)
        except ServerResponseError as error:
            detail = {
                "status_code": error.response.status_code,
                "message": str(error),
                "detail": error.response.json(),
            }
            answer = comms.ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail)
            raise AirflowRuntimeError(answer) from None

    async def asend(self, message: Any) -> Any:
        """The supervisor of a triggerer."""
        return self.send(message)

    def _handle(self, message: Any) -> Any:
        handlers = {
            comms.GetTICount: request_handlers.handle_get_ti_count,
            comms.GetTaskStates: request_handlers.handle_get_task_states,
            comms.GetDRCount: request_handlers.handle_get_dr_count,
        }
        if isinstance(message, comms.GetDag):
            return comms.DagResult.from_api_response(self._client.dags.get(dag_id=message.dag_id))
        if isinstance(message, comms.GetPreviousDagRun):
            return self._client.dag_runs.get_previous(message.dag_id, message.logical_date, message.state)
        return handlers[type(message)](self._client, message)[0]

    @contextmanager
    def in_place(self) -> Iterator[RealAirflow]:
        """Stand where tasks and triggers look for their supervisor."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task_runner, "SUPERVISOR_COMMS", self, raising=False)
            patch.setattr(ExecutorSafeguard, "test_mode", True)
            self.asked.clear()
            yield self

    def context(self, date: datetime | None = DAY) -> dict[str, Any]:
        """Of a task that waits, in the run of that date."""
        bundle = SimpleNamespace(name="dags-folder", path=self.folder)
        xcoms: dict[str, Any] = {}
        ti = SimpleNamespace(
            dag_id="waiting",
            run_id="waiting-run",
            task_id="wait",
            map_index=-1,
            try_number=1,
            max_tries=0,
            bundle_instance=bundle,
            xcoms=xcoms,
            xcom_push=lambda key, value: xcoms.update({key: value}),
            get_ti_count=task_runner.RuntimeTaskInstance.get_ti_count,
            get_task_states=task_runner.RuntimeTaskInstance.get_task_states,
            get_dr_count=task_runner.RuntimeTaskInstance.get_dr_count,
        )
        return {"ti": ti, "logical_date": date, "dag_run": SimpleNamespace(run_after=DAY)}
