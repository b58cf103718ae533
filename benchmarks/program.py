"""What every benchmark's command line has, and what it does with the numbers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.sides import OURS, STOCK
from benchmarks.table import with_numbers

__all__ = ["README", "parser", "tell"]

README = Path(__file__).parent / "README.md"


def parser(name: str, description: str | None, *, waits: int) -> argparse.ArgumentParser:
    """The arguments that all have.

    :param waits: the default of ``--waits``.
    """
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    found.add_argument(
        "--waits", type=int, default=waits, help=f"deferred tasks on one connection (default {waits})"
    )
    found.add_argument("--only", choices=[OURS, STOCK], help="measure one side")
    found.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    found.add_argument("--update", action="store_true", help=f"write the table into {README.name}, too")
    return found


def tell(
    name: str, found: dict[str, Any], render: Callable[[dict[str, Any]], str], options: argparse.Namespace
) -> None:
    """Print the numbers, and write them into the README if asked to."""
    if options.update:
        README.write_text(
            with_numbers(README.read_text(encoding="utf-8"), name, render(found)), encoding="utf-8"
        )
    print(json.dumps(found, indent=2) if options.json else render(found))
