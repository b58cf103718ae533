"""One phase of the measurement: submit, hand over, watch, stop, and ask the local Snowflake what was true."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.snowflake.account import Account
from benchmarks.snowflake.plan import OURS, STOCK, Plan
from benchmarks.snowflake.shapes import Report, Submitted
from benchmarks.snowflake.supervisor import Triggerer

__all__ = ["Seen", "run"]

_SUBMITTING = 300.0
_OF_STOCK = "/api/v2/"


@dataclass(frozen=True)
class Seen:
    """What is known of one side of a phase. Moments are epoch seconds.

    :param queries: the local Snowflake's record of each query, in the order of the waits.
    :param requests: its log of the requests of this side.
    :param started_at: when every trigger had made its first step.
    :param questions: what the triggers asked the supervisor; each costs Airflow's own one some twenty SQL statements.
    """

    plan: Plan
    start: float
    started_at: float
    stopped_at: float
    queries: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    report: Report
    log_lines: int
    questions: int


def run(
    name: str,
    plan: Plan,
    sides: Sequence[str],
    account: Account,
    directory: Path,
    env: Mapping[str, str],
    *,
    warm: bool = True,
) -> dict[str, Seen]:
    """Run the plan for all these sides at once.

    :param warm: in triggerers that have imported what a wait needs.
    """
    lab = account.client()
    lab.clear_faults()
    with ExitStack() as running:
        triggerers = {
            side: Triggerer(side, account, directory, f"{name}-{side}", env, warm=warm) for side in sides
        }
        for triggerer in triggerers.values():
            running.callback(triggerer.close)
        for triggerer in triggerers.values():
            triggerer.wait_until_ready()
        submitted = _submit(name, plan, sides, directory, env)
        lab.clear_requests()
        _sleep_until(submitted["start"])
        start = time.time()
        for side, triggerer in triggerers.items():
            triggerer.hand_over(submitted["waits"][side])
        if plan.storm:
            _sleep_until(start + plan.storm_at)
            lab.storm(plan.storm)
        for triggerer in triggerers.values():
            triggerer.wait_until_finished(plan.waits, max(0.0, start + plan.over - time.time()))
        stopped_at = time.time()
        reports = {side: triggerer.stop() for side, triggerer in triggerers.items()}
        lab.clear_faults()
    queries = {query["id"]: query for query in lab.queries()}
    requests = lab.requests()
    return {
        side: Seen(
            plan=plan,
            start=start,
            started_at=triggerers[side].started_at or stopped_at,
            stopped_at=stopped_at,
            queries=[queries[wait["query_id"]] for wait in submitted["waits"][side]],
            requests=[one for one in requests if _side(one) == side],
            report=reports[side],
            log_lines=triggerers[side].log_lines,
            questions=triggerers[side].questions,
        )
        for side in sides
    }


def _side(request: Mapping[str, Any]) -> str:
    return STOCK if str(request["path"]).startswith(_OF_STOCK) else OURS


def _submit(
    name: str, plan: Plan, sides: Sequence[str], directory: Path, env: Mapping[str, str]
) -> Submitted:
    given, out = directory / f"{name}.plan.json", directory / f"{name}.submitted.json"
    given.write_text(json.dumps({"plan": asdict(plan), "sides": list(sides)}))
    command = [sys.executable, "-m", "benchmarks.snowflake.submit", str(given), str(out)]
    done = subprocess.run(
        command, env=dict(env), capture_output=True, text=True, timeout=_SUBMITTING, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the queries could not be submitted:\n{done.stderr[-4000:]}")
    submitted: Submitted = json.loads(out.read_text())
    return submitted


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))
