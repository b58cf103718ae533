"""``python -m benchmarks.snowflake``: this package's trigger beside the stock one, in one run."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.snowflake import account, measures, phase
from benchmarks.snowflake.machine import facts
from benchmarks.snowflake.plan import OURS, POLL_INTERVAL, SIDES, Plan
from benchmarks.snowflake.table import render, with_numbers

__all__ = ["main", "measure"]

_ROOT = Path(__file__).parents[2]
_SCALE = 1000
README = Path(__file__).parents[1] / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _parser().parse_args(argv)
    sides = [options.only] if options.only else list(SIDES)
    found = measure(
        options.waits,
        sides,
        storm=options.storm,
        scale=_SCALE if options.scale else 0,
        quiet=options.quiet_for,
        spread=options.spread,
    )
    if options.update:
        README.write_text(with_numbers(README.read_text(encoding="utf-8"), render(found)), encoding="utf-8")
    print(json.dumps(found, indent=2) if options.json else render(found))
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
    found: dict[str, Any] = {"waits": waits, "poll_interval_s": POLL_INTERVAL, "machine": facts()}
    with tempfile.TemporaryDirectory(prefix="astronomer-bench-") as temporary:
        directory = Path(temporary)
        with account.started(directory / "lab") as snowflake:
            env = _environment(snowflake, directory)

            def go(name: str, plan: Plan, *which: str, warm: bool = True) -> dict[str, phase.Seen]:
                print(f"{name}: {plan.waits} waits, {' and '.join(which)} …", file=sys.stderr, flush=True)
                return phase.run(name, plan, which, snowflake, directory, env, warm=warm)

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


def _environment(snowflake: account.Account, directory: Path) -> Mapping[str, str]:
    """The same for every process of Airflow's; nothing of the caller's configuration."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "SNOWFLAKE_"))
    }
    home = directory / "airflow"
    home.mkdir()
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    return {
        **kept,
        **snowflake.env,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__FERNET_KEY": key,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "SNOWFLAKE_HOME": str(home),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snowflake", description=__doc__)
    parser.add_argument(
        "--waits", type=int, default=200, help="deferred tasks on one connection (default 200)"
    )
    parser.add_argument(
        "--storm", type=float, default=60.0, metavar="SECONDS", help="0 for none (default 60)"
    )
    parser.add_argument("--only", choices=list(SIDES), help="measure one side")
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
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--update", action="store_true", help=f"write the table into {README.name}, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
