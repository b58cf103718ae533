"""The second half of ``_compat``: what Airflow gives, and does not give, to a task that no worker runs.

Everything here is about Airflow 3.3, the first version that renders templates in a triggerer. Nothing of it is used
where an operator does not ask to start there.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from airflow.sdk import DAG, BaseOperator, TaskInstanceState
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.definitions._internal.mixins import ResolveMixin
from airflow.sdk.definitions.mappedoperator import OperatorPartial
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.exceptions import UnmappableXComTypePushed, XComForMappingNotPushed
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.log import redact
from airflow.triggers.base import BaseTrigger, StartTriggerArgs, TriggerEvent

from astronomer.deferral._compat import XCom, conf

__all__ = [
    "Pulled",
    "StartTriggerArgs",
    "accepted_arguments",
    "adopt",
    "delete_result",
    "ended",
    "execute",
    "expand",
    "flag",
    "given_arguments",
    "is_complete",
    "is_rendered",
    "make_operator",
    "names_a_secret",
    "only_in_worker",
    "partial_with",
    "plain_xcom_reference",
    "push_links",
    "push_result",
    "read_xcom",
    "resume",
    "size_of",
    "tell_listeners",
]

log = logging.getLogger(__name__)

_NOT_GIVEN: Any = object()
_AIRFLOWS_OWN = frozenset(inspect.signature(BaseOperator.__init__).parameters)
_KEPT = frozenset({"do_xcom_push", "execution_timeout", "multiple_outputs", "retries"})
"""Of Airflow's own arguments, those that count while the task runs; the rest is the scheduler's business."""


def flag(name: str) -> bool:
    """A yes or no of the ``[astronomer_providers]`` section of Airflow's configuration."""
    return bool(conf.getboolean("astronomer_providers", name, fallback=False))


# While a Dag is parsed.


def only_in_worker(task: Any) -> str | None:
    """What only a worker does for this task in the installed Airflow; ``None`` when there is nothing.

    :param task: the operator, or the mapped one.
    """
    if not hasattr(BaseTrigger, "on_kill"):
        return "starting in a triggerer needs Airflow 3.3"
    if task.dag is None:
        return "it is not yet part of a Dag"
    checks: Iterable[tuple[str, Any]] = (
        ("asset events are recorded by workers: `outlets`", task.outlets),
        ("asset events are read by workers: `inlets`", task.inlets),
        ("workers call `on_execute_callback`", task.has_on_execute_callback),
        ("workers call `on_success_callback`", task.has_on_success_callback),
        ("workers call `on_skipped_callback`", task.has_on_skipped_callback),
        ("workers apply a `retry_policy`", task.has_retry_policy),
        ("workers send mail: `email`", task.email and (task.email_on_failure or task.email_on_retry)),
        ("workers render a `map_index_template`", task.map_index_template),
        ("workers call `pre_execute` and `post_execute`", _has_hooks(task)),
        (f"pool {task.pool!r} counts workers", task.pool != "default_pool"),
        ("workers are counted: `max_active_tis_per_dag`", task.max_active_tis_per_dag),
        ("workers are counted: `max_active_tis_per_dagrun`", task.max_active_tis_per_dagrun),
        ("a worker stops the Dag run: `fail_fast`", task.dag.fail_fast),
        ("its values come from a mapped task group", task.get_closest_mapped_task_group()),
        ("`user_defined_macros` are functions of the Dag file", task.dag.user_defined_macros),
        ("`user_defined_filters` are functions of the Dag file", task.dag.user_defined_filters),
        ("`jinja_environment_kwargs` are known in the Dag file", task.dag.jinja_environment_kwargs),
        (
            "`template_undefined` is known in the Dag file",
            task.dag.template_undefined is not DAG("any", schedule=None).template_undefined,
        ),
        (
            "triggerers have queues, and Airflow has none for it",
            conf.getboolean("triggerer", "queues_enabled", fallback=False),
        ),
    )
    return next((reason for reason, holds in checks if holds), None) or _lineage_needs_worker()


def _has_hooks(task: Any) -> bool:
    kind = task.operator_class if task.is_mapped else type(task)
    given = task.partial_kwargs if task.is_mapped else vars(task)
    names = ("pre_execute", "post_execute")
    own = any(getattr(kind, name) is not getattr(BaseOperator, name) for name in names)
    return own or any(given.get(name) or given.get(f"_{name}_hook") for name in names)


def _lineage_needs_worker() -> str | None:
    """OpenLineage forks the process that runs a task, unless it is told not to; a triggerer must not fork."""
    try:
        from airflow.providers.openlineage import conf as lineage
    except ImportError:
        return None
    in_thread = getattr(lineage, "execute_in_thread", lambda: False)
    if lineage.is_disabled() or in_thread():
        return None
    return "OpenLineage forks, which a triggerer must not: set [openlineage] execute_in_thread = True"


def is_complete(task: Any) -> bool:
    """Whether all of the operator's ``__init__`` have run."""
    return bool(task.__dict__.get("_BaseOperator__instantiated"))


def accepted_arguments(kind: type) -> set[str]:
    """The names that an operator's class takes, other than those of every operator."""
    classes = [one for one in kind.__mro__ if "__init__" in vars(one) and issubclass(one, BaseOperator)]
    names = {name for one in classes for name in inspect.signature(one.__init__).parameters}  # type: ignore[misc]
    return names - _AIRFLOWS_OWN | _KEPT


def given_arguments(kind: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments and ``default_args`` of an operator, those that say what it does."""
    accepted = accepted_arguments(kind) - _KEPT - {"start_from_trigger"}
    defaults = arguments.get("default_args") or {}
    return {name: value for name, value in {**defaults, **arguments}.items() if name in accepted}


def partial_with(partial: OperatorPartial, look_at: Callable[[Any], None]) -> OperatorPartial:
    """The same partial operator, whose mapped operators are looked at when they are made."""

    class Partial(OperatorPartial):
        def expand(self, **mapped: Any) -> Any:
            made = super().expand(**mapped)
            look_at(made)
            return made

        def expand_kwargs(self, *given: Any, **more: Any) -> Any:
            made = super().expand_kwargs(*given, **more)
            look_at(made)
            return made

    partial._expand_called = True  # the one that is dropped here would complain
    return Partial(operator_class=partial.operator_class, kwargs=partial.kwargs, params=partial.params)


def plain_xcom_reference(value: Any) -> list[str] | None:
    """The task and the key of a reference to an XCom, where it is no more than that."""
    if type(value) is not PlainXComArg:
        return None
    if value.operator.get_closest_mapped_task_group() is not None:
        return None
    return [value.operator.task_id, value.key]


def names_a_secret(key: str) -> bool:
    """Whether Airflow hides the value of such a key."""
    return redact({key: "value"}) != {key: "value"}


# In the triggerer.


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
                task_ids, dag_id, key, include_prior_dates, map_indexes=map_indexes, default=default, run_id=run_id
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
        mapped = dag_id == self.dag_id and self.serialized.dag.has_task(task_id) and _is_expanded(
            self.serialized.dag.get_task(task_id)
        )
        if not mapped:
            return [None]
        return range(self.get_ti_count(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id]))

    def xcom_push(self, key: str, value: Any) -> None:
        """As in a worker."""
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
    adopted._cached_template_context = own
    return adopted, own


def make_operator(
    kind: type[BaseOperator], ti: Any, arguments: Mapping[str, Any], context: dict[str, Any], *, native: bool
) -> Any:
    """The operator, in a Dag of its own that renders as the user's does; the context is about it.

    :param kind: its class.
    :param ti: as :func:`adopt` has made it.
    :param arguments: those of the recipe.
    """
    task = ti.serialized
    own = {name: getattr(task, name) for name in _KEPT if getattr(task, name, None) is not None}
    dag = DAG(ti.dag_id, schedule=None, render_template_as_native_obj=native)
    made = kind(task_id=ti.task_id, **{**arguments, **own}, _airflow_from_mapped=True)  # type: ignore[call-arg]
    made.dag = dag
    ti.task = context["task"] = made
    made.render_template_fields(context)
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
    return task.execute(context, **sentinel)  # type: ignore[arg-type]


def resume(task: BaseOperator, step: Mapping[str, Any] | None, context: Mapping[str, Any]) -> Any:
    """Go on in an operator after a deferral; from its beginning, where there was none."""
    if step is None:
        return task.execute(context)  # type: ignore[arg-type]
    return task.resume_execution(step["method"], {**(step.get("kwargs") or {}), "event": step["event"]}, context)  # type: ignore[arg-type]


def is_rendered(kind: str, written: Any, name: str, value: Any) -> bool:
    """Whether Airflow renders a mapped argument: only what stands in the Dag file, by rules of its own.

    :param kind: as Airflow calls the way of mapping.
    :param written: all mapped arguments, as the recipe has them.
    :param value: of this task instance.
    """
    if kind == "list-of-dicts":
        return isinstance(value, (list, dict))
    return isinstance(written[name], list) or "__astronomer" not in written[name]


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
            raise XComForMappingNotPushed()
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
        dag_result=bool(getattr(ti.serialized, "returns_dag_result", False)),
        _mapped_length=length,
        **_whose(ti),
    )


def push_links(ti: Any, task: Any) -> None:
    """Push the links of the task's page, which a worker pushes at the end; not those that were there all along."""
    for link in task.operator_extra_links:
        if link.xcom_key in ti.pushed:
            continue
        try:
            ti.xcom_push(link.xcom_key, link.get_link(operator=task, ti_key=ti))
        except Exception:  # as in a worker: a link is not worth a task
            log.exception("The link %r could not be pushed", link.name)


def tell_listeners(what: str, ti: Any, **more: Any) -> None:
    """Tell listeners, such as OpenLineage's, what a worker would tell them.

    :param what: ``running``, ``success``, ``failed`` or ``skipped``.
    """
    from airflow.sdk.listener import get_listener_manager

    manager = get_listener_manager()
    if not manager.has_listeners:
        return
    ti.state = TaskInstanceState.RUNNING if what == "running" else TaskInstanceState(what)
    if what != "running":
        ti.end_date = datetime.now(timezone.utc)
    before = TaskInstanceState.QUEUED if what == "running" else TaskInstanceState.RUNNING
    try:
        getattr(manager.hook, f"on_task_instance_{what}")(previous_state=before, task_instance=ti, **more)
    except Exception:
        log.exception("A listener failed")


def ended(state: str, xcoms: dict[str, Any] | None = None) -> TriggerEvent:
    """The event that ends the task where it is.

    :param state: ``success``, ``failed`` or ``skipped``.
    """
    from airflow.triggers import base

    kinds = {"success": base.TaskSuccessEvent, "failed": base.TaskFailedEvent, "skipped": base.TaskSkippedEvent}
    return kinds[state](xcoms=xcoms)
