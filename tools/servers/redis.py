"""A Redis server: on loopback, with a password, in a directory that is thrown away."""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tools.servers import MissingServerError
from tools.servers.owner import LOOPBACK, free_port

__all__ = ["MISSING", "Redis", "binary"]

MISSING = (
    "no Redis server found on PATH: install one (Debian: `apt-get install redis-server`) "
    "or name one with REDIS_URL=redis://:PASSWORD@HOST:PORT/0"
)
# A title is written over the variables by which tools/leftovers.py finds a server that was left behind.
_UNTITLED = "set-proc-title no\n"  # since Redis 6.2


def binary() -> str | None:
    """Where the server's program is."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@dataclass(frozen=True)
class Redis:
    """A server of its own, which keeps its data when it is started again.

    :raises MissingServerError: there is none on this machine; the message says what to do.
    """

    directory: Path
    port: int = field(default_factory=free_port)
    _password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)

    @classmethod
    def new(cls) -> Redis:
        """Prepare one in a temporary directory."""
        if binary() is None:
            raise MissingServerError(MISSING)
        found = cls(Path(tempfile.mkdtemp(prefix="astronomer-redis-")))
        settings = found._settings
        settings.touch(0o600)  # the password is not for the list of processes
        found.data.mkdir()
        settings.write_text(
            f"bind {LOOPBACK}\nport {found.port}\nrequirepass {found._password}\n"
            f'dir {found.data}\nappendonly yes\nappendfsync everysec\nsave ""\n'
            f"{_UNTITLED if _version() >= (6, 2) else ''}",
            encoding="utf-8",
        )
        return found

    @property
    def data(self) -> Path:
        """Where it keeps every command that changed something."""
        return self.directory / "data"

    @property
    def url(self) -> str:
        """Where Celery reaches it."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def command(self) -> list[str]:
        """What runs the server."""
        program = binary()
        if program is None:
            raise MissingServerError(MISSING)
        return [program, str(self._settings)]

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=5) as one:
                one.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                return b"+PONG" in _read(one)
        except OSError:
            return False

    def remove(self) -> None:
        """Throw its data away."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _settings(self) -> Path:
        return self.directory / "redis.conf"


def _version() -> tuple[int, int]:
    told = subprocess.run([str(binary()), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _read(one: socket.socket) -> bytes:
    found = b""
    while b"PONG" not in found:
        some = one.recv(100)
        if not some or some.startswith(b"-"):  # it still loads its data
            break
        found += some
    return found
