"""Moved."""

from tools.servers.postgres import MISSING, Server, binaries, free_port, started

__all__ = ["MISSING", "Server", "binaries", "free_port", "started"]
