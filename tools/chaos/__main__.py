"""`python -m tools.chaos`: the fault certificate, which `make chaos` prints in an environment made for it."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.table import with_numbers
from tools.chaos.campaign import FAULTS, Campaign
from tools.chaos.certificate import Certificate, OtherCampaignError, markdown, render
from tools.chaos.faults import Fault
from tools.chaos.world import running
from tools.demo.alone import BusyError, alone
from tools.demo.processes import ProcessEndedError, Processes, end_recorded
from tools.demo.signals import Interrupted, Signals
from tools.servers import MissingServerError

ROOT = Path(__file__).resolve().parents[2]
WIDE = 150
KILLS, QUICK_KILLS = 1000, 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the faults and return the exit status: 0 only if nothing of ours went wrong."""
    options = _parser().parse_args(arguments)
    faults = _chosen(options)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    signals = Signals()
    signals.watch()
    folder = Path(options.folder) if options.folder else ROOT / ".chaos"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with alone(folder, "campaign"):
            return _run(options, faults, console, signals, folder)
    except (ProcessEndedError, MissingServerError, BusyError, OtherCampaignError) as error:
        console.print(f"{error}", style="red", markup=False, soft_wrap=True)
        return 1
    except Interrupted as interrupted:
        console.print(f"Ended by {interrupted}.")
        return interrupted.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    add = parser.add_argument
    add("--short", action="store_true", help=f"the quick faults, with {QUICK_KILLS} kills")
    add("--celery", action="store_true", help="on Celery's workers, which Redis feeds")
    add("--kills", type=int, help=f"how many processes to kill ({KILLS})")
    add(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="the faults whose group and name contain this, such as People",
    )
    add("--seed", type=int, default=0, help="of what is left to chance (0)")
    add(
        "--json",
        type=Path,
        help="where the certificate is written (chaos.json; with --celery chaos-celery.json)",
    )
    add("--resume", action="store_true", help="go on with what the certificate has, after an interruption")
    add("--update", action="store_true", help="write the table into benchmarks/README.md")
    add("--folder", help="where Airflow's files and logs go (.chaos in the checkout)")
    add("--list", action="store_true", help="list the faults, and do nothing")
    return parser


def _form(options: argparse.Namespace) -> list[Fault]:
    """All faults of the long form, or of the short one."""
    found = [fault for fault in FAULTS if options.celery or not fault.celery]
    return [fault for fault in found if fault.quick or not options.short or options.only]


def _chosen(options: argparse.Namespace) -> list[Fault]:
    def asked(fault: Fault) -> bool:
        return any(text.lower() in f"{fault.group}: {fault.name}".lower() for text in options.only)

    wanted = [fault for fault in _form(options) if asked(fault) or not options.only]
    if options.list or not wanted:
        for fault in wanted or FAULTS:
            print(f"{fault.group}: {fault.name}")
        sys.exit(0 if wanted else 2)
    return wanted


def _run(
    options: argparse.Namespace, faults: list[Fault], console: Console, signals: Signals, folder: Path
) -> int:
    path = options.json or Path("chaos-celery.json" if options.celery else "chaos.json")
    facts = _facts(options)
    certificate = Certificate.read(path, facts) if options.resume else Certificate()
    before = float(certificate.facts.get("seconds", 0))
    certificate.facts |= facts
    if left := end_recorded(folder / "processes.json"):
        console.print(f"Ended {len(left)} processes that an earlier one had left behind.")
    processes = Processes(folder / "logs", folder / "processes.json", signals)
    started = time.monotonic()
    kills = options.kills or (QUICK_KILLS if options.short else KILLS)
    # A number that was asked for is for the faults that were.
    of = faults if options.kills else _form(options)
    try:
        with running(folder, console, processes, signals, celery=options.celery) as world:
            save = partial(certificate.write, path)
            campaign = Campaign(world, console, faults, kills, options.seed, certificate, save, of)
            campaign.run()
            certificate.leaks = [*(certificate.leaks or []), *world.leaks()]
    finally:
        certificate.facts["seconds"] = round(time.monotonic() - started + before)
        certificate.write(path)
        console.print(render(certificate))
    _tell(certificate, console)
    console.print(f"{certificate.kills} kills; certificate: {path}; logs: {folder / 'logs'}", markup=False)
    if options.update:
        _update(certificate)
    return 0 if certificate.good else 1


def _tell(certificate: Certificate, console: Console) -> None:
    """Say what went wrong, and what was not tried."""
    for side in ("ours", "stock"):
        found = certificate.findings(side)
        console.print(f"{side}: {len(found)} things went wrong" if found else f"{side}: nothing went wrong")
    for one in certificate.findings("ours"):
        console.print(f"  {one.measure}: {one.text}", style="red", markup=False, soft_wrap=True)
    for place in certificate.leaks or []:
        console.print(f"  a credential was written: {place}", style="red", markup=False, soft_wrap=True)
    if not certificate.enough:
        console.print(f"  only {certificate.kills} of {certificate.wanted} kills", style="red")
    for row in certificate.rows.values():
        if not row.hits("ours"):
            console.print(f"  {row.fault}: could not be injected into ours", style="red", markup=False)


def _update(certificate: Certificate) -> None:
    facts = dict(certificate.facts)
    told = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
    path = ROOT / "benchmarks" / "README.md"
    name = f"chaos on {facts['executor']}"
    numbers = f"{markdown(certificate)}\n\n{certificate.kills} kills; {told}."
    path.write_text(with_numbers(path.read_text(), name, numbers))


def _facts(options: argparse.Namespace) -> dict[str, object]:
    return {
        "executor": "CeleryExecutor" if options.celery else "LocalExecutor",
        "airflow": version("apache-airflow"),
        "astronomer-providers": version("astronomer-providers"),
        "python": platform.python_version(),
        "seed": options.seed,
    }


if __name__ == "__main__":
    sys.exit(main())
