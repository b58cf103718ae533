"""Tasks without a worker, driven as Airflow's scheduler and triggerers drive them.

The Dag is serialised and read again, the trigger is made of what the scheduler would store, and its questions are
answered as the triggerer's supervisor answers them: the messages that it has no ear for are refused.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.api_fastapi.execution_api.datamodels.taskinstance import DagRun
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.jobs.triggerer_job_runner import ToTriggerSupervisor, TriggerRunner
from airflow.sdk import DAG
from airflow.sdk.execution_time import comms, task_runner
from airflow.serialization.serialized_objects import DagSerialization
from pydantic import TypeAdapter

from astronomer.deferral import clock

__all__ = ["Ended", "Installation", "Killed", "WorkerFreeTask"]

_HEARD: TypeAdapter[Any] = TypeAdapter(ToTriggerSupervisor)
RUN = "manual__1"
DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Killed(BaseException):
    """The end of a triggerer's process, in the middle of whatever it did."""


@dataclass
class Installation:
    """What Airflow's database keeps, and the supervisor of every triggerer.

    :param run_id: of the Dag run; remote sides that live longer than a test know the submits of another one.
    :param connections: by id: the fields of Airflow connections; others are read from the environment.
    :param states: the states of other tasks, for :class:`GetTICount`: called with the message.
    """

    run_id: str = RUN
    xcoms: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    count: Callable[[Any], int] = lambda message: 1
    messages: list[Any] = field(default_factory=list)
    before: Callable[[Any], None] = lambda message: None
    answers: dict[type, Callable[[Any], Any]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def send(self, message: Any) -> Any:
        """Answer as the supervisor of a triggerer does."""
        assert isinstance(_HEARD.validate_python(message.model_dump()), type(message))
        self.before(message)
        with self._lock:
            self.messages.append(message)
            return self._answer(message)

    async def asend(self, message: Any) -> Any:
        return self.send(message)

    def of(self, kind: type) -> list[Any]:
        """The messages of a kind."""
        return [one for one in self.messages if isinstance(one, kind)]

    def pull(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """An XCom, as another task would pull it."""
        from airflow.sdk.serde import deserialize

        found = self.xcoms.get((self.run_id, task_id, map_index, key))
        return None if found is None else deserialize(json.loads(json.dumps(found)))

    @contextmanager
    def in_place(self) -> Iterator[Installation]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(task_runner, "SUPERVISOR_COMMS", self, raising=False)
            yield self

    def _answer(self, message: Any) -> Any:
        if type(message) in self.answers:
            return self.answers[type(message)](message)
        if isinstance(message, comms.GetXCom):
            return comms.XComResult(key=message.key, value=self.xcoms.get(_place(message)))
        if isinstance(message, comms.SetXCom):
            self.xcoms[_place(message)] = json.loads(json.dumps(message.value))
            return None
        if isinstance(message, comms.DeleteXCom):
            self.xcoms.pop(_place(message), None)
            return None
        if isinstance(message, comms.GetTICount):
            return comms.TICount(count=self.count(message))
        if isinstance(message, comms.GetConnection):
            return self._connection(message.conn_id)
        if isinstance(message, comms.MaskSecret):
            return None
        raise AssertionError(f"nobody answers {message!r}")

    def _connection(self, conn_id: str) -> Any:
        if conn_id in self.connections:
            blank = dict.fromkeys(("host", "login", "password", "schema", "port", "extra"))
            return comms.ConnectionResult(**{"conn_id": conn_id, **blank, **self.connections[conn_id]})
        return comms.ErrorResponse(error=comms.ErrorType.CONNECTION_NOT_FOUND, detail={"conn_id": conn_id})


def _place(message: Any) -> tuple[Any, ...]:
    index = -1 if message.map_index is None else message.map_index
    return message.run_id, message.task_id, index, message.key


@dataclass
class Ended:
    """What the event of a trigger makes of the task."""

    state: str
    event: Any
    resume: dict[str, Any] | None = None
    """What a worker has to go on with, where the state is ``scheduled``."""


class WorkerFreeTask:
    """One task instance of a Dag that starts in the triggerer.

    :param make: makes the Dag's tasks within the Dag, and returns the operator, mapped or not.
    :param dag: arguments of the Dag.
    """

    def __init__(
        self, airflow: Installation, make: Callable[[], Any], map_index: int = -1, **dag: Any
    ) -> None:
        self.airflow = airflow
        self.map_index = map_index
        self.try_number = 0
        self.state: str | None = None
        with DAG("dag", **{"schedule": None, "start_date": DAY, **dag}) as parsed:
            self.parsed = make()
        self._data = json.loads(json.dumps(DagSerialization.to_dict(parsed)))
        self.task = DagSerialization.from_dict(self._data).get_task(self.parsed.task_id)

    @property
    def starts_in_triggerer(self) -> bool:
        return self.task.start_from_trigger is True

    def schedule(self) -> None:
        """The scheduler begins the next try."""
        assert self.starts_in_triggerer, "the task takes the worker path"
        self.try_number += 1
        self.state = "deferred"
        now = datetime.fromtimestamp(clock.now(), timezone.utc)
        limits = [self.task.start_trigger_args.timeout, self.task.execution_timeout]
        left = [one for one in limits if one is not None]
        self.timeout_after: datetime | None = now + min(left) if left else None
        raw = self.task.start_trigger_args.trigger_kwargs
        self._kwargs: dict[str, Any] = json.loads(json.dumps(raw))["__var"]

    def trigger(self) -> Any:
        """The trigger, as a triggerer makes it: a new one each time, of what the database has."""
        from astronomer.deferral.operator_trigger import OperatorTrigger

        dto = TaskInstanceDTO(
            id=uuid.uuid5(uuid.NAMESPACE_OID, f"{self.map_index} {self.try_number}"),
            task_id=self.task.task_id,
            dag_id="dag",
            run_id=self.airflow.run_id,
            try_number=self.try_number,
            dag_version_id=uuid.UUID(int=1),
            map_index=self.map_index,
            pool_slots=1,
            priority_weight=1,
        )
        run = DagRun(
            dag_id="dag",
            run_id=self.airflow.run_id,
            logical_date=DAY,
            data_interval_start=DAY,
            data_interval_end=DAY + timedelta(days=1),
            run_after=DAY,
            start_date=DAY,
            end_date=None,
            run_type="manual",
            state="running",
            consumed_asset_events=[],
            partition_key=None,
            partition_date=None,
        )
        ti = TriggerRunner.create_runtime_ti(dto, self._data, run.model_dump(exclude_unset=True))
        context = ti.get_template_context()
        made = OperatorTrigger(**self._kwargs)
        made.task_instance = ti
        made.trigger_id = 1
        made.timeout_after = self.timeout_after
        made.render_template_fields(context=context)
        return made

    async def wait(self) -> Ended:
        """One life of the trigger, in the running loop, up to its event."""
        trigger = self.trigger()
        events = [event async for event in trigger.run()]
        assert len(events) == 1, events
        return self.take(events[0])

    def take(self, event: Any) -> Ended:
        """What Airflow makes of an event."""
        state = getattr(event, "task_instance_state", None)
        if state is None:
            self.state = "scheduled"
            return Ended("scheduled", event, event.payload)
        retries = int(self.task.retries or 0)
        self.state = str(state.value)
        if self.state == "failed" and self.try_number <= retries:
            self.state = "up_for_retry"
        elif event.xcoms:
            for key, value in event.xcoms.items():
                # Encoded twice, as in Airflow 3.3.
                self.airflow.xcoms[(self.airflow.run_id, self.task.task_id, self.map_index, key)] = (
                    json.dumps(value)
                )
        return Ended(self.state, event)

    def run(self) -> Ended:
        """One try, from the scheduler to the event."""
        self.schedule()
        return asyncio.run(self.wait())
