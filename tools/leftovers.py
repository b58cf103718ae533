"""`python3 tools/leftovers.py TAG`: fail, and end them, if processes started under ASTRONOMER_RUN=TAG still live.

A child inherits its parent's environment, so the tag follows every process wherever it goes. Linux only: it
reads /proc, and elsewhere finds nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

VARIABLE = "ASTRONOMER_RUN"
COMMAND = "ASTRONOMER_COMMAND"  # the same for one command of a run


def tagged(tag: str, variable: str = VARIABLE) -> Iterator[tuple[int, str]]:
    """Yield (pid, command line) of every process that carries the tag, but for us and those we run under."""
    wanted = f"{variable}={tag}".encode()
    above = _ancestors(os.getpid())
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            carries = wanted in (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if carries and command and pid not in above:
            yield pid, command


def _ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 1:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def main(tag: str, patience: float = 5.0, variable: str = VARIABLE) -> int:
    """Give what is just ending a moment; report and end what stays. Returns the exit status."""
    until = time.monotonic() + patience
    while left := list(tagged(tag, variable)):
        if time.monotonic() >= until:
            break
        time.sleep(0.2)
    for pid, command in left:
        print(f"left running: {pid} {command[:200]}", file=sys.stderr)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
