"""A PostgreSQL server for the time of a measurement: its own cluster in a directory that is thrown away."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

__all__ = ["MISSING", "Server", "binaries", "free_port", "started"]

MISSING = (
    "no PostgreSQL server found on PATH or in /usr/lib/postgresql: install one (Debian: `apt-get install postgresql`) "
    "or name one with --database postgresql+psycopg2://SUPERUSER:PASSWORD@HOST/DATABASE"
)
DRIVER = "postgresql+psycopg2"

_STARTING = 60.0
_STOPPING = 30.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.max": "20000",
}


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


@contextmanager
def started() -> Iterator[Server]:
    """Run a new server for the block.

    :raises RuntimeError: there is none on this machine, or it does not start; the message says what to do.
    """
    found = binaries()
    if found is None:
        raise RuntimeError(MISSING)
    directory = Path(tempfile.mkdtemp(prefix="astronomer-bench-pg-"))
    try:
        owner = _owner()
        if owner:
            os.chown(directory, owner["user"], owner["group"])
        url = _initialise(found, directory, owner)
        with _running(found, directory, url, owner) as pid:
            yield Server(url, pid)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _owner() -> dict[str, Any]:
    """Who runs the server: not root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")


def _initialise(found: Path, directory: Path, owner: dict[str, Any]) -> URL:
    password = secrets.token_urlsafe(16)
    secret = directory / "password"
    secret.touch(0o600)
    secret.write_text(password, encoding="utf-8")
    if owner:
        os.chown(secret, owner["user"], owner["group"])
    command = [found / "initdb", "-D", directory / "data", "-U", "bench", "--pwfile", secret]
    options = ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
    done = subprocess.run(
        [*command, *options], cwd=directory, capture_output=True, text=True, check=False, **owner
    )
    if done.returncode:
        raise RuntimeError(f"initdb failed: {done.stderr.strip()}")
    return URL.create(DRIVER, "bench", password, "127.0.0.1", free_port(), "postgres")


def free_port() -> int:
    """One of this machine's own address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def _running(found: Path, directory: Path, url: URL, owner: dict[str, Any]) -> Iterator[int]:
    settings = {**_SETTINGS, "port": str(url.port), "unix_socket_directories": str(directory)}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    log = directory / "log"
    with (
        log.open("w", encoding="utf-8") as written,
        subprocess.Popen(
            [found / "postgres", "-D", directory / "data", *options],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours to answer
            **owner,
        ) as process,
    ):
        try:
            _await(url, process, log)
            yield process.pid
        finally:
            _stop(process)


def _await(url: URL, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when it answers."""
    deadline = time.monotonic() + _STARTING
    engine = create_engine(url, poolclass=NullPool)
    while True:
        try:
            engine.connect().close()
        except OperationalError as error:
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            said = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
            hint = "pg_stat_statements comes with Debian's `postgresql` and others' `postgresql-contrib`"
            raise RuntimeError(f"PostgreSQL did not start ({hint}):\n{said}") from error
        return


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
