"""The task processes that the executor has started, by the line that is logged about each when it has ended.

LocalExecutor writes text, and what a pod writes is JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["FAILED", "Worked", "worked"]

FAILED = "Workload execution failed"
"""What is logged about a process that Airflow did not let begin: nothing tells how long it ran."""

_ENDED = "Workload finished"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_DURATION = re.compile(r"\bduration\"?[=:] ?([0-9.eE+-]+)")


@dataclass(frozen=True)
class Worked:
    """What workers did.

    :param seconds: from the start of each process to its end, added up.
    """

    starts: int
    seconds: float


def worked(lines: Iterable[str]) -> Worked:
    """What the executor's log tells.

    :param lines: those of the time in which the measured tasks ran.
    """
    plain = [_COLOUR.sub("", line) for line in lines]
    ended = [_DURATION.search(line) for line in plain if _ENDED in line]
    return Worked(
        len(ended) + sum(FAILED in line for line in plain), sum(float(one[1]) for one in ended if one)
    )
