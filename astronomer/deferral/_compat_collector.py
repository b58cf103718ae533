"""The hook lineage collector of a process that runs many tasks at once: it answers each of them with its own.

Airflow has one collector for a process, because a worker runs one task. OpenLineage reads it in a thread of its own,
which may go on after it has been given up, when the next task has begun to tell; so what is read there is bound to that
thread, and not to the moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from airflow.sdk.lineage import HookLineageCollector, get_hook_lineage_collector

__all__ = ["bind", "bound"]

_own: ContextVar[HookLineageCollector | None] = ContextVar("astronomer_hook_lineage", default=None)
_swapping = threading.Lock()


class _OfEachTask(HookLineageCollector):
    """The collector that was there already, for everybody who holds it; but the task's own where one is bound."""

    def __getattribute__(self, name: str) -> Any:
        own = _own.get()
        return object.__getattribute__(self, name) if own is None else getattr(own, name)


def bind(lineage: Iterable[Callable[[], object]]) -> Token[HookLineageCollector | None]:
    """In this thread, from now on, the collector has the lineage of one task, and nothing else.

    :param lineage: each tells the collector of something; called here.
    """
    with _swapping:
        shared = get_hook_lineage_collector()
        if type(shared) is HookLineageCollector:  # else nobody reads it
            shared.__class__ = _OfEachTask
    token = _own.set(HookLineageCollector())  # type: ignore[no-untyped-call]  # Airflow has not typed it
    for send in lineage:
        send()
    return token


@contextmanager
def bound(lineage: Iterable[Callable[[], object]]) -> Iterator[None]:
    """The same for a block."""
    token = bind(lineage)
    try:
        yield
    finally:
        _own.reset(token)
