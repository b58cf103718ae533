"""The Databricks family, over the network and in real time."""

from __future__ import annotations

import functools
import json
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from airflow.providers.databricks.operators import databricks as stock

from astronomer.deferral import JobOperator, Phase
from astronomer.lab.databricks import DatabricksLab
from astronomer.lab.request_log import Entry
from astronomer.providers.databricks import states
from astronomer.providers.databricks.operators.databricks import (
    DatabricksNotebookOperator,
    DatabricksRunNowOperator,
    DatabricksSubmitRunOperator,
    DatabricksTaskOperator,
)
from tests.contract.network import LabWorld, started
from tests.contract.world import Family, World

__all__ = ["DatabricksRunNowFamily", "DatabricksSubmitFamily"]


@functools.cache
def _lab() -> DatabricksLab:
    return started(DatabricksLab())


class DatabricksWorld(LabWorld):
    """Runs that are submitted without a job."""

    operator_type: type[JobOperator] = DatabricksSubmitRunOperator
    lab: DatabricksLab
    poll_path = r"^/api/2.2/jobs/runs/(get|list)$"
    submit_path = r"^/api/2.2/jobs/runs/submit$"

    def __init__(self, lab: DatabricksLab) -> None:
        super().__init__(lab)
        self.secrets = (lab.client_secret, lab.token)
        self._before = set(lab.runs)

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        return {"notebook_task": self._notebook(runs_for, fails)}

    def _notebook(self, runs_for: float, fails: bool) -> dict[str, Any]:
        parameters = {"seconds": f"{runs_for * self.beat:.2f}"} | ({"fail": "told to"} if fails else {})
        return {"notebook_path": "/lab/wait", "base_parameters": parameters}

    @property
    def _own(self) -> dict[str, Any]:
        return {str(run_id): run for run_id, run in self.lab.runs.items() if run_id not in self._before}

    @property
    def started(self) -> list[str]:
        return list(self._own)

    def phase(self, job_id: str) -> Phase:
        run = self._own[job_id]
        if not run.ended:
            return Phase.ACTIVE
        if run.state.result == "SUCCESS":
            return Phase.SUCCEEDED
        return Phase.CANCELLED if run.state.code == "USER_CANCELED" else Phase.FAILED

    def finish(self, job_id: str) -> None:
        for task in self._own[job_id].tasks:
            # Not advance(): tokens would expire as well.
            self.lab._do(task.stop.__self__.ring)

    def report_unknown_state(self, job_id: str) -> Callable[[], None]:
        run = self._own[job_id]
        known = run.state
        run.state = odd = replace(known, phase="WOBBLING", life_cycle="WOBBLING")
        run.touch()

        def take_back() -> None:
            if run.state is odd:
                run.state = known
                run.touch()

        return take_back

    def stall(self, seconds: float) -> None:
        pytest.skip("its client is asynchronous")

    @property
    def rounds(self) -> int:
        """Many are asked for by the list, one by itself."""
        lists = [entry for entry in self._asked if entry.path.endswith("list")]
        return len([entry for entry in lists if not self._continues(entry)]) or len(self._asked)

    @staticmethod
    def _continues(entry: Entry) -> bool:
        return bool(entry.query.get("page_token"))

    def requests_per_round(self, waits: int) -> int:
        return 2

    def close(self) -> None:
        """End what still runs."""
        self.lab.faults.clear()
        for run_id in self.running:
            self.lab.cancel_by_user(int(run_id))


class DatabricksSubmitFamily(Family):
    """Runs that are submitted without a job."""

    name = "databricks-submit"
    world_type: type[DatabricksWorld] = DatabricksWorld
    pairs = (
        (DatabricksSubmitRunOperator, stock.DatabricksSubmitRunOperator),
        (DatabricksNotebookOperator, stock.DatabricksNotebookOperator),
        (DatabricksTaskOperator, stock.DatabricksTaskOperator),
    )

    @contextmanager
    def world(self) -> Iterator[World]:
        lab = _lab()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (lab.client_env() | lab.connection_env(auth="oauth")).items():
                patch.setenv(name, value)
            patch.setattr(states, "_unknown_seen", set())
            lab.requests.clear()
            world = self.world_type(lab)
            try:
                yield world
            finally:
                world.close()


class DatabricksRunNowWorld(DatabricksWorld):
    """Runs of jobs."""

    operator_type = DatabricksRunNowOperator
    submit_path = r"^/api/2.2/jobs/run-now$"

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        return {"job_id": self._create(self._notebook(runs_for, fails))}

    def _create(self, notebook: dict[str, Any]) -> int:
        settings = {
            "name": "contract",
            "max_concurrent_runs": 100,
            "tasks": [{"task_key": "wait", "notebook_task": notebook}],
        }
        request = urllib.request.Request(
            f"{self.lab.url}/api/2.2/jobs/create",
            json.dumps(settings).encode(),
            {"Authorization": f"Bearer {self.lab.token}"},
        )
        context = ssl.create_default_context(cafile=str(self.lab.ca_file))
        with urllib.request.urlopen(request, context=context) as answer:
            return int(json.load(answer)["job_id"])


class DatabricksRunNowFamily(DatabricksSubmitFamily):
    """Runs of jobs."""

    name = "databricks-run-now"
    world_type = DatabricksRunNowWorld
    pairs = ((DatabricksRunNowOperator, stock.DatabricksRunNowOperator),)
