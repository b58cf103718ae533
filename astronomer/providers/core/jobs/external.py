"""What an external wait is about, and what becomes of it when states are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from astronomer.deferral import JobStatus, Phase, Poller, RemoteJob

__all__ = ["FAILED", "NOT_FOUND", "SKIPPED", "ExternalWait", "Sight", "judge", "keys_of"]

FAILED, SKIPPED, NOT_FOUND = "failed", "skipped", "not_found"
"""Why a wait has ended badly: :attr:`JobStatus.code`."""

_REMOVED = "removed"  # what Airflow makes of the rest, when a mapped task has become shorter
_NO_RUN = "there is no such run yet"
_NOT_YET = "not yet"


@dataclass(frozen=True)
class ExternalWait(RemoteJob):
    """A wait for tasks, a task group or whole runs of one Dag of this Airflow. Nobody's to cancel.

    :param dag_id: the external Dag.
    :param task_ids: the tasks; none, and no group, for whole Dag runs.
    :param group_id: the task group.
    :param logical_dates: which runs, as ISO 8601 with a zone; or
    :param run_ids: which runs, by their ids.
    :param allowed_states: all tasks (or runs) have to be in one of these.
    :param skipped_states: one in one of these ends the wait as skipped.
    :param failed_states: one in one of these ends the wait as failed.
    """

    dag_id: str
    task_ids: tuple[str, ...] = ()
    group_id: str | None = None
    logical_dates: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    allowed_states: tuple[str, ...] = ("success",)
    skipped_states: tuple[str, ...] = ()
    failed_states: tuple[str, ...] = ()

    connection_fields: ClassVar[tuple[str, ...]] = ("dag_id",)
    foreign: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))

    @property
    def targets(self) -> tuple[str, ...]:
        """The runs: logical dates or run ids."""
        return self.logical_dates or self.run_ids

    @property
    def states(self) -> tuple[str, ...]:
        """Every state that makes a difference."""
        return (*self.failed_states, *self.skipped_states, *self.allowed_states)

    @property
    def name(self) -> str:
        """What is waited for, and in which run."""
        where = f"Dag {self.dag_id}"
        if self.group_id:
            where = f"task group {self.group_id} of {where}"
        elif len(self.task_ids) == 1:
            where = f"task {self.task_ids[0]} of {where}"
        elif self.task_ids:
            where = f"tasks {', '.join(self.task_ids)} of {where}"
        return f"{where}, {_runs(self)}"

    def poller(self) -> Poller[Any]:
        """One for all waits on the Dag, over the supervisor."""
        from astronomer.providers.core.jobs.dag_poller import ExternalDagPoller

        return ExternalDagPoller(self.dag_id)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        found = super().to_dict()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@dataclass(frozen=True)
class Sight:
    """What is known of one run.

    :param run_id: its id, where it is known.
    :param states: state by task instance (``task_id``, or ``task_id_3`` of a mapped one); of a whole run, its state
        under the empty key. Empty: there is no such run, or none of its tasks is waited for.
    """

    run_id: str | None = None
    states: Mapping[str, str | None] = field(default_factory=dict)


def judge(wait: ExternalWait, sights: Mapping[str, Sight], url: Callable[[str], str | None]) -> JobStatus:
    """What becomes of the wait: failed before skipped before allowed, as in a poke of the stock sensor.

    :param sights: what is known, by logical date or run id.
    :param url: where a person finds a run.
    """
    seen = {target: sights.get(target, Sight()) for target in wait.targets}
    for code, states in ((FAILED, wait.failed_states), (SKIPPED, wait.skipped_states)):
        for target, sight in seen.items():
            for key in keys_of(wait, sight.states):
                state = sight.states[key]
                if state is not None and state in states:
                    what = f"{key or 'it'} is {state}, in {sight.run_id or target}"
                    return JobStatus(Phase.FAILED, state, what, _link(seen, url, target), code=code)
    if seen and all(_reached(wait, sight.states) for sight in seen.values()):
        raw = ", ".join(
            sorted({str(one.states[key]) for one in seen.values() for key in keys_of(wait, one.states)})
        )
        return JobStatus(Phase.SUCCEEDED, raw, url=_link(seen, url))
    raw = _NOT_YET if all(sight.states for sight in seen.values()) else _NO_RUN
    return JobStatus(Phase.ACTIVE, raw, url=_link(seen, url))


def keys_of(wait: ExternalWait, states: Mapping[str, Any]) -> Iterator[str]:
    """The task instances that count, of all that are known of the run."""
    if not wait.task_ids:
        yield from states
        return
    wanted = set(wait.task_ids)
    for key in states:
        if key in wanted or _unmapped(key) in wanted:
            yield key


def _reached(wait: ExternalWait, states: Mapping[str, str | None]) -> bool:
    """Whether every task is there, and all its instances are in an allowed state."""
    found = [key for key in keys_of(wait, states) if states[key] != _REMOVED or _REMOVED in wait.states]
    if not found or any(states[key] not in wait.allowed_states for key in found):
        return False
    there = {key if key in wait.task_ids else _unmapped(key) for key in found}
    return there.issuperset(wait.task_ids)


def _unmapped(key: str) -> str | None:
    """The task of a mapped instance: Airflow writes ``task_id_3`` for its fourth one."""
    task_id, _, index = key.rpartition("_")
    return task_id if index.isdigit() else None


def _runs(wait: ExternalWait) -> str:
    some = wait.targets[:2]
    more = len(wait.targets) - len(some)
    return ", ".join(some) + (f" and {more} more" if more else "")


def _link(
    seen: Mapping[str, Sight], url: Callable[[str], str | None], target: str | None = None
) -> str | None:
    """The address of that run, or else of the last one whose id is known."""
    sights = [seen[target]] if target else list(seen.values())
    known = [sight.run_id for sight in sights if sight.run_id]
    return url(known[-1]) if known else None
