"""What others do in the workspace meanwhile: they start runs as steadily as theirs end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from astronomer.lab.databricks import LabClient
from benchmarks.plan import Plan

__all__ = ["coming"]

_EVERY = 1.0


@contextmanager
def coming(lab: LabClient, plan: Plan) -> Iterator[None]:
    """Keep the number of foreign runs about the same for the block."""
    stop = threading.Event()
    per_round = plan.others / plan.spread * _EVERY

    def start() -> None:
        owed = 0.0
        while not stop.wait(_EVERY):
            owed += per_round
            if owed >= 1:
                lab.seed(int(owed), seconds=plan.spread)
                owed %= 1

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
