"""``python -m benchmarks.databricks``: this package's trigger beside the stock one, in one run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import phase, place, program
from benchmarks.databricks import measures, others
from benchmarks.databricks.plan import OWN_INTERVAL, SIDES, many, restart, steady
from benchmarks.databricks.table import render
from benchmarks.databricks.workspace import DATABRICKS
from benchmarks.environment import environment
from benchmarks.machine import facts
from benchmarks.plan import Plan
from benchmarks.sides import OURS

__all__ = ["main", "measure"]

_WORKSPACE = "benchmarks.databricks.workspace"
_PACKAGES = ("apache-airflow-providers-databricks",)
_SCALE = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _parser().parse_args(argv)
    found = measure(
        options.waits,
        options.foreign,
        [options.only] if options.only else list(SIDES),
        interval=options.poll_interval,
        scale=_SCALE if options.scale else 0,
    )
    program.tell("databricks", found, render, options)
    return 0


def measure(waits: int, foreign: int, sides: Sequence[str], *, interval: float, scale: int) -> dict[str, Any]:
    """Run every phase and return the numbers of each side.

    :param interval: seconds between two polls, for both sides.
    :param scale: so many waits in one more phase of ours, or 0.
    """
    own = min(OWN_INTERVAL, interval)
    found: dict[str, Any] = {
        "waits": waits,
        "foreign": foreign,
        "poll_interval_s": interval,
        "own_interval_s": own,
        "machine": facts(*_PACKAGES),
    }
    with tempfile.TemporaryDirectory(prefix="astronomer-bench-") as temporary:
        directory = Path(temporary)
        for side in sides:
            found[side] = _phase("steady", side, steady(waits, foreign, interval), directory)
            found[side]["restart"] = _phase("restart", side, restart(waits, foreign, interval), directory)
        if OURS in sides:
            plan = steady(waits, foreign, interval, own)
            found[OURS]["default"] = _phase("default", OURS, plan, directory)
        if scale and OURS in sides:
            crowd = _phase("scale", OURS, many(scale, foreign, interval), directory)
            found[OURS]["scale"] = {"waits": scale, **crowd}
    return found


def _phase(name: str, side: str, plan: Plan, directory: Path) -> dict[str, Any]:
    """One phase of one side, in a workspace of its own."""
    print(f"{name}: {plan.waits} waits, {side} …", file=sys.stderr, flush=True)
    own = directory / f"{name}-{side}"
    with place.started(_WORKSPACE, own / "lab") as workspace:
        env = environment(own / "airflow", workspace.env)
        with others.coming(DATABRICKS.control(workspace), plan):
            seen = phase.run(name, plan, DATABRICKS, [side], workspace, own, env)[side]
    return measures.numbers(side, seen)


def _parser() -> argparse.ArgumentParser:
    parser = program.parser("databricks", __doc__, waits=1000)
    parser.add_argument(
        "--foreign", type=int, default=1000, help="active runs of others in the same workspace (default 1000)"
    )
    parser.add_argument(
        "--poll-interval",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="of both sides, and the measure of every duration (default 30, stock's own)",
    )
    parser.add_argument("--scale", action="store_true", help=f"also {_SCALE} waits of ours")
    return parser


if __name__ == "__main__":
    sys.exit(main())
