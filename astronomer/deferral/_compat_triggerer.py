"""What ``_compat`` is for the engine, in a triggerer that runs a task from its beginning to its end: Airflow 3.3."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, cast

import lazy_object_proxy  # type: ignore[import-untyped]  # as Airflow does
from airflow.sdk import DAG, BaseOperator, TaskInstanceState
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.definitions._internal.mixins import ResolveMixin
from airflow.sdk.exceptions import UnmappableXComTypePushed, XComForMappingNotPushed
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import TriggerEvent

from astronomer.deferral import _compat_collector
from astronomer.deferral._compat import XCom
from astronomer.deferral._compat_worker_free import KEPT, airflows_own, resume
from astronomer.deferral.in_triggerer import NeedsWorker

__all__ = [
    "Pulled",
    "TriggererTaskInstance",
    "adopt",
    "airflows_own",
    "delete_result",
    "ended",
    "execute",
    "expand",
    "make_operator",
    "push_links",
    "push_result",
    "read_xcom",
    "resume",
    "size_of",
    "tell_listeners",
]

log = logging.getLogger(__name__)

_NOT_GIVEN: Any = object()
_SHOWN = (
    "depends_on_past",
    "doc",
    "doc_json",
    "doc_md",
    "doc_rst",
    "doc_yaml",
    "owner",
    "pool",
    "pool_slots",
    "priority_weight",
    "queue",
    "task_display_name",
    "trigger_rule",
    "wait_for_downstream",
)
"""What the operator does not need itself; but templates and listeners may look at it."""

_ONLY_IN_WORKER = (
    "prev_data_interval_end_success",
    "prev_data_interval_start_success",
    "prev_end_date_success",
    "prev_start_date_success",
    "triggering_asset_events",
)


class Pulled(ResolveMixin):
    """An XCom in a template field: it takes its place when the field is rendered, and is not rendered itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def iter_references(self) -> Iterable[Any]:
        """None: what it refers to has been read."""
        return ()

    def resolve(self, context: Any) -> Any:
        """The XCom."""
        return self.value


class TriggererTaskInstance(RuntimeTaskInstance):
    """A task instance whose XComs are pulled with the questions that a triggerer may ask."""

    def get_template_context(self) -> Any:
        """As :func:`adopt` has made it; Airflow would put in anew what must not be asked for."""
        return self._cached_template_context

    def xcom_pull(
        self,
        task_ids: str | Iterable[str] | None = None,
        dag_id: str | None = None,
        key: str = "return_value",
        include_prior_dates: bool = False,
        *,
        map_indexes: Any = _NOT_GIVEN,
        default: Any = None,
        run_id: str | None = None,
    ) -> Any:
        """As in a worker. There, an XCom without a map index is asked for by a question that triggerers lack."""
        if map_indexes is not _NOT_GIVEN:
            return super().xcom_pull(
                task_ids,
                dag_id,
                key,
                include_prior_dates,
                map_indexes=map_indexes,
                default=default,
                run_id=run_id,
            )
        one = task_ids is None or isinstance(task_ids, str)
        names = [task_ids or self.task_id] if one else list(task_ids or ())
        found: list[Any] = []
        for name in names:
            where = {"dag_id": dag_id or self.dag_id, "run_id": run_id or self.run_id, "task_id": str(name)}
            for map_index in self._map_indexes(**where):
                value = XCom.get_one(
                    key=key, map_index=map_index, include_prior_dates=include_prior_dates, **where
                )
                if value is not None:
                    found.append(value)
        if one and len(found) < 2:
            return found[0] if found else default
        return found

    def _map_indexes(self, *, dag_id: str, run_id: str, task_id: str) -> Iterable[int | None]:
        mapped = (
            dag_id == self.dag_id
            and self.serialized.dag.has_task(task_id)
            and _is_expanded(self.serialized.dag.get_task(task_id))
        )
        if not mapped:
            return [None]
        return range(self.get_ti_count(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id]))

    def get_previous_dagrun(self, state: str | None = None) -> Any:
        """Only in a worker."""
        return _ask_a_worker("get_previous_dagrun")

    @staticmethod
    def get_task_breadcrumbs(dag_id: str, run_id: str) -> Any:  # noqa: ARG004  # Airflow's
        """Only in a worker."""
        return _ask_a_worker("get_task_breadcrumbs")

    @staticmethod
    def get_dag(dag_id: str) -> Any:  # noqa: ARG004  # Airflow's
        """Only in a worker."""
        return _ask_a_worker("get_dag")

    def xcom_push(self, key: str, value: Any) -> None:
        """As in a worker; Airflow asks the operator whose result it may be, and there may be none made yet."""
        if not hasattr(self.task, "returns_dag_result"):
            self.task.returns_dag_result = False
        super().xcom_push(key, value)
        self.pushed.add(key)

    @property
    def pushed(self) -> set[str]:
        """The keys of the XComs that were pushed here."""
        found: set[str] = self.__dict__.setdefault("pushed_keys", set())
        return found

    @property
    def serialized(self) -> Any:
        """The task as Airflow's database has it, with its place in the Dag."""
        return self.__dict__["serialized_task"]


def _ask_a_worker(what: str) -> Any:
    """In place of a question that no supervisor of a triggerer answers: who asks it would wait for ever.

    :raises NeedsWorker: always.
    """
    raise NeedsWorker(f"only workers know `{what}`")


def _is_expanded(task: Any) -> bool:
    return bool(task.is_mapped) or task.get_closest_mapped_task_group() is not None


def adopt(ti: Any, context: Mapping[str, Any], started_at: float) -> tuple[Any, dict[str, Any]]:
    """The task instance that Airflow gives to a trigger, and its context, as an operator needs them.

    :param ti: with the serialised task.
    :param started_at: epoch seconds.
    """
    adopted = TriggererTaskInstance.model_construct(**dict(ti))
    for name in ti.__private_attributes__:
        setattr(adopted, name, getattr(ti, name))
    adopted.__dict__["serialized_task"] = ti.task
    adopted.start_date = datetime.fromtimestamp(started_at, timezone.utc)
    adopted.is_mapped = bool(ti.task.is_mapped)
    adopted.state = TaskInstanceState.RUNNING
    own = {**context, "ti": adopted, "task_instance": adopted, "task_state_store": None}
    own |= {
        name: lazy_object_proxy.Proxy(partial(_ask_a_worker, name)) for name in _ONLY_IN_WORKER if name in own
    }
    adopted._cached_template_context = cast("Any", own)  # noqa: SLF001  # what get_template_context() returns
    return adopted, own


def make_operator(
    kind: type[BaseOperator], ti: Any, arguments: Mapping[str, Any], context: dict[str, Any], *, native: bool
) -> Any:
    """The operator, in a Dag of its own that renders as the user's does, and not yet rendered; the context is about it.

    :param kind: its class.
    :param ti: as :func:`adopt` has made it.
    :param arguments: those of the recipe.
    """
    task = ti.serialized
    own = {name: getattr(task, name) for name in (*KEPT, *_SHOWN) if getattr(task, name, None) is not None}
    dag = DAG(ti.dag_id, schedule=None, render_template_as_native_obj=native)
    made = kind(task_id=ti.task_id, **{**arguments, **own}, _airflow_from_mapped=True)
    made.dag = dag
    made.params = task.params
    made.upstream_task_ids, made.downstream_task_ids = task.upstream_task_ids, task.downstream_task_ids
    ti.task = context["task"] = made
    return made


def expand(kind: str, value: Any, map_index: int) -> Mapping[str, Any]:
    """The mapped arguments of one task instance.

    :param kind: as Airflow calls it.
    :param value: with the XComs in place.
    """
    from airflow.sdk.definitions._internal import expandinput

    types = (expandinput.DictOfListsExpandInput, expandinput.ListOfDictsExpandInput)
    (found,) = [one for one in types if kind == one.EXPAND_INPUT_TYPE]
    where = type("TaskInstance", (), {"map_index": map_index})
    mapping: Mapping[str, Any] = found(value).resolve({"ti": where})[0]
    return mapping


def execute(task: BaseOperator, context: Mapping[str, Any]) -> Any:
    """Call ``execute`` as Airflow's task runner does, which proves who calls."""
    sentinel = {f"{type(task).__name__}__sentinel": ExecutorSafeguard.sentinel_value}
    return task.execute(context, **sentinel)  # type: ignore[arg-type]  # a Context is a dict like any other


def size_of(result: Any) -> int:
    """How many bytes a result has as an XCom."""
    from airflow.sdk.serde import serialize

    return len(json.dumps(serialize(result)))


def read_xcom(ti: Any, key: str) -> Any:
    """An XCom of the task instance itself."""
    return XCom.get_one(key=key, **_whose(ti))


def delete_result(ti: Any) -> None:
    """Forget what the task returned before it was cleared; on the worker path, Airflow does so."""
    XCom.delete(key="return_value", **_whose(ti))


def _whose(ti: Any) -> dict[str, Any]:
    return {name: getattr(ti, name) for name in ("dag_id", "task_id", "run_id", "map_index")}


def push_result(ti: Any, task: Any, result: Any) -> None:
    """Push what a task has returned, by the rules of Airflow's task runner.

    Not with the event: what an event pushes is encoded twice, and the puller of a dictionary gets a text.
    """
    mapped_over = not ti.is_mapped and next(ti.serialized.iter_mapped_dependants(), None) is not None
    length = None
    if mapped_over:
        if result is None or not task.do_xcom_push:
            raise XComForMappingNotPushed
        if not isinstance(result, (Sequence, dict)) or isinstance(result, (str, bytes)):
            raise UnmappableXComTypePushed(result)
        length = len(result)
    if result is None or not task.do_xcom_push:
        return
    if task.multiple_outputs:
        if not isinstance(result, Mapping) or not all(isinstance(key, str) for key in result):
            raise TypeError("With multiple_outputs, a dictionary has to be returned whose keys are texts")
        for key, value in result.items():
            ti.xcom_push(key, value)
    XCom.set(
        key="return_value",
        value=result,
        dag_result=task.returns_dag_result,
        _mapped_length=length,
        **_whose(ti),
    )


def push_links(ti: Any, task: Any) -> None:
    """Push the links of the task's page, which a worker pushes at the end; not those that are there already."""
    for link in task.operator_extra_links:
        if link.xcom_key in ti.pushed:
            continue
        try:
            if found := link.get_link(operator=task, ti_key=ti):
                ti.xcom_push(link.xcom_key, found)
        except Exception:  # as in a worker: a link is not worth a task
            log.exception("The link %r could not be pushed", link.name)


def tell_listeners(what: str, ti: Any, lineage: Iterable[Callable[[], object]] = (), **more: Any) -> None:
    """Tell listeners, such as OpenLineage's, what a worker would tell them.

    :param what: ``running``, ``success``, ``failed`` or ``skipped``.
    :param lineage: what hooks have to say of the task; in this thread, the collector says it to them, and no more.
    """
    from airflow.sdk.listener import get_listener_manager

    manager = get_listener_manager()
    if not manager.has_listeners:
        return
    ti.state = TaskInstanceState.RUNNING if what == "running" else TaskInstanceState(what)
    if what != "running":
        ti.end_date = datetime.now(timezone.utc)
    before = TaskInstanceState.QUEUED if what == "running" else TaskInstanceState.RUNNING
    with _compat_collector.bound(lineage):
        try:
            getattr(manager.hook, f"on_task_instance_{what}")(previous_state=before, task_instance=ti, **more)
        except Exception:
            log.exception("A listener failed")


def ended(state: str, xcoms: dict[str, Any] | None = None) -> TriggerEvent:
    """The event that ends the task where it is.

    :param state: ``success``, ``failed`` or ``skipped``.
    """
    from airflow.triggers import base

    kinds = {
        "success": base.TaskSuccessEvent,
        "failed": base.TaskFailedEvent,
        "skipped": base.TaskSkippedEvent,
    }
    return kinds[state](xcoms=xcoms)
