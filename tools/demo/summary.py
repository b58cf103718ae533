"""The end of the demo in numbers, and whether everything went as it should."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tools.demo.board import Board, Task
from tools.demo.environment import WORKERS
from tools.demo.plan import PLANS

LOGIN = "/session/v1/login-request"
CANCELLED = "000604"
RUNNING = frozenset(
    {
        "RUNNING",
        "QUEUED",
        "BLOCKED",
        "RESTARTED",
        "RESUMING_WAREHOUSE",
        "QUEUED_REPARING_WAREHOUSE",
        "ABORTING",
    }
)
# The scheduler's log has a line for each piece of work a worker did, with how long the worker was busy with it.
STINT = re.compile(r"Workload finished.*?\bduration=([\d.]+)")


@dataclass(frozen=True)
class Facts:
    """What was seen of one run of the demo.

    :param stints: how long a worker was busy, each time one was.
    :param queries: Snowflake's record of every query.
    :param requests: Snowflake's record of every request.
    :param triggerer_ports: the TCP ports from which the triggerer spoke to Snowflake.
    :param transactions: those still open.
    :param seconds: from the first trigger of a Dag to the end of the last task.
    :param cancel_seconds: from the user's click to the end of the query; None when it did not end.
    """

    board: Board
    stints: Sequence[float]
    queries: Sequence[Mapping[str, Any]]
    requests: Sequence[Mapping[str, Any]]
    triggerer_ports: Collection[int]
    transactions: Sequence[Mapping[str, Any]]
    seconds: float
    cancel_seconds: float | None


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    ok: bool
    text: str


def stints(scheduler_log: str) -> list[float]:
    """Return how long workers were busy, from the scheduler's log."""
    return [float(found) for found in STINT.findall(scheduler_log)]


def waiting_seconds(facts: Facts) -> float:
    """Return how long tasks that cannot defer would have held a worker: run times of queries, waits of sensors."""
    ran = sum(
        float(one["ended_at"] or one["started_at"]) - float(one["started_at"]) for one in _submitted(facts)
    )
    sensors = sum(task.waited for task in facts.board.tasks.values() if task.waited and not task.query)
    return ran + sensors


def checks(facts: Facts) -> list[Check]:
    """Return what must hold for the demo to have succeeded."""
    found = _ended_as_planned(facts.board)
    found.append(_cancelled(facts))
    running = [str(one["id"]) for one in facts.queries if one["state"] in RUNNING]
    found.append(_none(running, "query still runs on Snowflake"))
    found.append(
        _none([str(one["id"]) for one in facts.transactions], "transaction is left open on Snowflake")
    )
    per_task = Counter(_task_of(one) for one in _submitted(facts))
    found.append(
        _none([" ".join(map(str, key)) for key, n in per_task.items() if n > 1], "query was started twice")
    )
    return found


def numbers(facts: Facts) -> list[tuple[str, str]]:
    """Return (what, how much), for somebody who pays for the workers."""
    busy, waiting = sum(facts.stints), waiting_seconds(facts)
    saved = f" ({1 - busy / waiting:.0%} less)" if 0 < busy < waiting else ""
    by_triggerer = [one for one in facts.requests if one["client_port"] in facts.triggerer_ports]
    logins = [one for one in facts.requests if one["path"] == LOGIN]
    triggerer_logins = [one for one in by_triggerer if one["path"] == LOGIN]
    workers = len(facts.requests) - len(by_triggerer), len(logins) - len(triggerer_logins)
    return [
        ("Tasks", f"{len(facts.board.tasks)} on {WORKERS} workers, in {facts.seconds:.0f} s"),
        ("Queries that ran at once", f"up to {most_at_once(_submitted(facts))}"),
        (
            "Worker time without deferral",
            f"at least {waiting:.0f} s, as long as queries ran and sensors waited",
        ),
        ("Worker time taken", f"{busy:.0f} s with everything{saved}, in {len(facts.stints)} short stints"),
        ("Duration without deferral", f"at least {waiting / WORKERS:.0f} s on {WORKERS} workers"),
        ("Requests to Snowflake", _split(len(facts.requests), workers[0], len(by_triggerer))),
        ("Logins to Snowflake", _split(len(logins), workers[1], len(triggerer_logins))),
    ]


def _split(total: int, workers: int, triggerer: int) -> str:
    return f"{total}: {workers} by workers, {triggerer} by the triggerer, for all waits together"


def render(facts: Facts) -> Table:
    """Return the numbers as a table."""
    found = Table(show_header=False, box=None, pad_edge=False)
    found.add_column(no_wrap=True)
    found.add_column()
    for what, how_much in numbers(facts):
        found.add_row(what, how_much)
    return found


def most_at_once(queries: Sequence[Mapping[str, Any]]) -> int:
    """Return the greatest number of queries that ran at one moment."""
    moments = [(float(one["started_at"]), 1) for one in queries]
    moments += [(float(one["ended_at"]), -1) for one in queries if one["ended_at"]]
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def _ended_as_planned(board: Board) -> list[Check]:
    wrong = [task for task in board.rows() if task.state != _expected(task)]
    missing = sum(plan.tasks for plan in PLANS.values()) - len(board.tasks)
    found = [Check(False, f"{one.dag}.{one.name} is {one.state}, not {_expected(one)}") for one in wrong]
    if missing:
        found.append(Check(False, f"{missing} tasks never came to be"))
    failed = [f"{task.dag}.{task.name}" for task in board.rows() if _expected(task) == "failed"]
    intended = f"; {' and '.join(failed)} failed, as intended"
    return found or [Check(True, f"Every task ended as it should{intended if failed else ''}")]


def _expected(task: Task) -> str:
    plan = PLANS.get(task.dag)
    return plan.expected(str(task.instance["task_id"])) if plan else "success"


def _cancelled(facts: Facts) -> Check:
    wanted = {(dag, plan.cancel) for dag, plan in PLANS.items() if plan.cancel}
    mine = [one for one in _submitted(facts) if _task_of(one)[:2] in wanted]
    gone = bool(mine) and all(one["error_code"] == CANCELLED for one in mine)
    if not gone or facts.cancel_seconds is None:
        state = ", ".join(f"{one['id']} is {one['state']}" for one in mine) or "it was never started"
        return Check(False, f"The query of the cancelled task is not gone: {state}")
    return Check(
        True, f"The cancelled query {mine[0]['id']} was gone {facts.cancel_seconds:.1f} s after the click"
    )


def _none(found: Sequence[str], what: str) -> Check:
    return Check(not found, f"No {what}" if not found else f"{len(found)} x: {what}: {', '.join(found)}")


def _submitted(facts: Facts) -> list[Mapping[str, Any]]:
    """Return the queries that tasks submitted and waited for: blocks as one, pokes of sensors not."""
    return [one for one in facts.queries if one["parent_id"] is None and _tag(one)]


def _task_of(query: Mapping[str, Any]) -> tuple[Any, ...]:
    tag = _tag(query)
    return tuple(tag.get(f"airflow_{name}") for name in ("dag_id", "task_id", "map_index"))


def _tag(query: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(query["tag"] or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "submit_key" in found else {}
