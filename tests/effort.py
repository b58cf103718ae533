"""How much is tried: `make test` has a quarter of an hour, `make test LONG=1` takes its time."""

from __future__ import annotations

import os

__all__ = ["examples"]

_ALL = os.environ.get("LONG", "").lower() not in {"", "0", "no", "false"}


def examples(number: int) -> int:
    """Return how many examples of a property are tried: all of them, or a fifth."""
    return number if _ALL else -(-number // 5)
