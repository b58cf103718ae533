"""Who runs a server that refuses to be run by root."""

from __future__ import annotations

import os
import pwd
import socket
from typing import Any

LOOPBACK = "127.0.0.1"


def unprivileged() -> dict[str, Any]:
    """Return what ``Popen`` needs to run as somebody who is not root; nothing when we are not."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")


def free_port() -> int:
    """One of this machine's own address that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as one:
        return int(one.getsockname()[1])
