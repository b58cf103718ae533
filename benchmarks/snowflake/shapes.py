"""The JSON that the processes of a measurement hand to each other."""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = ["Fired", "Report", "Stall", "Submitted", "Wait"]


class Wait(TypedDict):
    """One trigger, as Airflow's database holds it, and the query it waits for."""

    query_id: str
    classpath: str
    encrypted_kwargs: str


class Submitted(TypedDict):
    """The waits of each side, and the moment (epoch seconds) that the plan counts from."""

    start: float
    waits: dict[str, list[Wait]]


class Fired(TypedDict):
    """One event as a trigger yielded it."""

    wait: int
    at: float
    payload: Any


class Stall(TypedDict):
    """One late awakening of the loop.

    :param seconds: how late.
    :param cpu: CPU seconds that this process used meanwhile; little of it means that the machine was busy elsewhere.
    :param after: seconds since the first trigger was handed over.
    """

    seconds: float
    cpu: float
    after: float


class Report(TypedDict):
    """What the process saw of itself between the first trigger's start and the last event.

    :param import_seconds: what a wait needs, before the loop started.
    :param started_seconds: until every trigger had made its first step.
    :param stalls: the longest ones, longest first.
    :param late_seconds: all of them together.
    :param longest_collection: seconds of Python's longest garbage collection, which stops every thread.
    """

    import_seconds: float
    started_seconds: float
    cpu_seconds: float
    tokens_signed: int
    stalls: list[Stall]
    late_seconds: float
    longest_collection: float
    events: list[Fired]
