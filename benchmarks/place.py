"""The stand-in of a service in a process of its own, so that what it costs is not counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Place", "serve", "started"]

_GRACE = 15.0


@dataclass(frozen=True)
class Place:
    """Where the stand-in is and how clients reach it.

    :param redirect: the host name that the stock trigger asks.
    :param env: the Airflow connection, and what makes clients trust the certificate.
    """

    url: str
    port: int
    ca_file: str
    redirect: str
    env: dict[str, str]


@contextmanager
def started(module: str, directory: Path) -> Iterator[Place]:
    """Run ``python -m module directory``, which calls :func:`serve`, for the block."""
    command = [sys.executable, "-m", module, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{module} did not start; what it printed is above")
            yield Place(**json.loads(line))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()


def serve(place: Place) -> None:
    """Say where it is, and return when told to stop or left alone."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    print(json.dumps(asdict(place)), flush=True)
    while not stop.wait(1.0) and os.getppid() == parent:
        pass
