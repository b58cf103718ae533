"""The submit key: one name for one attempt, the same in every process that asks for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import Any

from typing_extensions import Self

__all__ = ["TaskIdentity"]


@dataclass(frozen=True)
class TaskIdentity:
    """Names one task instance between two clears.

    :param generation: changes exactly when the task is cleared (Airflow then raises ``max_tries``), so that
        retries share it and re-attach, and a cleared task starts anew.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    generation: int

    @classmethod
    def of(cls, ti: Any) -> Self:
        """The identity of a running task instance, as ``context["ti"]`` has it."""
        map_index = -1 if ti.map_index is None else int(ti.map_index)
        return cls(ti.dag_id, ti.run_id, ti.task_id, map_index, int(ti.max_tries or 0))

    def submit_key(self, sequence: int) -> str:
        """64 hexadecimal digits for the ``sequence``-th job of this generation, counted from 0."""
        return hashlib.sha256(json.dumps([*astuple(self), sequence]).encode()).hexdigest()
