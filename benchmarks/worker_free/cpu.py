"""What the processes of a whole Airflow have used so far."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import psutil

__all__ = ["less", "of_database", "of_parts", "tree"]

_PARTS = {
    "API server": ("api_server", "api_server"),
    "scheduler": ("scheduler", "workers"),
    "Dag processor": ("dag_processor", "dag_parsing"),
    "triggerer": ("triggerer_supervisor", "triggerer_runner"),
}
"""The name of each program -> that of its first process in the numbers, and that of all that it has started."""


def tree(pid: int) -> tuple[float, float]:
    """Seconds of CPU of a process, and of all below it, also of those that have ended: their parents know."""
    first, below = 0.0, 0.0
    leader = psutil.Process(pid)
    for one in [leader, *leader.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            below += times.children_user + times.children_system
            if one.pid == pid:
                first = times.user + times.system
            else:
                below += times.user + times.system
    return first, below


def of_parts(programs: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU of each part of Airflow.

    :param programs: the name of each program that runs, and its process.
    """
    found: dict[str, float] = {}
    for program, (first, below) in _PARTS.items():
        for name, seconds in zip((first, below), tree(programs[program]), strict=True):
            found[name] = found.get(name, 0.0) + seconds
    return found


def of_database(pid: int | None) -> dict[str, float]:
    """Seconds of CPU of a database server; a file has none."""
    return {} if pid is None else {"database": sum(tree(pid))}


def less(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What has been used since."""
    return {name: seconds - before[name] for name, seconds in now.items()}
