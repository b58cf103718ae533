"""An executor that starts for each task what a pod starts: a new Python, with the command of Airflow's pods."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from airflow.executors.base_executor import BaseExecutor

from benchmarks.worker_free.workers import FAILED

__all__ = ["PodExecutor"]

_COMMAND = (sys.executable, "-m", "airflow.sdk.execution_time.execute_workload", "--json-string")


class PodExecutor(BaseExecutor):
    """As Airflow's executor for Kubernetes, without containers: all workers are processes of this machine."""

    is_local = True

    def start(self) -> None:
        """Nothing runs yet."""
        self._workers: dict[Any, subprocess.Popen[bytes]] = {}

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        for workload in workload_items:
            self.queued_tasks.pop(workload.key, None)
            self.running.add(workload.key)
            self._workers[workload.key] = subprocess.Popen([*_COMMAND, workload.model_dump_json()])

    def sync(self) -> None:
        """Tell of workers that have ended."""
        for key, worker in list(self._workers.items()):
            code = worker.poll()
            if code is not None:
                del self._workers[key]
                if code:
                    self.log.error("%s: %s", FAILED, key)
                (self.fail if code else self.success)(key)

    def end(self) -> None:
        """Wait for what runs."""
        for worker in self._workers.values():
            worker.wait()

    def terminate(self) -> None:
        """End what runs."""
        for worker in self._workers.values():
            worker.terminate()
