"""What is run: the sides, and how much of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.sides import OURS, STOCK

__all__ = ["DAG_ID", "DEFERRABLE", "EXECUTORS", "LOCAL", "NEXT", "PER_RUN", "RUN", "SIDES", "Load"]

DEFERRABLE = "stock_deferrable"
SIDES = (STOCK, DEFERRABLE, OURS)
DAG_ID = "worker_free"
LOCAL = "local"
EXECUTORS = {LOCAL: "LocalExecutor", "pod": "benchmarks.worker_free.executor.PodExecutor"}
"""What starts the workers, by the name of the option."""
RUN, NEXT = "run_", "next_"
"""What the names of the measured tasks begin with, and those of the tasks after them."""
PER_RUN = 10
"""Pairs in one run of the Dag. A Dag with hundreds of tasks would be read anew by each worker, which is dear."""


@dataclass(frozen=True)
class Load:
    """The measured tasks, the same for all sides.

    :param tasks: a multiple of :data:`PER_RUN`.
    :param every: seconds from one run of the Dag to the next.
    :param shortest: seconds that the shortest run on Databricks takes.
    :param longest: the longest.
    :param executor: one of :data:`EXECUTORS`.
    :param workers: how many tasks the executor runs at once.
    :param interval: seconds between two polls.
    :param idle: seconds for which the installation is measured without any task.
    :param scheduler_sleep: seconds between two looks of an idle scheduler.
    :param patience: seconds that a side may take.
    """

    tasks: int = 200
    every: float = 10.0
    shortest: float = 5.0
    longest: float = 14.0
    executor: str = LOCAL
    workers: int = 8
    interval: int = 1
    idle: float = 40.0
    scheduler_sleep: float = 1.0
    patience: float = 1800.0

    @property
    def runs(self) -> int:
        """Runs of the Dag."""
        return self.tasks // PER_RUN

    @property
    def seconds(self) -> list[float]:
        """How long the run of each pair takes."""
        step = (self.longest - self.shortest) / (PER_RUN - 1)
        return [round(self.shortest + step * number, 2) for number in range(PER_RUN)]

    def for_dag(self, side: str) -> dict[str, str]:
        """The variable that the Dag reads."""
        plan = {"side": side, "seconds": self.seconds, "interval": self.interval}
        return {"BENCHMARK_WORKER_FREE": json.dumps(plan)}

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {**asdict(self), "per_run": PER_RUN}
