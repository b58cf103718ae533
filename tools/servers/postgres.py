"""A PostgreSQL server: its own cluster in a directory that is thrown away."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tools.servers import MissingServerError
from tools.servers.owner import LOOPBACK, free_port, unprivileged

__all__ = ["MISSING", "Cluster", "Server", "binaries", "free_port", "started"]

MISSING = (
    "no PostgreSQL server found on PATH or in /usr/lib/postgresql: install one (Debian: `apt-get install postgresql`) "
    "or name one by its URL: postgresql+psycopg2://SUPERUSER:PASSWORD@HOST/DATABASE, in DATABASE_URL for the demo, "
    "after --database for a benchmark"
)
DRIVER = "postgresql+psycopg2"

_STARTING = 60.0
_STOPPING = 30.0
_SETTINGS = {"listen_addresses": LOOPBACK, "max_connections": "300"}
_STATISTICS = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.max": "20000"}


@dataclass(frozen=True)
class Server:
    """Where a superuser reaches it.

    :param pid: of its first process, ``None`` if it is not ours.
    """

    url: URL
    pid: int | None = None


def binaries() -> Path | None:
    """The directory of ``postgres`` and ``initdb``: of PATH, else the newest that Debian has installed."""
    on_path = shutil.which("postgres")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version, reverse=True)
    candidates = [Path(on_path).resolve()] if on_path else []
    for one in [*candidates, *debian]:
        if one.with_name("initdb").exists():
            return one.parent
    return None


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.parts[-3].split(".") if part.isdigit())


@dataclass(frozen=True)
class Cluster:
    """A cluster of its own, which keeps its data and its port when the server is started again.

    :param settings: of the server, beside those that every one has.
    :raises MissingServerError: there is none on this machine; the message says what to do.
    """

    directory: Path
    settings: dict[str, str] = field(default_factory=dict)
    owner: dict[str, Any] = field(default_factory=unprivileged)
    port: int = field(default_factory=free_port)
    _password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)

    @classmethod
    def new(cls, **settings: str) -> Cluster:
        """Make one in a temporary directory."""
        if binaries() is None:
            raise MissingServerError(MISSING)
        found = cls(Path(tempfile.mkdtemp(prefix="astronomer-pg-")), settings)
        try:
            found._initialise()
        except BaseException:
            found.remove()
            raise
        return found

    @property
    def url(self) -> URL:
        """Where its superuser reaches it."""
        return URL.create(DRIVER, "superuser", self._password, LOOPBACK, self.port, "postgres")

    @property
    def command(self) -> list[str]:
        """What runs the server, as :attr:`owner`, in :attr:`directory`."""
        own = {"port": str(self.port), "unix_socket_directories": str(self.directory)}
        options = [
            word
            for name, value in {**_SETTINGS, **self.settings, **own}.items()
            for word in ("-c", f"{name}={value}")
        ]
        return [str(self._binary("postgres")), "-D", str(self.directory / "data"), *options]

    def answers(self) -> OperationalError | None:
        """Try to connect; returns what was wrong."""
        try:
            create_engine(self.url, poolclass=NullPool).connect().close()
        except OperationalError as error:
            return error
        return None

    def remove(self) -> None:
        """Throw its data away."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _initialise(self) -> None:
        if self.owner:
            os.chown(self.directory, self.owner["user"], self.owner["group"])
        secret = self.directory / "password"
        secret.touch(0o600)
        secret.write_text(self._password, encoding="utf-8")
        if self.owner:
            os.chown(secret, self.owner["user"], self.owner["group"])
        command = [self._binary("initdb"), "-D", self.directory / "data", "-U", "superuser"]
        options = ["--pwfile", secret, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
        done = subprocess.run(
            [str(word) for word in (*command, *options)],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            **self.owner,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr.strip()}")

    @staticmethod
    def _binary(name: str) -> Path:
        found = binaries()
        if found is None:
            raise MissingServerError(MISSING)
        return found / name


@contextmanager
def started() -> Iterator[Server]:
    """Run a new server for the block, which counts its statements.

    :raises RuntimeError: there is none on this machine, or it does not start; the message says what to do.
    """
    cluster = Cluster.new(**_STATISTICS)
    try:
        with _running(cluster) as pid:
            yield Server(cluster.url, pid)
    finally:
        cluster.remove()


@contextmanager
def _running(cluster: Cluster) -> Iterator[int]:
    log = cluster.directory / "log"
    with (
        log.open("w", encoding="utf-8") as written,
        subprocess.Popen(
            cluster.command,
            cwd=cluster.directory,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours to answer
            **cluster.owner,
        ) as process,
    ):
        try:
            _await(cluster, process, log)
            yield process.pid
        finally:
            _stop(process)


def _await(cluster: Cluster, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when it answers."""
    deadline = time.monotonic() + _STARTING
    while error := cluster.answers():
        if process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        said = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
        hint = "pg_stat_statements comes with Debian's `postgresql` and others' `postgresql-contrib`"
        raise RuntimeError(f"PostgreSQL did not start ({hint}):\n{said}") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Fast: open sessions are ended. Then at once."""
    for one in (signal.SIGINT, signal.SIGQUIT):
        process.send_signal(one)
        try:
            process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            continue
        return
    process.kill()
