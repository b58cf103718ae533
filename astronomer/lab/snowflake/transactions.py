"""Explicit and implicit transactions of sessions, and the table locks that they hold until they end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from astronomer.lab.snowflake.errors import SnowflakeError

if TYPE_CHECKING:
    from astronomer.lab.snowflake.database import Bindings
    from astronomer.lab.snowflake.sessions import Session

__all__ = ["Locks", "Transaction"]

_ids = itertools.count(int(time.time() * 1000) * 1_000_000)


@dataclass(eq=False)
class Transaction:
    """One open transaction.

    :param statements: what it changed so far, to be run again when DuckDB throws the transaction away because a later
        statement failed; Snowflake only undoes the failed statement.
    """

    session: Session = field(repr=False)
    name: str | None = None
    id: int = field(default_factory=lambda: next(_ids))
    started_at: float = field(default_factory=time.time)
    statements: list[tuple[str, Bindings]] = field(default_factory=list, repr=False)

    @property
    def user(self) -> str:
        """The user whose transaction it is."""
        return self.session.user

    @property
    def session_id(self) -> int:
        """The id of the session it belongs to."""
        return self.session.id


class Locks:
    """Exclusive table locks: UPDATE, DELETE, MERGE and TRUNCATE of one table wait for each other, INSERT for nobody."""

    def __init__(self) -> None:
        self._holders: dict[str, object] = {}
        self._waiting: list[asyncio.Event] = []

    async def acquire(self, table: str, holder: object, waiting: Callable[[], None], timeout: float) -> None:
        """Wait until ``holder`` has the table.

        :param holder: a transaction, or the query itself when it commits at once.
        :param waiting: called if there is something to wait for.
        :param timeout: seconds, 0 for ever.
        :raises SnowflakeError: 000625, not within ``timeout``.
        """
        if not self._free(table, holder):
            waiting()
            try:
                await asyncio.wait_for(self._wait(table, holder), timeout or None)
            except asyncio.TimeoutError:
                text = f"Statement waited for a lock on table '{table}' longer than LOCK_TIMEOUT and was aborted."
                raise SnowflakeError("000625", "57014", text) from None
        self._holders[table] = holder

    async def _wait(self, table: str, holder: object) -> None:
        while not self._free(table, holder):
            changed = asyncio.Event()
            self._waiting.append(changed)
            await changed.wait()

    def _free(self, table: str, holder: object) -> bool:
        return self._holders.get(table, holder) is holder

    def release(self, holder: object) -> None:
        """Let go of everything ``holder`` has."""
        for table in [name for name, held_by in self._holders.items() if held_by is holder]:
            del self._holders[table]
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            changed.set()

    def held(self) -> dict[str, object]:
        """Return table -> holder."""
        return dict(self._holders)
