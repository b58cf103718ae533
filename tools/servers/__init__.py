"""The servers of others that a distributed Airflow needs: new ones on loopback, thrown away afterwards."""

from __future__ import annotations


class MissingServerError(RuntimeError):
    """A server is not installed on this machine; the message says what to do."""
