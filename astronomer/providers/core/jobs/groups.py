"""How much goes into one question, and what must not be asked together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

__all__ = ["chunks", "unambiguous"]

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
