"""The worker's half, done beforehand: starts the runs and writes down the triggers that wait for them.

``python -m benchmarks.databricks.submit PLAN OUT`` in a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airflow.models.trigger import Trigger
from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

from astronomer.lab.databricks import LabClient
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.triggers.databricks import DatabricksRunTrigger
from benchmarks.databricks.plan import CONN_ID
from benchmarks.databricks.workspace import LAB_URL
from benchmarks.plan import Plan
from benchmarks.shapes import Submitted, Wait
from benchmarks.sides import OURS, STOCK

__all__ = ["run"]

_TOGETHER = 50
_EVERY_NTH_FAILS = 10


def _ours(run: Mapping[str, Any], url: str, interval: float) -> Any:
    """The trigger that ``DatabricksRunNowOperator`` of this package defers with."""
    job = DatabricksRun(
        run["run_id"], CONN_ID, url=url, job_id=run["job_id"], started_at=run["start_time"] / 1000
    )
    return DatabricksRunTrigger(job=job.to_dict(), poll_interval=interval)


def _stock(run: Mapping[str, Any], url: str, interval: float) -> Any:
    """The trigger that the stock operator defers with, with the operator's defaults."""
    return DatabricksExecutionTrigger(
        run_id=run["run_id"],
        databricks_conn_id=CONN_ID,
        polling_period_seconds=interval,  # type: ignore[arg-type]  # a test polls faster than once a second
        retry_limit=3,
        retry_delay=1,
        retry_args=None,
        run_page_url=url,
        repair_run=False,
    )


_TRIGGERS: dict[str, Callable[[Mapping[str, Any], str, float], Any]] = {OURS: _ours, STOCK: _stock}


def run(plan: Plan, side: str, lab: LabClient) -> Submitted:
    """Start every run of the plan, with those of others in between."""
    start = time.time() + 3.0 + 0.002 * (plan.waits + plan.others)
    ids = _start(plan, lab, start)
    runs = {one["run_id"]: one for one in lab.runs(active=True)}
    waits = []
    for run_id in ids:
        one = runs[run_id]
        url = f"{lab.url}/#job/{one['job_id']}/run/{run_id}"
        classpath, arguments = _TRIGGERS[side](one, url, plan.poll_interval).serialize()
        waits.append(
            Wait(
                remote_id=str(run_id), classpath=classpath, encrypted_kwargs=Trigger.encrypt_kwargs(arguments)
            )
        )
    return Submitted(start=max(start, time.time()), waits={side: waits})


def _start(plan: Plan, lab: LabClient, start: float) -> list[int]:
    """The ids, in the order of the waits. The older a run, the sooner it ends; every tenth fails."""
    ends = plan.ends()
    by_end = sorted(range(plan.waits), key=ends.__getitem__)
    ids: dict[int, int] = {}
    for first in range(0, plan.waits, _TOGETHER):
        group = by_end[first : first + _TOGETHER]
        failing = group[_EVERY_NTH_FAILS - 1 :: _EVERY_NTH_FAILS]
        for numbers, fail in (
            (sorted(set(group) - set(failing), key=ends.__getitem__), ""),
            (failing, "broken"),
        ):
            if numbers:
                seconds = start + ends[numbers[0]] - time.time()
                spread = ends[numbers[-1]] - ends[numbers[0]]
                made = lab.seed(len(numbers), seconds=seconds, spread=spread, fail=fail, name="ours")
                ids.update(zip(numbers, made, strict=True))
        _start_others(plan, lab, first, len(group))
    return [ids[number] for number in range(plan.waits)]


def _start_others(plan: Plan, lab: LabClient, first: int, count: int) -> None:
    """As large a share of the foreign runs, which end evenly over their life."""
    begin, end = (plan.others * place // plan.waits for place in (first, first + count))
    if end > begin:
        step = plan.spread / plan.others
        lab.seed(end - begin, seconds=1.0 + step * begin, spread=step * (end - begin - 1))


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    sys.stdin.readline()
    lab = LabClient(os.environ[LAB_URL], os.environ["SSL_CERT_FILE"])
    Path(sys.argv[2]).write_text(json.dumps(run(Plan(**given["plan"]), given["sides"][0], lab)))
