"""``python -m benchmarks.external_task``: this package's triggers beside the stock one, on a real triggerer."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from benchmarks import program
from benchmarks.environment import environment
from benchmarks.external_task import measures, phase
from benchmarks.external_task.database import opened, version
from benchmarks.external_task.plan import IDLE, KINDS, OURS_API, TASK, Crowd
from benchmarks.external_task.table import render
from benchmarks.external_task.triggers import FAILED_STATES
from benchmarks.machine import facts
from benchmarks.sides import OURS, STOCK
from tools.servers.postgres import Server, started

__all__ = ["main", "measure"]

_PACKAGES = ("apache-airflow-providers-standard", "sqlalchemy", "psycopg2-binary")
_SIDES = (OURS, OURS_API, STOCK)
_SCALED = (OURS, OURS_API)
_SCALE = 10_000
_CAPACITY = 1000  # Airflow's own; so much is also free, because a full triggerer looks for no more triggers


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _parser().parse_args(argv)
    crowd = Crowd(
        options.sensors,
        options.dags,
        options.dates,
        options.kind,
        options.interval,
        quiet=6 * options.interval if options.quiet_for is None else options.quiet_for,
        spread=options.spread,
        patience=options.patience,
    )
    sides = [options.only] if options.only else list(_SIDES)
    try:
        found = measure(crowd, sides, scale=_SCALE if options.scale else 0, url=options.database)
    except RuntimeError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    program.tell("external task", found, render, options)
    return 0


def measure(crowd: Crowd, sides: Sequence[str], *, scale: int, url: str | None = None) -> dict[str, Any]:
    """Run every phase and return the numbers of each side.

    :param scale: so many sensors in one more phase of each of ours, or 0.
    :param url: of a server to use; by default one is started.
    """
    found: dict[str, Any] = {
        "settings": {**crowd.settings(), "failed_states": FAILED_STATES},
        "machine": facts(*_PACKAGES),
    }
    with started() if url is None else nullcontext(Server(make_url(url))) as server:
        found["machine"]["postgresql"] = version(server)
        with _prepared(crowd, sides, server) as go:
            bare = measures.idle(go(IDLE))
            for side in sides:
                found[side] = measures.numbers(side, go(side), bare)
            found[IDLE] = bare
        scaled = [side for side in sides if scale and side in _SCALED]
        if scaled:
            with _prepared(replace(crowd, sensors=scale), scaled, server) as go:
                for side in scaled:
                    found[side]["scale"] = {"sensors": scale, **measures.numbers(side, go(side), bare)}
    return found


@contextmanager
def _prepared(crowd: Crowd, sides: Sequence[str], server: Server) -> Iterator[Callable[[str], phase.Seen]]:
    """A database with everything in it, and what runs one phase in a copy of it."""
    with (
        tempfile.TemporaryDirectory(prefix="astronomer-bench-") as temporary,
        opened(server) as database,
    ):
        directory = Path(temporary)
        env = environment(directory / "airflow", {})
        _say(f"preparing {crowd.sensors} sensors on {crowd.dags} Dags …")
        _prepare(crowd, sides, {**env, **_settings(database.url(database.world), crowd, directory)})
        env |= _settings(database.url(database.copy), crowd, directory)

        def go(side: str) -> phase.Seen:
            waits = side != IDLE
            _say(f"{crowd.sensors if waits else 0} sensors, {side} …")
            return phase.run(crowd, side, database, env, directory, waits=waits)

        yield go


def _settings(url: str, crowd: Crowd, directory: Path) -> dict[str, str]:
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "",  # not needed, and asyncpg is not asked for
        "AIRFLOW__CORE__DAGS_FOLDER": str(directory / "dags"),
        "AIRFLOW__TRIGGERER__CAPACITY": str(crowd.sensors + _CAPACITY),
    }


def _prepare(crowd: Crowd, sides: Sequence[str], env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "benchmarks.external_task.prepare", json.dumps(asdict(crowd)), *sides]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the database could not be prepared:\n{done.stdout[-3000:]}")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.external_task", description=__doc__)
    add = parser.add_argument
    add("--sensors", type=int, default=1000, help="deferred sensors (default 1000)")
    add("--dags", type=int, default=50, help="external Dags that they wait for (default 50)")
    add("--dates", type=int, default=1, help="logical dates of each that they wait for (default 1)")
    add("--kind", choices=KINDS, default=TASK, help="what is waited for (default task)")
    add("--interval", type=float, default=5.0, metavar="SECONDS", help="between two polls (default 5)")
    add("--only", choices=_SIDES, help="measure one side")
    add("--scale", action="store_true", help=f"also {_SCALE} sensors of each of ours")
    add("--quiet-for", type=float, metavar="SECONDS", help="before the first end (default 6 poll intervals)")
    add("--spread", type=float, default=120.0, metavar="SECONDS", help="first end to last (default 120)")
    add("--patience", type=float, default=300.0, metavar="SECONDS", help="after the last end (default 300)")
    add("--database", metavar="URL", help="a superuser's, of a PostgreSQL to use instead of a new one")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    add("--update", action="store_true", help=f"write the table into {program.README.name}, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
