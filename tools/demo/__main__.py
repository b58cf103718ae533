"""`python -m tools.demo [--short] [--keep]`: the demo, which `make demo` runs in an environment made for it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from rich.console import Console

from tools.demo import summary
from tools.demo.alone import BusyError, alone
from tools.demo.backend import Backend, OneMachine, Servers
from tools.demo.demo import Run
from tools.demo.environment import Places
from tools.demo.plan import ELSEWHERE
from tools.demo.processes import ProcessEndedError, Processes, end_recorded
from tools.demo.services import Services
from tools.demo.signals import Interrupted, Signals
from tools.servers import MissingServerError

WIDE = 130
# Seconds to end in. A scheduler that is asked to end waits for its tasks first; whoever interrupts us will not.
PATIENT, IMPATIENT = 15.0, 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status: 0 only if every task ended as it should."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    places = Places(Path(__file__).resolve().parents[2])
    places.state.mkdir(exist_ok=True)
    signals = Signals()
    signals.watch()
    try:
        with alone(places.state, "demo"):
            return _run(options, console, places, signals)
    except (ProcessEndedError, BusyError, MissingServerError) as error:
        console.print(f"{error}", style="red", markup=False, soft_wrap=True)
        return 1
    except httpx.HTTPError as error:
        console.print(
            f"Airflow did not answer as it should: {error}\nIts logs: {places.logs}",
            style="red",
            markup=False,
        )
        return 1
    except Interrupted as interrupted:
        console.print(f"Ended by {interrupted}.")
        return interrupted.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--short", action="store_true", help="shorter jobs, a few minutes in all")
    parser.add_argument(
        "--celery",
        action="store_true",
        help="on Celery with two triggerers; PostgreSQL and Redis are started, or named by DATABASE_URL and REDIS_URL",
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    return parser


def _run(options: argparse.Namespace, console: Console, places: Places, signals: Signals) -> int:
    record = places.state / "processes.json"
    if left := end_recorded(record):
        console.print(f"Ended {len(left)} processes that an earlier demo had left behind.")
    processes = Processes(places.logs, record, signals)
    patience = IMPATIENT
    backend = _backend(options)
    try:
        services = Services(places, processes, console, elsewhere=ELSEWHERE, backend=backend)
        with contextlib.closing(services):
            remote, airflow, _ = services.start()
            facts = Run(services, remote, airflow, console, short=options.short).go()
        status = _report(facts, console)
        if options.keep:
            _keep(console, services)
        patience = PATIENT
        return status
    finally:
        signals.ignore()
        console.print("Stopping everything …")
        killed = processes.stop(patience)
        if patience == PATIENT:
            for one in killed:
                console.print(f"  had to be killed: {one}", markup=False)
        backend.close()
        console.print("Nothing is left running.")


def _backend(options: argparse.Namespace) -> Backend:
    """Return what Airflow shall stand on; URLs hold passwords, so they come by the environment."""
    if not options.celery:
        return OneMachine()
    found = {name: os.environ.get(name) or None for name in ("DATABASE_URL", "REDIS_URL")}
    return Servers(database_url=found["DATABASE_URL"], redis_url=found["REDIS_URL"])


def _report(facts: summary.Facts, console: Console) -> int:
    console.print()
    console.print(summary.render(facts))
    console.print()
    checks = summary.checks(facts)
    for check in checks:
        console.print("  ok     " if check.ok else "  WRONG  ", style="green" if check.ok else "red", end="")
        console.print(check.text, markup=False)
    good = all(check.ok for check in checks)
    console.print("\nEverything ended as it should." if good else "\nThe demo FAILED.", style="bold")
    return 0 if good else 1


def _keep(console: Console, services: Services) -> None:
    console.print("\nStill running, until Ctrl-C:")
    for one in services.deployments:
        console.print(f"  {one.access}", markup=False)
    try:
        while True:
            services.processes.check()
            time.sleep(1)
    except Interrupted as interrupted:
        if interrupted.number != signal.SIGINT:
            raise


if __name__ == "__main__":
    sys.exit(main())
