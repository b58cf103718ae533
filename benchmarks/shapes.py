"""The JSON that the processes of a measurement hand to each other."""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = ["Fired", "Remote", "Report", "Stall", "Submitted", "Wait"]


class Wait(TypedDict):
    """One trigger, as Airflow's database holds it, and the remote work it waits for."""

    remote_id: str
    classpath: str
    encrypted_kwargs: str


class Submitted(TypedDict):
    """The waits of each side, and the moment (epoch seconds) that the plan counts from."""

    start: float
    waits: dict[str, list[Wait]]


class Remote(TypedDict):
    """What the stand-in knows of one piece of remote work.

    :param ended_at: epoch seconds, or ``None`` while it goes on.
    :param error: how it failed, in the service's own words; ``None`` unless it did.
    """

    ended_at: float | None
    error: str | None


class Fired(TypedDict):
    """One event as a trigger yielded it."""

    wait: int
    at: float
    payload: Any


class Stall(TypedDict):
    """One late awakening of the loop.

    :param seconds: how late.
    :param collecting: for how much of that Python collected garbage, which stops every thread.
    :param cpu: CPU seconds that this process used meanwhile; little of it means that the machine was busy elsewhere.
    :param after: seconds since the first trigger was handed over.
    """

    seconds: float
    collecting: float
    cpu: float
    after: float


class Report(TypedDict):
    """What the process saw of itself between the first trigger's start and the last event.

    :param import_seconds: what a wait needs, before the loop started.
    :param started_seconds: until every trigger had made its first step.
    :param cpu_seconds: of all threads.
    :param counted: how often the function was called whose calls were to be counted.
    :param stalls: the longest ones, longest first.
    :param late_seconds: all of them together.
    :param stall_between_collections: the longest one, garbage collections taken off.
    :param longest_collection: seconds of Python's longest garbage collection.
    """

    import_seconds: float
    started_seconds: float
    cpu_seconds: float
    counted: int
    stalls: list[Stall]
    stall_between_collections: float
    late_seconds: float
    longest_collection: float
    events: list[Fired]
