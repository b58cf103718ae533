"""What can go wrong, in four groups: processes, two triggerers, the remote side, and people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tools.chaos.books import Finding
from tools.chaos.scene import BOTH, Scene


@dataclass(frozen=True)
class Fault:
    """One row of the certificate.

    :param inject: does it, while tasks of the scene go on; may be asked for a number of kills.
    :param weight: its share of the kills; 0 is a fault without any.
    :param at_once: the most kills in one scene, so that tasks come to an end between them.
    :param seconds: how long remote jobs take meanwhile.
    :param quick: whether the short form has it.
    :param celery: whether it needs Celery.
    :param steady: whether it leaves the processes of tasks alone, so that no task of ours has a reason to fail.
    :param check: what else has to be right, once all tasks have ended; may count whom it has hit.
    """

    group: str
    name: str
    inject: Callable[[Scene, int], None]
    weight: int = 0
    at_once: int = 40
    seconds: float = 10.0
    runs: int = 1
    quick: bool = False
    celery: bool = False
    dags: tuple[str, ...] = BOTH
    conf: dict[str, Any] = field(default_factory=dict)
    steady: bool = False
    check: Callable[[Scene], list[Finding]] = lambda _scene: []
