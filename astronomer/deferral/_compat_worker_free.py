"""What ``_compat`` is for the engine, while a Dag is parsed whose tasks may start in a triggerer.

Airflow 3.3 is the first version that renders templates there. Nothing here counts where no task asks for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import jinja2
from airflow.sdk import BaseOperator, Param
from airflow.sdk import log as sdk_log
from airflow.sdk.definitions.mappedoperator import OperatorPartial
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.triggers.base import BaseTrigger, StartTriggerArgs

from astronomer.deferral._compat import flag

__all__ = [
    "KEPT",
    "StartTriggerArgs",
    "airflows_own",
    "defaults_of",
    "flag",
    "given_arguments",
    "is_complete",
    "names_a_secret",
    "only_in_worker",
    "partial_with",
    "plain_xcom_reference",
    "resume",
]

_AIRFLOWS_OWN = frozenset(inspect.signature(BaseOperator.__init__).parameters)
KEPT = frozenset({"do_xcom_push", "execution_timeout", "multiple_outputs", "retries"})
"""Of Airflow's own arguments, those that count while the task runs; the rest is the scheduler's business."""


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
        ("only workers can start with `params` that have no default", _lacks_a_param(task.params)),
        ("`user_defined_macros` are functions of the Dag file", task.dag.user_defined_macros),
        ("`user_defined_filters` are functions of the Dag file", task.dag.user_defined_filters),
        ("`jinja_environment_kwargs` are known in the Dag file", task.dag.jinja_environment_kwargs),
        (
            "`template_undefined` is known in the Dag file",
            task.dag.template_undefined is not jinja2.StrictUndefined,
        ),
        (
            "triggerers have queues, and Airflow has none for it",
            flag("queues_enabled", "triggerer"),
        ),
    )
    return next((reason for reason, holds in checks if holds), None) or _lineage_needs_worker()


def _lacks_a_param(params: Any) -> bool:
    """Whether a param has no value until somebody gives one: Airflow 3.3 then ends the triggerer, even if one is given."""
    found = ParamsDict(params)
    every = map(found.get_param, found)
    return any(isinstance(one.value, type(Param().value)) for one in every)


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
    """Whether all of the operator's ``__init__`` have run, and it is part of a Dag."""
    return bool(task.__dict__.get("_BaseOperator__instantiated") and task.has_dag())


@cache
def _accepted_arguments(kind: type) -> frozenset[str]:
    """The names that an operator's class takes, other than those of every operator; asked for by each that is made."""
    classes = [one for one in kind.__mro__ if "__init__" in vars(one) and issubclass(one, BaseOperator)]
    names = {name for one in classes for name in inspect.signature(one.__init__).parameters}
    return frozenset(names - _AIRFLOWS_OWN - {"start_from_trigger"})


def airflows_own(names: Iterable[str]) -> list[str]:
    """Which of the names are arguments of every operator, such as ``params``."""
    return sorted(_AIRFLOWS_OWN & set(names))


def given_arguments(kind: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments and ``default_args`` of an operator, those that say what it does."""
    accepted = _accepted_arguments(kind)
    defaults = arguments.get("default_args") or {}
    return {name: value for name, value in {**defaults, **arguments}.items() if name in accepted}


def defaults_of(mapped: Any) -> dict[str, Any]:
    """The ``default_args`` of a mapped operator's Dag and task groups; Airflow applies them when it is unmapped."""
    from airflow.sdk.bases.operator import get_merged_defaults

    return dict(get_merged_defaults(mapped.dag, mapped.task_group, None, None)[0])


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

    partial._expand_called = True  # noqa: SLF001  # the one that is dropped here would complain
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
    redact: Callable[[Any], Any] = getattr(sdk_log, "redact")  # noqa: B009  # its own users import it so
    return bool(redact({key: "value"}) != {key: "value"})


def resume(task: BaseOperator, step: Mapping[str, Any] | None, context: Any) -> Any:
    """Go on in an operator after a deferral; from its beginning, where there was none."""
    if step is None:
        return task.execute(context)
    kwargs = {**(step.get("kwargs") or {}), "event": step["event"]}
    return task.resume_execution(step["method"], kwargs, context)
