"""What the pages of the documentation need around them: the local services, and the life of one task in memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard

from astronomer.deferral import _compat, sensor
from astronomer.deferral._compat import TaskDeferred
from astronomer.lab.databricks import DatabricksLab
from astronomer.lab.snowflake import SnowflakeLab

_runs = itertools.count(1)  # two runs of one name would be one to a service that knows submit keys


@dataclass
class TaskInstance:
    """The part of ``context["ti"]`` that operators use."""

    dag_id: str = "orders"
    run_id: str = field(default_factory=lambda: f"manual__{next(_runs)}")
    task_id: str = "load"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


class Store:
    """Airflow's task state store, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        self.values[key] = json.dumps(value, allow_nan=False)


def new_context(**more: Any) -> dict[str, Any]:
    return {"ti": TaskInstance(), "task_state_store": Store(), **more}


@dataclass
class Run:
    """One try of one task, and what was seen of it."""

    context: Mapping[str, Any]
    deferrals: list[Any] = field(default_factory=list)
    result: Any = None

    def of(self, operator: Any, *, during: Callable[[dict[str, Any]], object] | None = None) -> Any:
        """Execute, wait as the triggerer would, resume; ``during`` is called with the trigger's job once deferred."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ExecutorSafeguard, "test_mode", True)
            call = lambda: operator.execute(self.context)  # noqa: E731
            while True:
                try:
                    self.result = call()
                    return self.result
                except TaskDeferred as deferred:
                    self.deferrals.append(deferred)
                    if during is not None:
                        during(deferred.trigger.job)
                    event = asyncio.run(first_event(deferred.trigger))
                    resume = getattr(operator, deferred.method_name)
                    call = lambda event=event, resume=resume: resume(self.context, event)  # noqa: E731


async def first_event(trigger: Any) -> Any:
    path, arguments = trigger.serialize()
    again = type(trigger)(**json.loads(json.dumps(arguments)))
    assert path.endswith(type(trigger).__name__)
    async for event in again.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables; afterwards the environment is what it was."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def settled_at_once() -> Iterator[None]:
    """Triggers report at once: nothing here has a worker whose exit could be reported late."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (_compat, sensor):
            patch.setattr(module, "settling_time", lambda: 0.0)
        yield


@contextmanager
def snowflake(**settings: Any) -> Iterator[SnowflakeLab]:
    """A local Snowflake behind the Airflow connection ``snowflake_default``."""
    with SnowflakeLab(**settings) as lab, environment({**lab.connection_env(), **lab.client_env()}):
        yield lab


@contextmanager
def databricks(**settings: Any) -> Iterator[DatabricksLab]:
    """A local workspace behind the Airflow connection ``databricks_default``."""
    with DatabricksLab(**settings) as lab, environment({**lab.connection_env(), **lab.client_env()}):
        yield lab
