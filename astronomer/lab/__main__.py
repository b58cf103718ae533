"""``python -m astronomer.lab up``: the stand-ins, until Ctrl-C; ``issuer``: a platform to log in with."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from astronomer.lab import files
from astronomer.lab.databricks import DatabricksLab
from astronomer.lab.request_log import Entry
from astronomer.lab.server import PortInUseError
from astronomer.lab.snowflake import SnowflakeLab
from astronomer.lab.stand_in import StandIn

__all__ = ["STAND_INS", "main"]


STAND_INS: tuple[type[StandIn], ...] = (SnowflakeLab, DatabricksLab)
"""The first takes the port asked for, the next the one above it, and so on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(argv)
    stop = threading.Event()
    _on_signals(stop)
    run: Callable[[argparse.Namespace, threading.Event], int] = options.run
    return run(options, stop)


def _up(options: argparse.Namespace, stop: threading.Event) -> int:
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    with ExitStack() as running:
        directory = options.directory or files.temporary()
        if not options.directory:
            running.callback(files.remove_with(running, directory))
        said: dict[str, str] = {}
        for position, make in enumerate(STAND_INS):
            port = options.port + position if options.port else 0
            stand_in = make(port=port, directory=directory, on_answer=None if options.quiet else _show)
            running.callback(stand_in.stop)
            try:
                stand_in.start()
            except PortInUseError as error:
                return _taken(error)
            _introduce(stand_in, said)
        _say("# Ctrl-C stops it.")
        stop.wait()
    return 0


def _issuer(options: argparse.Namespace, stop: threading.Event) -> int:
    from astronomer.lab.issuer import IssuerServer

    try:
        issuer = IssuerServer(options.audience, port=options.port)
    except PortInUseError as error:
        return _taken(error)
    with issuer:
        _say(f"# A local platform at {issuer.url}. Paste this where Airflow runs:")
        for variable, value in issuer.settings().items():
            _say(f"export {variable}={shlex.quote(value)}")
        _say(f"export AIRFLOW__API__BASE_URL={shlex.quote(options.airflow)}")
        _say(f"# A token: curl -s '{issuer.url}/token?role=viewer', or editor, or admin. Ctrl-C stops it.")
        stop.wait()
    return 0


def _taken(error: PortInUseError) -> int:
    _say(f"astronomer.lab: {error.strerror}; choose another with --port", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m astronomer.lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    up = commands.add_parser("up", help="start the stand-ins and print the Airflow connections to use")
    up.add_argument("--port", type=int, default=0, help="listen on this port; default any free one")
    up.add_argument(
        "--directory", type=Path, help="keep certificates and keys here, so that a restart uses the same"
    )
    up.add_argument("--quiet", action="store_true", help="do not log each request")
    up.set_defaults(run=_up)
    issuer = commands.add_parser(
        "issuer", help="start a platform that signs tokens for the security manager of Runtime"
    )
    issuer.add_argument("--port", type=int, default=0, help="listen on this port; default any free one")
    issuer.add_argument("--audience", default="airflow.localhost", help="the audience of its tokens")
    issuer.add_argument(
        "--airflow", default="http://localhost:8080", help="where your browser reaches Airflow"
    )
    issuer.set_defaults(run=_issuer)
    return parser


def _on_signals(stop: threading.Event) -> None:
    def handle(_number: int, _frame: types.FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup asks for
        signal.signal(signal.SIGHUP, handle)


def _say(text: str, *, file: TextIO | None = None) -> None:
    print(text, file=file, flush=True)


def _introduce(stand_in: StandIn, said: dict[str, str]) -> None:
    """Print what to paste, but not again what another stand-in of the same authority has said."""
    _say(f"# A local {stand_in.service.capitalize()} at {stand_in.url}. Paste this where Airflow runs:")
    for variable, value in {**stand_in.connection_env(), **stand_in.client_env()}.items():
        if said.get(variable) != value:
            _say(f"export {variable}={shlex.quote(value)}")
        said[variable] = value


def _show(entry: Entry) -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(entry.at))
    fault = f"  [{entry.fault}]" if entry.fault else ""
    line = (
        f"{clock} {entry.method:4} {entry.path} {entry.status or '---'} {entry.seconds * 1000:.0f}ms{fault}"
    )
    _say(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
