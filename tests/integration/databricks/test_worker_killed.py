"""The worker's process is killed with SIGKILL at each step of a submit; the next try finds the one run."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from astronomer.providers.databricks.triggers.databricks import DatabricksRunTrigger
from tests.integration.driving import collected, triggerer, until_now

ROOT = Path(__file__).parents[3]
STEPS = ("before submit", "after submit", "after the store", "before defer", "after defer")
_runs = itertools.count(1)


class Executor:
    """Forks a worker for each try."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.databricks.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._said() == "ready"

    def start(self, spec):
        """The process id of a new worker."""
        self._process.stdin.write(json.dumps(spec) + "\n")
        self._process.stdin.flush()
        return int(self._said())

    def ended(self):
        """How it ended."""
        return int(self._said())

    def stop(self):
        self._process.communicate(timeout=30)

    def _said(self):
        while True:
            line = self._process.stdout.readline()
            assert line, "the executor has ended"
            if line.strip() == "ready" or line.strip().lstrip("-").isdigit():
                return line.strip()


class Work:
    """One task in one Dag run, and its runs in the workspace."""

    def __init__(self, executor, lab, directory):
        self._executor, self._lab, self._directory = executor, lab, directory
        self._before = set(lab.runs)
        self._tries = itertools.count(1)
        self._run_id = f"killed-{next(_runs)}"

    @property
    def runs(self):
        return [run for run_id, run in self._lab.runs.items() if run_id not in self._before]

    def start(self, dies="", seconds=1):
        parameters = {"seconds": str(seconds)}
        spec = {
            "arguments": {"notebook_task": {"notebook_path": "/lab/wait", "base_parameters": parameters}},
            "try_number": next(self._tries),
            "run_id": self._run_id,
            "store": str(self._directory / "store.json"),
            "trigger": str(self._directory / "trigger.json"),
            "dies": dies,
        }
        return self._executor.start(spec)

    def is_settled_by_the_next_try(self):
        """It defers for the one run, and the triggerer sees that end."""
        self.start()
        assert self._executor.ended() == 0
        _, arguments = json.loads((self._directory / "trigger.json").read_text())
        trigger = DatabricksRunTrigger(**{**arguments, "not_before": 0.0})
        (run,) = self.runs
        assert trigger.job["run_id"] == run.run_id

        async def wait():
            async with triggerer():
                return await collected(trigger)

        (event,) = asyncio.run(wait())
        assert event["outcome"]["status"]["phase"] == "succeeded"
        assert len(self.runs) == 1


@pytest.fixture
def executor(lab):
    executor = Executor()
    yield executor
    executor.stop()


def test_at_each_step_of_its_own(lab, executor, tmp_path):
    for step in STEPS:
        directory = tmp_path / step.replace(" ", "_")
        directory.mkdir()
        task = Work(executor, lab, directory)
        task.start(dies=step)
        assert executor.ended() == -signal.SIGKILL, step
        assert len(task.runs) == (0 if step == "before submit" else 1), step
        task.is_settled_by_the_next_try()


def test_while_the_answer_is_on_its_way(lab, executor, tmp_path):
    task = Work(executor, lab, tmp_path)
    lab.faults.late(60, "jobs/runs/submit", times=1)
    worker = task.start(seconds=3)
    until_now(lambda: task.runs, seconds=60)
    os.kill(worker, signal.SIGKILL)
    assert executor.ended() == -signal.SIGKILL
    task.is_settled_by_the_next_try()
