"""The only file that knows Airflow versions, and the only one that reaches behind Airflow's public API.

``python -m astronomer.deferral._compat`` names what the installed Airflow lacks.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from airflow.sdk import BaseHook, BaseOperator, BaseOperatorLink, BaseSensorOperator
from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, TriggerEvent

try:  # Airflow 3.2 moved the exceptions and the configuration into the task SDK
    from airflow.sdk.configuration import conf
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferred,
    )
except ImportError:  # pragma: no cover  # Airflow 3.1; `make test-matrix` runs it
    from airflow.configuration import conf
    from airflow.exceptions import (  # type: ignore[no-redef,attr-defined,unused-ignore]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferred,
    )

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "BaseTrigger",
    "PlainConnection",
    "TaskDeferred",
    "TriggerEvent",
    "XCom",
    "absolute_url",
    "ask_supervisor",
    "ask_supervisor_in_worker",
    "dag_run_url",
    "flag",
    "has_succeeded",
    "in_other_hands",
    "in_other_hands_in_worker",
    "is_over",
    "is_supervised",
    "lacking",
    "read_connection",
    "sensor_timeout",
    "setting",
    "settling_time",
    "task_state_store",
    "tasks_in_bundle",
    "text_setting",
    "waits_folder",
    "was_ended_in_worker",
]

log = logging.getLogger(__name__)
T = TypeVar("T")

FINAL = ["success", "failed", "skipped", "upstream_failed", "removed"]

_ENDED_BY_USER = [*FINAL, "restarting", "null"]

_asking: set[asyncio.Task[Any]] = set()  # the loop itself keeps only weak references


def setting(name: str, default: float) -> float:
    """A number of the ``[astronomer_providers]`` section of Airflow's configuration."""
    return float(conf.getfloat("astronomer_providers", name, fallback=default))


def flag(name: str, section: str = "astronomer_providers") -> bool:
    """A yes or no of Airflow's configuration; no where there is none."""
    return bool(conf.getboolean(section, name, fallback=False))


def sensor_timeout() -> float:
    """Seconds after which a sensor gives up that was given no timeout."""
    return float(conf.getfloat("sensors", "default_timeout", fallback=7 * 86_400))


def text_setting(name: str) -> str:
    """A text of the ``[astronomer_providers]`` section; empty where there is none."""
    return str(conf.get("astronomer_providers", name, fallback="") or "")


def settling_time() -> float:
    """Seconds after which Airflow knows that the worker of a task that has deferred is done with it.

    The supervisor may see the exit of a task's process one heartbeat late, because it looks before the process is
    gone and then sleeps. The scheduler takes such a late report for the end of a task that was resumed meanwhile,
    and fails it (apache/airflow#72716).
    """
    return float(conf.getint("workers", "min_heartbeat_interval", fallback=5)) + 3.0


def lacking() -> list[str]:
    """What the installed Airflow cannot do for a deferred task, one sentence each."""
    import airflow.sdk.execution_time.context as sdk_context

    sentences = []
    if not hasattr(sdk_context, "TaskStateStoreAccessor"):
        sentences.append(
            "no task state store (Airflow 3.3): a retry finds the job of a crashed worker by its tag at the "
            "remote side only"
        )
    if not hasattr(BaseTrigger, "on_kill"):
        sentences.append(
            "no BaseTrigger.on_kill (Airflow 3.3): a deferred task that is marked failed or cleared leaves its "
            "job running until a triggerer finds it by what is on its disk, or to its own limit"
        )
    return sentences


@cache
def name_what_is_lacking() -> None:
    """Log once per process what the installed Airflow lacks."""
    for sentence in lacking():
        log.warning("This Airflow has %s.", sentence)


def task_state_store(context: Mapping[str, Any]) -> Any | None:
    """The store that survives retries and clears, or ``None`` where Airflow has none (before 3.3)."""
    name_what_is_lacking()
    return context.get("task_state_store")


async def in_other_hands(
    ti: Any, *, remembered: bool = True, ask: Callable[[Any], Awaitable[Any]] | None = None
) -> str | None:
    """Why the job of a trigger that is told to end has to be left alone; ``None`` when a user has ended the task.

    In Airflow 3.3.0 to 3.3.2 ``on_kill`` also fires when a live trigger moves to another triggerer
    (apache/airflow#73454), and in a triggerer that was paused until another one had seen the end of the wait. So a
    trigger asks this before it cancels anything. As long as a next step of the task is to come, the job is that
    step's: it settles it, goes on with it in a retry, or ends it after a clear. What was cleared while it ran may have
    none.

    There is no public question for it: the supervisor's message is the one that
    ``RuntimeTaskInstance.get_ti_count`` sends.

    :param ti: has ``dag_id``, ``run_id``, ``task_id`` and ``map_index``.
    :param remembered: whether the task's next step knows of the job.
    :param ask: puts the questions; :func:`ask_supervisor` by default.
    """
    try:
        if await _count(ti, ["deferred"], ask):
            return "still deferred"
        if remembered and not await _count(ti, _ENDED_BY_USER, ask) and await _count(ti, None, ask):
            return "not over"
    except Exception:
        log.warning("Airflow did not say what became of the task", exc_info=True)
        return "in an unknown state"
    return None


def in_other_hands_in_worker(task: Any) -> str | None:
    """The same in a worker; for a thread, because the answer may take long, or may never come.

    Where there is no supervisor to ask, whoever calls ``on_kill`` is the user.
    """
    return asyncio.run(in_other_hands(task, ask=ask_supervisor_in_worker)) if is_supervised() else None


def was_ended_in_worker(task: Any) -> bool:
    """Whether a user has ended a task, as far as Airflow says so; for the worker that runs it."""
    if not is_supervised():
        return False
    try:
        if asyncio.run(_count(task, ["running"], ask_supervisor_in_worker)):
            return False
    except Exception:
        log.warning("Airflow did not say whether %s still runs", task.task_id, exc_info=True)
        return False
    return in_other_hands_in_worker(task) is None


def is_supervised() -> bool:
    """Whether this process has somebody to ask about tasks."""
    from airflow.sdk.execution_time import task_runner

    return getattr(task_runner, "SUPERVISOR_COMMS", None) is not None


async def is_over(task: Any) -> bool | None:
    """Whether a task has ended for good, or is no longer there; ``None`` when Airflow does not answer.

    :param task: has ``dag_id``, ``run_id``, ``task_id`` and ``map_index``.
    """
    try:
        return bool(await _count(task, FINAL)) or await _count(task, None) == 0
    except Exception:
        log.warning("Airflow did not say whether %s is over", task.task_id, exc_info=True)
        return None


async def has_succeeded(task: Any, ask: Callable[[Any], Awaitable[Any]] | None = None) -> bool | None:
    """Whether a task has succeeded; ``None`` when Airflow does not answer.

    :param ask: puts the question; :func:`ask_supervisor` by default.
    """
    try:
        return await _count(task, ["success"], ask) > 0
    except Exception:
        log.warning("Airflow did not say whether %s has succeeded", task.task_id, exc_info=True)
        return None


async def _count(
    task: Any, states: list[str] | None, ask: Callable[[Any], Awaitable[Any]] | None = None
) -> int:
    from airflow.sdk.execution_time.comms import GetTICount

    question = GetTICount(
        dag_id=task.dag_id,
        map_index=task.map_index,
        task_ids=[task.task_id],
        run_ids=[task.run_id],
        states=states,
    )
    return int((await (ask or ask_supervisor)(question)).count)


def waits_folder() -> Path | None:
    """Where the triggerers of this Airflow keep what they wait for; ``None`` outside of a triggerer.

    It has a folder of its own below the one that is configured: another Airflow does not know our tasks, and would
    take them for deleted.
    """
    from airflow.sdk.execution_time import task_runner

    if not hasattr(getattr(task_runner, "SUPERVISOR_COMMS", None), "asend"):
        return None
    addresses = [
        conf.get(*option, fallback="")
        for option in (("api", "base_url"), ("core", "execution_api_server_url"))
    ]
    which = hashlib.sha256(" ".join(map(str, addresses)).encode()).hexdigest()[:12]
    configured = text_setting("waits_folder")
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow"))
    return (Path(configured) if configured else home / "astronomer_waits").expanduser() / which


async def _undisturbed(asking: Coroutine[Any, Any, T]) -> T:
    """Let a question be answered even when nobody waits for the answer any more.

    Before Airflow 3.3 an answer that is not read is taken for that of the next question, and the whole triggerer
    ends (apache/airflow#64620).
    """
    if hasattr(BaseTrigger, "on_kill"):  # Airflow 3.3: answers have numbers
        return await asking
    task = asyncio.ensure_future(asking)
    _asking.add(task)
    task.add_done_callback(_asking.discard)
    return await asyncio.shield(task)


async def ask_supervisor(message: Any) -> Any:
    """Put a question to the supervisor of this process without blocking the loop.

    The methods of a running task instance ask the same, but hold the event loop, or Airflow's one shared thread.

    :raises AirflowRuntimeError: the supervisor, or the API behind it, could not answer.
    """
    from airflow.sdk.execution_time import task_runner

    comms = task_runner.SUPERVISOR_COMMS
    if not hasattr(comms, "asend"):  # `dag.test()` has no supervisor of its own
        return comms.send(message)
    return await _undisturbed(comms.asend(message))


async def ask_supervisor_in_worker(message: Any) -> Any:
    """The same in a worker, which has nothing else to do meanwhile and where only this works in every version."""
    from airflow.sdk.execution_time import task_runner

    return task_runner.SUPERVISOR_COMMS.send(message)


def tasks_in_bundle(ti: Any, dag: Any) -> set[str] | None:
    """The tasks of a Dag as its file has them now; ``None`` where this worker does not have the file.

    Tasks that have not run yet are named nowhere else that a worker may ask. The file is read as the worker reads
    its own Dag.

    :param ti: the running task instance.
    :param dag: the supervisor's answer about the Dag.
    """
    bundle = getattr(ti, "bundle_instance", None)
    if bundle is None or dag is None or bundle.name != dag.bundle_name or not dag.relative_fileloc:
        return None
    try:
        from airflow.dag_processing.dagbag import BundleDagBag
    except ImportError:  # pragma: no cover  # before Airflow 3.2
        return None
    path = Path(bundle.path, dag.relative_fileloc)
    if not path.exists():
        return None
    bag = BundleDagBag(
        dag_folder=path,
        safe_mode=False,
        load_op_links=False,
        bundle_path=bundle.path,
        bundle_name=bundle.name,
    )
    found = bag.dags.get(dag.dag_id)
    return None if found is None else set(found.task_dict)


def dag_run_url(dag_id: str, run_id: str) -> str:
    """Where a person finds a run of a Dag of this Airflow; the Dag itself, without a run."""
    run = f"/runs/{quote(run_id, safe='')}" if run_id else ""
    return absolute_url(f"/dags/{quote(dag_id, safe='')}{run}")


def absolute_url(path: str) -> str:
    """The address of a page of this Airflow; an address that has a host already stays as it is."""
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return base + path if path.startswith("/") else path


@dataclass(frozen=True)
class PlainConnection:
    """An Airflow connection read once, in the event loop, so that a client thread needs no supervisor.

    Airflow's own object asks the supervisor to mask secrets at every access to ``extra_dejson``.
    """

    conn_id: str
    login: str | None
    password: str | None = field(repr=False)
    host: str | None
    port: int | None
    schema: str | None
    extra_dejson: dict[str, Any] = field(repr=False)


async def read_connection(conn_id: str) -> PlainConnection:
    """Read an Airflow connection without blocking the loop.

    :raises AirflowNotFoundException: there is no such connection.
    """
    found = await _undisturbed(BaseHook.aget_connection(conn_id))
    return plain_connection(found)


def plain_connection(found: Any) -> PlainConnection:
    """Keep what a hook reads of a connection."""
    return PlainConnection(
        found.conn_id, found.login, found.password, found.host, found.port, found.schema, found.extra_dejson
    )


if __name__ == "__main__":
    for missing in lacking() or ["nothing that this package uses"]:
        print(f"lacks: {missing}")  # noqa: T201  # the point of the command
