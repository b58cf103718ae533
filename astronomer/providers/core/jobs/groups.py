"""How much goes into one question, and what must not be asked together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar
from urllib.parse import quote

__all__ = ["by_task", "chunks", "instance", "unambiguous"]

T = TypeVar("T")

_LONGEST = 16_000  # characters; the supervisor asks with an address, and its client refuses one over 65 536
_MOST = 400


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """The values in groups that each fit into one question."""
    group: list[str] = []
    length = 0
    for value in values:
        cost = len(quote(value, safe="")) + len("&logical_dates=")
        if group and (length + cost > _LONGEST or len(group) >= _MOST):
            yield group
            group, length = [], 0
        group.append(value)
        length += cost
    if group:
        yield group


def unambiguous(task_ids: Iterable[str]) -> list[list[str]]:
    """The tasks in groups in which every answer can be told apart.

    Airflow names the fourth instance of a mapped task ``a`` as ``a_3``, which may be the name of another task.
    """
    rest = sorted(set(task_ids))
    found = []
    while rest:
        doubtful = {one for one in rest if _may_be_of(one, rest)}
        found.append([one for one in rest if one not in doubtful])
        rest = sorted(doubtful)
    return found


def _may_be_of(task_id: str, others: Sequence[str]) -> bool:
    mapped, _, index = task_id.rpartition("_")
    return index.isdigit() and mapped in others


def by_task(answer: Mapping[str, T], task_ids: Collection[str]) -> dict[str, dict[str, T]]:
    """The answer to a question about an unambiguous group of tasks, by task."""
    asked = set(task_ids)
    found: dict[str, dict[str, T]] = {}
    for key, value in answer.items():
        task_id = key if key in asked else key.rpartition("_")[0]
        found.setdefault(task_id, {})[key] = value
    return found


def instance(key: str, task_id: str, others: Collection[str]) -> str:
    """The name of a task's instance that no other task has: ``a_3``, else ``a_03``."""
    index, zeros = key[len(task_id) + 1 :], ""
    while key != task_id and key in others:
        zeros += "0"
        key = f"{task_id}_{zeros}{index}"
    return key
