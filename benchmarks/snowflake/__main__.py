"""``python -m benchmarks.snowflake``: this package's trigger beside the stock one, in one run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import phase, place, program
from benchmarks.environment import environment
from benchmarks.machine import facts
from benchmarks.plan import Plan
from benchmarks.sides import OURS
from benchmarks.snowflake import measures
from benchmarks.snowflake.account import SNOWFLAKE
from benchmarks.snowflake.plan import POLL_INTERVAL, SIDES
from benchmarks.snowflake.table import render

__all__ = ["main", "measure"]

_ACCOUNT = "benchmarks.snowflake.account"
_PACKAGES = ("apache-airflow-providers-snowflake", "snowflake-connector-python")
_SCALE = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _parser().parse_args(argv)
    found = measure(
        options.waits,
        [options.only] if options.only else list(SIDES),
        storm=options.storm,
        scale=_SCALE if options.scale else 0,
        quiet=options.quiet_for,
        spread=options.spread,
    )
    program.tell("snowflake", found, render, options)
    return 0


def measure(
    waits: int,
    sides: Sequence[str],
    *,
    storm: float,
    scale: int,
    quiet: float,
    spread: float,
) -> dict[str, Any]:
    """Run every phase and return the numbers of each side.

    :param storm: seconds, or 0 for none.
    :param scale: so many waits in one more phase of ours, or 0.
    :param quiet: seconds of the steady phase before the first query ends.
    :param spread: seconds over which the queries end.
    """
    found: dict[str, Any] = {
        "waits": waits,
        "poll_interval_s": POLL_INTERVAL,
        "machine": facts(*_PACKAGES),
    }
    with tempfile.TemporaryDirectory(prefix="astronomer-bench-") as temporary:
        directory = Path(temporary)
        with place.started(_ACCOUNT, directory / "lab") as account:
            env = environment(directory / "airflow", account.env)

            def go(name: str, plan: Plan, *which: str, warm: bool = True) -> dict[str, phase.Seen]:
                print(f"{name}: {plan.waits} waits, {' and '.join(which)} …", file=sys.stderr, flush=True)
                return phase.run(name, plan, SNOWFLAKE, which, account, directory, env, warm=warm)

            calm = Plan(waits, first=quiet, spread=spread)
            first = Plan(1, first=2.0, spread=0.0)
            longest_start = 0.0
            for side in sides:
                seen = go("steady", calm, side)[side]
                found[side] = measures.steady(side, seen)
                longest_start = max(longest_start, seen.started_at - seen.start)
                found[side]["cold"] = measures.cold(go("cold", first, side, warm=False)[side])
            if storm:
                begin = longest_start + POLL_INTERVAL
                rough = Plan(waits, begin, storm + 15.0, storm_at=begin, storm=storm, patience=75.0)
                for side, seen in go("storm", rough, *sides).items():
                    found[side]["storm"] = measures.storm(side, seen)
                    found[side]["lost"] += found[side]["storm"]["lost"]
            if scale and OURS in sides:
                seen = go("scale", Plan(scale, first=quiet, spread=spread), OURS)[OURS]
                found[OURS]["scale"] = {"waits": scale, **measures.steady(OURS, seen)}
    return found


def _parser() -> argparse.ArgumentParser:
    parser = program.parser("snowflake", __doc__, waits=200)
    parser.add_argument(
        "--storm", type=float, default=60.0, metavar="SECONDS", help="0 for none (default 60)"
    )
    parser.add_argument("--scale", action="store_true", help=f"also {_SCALE} waits of ours")
    parser.add_argument(
        "--quiet-for", type=float, default=40.0, metavar="SECONDS", help="before the first end (default 40)"
    )
    parser.add_argument(
        "--spread",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="from the first end to the last (default 20)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
