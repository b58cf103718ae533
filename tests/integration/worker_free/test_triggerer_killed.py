"""Triggerers are killed with SIGKILL, or stopped with SIGSTOP and woken up, at each point of a task without a worker.

Each is a process of its own, and so is the one that takes over. The vendor's books say how many jobs there were.
"""

from __future__ import annotations

import itertools
import os
import signal
import time

import pytest

from tests.integration.driving import until_now
from tests.integration.worker_free.conftest import kill, state_of
from tests.integration.worker_free.triggerer import CLAIM_LASTS, POINTS, SUBMITTED_BY, UNGUARDED

OPERATORS = "astronomer.providers.{}:{}"
SNOWFLAKE = OPERATORS.format("snowflake.operators.query", "SnowflakeOperator")
STATEMENTS = OPERATORS.format("databricks.operators.databricks_sql", "DatabricksSqlOperator")
RUNS = OPERATORS.format("databricks.operators.databricks", "DatabricksSubmitRunOperator")
FAMILIES = pytest.mark.parametrize("operator", [SNOWFLAKE, STATEMENTS, RUNS])

NOT_PASSED = {
    SNOWFLAKE: set(),
    STATEMENTS: set(),
    RUNS: {"before the last look"},
}
_numbers = itertools.count(1)


class Task:
    """One task, the triggerers that run it, and its jobs."""

    def __init__(self, forks, labs, operator, directory, point):
        self._forks = forks[operator != SNOWFLAKE]
        self._snowflake, self._databricks = labs
        self.point = point
        self.name = f"lab_{next(_numbers)}_of_{os.getpid()}"
        self.operator = operator
        self.directory = directory / self.name
        self.directory.mkdir()

    def start(self, **how):
        return self._forks.start(
            operator=self.operator,
            arguments=self._arguments(),
            run_id=self.name,
            directory=str(self.directory),
            **how,
        )

    def _arguments(self):
        if self.operator == SNOWFLAKE:
            return {"sql": f"select '{self.name}' as name"}
        if self.operator == STATEMENTS:
            path = self._databricks.warehouses.default.path
            return {"sql": f"select lab_wait(0.3), '{self.name}' as name", "http_path": path}
        work = {"notebook_path": "/lab/wait", "base_parameters": {"seconds": "0.3"}}
        return {"notebook_task": work, "run_name": self.name}

    @property
    def jobs(self):
        if self.operator == SNOWFLAKE:
            queries = self._snowflake.queries.values()
            return [one for one in queries if one.sql.startswith("select") and self.name in one.sql]
        if self.operator == STATEMENTS:
            return [one for one in self._databricks.statements.values() if self.name in one.text]
        return [one for one in self._databricks.runs.values() if one.name == self.name]

    @property
    def ended(self):
        file = self.directory / "ended"
        return file.read_text() if file.exists() else ""

    def said(self):
        logs = sorted(self.directory.glob("log-*"))
        return "\n".join(f"{self.name} {self.point}\n{log.read_text()[-3000:]}" for log in logs)

    def audit(self):
        assert len(self.jobs) == 1, f"{len(self.jobs)} jobs: {self.said()}"
        assert self.ended == "success", self.said()


@pytest.fixture
def tasks(forks, labs, tmp_path):
    def make(operator, points):
        return [
            Task(forks, labs, operator, tmp_path, point)
            for point in points
            if point not in NOT_PASSED[operator]
        ]

    return make


def all_of(tasks, condition):
    late = list(tasks)

    def none_is_late():
        late[:] = [task for task in late if not condition(task)]
        return not late

    try:
        until_now(none_is_late, seconds=120)
    except AssertionError:
        raise AssertionError(
            "\n".join(f"{task.name} {task.point}: {task.said()[-600:]}" for task in late)
        ) from None


@FAMILIES
def test_a_kill_at_each_point(tasks, operator):
    found = tasks(operator, POINTS)
    first = {task: task.start(point=task.point, signal=signal.SIGKILL) for task in found}
    all_of(found, lambda task: not state_of(first[task]))
    assert not [task.point for task in found if task.ended]
    for task in found:
        task.start()
    all_of(found, lambda task: task.ended)
    for task in found:
        task.audit()


GUARDED = [point for point in POINTS if point != UNGUARDED]


@pytest.mark.long
@FAMILIES
@pytest.mark.parametrize("wakes", ["when all is done", "when the other begins"])
def test_a_stop_at_each_point_while_another_takes_over(tasks, operator, wakes):
    found = tasks(operator, GUARDED)
    first = {task: task.start(point=task.point, signal=signal.SIGSTOP) for task in found}
    all_of(found, lambda task: state_of(first[task]) == "T")
    time.sleep(CLAIM_LASTS + 0.5)  # as Airflow gives no trigger away at once
    second = {task: task.start() for task in found}
    if wakes == "when all is done":
        all_of(found, lambda task: task.ended)
    for pid in first.values():
        os.kill(pid, signal.SIGCONT)
    all_of(found, lambda task: task.ended)
    time.sleep(1.6 * SUBMITTED_BY)  # for all that one which woke up might still start
    for pid in (*first.values(), *second.values()):
        kill(pid)
    for task in found:
        task.audit()
