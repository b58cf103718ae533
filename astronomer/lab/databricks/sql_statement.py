"""One SQL statement: what was asked, how it stands, and what came of it."""

from __future__ import annotations

import contextlib
import functools
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from astronomer.lab.databricks.clock import Timer
from astronomer.lab.databricks.columns import Result
from astronomer.lab.databricks.spark import kind_of
from astronomer.lab.databricks.sql_errors import SqlError
from astronomer.lab.databricks.sql_parameters import Parameter
from astronomer.lab.databricks.sql_sessions import SqlSession

__all__ = ["Statement", "interrupt", "limited", "too_large", "waited"]

INTERRUPT_EVERY = 0.05


@dataclass(eq=False)
class Statement:
    """One statement.

    :param compute: the warehouse it runs on, or the cluster.
    :param tags: its query tags.
    :param limits: ``row_limit`` and ``byte_limit``, 0 for none.
    :param inline: whether the result must fit into an answer, as the INLINE disposition asks.
    :param state: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED or CLOSED.
    :param cancelled_by: who asked to cancel it: a principal, ``"user"`` in the UI, ``"timeout"`` or ``"neglect"``.
    :param polled_at: when its client last asked for it.
    :param again: interrupts it once more.
    """

    text: str
    session: SqlSession
    compute: str
    tags: dict[str, str | None]
    submitted_at: float
    parameters: Sequence[Parameter] = ()
    limits: tuple[int, int] = (0, 0)
    inline: bool = False
    client: str = "rest"
    state: str = "PENDING"
    id: str = field(default_factory=lambda: str(uuid.UUID("01f0" + uuid.uuid4().hex[4:])))
    started_at: float | None = None
    ended_at: float | None = None
    polled_at: float = 0.0
    error: SqlError | None = None
    result: Result | None = None
    rows: int = 0
    truncated: bool = False
    cancelled_by: str | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Callable[[], None]] = field(default_factory=list, repr=False)
    cursor: Any = field(default=None, repr=False)
    timer: Timer | None = field(default=None, repr=False)
    place: Callable[[], None] | None = field(default=None, repr=False)
    again: threading.Timer | None = field(default=None, repr=False)

    @property
    def ended(self) -> bool:
        """Whether it has reached its last state."""
        return self.state not in {"PENDING", "RUNNING"}

    @property
    def principal(self) -> str:
        """Who runs it."""
        return self.session.principal

    @property
    def on_warehouse(self) -> bool:
        """Whether it runs on a warehouse, not on a cluster."""
        return not self.session.cluster

    @property
    def kind(self) -> str:
        """What kind of statement it is, as the query history names it."""
        return kind_of(self.text)


def interrupt(statement: Statement, lock: AbstractContextManager[Any]) -> None:
    """Interrupt a statement until it has ended: an interrupt between two of its steps has no effect."""
    with lock:
        if statement.ended or statement.cursor is None:
            return
        statement.cursor.interrupt()
        statement.again = threading.Timer(INTERRUPT_EVERY, interrupt, [statement, lock])
        statement.again.daemon = True
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and starts no thread any more
            statement.again.start()


def limited(statement: Statement, result: Result) -> Result:
    """Apply the limits that a statement was submitted with."""
    rows, size = statement.limits
    count = result.table.num_rows
    keep = min(count, rows) if rows else count
    if size and count and result.table.nbytes > size:
        keep = min(keep, max(int(count * size / result.table.nbytes), 1))
    statement.truncated = keep < count
    return Result(result.table.slice(0, keep), result.columns, result.affected) if keep < count else result


@functools.lru_cache(maxsize=64)
def waited(seconds: float) -> Result:
    """Return the result of a statement that only waited."""
    kind = pa.int32() if seconds.is_integer() else pa.float64()
    return Result.rows([("lab_wait", kind)], [[seconds]])


def too_large(limit: int) -> SqlError:
    """Return the error of a result that does not fit into an answer."""
    text = (
        "Inline byte limit exceeded. Statements executed with disposition=INLINE can have a result size of at most "
        f"{limit} bytes. Please execute the statement with disposition=EXTERNAL_LINKS if you want to download the full "
        "result."
    )
    return SqlError("", text)
