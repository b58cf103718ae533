"""``python -m benchmarks.worker_free``: the same Dag in a real Airflow, with workers, deferrable, and without workers."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks import program
from benchmarks.machine import facts
from benchmarks.worker_free import measures, phase
from benchmarks.worker_free.database import opened
from benchmarks.worker_free.plan import EXECUTORS, LOCAL, PER_RUN, SIDES, Load
from benchmarks.worker_free.table import render
from tools.demo.processes import ProcessEndedError
from tools.demo.signals import Interrupted, Signals

__all__ = ["main", "measure"]

_PACKAGES = ("apache-airflow-providers-databricks", "sqlalchemy", "psycopg2-binary")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _parser().parse_args(argv)
    load = Load(
        options.tasks,
        options.every,
        options.shortest,
        options.longest,
        options.executor,
        options.workers,
        idle=options.idle,
        scheduler_sleep=options.scheduler_sleep,
    )
    sides = [options.only] if options.only else list(SIDES)
    signals = Signals()
    signals.watch()
    try:
        found = measure(load, sides, signals, directory=options.directory)
    except (RuntimeError, ProcessEndedError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        return interrupted.status
    program.tell("worker free", found, render, options)
    return 0


def measure(
    load: Load, sides: Sequence[str], signals: Signals, *, directory: Path | None = None
) -> dict[str, Any]:
    """Measure one side after the other and return the numbers of each.

    :param directory: for logs and files, a new one; by default one that is thrown away.
    """
    found: dict[str, Any] = {"settings": load.settings(), "machine": facts(*_PACKAGES)}
    temporary = tempfile.TemporaryDirectory(prefix="astronomer-bench-")
    with opened() as databases, temporary if directory is None else nullcontext(str(directory)) as place:
        found["machine"] |= databases.facts()
        for side in sides:
            print(f"{side} …", file=sys.stderr, flush=True)
            found[side] = measures.numbers(phase.run(load, side, databases, Path(place), signals))
    found["targets"] = measures.targets(found)
    return found


def _tasks(given: str) -> int:
    number = int(given)
    if number < PER_RUN or number % PER_RUN:
        raise argparse.ArgumentTypeError(
            f"a run of the Dag has {PER_RUN} of them, so name a multiple of that"
        )
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker_free", description=__doc__)
    add = parser.add_argument
    add("--tasks", type=_tasks, default=200, help="measured tasks (default 200)")
    add("--every", type=float, default=10.0, metavar="SECONDS", help=f"{PER_RUN} more (default 10)")
    add("--shortest", type=float, default=5.0, metavar="SECONDS", help="run on Databricks (default 5)")
    add("--longest", type=float, default=14.0, metavar="SECONDS", help="run on Databricks (default 14)")
    add("--executor", choices=EXECUTORS, default=LOCAL, help="what starts workers (default local)")
    add("--workers", type=int, default=8, help="tasks that the executor runs at once (default 8)")
    add("--scheduler-sleep", type=float, default=1.0, metavar="SECONDS", help="when idle (default 1)")
    add("--idle", type=float, default=40.0, metavar="SECONDS", help="measured without a task (default 40)")
    add("--only", choices=SIDES, help="measure one side")
    add("--directory", type=Path, help="keep logs and files in this new directory")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    add("--update", action="store_true", help=f"write the table into {program.README.name}, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
