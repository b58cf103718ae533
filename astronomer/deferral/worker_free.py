"""What an operator says when its Dag is parsed, so that a triggerer can do all of its work."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from astronomer.deferral import _compat_worker_free as _compat
from astronomer.deferral import recipe
from astronomer.deferral._compat import AirflowFailException, BaseOperator
from astronomer.deferral._compat_worker_free import StartTriggerArgs
from astronomer.deferral.recipe import Unwritable

if TYPE_CHECKING:
    from astronomer.deferral.in_triggerer import InTriggerer

__all__ = ["WorkerFree"]

log = logging.getLogger(__name__)

_TRIGGER = "astronomer.deferral.operator_trigger.OperatorTrigger"

_READS_FILES = re.compile(r"{%[-+]?\s*(include|import|from|extends)\b")

_ASKS_A_WORKER = re.compile(
    r"{[{%][^}]*?\b("
    r"prev_(?:start_date|end_date|data_interval_start|data_interval_end)_success"
    r"|triggering_asset_events|consumed_asset_events"
    r"|dag_run\.(?:clear_number|note|triggering_user_name)"
    r"|(?:ti|task_instance)\.(?:max_tries|get_dag|get_previous_dagrun|get_task_breadcrumbs)"
    r")\b"
)
"""What a triggerer is not told, and for most of it must not ask: Airflow 3.3 never answers, and the thread is gone."""


class _StartFromTrigger:
    """``False`` for the class, so that nothing is assumed of operators that are mapped; else what was asked for."""

    def __get__(self, task: Any, owner: type | None = None) -> bool:
        return task is not None and task.start_trigger_args is not None

    def __set__(self, task: Any, value: Any) -> None:
        task.__dict__["_asked_worker_free"] = value


class WorkerFree(BaseOperator):
    """An operator that may run in the triggerer from its beginning to its end.

    :param start_from_trigger: whether it does. ``None`` means the ``[astronomer_providers] worker_free`` option. What
        only a worker can do for this task is found when the Dag is parsed, and said in its log; the task then takes
        the worker path.
    """

    # A descriptor, and not decided in __init__: what decides is known only when the Dag is complete.
    start_from_trigger: Any = _StartFromTrigger()
    claims_submits: ClassVar[bool] = False
    """Whether the vendor would start the same submit twice, so that two triggerers have to agree on who sends it."""

    remembers: ClassVar[bool] = False
    """Whether it starts something that a restart or a retry has to find again."""

    in_triggerer: InTriggerer | None = None
    """What stands in for a worker, where there is none."""

    def __init__(self, *, start_from_trigger: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._asked_worker_free = start_from_trigger
        self._said_why = False

    # What a family adds.

    @classmethod
    def needs_worker(cls, arguments: Mapping[str, Any], task: Any) -> str | None:  # noqa: ARG003  # a family's
        """What only a worker can do for a task; ``None`` when there is nothing.

        :param arguments: of the operator, as they stand in the Dag; mapped ones apart.
        :param task: the operator, or the mapped one.
        """
        return None

    @classmethod
    def limit_in_triggerer(cls, arguments: Mapping[str, Any]) -> timedelta | None:  # noqa: ARG003  # likewise
        """How long Airflow lets the trigger run, ``execution_timeout`` apart."""
        return None

    def to_resume(self) -> dict[str, Any] | None:
        """The method, and the event, with which a worker can finish what has ended; ``None`` for the beginning."""
        return None

    def recall(self, event: Mapping[str, Any]) -> None:
        """Note, for lineage, what a task has seen that has failed for good without a worker.

        :param event: as of :meth:`to_resume`, or of the last trigger.
        """

    def take_up(self, context: Mapping[str, Any], attempt: Mapping[str, Any], generation: int) -> None:
        """Remember, in a worker, what a trigger has begun and could not go on with.

        :param attempt: the fields of :class:`~astronomer.deferral.memory.Attempt`.
        :param generation: the trigger's; an attempt of another one is of before a clear.
        """

    # What Airflow asks.

    def _hook_apply_defaults(self, **kwargs: Any) -> tuple[tuple[()], dict[str, Any]]:
        """Airflow calls it with the arguments of each ``__init__``, those of the outermost class first.

        There is no public way to learn what an operator was made with; ``partial`` has one of its own.
        """
        if "_given" not in self.__dict__:
            self.__dict__["_given"] = _compat.given_arguments(type(self), kwargs)
        return (), kwargs

    @property
    def start_trigger_args(self) -> Any:  # StartTriggerArgs | None, but stock operators have an attribute
        """What the scheduler makes the trigger of; ``None`` on the worker path."""
        if not _compat.is_complete(self) or not _wanted(self._asked_worker_free):
            return None
        try:
            return _start_trigger_args(type(self), self, self._arguments())
        except Unwritable as reason:
            if not self._said_why:
                self._said_why = True
                log.info("Task %s of Dag %s starts in a worker: %s", self.task_id, self.dag_id, reason)
            return None

    @start_trigger_args.setter
    def start_trigger_args(self, value: Any) -> None:
        """Stock operators set what their own triggers need; ours takes their place."""

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """As for any operator; a mapped task can start in the triggerer, too."""
        return _compat.partial_with(super().partial(**kwargs), _let_mapped_start)

    def resume_in_worker(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> Any:
        """Go on with what the triggerer could not finish."""
        if "fail" in event:
            with suppress(Exception):  # an operator's own events may be of another kind
                self.recall(event["resume"]["event"])
            raise AirflowFailException(event["fail"])
        self.log.info("Finishing in a worker: %s", event["why"])
        if event.get("begun") is not None:
            self.take_up(context, **event["begun"])
        result = _compat.resume(self, event.get("resume"), context)
        if event.get("memory") is not None:
            context["ti"].xcom_push(**event["memory"])
        return result

    def _arguments(self) -> dict[str, Any]:
        """What the operator was made with, as it is now: template fields may have been changed."""
        given: dict[str, Any] = self.__dict__["_given"]
        return given | {name: getattr(self, name) for name in self.template_fields if name in given}


def _start_trigger_args(
    kind: type[WorkerFree],
    task: Any,
    arguments: Mapping[str, Any],
    expand: tuple[str, Any] | None = None,
) -> StartTriggerArgs:
    """What the scheduler makes the trigger of.

    :param task: the operator, or the mapped one.
    :param arguments: those of the operator; mapped ones apart.
    :param expand: the kind of the mapped ones, and their values.
    :raises Unwritable: only a worker can do what the task asks for.
    """
    reason = _compat.only_in_worker(task) or _not_installed(kind) or kind.needs_worker(arguments, task)
    if reason is not None:
        raise Unwritable(reason)
    read = _TemplateFiles(task)
    fields = set(kind.template_fields)
    found = {name: read(value) if name in fields else value for name, value in arguments.items()}
    limit = kind.limit_in_triggerer(arguments)
    if own := _compat.airflows_own(_expanded(expand)):
        raise Unwritable(f"workers are told what `{own[0]}` is mapped to")
    written = recipe.written(
        {
            "operator": recipe.path_of(kind),
            "arguments": {name: recipe.encode(value, name) for name, value in found.items()},
            "expand": None if expand is None else _written_expand(*expand, read, fields),
            "native": bool(getattr(task.dag, "render_template_as_native_obj", False)),
            "limit": None if limit is None else limit.total_seconds(),
            "dag_result": bool(getattr(task, "returns_dag_result", False)),
        }
    )
    return StartTriggerArgs(
        trigger_cls=_TRIGGER,
        trigger_kwargs={"recipe": written},
        next_method="resume_in_worker",
        next_kwargs={},
        timeout=limit,
    )


def _wanted(asked: bool | None) -> bool:
    return _compat.flag("worker_free") if asked is None else bool(asked)


def _not_installed(kind: type) -> str | None:
    if recipe.is_installed(kind.__module__) and "<" not in kind.__qualname__:
        return None
    return f"{kind.__qualname__} is not defined in an installed package, and triggerers have no Dag files"


def _expanded(expand: tuple[str, Any] | None) -> set[str]:
    """The names of the mapped arguments, as far as they are known."""
    value = () if expand is None else expand[1]
    several = value if isinstance(value, (list, tuple)) else [value]
    return {str(name) for one in several if isinstance(one, Mapping) for name in one}


def _written_expand(kind: str, value: Any, read: _TemplateFiles, fields: set[str]) -> list[Any]:
    def of_one(found: Any) -> Any:
        if not isinstance(found, Mapping):
            return found
        return {name: read(one) if name in fields else one for name, one in found.items()}

    found = [of_one(one) for one in value] if isinstance(value, (list, tuple)) else of_one(value)
    return [kind, recipe.encode(found, "expand")]


class _TemplateFiles:
    """Reads the files that template fields name: a triggerer does not have the Dag's directory."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._ending = tuple(task.template_ext or ())

    def __call__(self, value: Any) -> Any:
        """The value with texts in place of the names of files.

        :raises Unwritable: there is no such file, or a template reads another one when it is rendered.
        """
        if isinstance(value, str):
            text = self._source(value) if self._ending and value.endswith(self._ending) else value
            if _READS_FILES.search(text):
                raise Unwritable("one of its templates includes another file, which triggerers do not have")
            if asked := _ASKS_A_WORKER.search(text):
                raise Unwritable(f"only workers know `{asked[1]}`, which one of its templates asks for")
            return text
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(map(self, value))
        if isinstance(value, dict):
            return {key: self(one) for key, one in value.items()}
        return value

    def _source(self, name: str) -> str:
        try:
            env = self._task.get_template_env()
            source: str = env.loader.get_source(env, name)[0]
        except Exception as error:  # the worker fails with it, and says so
            raise Unwritable(f"its template file {name!r} cannot be read ({error})") from error
        return source


def _let_mapped_start(mapped: Any) -> None:
    """Let a mapped task start in the triggerer, if that is wanted and nothing speaks against it."""
    kind: type[WorkerFree] = mapped.operator_class
    given = _compat.defaults_of(mapped) | dict(mapped.partial_kwargs)
    mapped.start_from_trigger, mapped.start_trigger_args = False, None
    if not _wanted(given.pop("start_from_trigger", None)):
        return
    expand = mapped.expand_input.EXPAND_INPUT_TYPE, mapped.expand_input.value
    try:
        found = _start_trigger_args(kind, mapped, _compat.given_arguments(kind, given), expand)
    except Unwritable as reason:
        log.info("The mapped task %s of Dag %s starts in a worker: %s", mapped.task_id, mapped.dag_id, reason)
    else:
        mapped.start_from_trigger, mapped.start_trigger_args = True, found
