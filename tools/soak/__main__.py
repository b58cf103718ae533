"""`python -m tools.soak [--waits 5000] [--minutes 60] [--json PATH]`: the soak, which `make soak` runs.

The exit status is 0 only if nothing has grown and each wait has been told once, and right.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.machine import facts
from benchmarks.worker_free.database import Databases, opened
from tools.demo.processes import ProcessEndedError, Processes
from tools.demo.signals import Interrupted, Signals
from tools.soak.place import Lab, allow_files, environment
from tools.soak.plan import Plan
from tools.soak.report import Report
from tools.soak.soak import Soak

WIDE = 130
SQLITE_WAITS = 200  # with more, triggerer and soak wait for each other's locks
SPARE_FILES = 1000
PATIENT, IMPATIENT = 30.0, 3.0  # seconds to end in
PACKAGES = ("apache-airflow-providers-snowflake", "apache-airflow-providers-databricks", "aiohttp")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak and return its exit status."""
    options = _parser().parse_args(arguments)
    plan = Plan(options.waits, 60.0 * options.minutes)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    signals = Signals()
    signals.watch()
    directory = Path(tempfile.mkdtemp(prefix="astronomer-soak-"))
    kept = True
    try:
        report = _run(plan, directory, console, signals)
        kept = options.keep or not report.ok
        _tell(report, console, options.json)
    except (ProcessEndedError, RuntimeError) as error:
        kept = not isinstance(error, RuntimeError)  # which says what this machine lacks: nothing has run
        console.print(f"{error}", style="red", markup=False, soft_wrap=True)
        return 1
    except Interrupted as interrupted:
        kept = options.keep
        console.print(f"Ended by {interrupted}. Nothing is left running.")
        return interrupted.status
    finally:
        if kept:
            console.print(f"All logs: {directory}", markup=False)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if report.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--waits", type=int, default=5000, help="how many at once (5000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="for how long, once all have begun (60)")
    parser.add_argument(
        "--json", type=Path, default=Path("soak.json"), help="where the samples go (soak.json)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the logs, also if all is well")
    return parser


def _run(plan: Plan, directory: Path, console: Console, signals: Signals) -> Report:
    machine = facts(*PACKAGES)
    with opened() as databases, _processes(directory, signals) as processes, ExitStack() as stack:
        soak = _prepared(plan, directory, databases, processes, console, stack)
        stack.callback(soak.release)
        soak.run()
        return Report(soak, {**machine, **databases.facts()})


@contextmanager
def _processes(directory: Path, signals: Signals) -> Iterator[Processes]:
    """What is started in the block ends with it."""
    processes = Processes(directory / "output", directory / "processes.json", signals)
    patience = IMPATIENT
    try:
        yield processes
        patience = PATIENT
    finally:
        signals.ignore()
        processes.stop(patience)


def _prepared(
    plan: Plan,
    directory: Path,
    databases: Databases,
    processes: Processes,
    console: Console,
    stack: ExitStack,
) -> Soak:
    if databases.server is None and plan.waits > SQLITE_WAITS:
        raise RuntimeError(
            f"More than {SQLITE_WAITS} waits need PostgreSQL: install it (Debian: `apt-get install postgresql`)."
        )
    allow_files(plan.waits + SPARE_FILES)
    url = databases.new("soak", directory)
    env = environment(directory, url)
    lab = Lab.start(processes, directory / "lab", env)
    env = {**env, **lab.variables}
    os.environ.update(env, AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR")
    # Airflow reads the environment when it is imported.
    from tools.soak.families import Work
    from tools.soak.rows import Rows

    rows = Rows()
    work = Work(lab, rows, directory / "files")
    stack.callback(work.close)
    ports = {**lab.ports, **({"the database": url.port} if url.port else {})}
    return Soak(plan, lab, rows, work, processes, directory, env, ports, console)


def _tell(report: Report, console: Console, path: Path) -> None:
    console.print()
    console.print(report.waits())
    console.print()
    console.print(report.levels())
    console.print()
    console.print(report.pace(), markup=False)
    console.print()
    for one in report.verdicts:
        console.print("  ok     " if one.ok else "  WRONG  ", style="green" if one.ok else "red", end="")
        console.print(one.text, markup=False)
    path.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    console.print(f"\nThe samples: {path}", markup=False)
    console.print("Nothing grew, and nothing was lost." if report.ok else "The soak FAILED.", style="bold")


if __name__ == "__main__":
    sys.exit(main())
