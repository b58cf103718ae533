"""What a task tells OpenLineage in all of its processes, through the real provider and its file transport."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.openlineage import conf
from airflow.providers.openlineage.plugins.listener import get_openlineage_listener
from airflow.sdk import DAG, plugins_manager
from airflow.sdk.api.datamodels._generated import DagRun, TIRunContext
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.lineage import HookLineageReader, get_hook_lineage_collector
from airflow.sdk.listener import get_listener_manager
from airflow.utils.state import TaskInstanceState

from astronomer.deferral import WatchSensor
from tests.integration import driving
from tests.integration.lineage.schemas import check

__all__ = [
    "ENDS",
    "Events",
    "ListenedTask",
    "dag",
    "finish",
    "job_of",
    "openlineage",
    "ours_of",
    "superset",
    "whole",
]

Event = dict[str, Any]
ENDS = ("COMPLETE", "FAIL", "ABORT")
NOTHING_KNOWN = {"unknownSourceAttribute"}
"""With this the provider says that nobody tells anything of an operator."""


class Events:
    """The file that the transport writes; every event that is read from it fits its schema."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")

    def __call__(self) -> list[Event]:
        """What was written since, oldest first."""
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        self.path.write_text("")
        for event in found:
            check(event)
        return found


@contextmanager
def openlineage(folder: Path) -> Iterator[Events]:
    """OpenLineage is switched on, in this process; a worker would fork for it."""
    events = Events(folder / "events.jsonl")
    transport = {"type": "file", "log_file_path": str(events.path), "append": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(transport))
        patch.setenv("AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD", "True")
        _forget()
        # The plugins may have been loaded in this process when OpenLineage had no transport, and so no reader.
        patch.setattr(plugins_manager, "get_hook_lineage_readers_plugins", lambda: [HookLineageReader])
        in_this_process = get_openlineage_listener()
        patch.setattr(in_this_process, "_execute", lambda call, name, use_fork=False: call())
        manager = get_listener_manager()
        manager.add_listener(in_this_process)
        yield events
        manager.pm.unregister(in_this_process)
    _forget()


def _forget() -> None:
    for cached in vars(conf).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    get_openlineage_listener.cache_clear()
    get_hook_lineage_collector.cache_clear()


def dag() -> DAG:
    """The Dag of the task."""
    return DAG("dag", schedule=None, start_date=dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc))


class ListenedTask(driving.Task):
    """A task of which each process tells that it begins, and the last one how it ends."""

    def __init__(self, operator_class: type[Any], **arguments: Any) -> None:
        super().__init__(operator_class, dag=dag, **arguments)
        if issubclass(operator_class, WatchSensor):
            self._arguments.setdefault("poke_interval", self._arguments.pop("poll_interval"))

    def tell(self, state: str, error: BaseException | None = None) -> None:
        """Tell the listener, as Airflow's task runner does."""
        instance = _runtime(self)
        instance.state = TaskInstanceState(state)
        if state == "failed" and self.op.retries and not isinstance(error, AirflowFailException):
            instance.state = TaskInstanceState.UP_FOR_RETRY
        context = instance.get_template_context()
        about = [instance, context["dag"], context["dag_run"], context["task"]]
        last = {"running": [instance.start_date], "failed": [error]}.get(state, [])
        getattr(get_openlineage_listener(), f"_on_task_instance_{state}")(*about, *last)

    def _step(self, step: Any) -> tuple[bool, Any]:
        def told(op: Any) -> Any:
            get_hook_lineage_collector.cache_clear()  # a process has its own
            self.op = op
            self.tell("running")
            return step(op)

        return super()._step(told)


def _runtime(task: driving.Task) -> RuntimeTaskInstance:
    day = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    run = DagRun(
        dag_id="dag", run_id=task.ti.run_id, logical_date=day, data_interval_start=day, data_interval_end=day,
        run_after=day, start_date=day, end_date=None, clear_number=0, run_type="manual", state="running", conf={},
        consumed_asset_events=[], partition_key=None,
    )  # fmt: skip
    instance = RuntimeTaskInstance.model_construct(
        id=uuid.uuid4(), task_id="task", dag_id="dag", run_id=task.ti.run_id, try_number=task.ti.try_number,
        map_index=-1, dag_version_id=uuid.uuid4(), task=task.op, start_date=dt.datetime.now(dt.timezone.utc),
        max_tries=0, log_url="", bundle_instance=SimpleNamespace(version=None, name="bundle"),
        _ti_context_from_server=TIRunContext(dag_run=run, max_tries=0, should_retry=False),
    )  # fmt: skip
    instance._cached_template_context = None
    return instance


def finish(operator_class: type[Any], **arguments: Any) -> ListenedTask:
    """A task from its first step to its end, whichever it is."""
    task = ListenedTask(operator_class, **arguments)
    try:
        task.run()
    except AirflowSkipException:
        task.tell("skipped")
    except Exception as error:  # noqa: BLE001 - the listener wants it
        task.tell("failed", error)
    else:
        task.tell("success")
    return task


def job_of(events: list[Event], name: str = "dag.task") -> list[Event]:
    """The events of one job."""
    return [event for event in events if event["job"]["name"] == name]


def ours_of(events: list[Event]) -> list[Event]:
    """The events without the facet in which the provider has the arguments of every operator."""
    found: list[Event] = json.loads(json.dumps(events))
    for event in found:
        event["run"]["facets"].pop("airflow", None)
    return found


def whole(events: list[Event]) -> Event:
    """The end of the task; there is a start before it, and one run."""
    mine = job_of(events)
    *starts, end = [event["eventType"] for event in mine]
    assert starts, "no start"
    assert set(starts) == {"START"}, starts
    assert end in ENDS
    assert len({event["run"]["runId"] for event in mine}) == 1
    for event in mine:
        parent = event["run"]["facets"]["parent"]
        assert (parent["job"]["namespace"], parent["job"]["name"]) == ("default", "dag"), parent
    return mine[-1]


def _told(event: Event) -> dict[str, set[Any]]:
    return {
        "run facets": set(event["run"]["facets"]) - NOTHING_KNOWN,
        "job facets": set(event["job"]["facets"]),
        **{
            key: {
                (one["namespace"], one["name"], facet) for one in event[key] for facet in [*one["facets"], ""]
            }
            for key in ("inputs", "outputs")
        },
    }


def superset(ours: list[Event], stock: list[Event]) -> dict[str, set[Any]]:
    """What ours tell more, after all that stock tells was found in ours: of the task, and of its queries.

    In ``externalQuery`` and in the text of the SQL the values count, too.
    """
    mine, theirs = whole(ours), whole(stock)
    assert mine["eventType"] == theirs["eventType"]
    more: dict[str, set[Any]] = {}
    for name in sorted({event["job"]["name"] for event in stock}):
        for kind in ("START", *ENDS):
            ours_of, stock_of = (
                [event for event in job_of(some, name) if event["eventType"] == kind]
                for some in (ours, stock)
            )
            if not stock_of:
                continue
            assert ours_of, f"stock tells of {kind} of {name}"
            a, b = _told(ours_of[-1]), _told(stock_of[-1])
            for what in b:
                assert b[what] <= a[what], f"{kind} of {name}: {what} lack {b[what] - a[what]}"
                if a[what] - b[what]:
                    more.setdefault(f"{kind} of {name}: {what}", set()).update(a[what] - b[what])
            _same_values(ours_of[-1], stock_of[-1])
    return more


def _same_values(ours: Event, stock: Event) -> None:
    if "sql" in stock["job"]["facets"]:
        mine, theirs = (one["job"]["facets"]["sql"]["query"].rstrip("; \n") for one in (ours, stock))
        assert mine == theirs
    if "externalQuery" in stock["run"]["facets"]:
        assert (
            ours["run"]["facets"]["externalQuery"]["source"]
            == stock["run"]["facets"]["externalQuery"]["source"]
        )
