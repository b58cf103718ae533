"""Temporary directories that are not left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

__all__ = ["remove_with", "temporary"]


def temporary(kind: str = "") -> Path:
    """Return a new directory."""
    return Path(tempfile.mkdtemp(prefix=f"astronomer-lab-{kind}"))


def remove_with(owner: object, directory: Path) -> Callable[[], object]:
    """Remove a directory once its owner is forgotten or the program ends, or when what is returned is called.

    ``TemporaryDirectory`` would be removed at the end of a fork of the program, too.
    """
    return weakref.finalize(owner, _remove, directory, os.getpid())


def _remove(directory: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(directory, ignore_errors=True)
