"""The local Snowflake in a process of its own, so that what it costs is not counted."""

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

from astronomer.lab.snowflake import LabClient, SnowflakeLab
from benchmarks.snowflake.plan import CONN_ID

__all__ = ["Account", "started"]

_GRACE = 15.0


@dataclass(frozen=True)
class Account:
    """Where the local Snowflake is and how clients reach it.

    :param redirect: the host name that the stock trigger has built in.
    :param env: the Airflow connection, with a key pair because the stock trigger takes no password, and what makes
        clients trust the certificate.
    """

    url: str
    port: int
    ca_file: str
    redirect: str
    env: dict[str, str]

    def client(self) -> LabClient:
        """What steers it."""
        return LabClient(self.url, self.ca_file, timeout=30.0)


@contextmanager
def started(directory: Path) -> Iterator[Account]:
    """Run the local Snowflake for the block."""
    command = [sys.executable, "-m", __name__, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Account(**json.loads(process.stdout.readline()))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()


def main(directory: str) -> None:
    """Start it, say where it is, and serve until told to stop or left alone."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    with SnowflakeLab(directory=Path(directory)) as lab:
        env = {**lab.connection_env(CONN_ID, auth="key_pair"), **lab.client_env()}
        place = Account(
            url=lab.url,
            port=lab.port,
            ca_file=str(lab.ca_file),
            redirect=f"{lab.account}.snowflakecomputing.com",
            env=env,
        )
        print(json.dumps(asdict(place)), flush=True)
        while not stop.wait(1.0) and os.getppid() == parent:
            pass


if __name__ == "__main__":
    main(sys.argv[1])
