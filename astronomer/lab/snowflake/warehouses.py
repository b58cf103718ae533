"""Warehouses: which exist, and how long a query waits for one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from astronomer.lab.snowflake.errors import SnowflakeError, compilation

__all__ = ["DEFAULT", "Warehouse", "Warehouses"]

DEFAULT = "COMPUTE_WH"


@dataclass(eq=False)
class Warehouse:
    """One warehouse.

    :param queued: lab seconds that every query spends in QUEUED.
    :param resuming: lab seconds it takes to resume once suspended; queries meanwhile are in RESUMING_WAREHOUSE.
    :param concurrency: how many queries run at once; the others are QUEUED, first come, first served.
    :param auto_resume: whether a query resumes it; if not, queries on a suspended warehouse fail.
    """

    name: str
    queued: float = 0.0
    resuming: float = 0.0
    concurrency: int | None = None
    auto_resume: bool = True
    suspended: bool = False
    running: int = 0
    line: deque[asyncio.Future[None]] = field(default_factory=deque, repr=False)

    async def enter(self) -> None:
        """Wait for a place among the running queries."""
        if self.concurrency is None or self.running < self.concurrency:
            self.running += 1
            return
        place = asyncio.get_running_loop().create_future()
        self.line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            else:
                self.line.remove(place)
            raise

    def leave(self) -> None:
        """Give the place to the next in line."""
        while self.line:
            place = self.line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1


class Warehouses:
    """The warehouses of an account, by upper-case name."""

    def __init__(self) -> None:
        self._by_name = {DEFAULT: Warehouse(DEFAULT)}

    def all(self) -> list[Warehouse]:
        """Return every warehouse."""
        return list(self._by_name.values())

    def get(self, name: str | None) -> Warehouse | None:
        """Return a warehouse, if it exists."""
        return self._by_name.get((name or "").upper())

    def named(self, name: str) -> Warehouse:
        """Return a warehouse.

        :raises SnowflakeError: 002043, it does not exist.
        """
        found = self.get(name)
        if found is None:
            raise compilation("002043", "02000", "Object does not exist, or operation cannot be performed.")
        return found

    def set(
        self,
        name: str,
        *,
        queued: float = 0.0,
        resuming: float = 0.0,
        concurrency: int | None = None,
        auto_resume: bool = True,
        exists: bool = True,
    ) -> None:
        """Create, change or (``exists=False``) drop a warehouse; with ``resuming`` it is suspended at first."""
        if not exists:
            self._by_name.pop(name.upper(), None)
            return
        warehouse = self._by_name.setdefault(name.upper(), Warehouse(name.upper()))
        warehouse.queued, warehouse.resuming = queued, resuming
        warehouse.concurrency, warehouse.auto_resume = concurrency, auto_resume
        warehouse.suspended = resuming > 0

    def suspend(self, name: str) -> None:
        """Suspend a warehouse once its running queries end; the next query resumes it."""
        self.named(name).suspended = True

    @asynccontextmanager
    async def use(
        self,
        name: str | None,
        state: Callable[[str], None],
        pause: Callable[[float], Awaitable[None]],
    ) -> AsyncIterator[None]:
        """Hold a place on a warehouse.

        :param state: told QUEUED or RESUMING_WAREHOUSE while waiting.
        :param pause: waits for so many lab seconds.
        :raises SnowflakeError: 000606, there is no such warehouse, or it does not resume by itself.
        """
        warehouse = self.get(name)
        if warehouse is None or (warehouse.suspended and not warehouse.auto_resume):
            text = (
                "No active warehouse selected in the current session.  "
                "Select an active warehouse with the 'use warehouse' command."
            )
            raise SnowflakeError("000606", "57P03", text)
        await self._resume(warehouse, state, pause)
        if warehouse.queued or (
            warehouse.concurrency is not None and warehouse.running >= warehouse.concurrency
        ):
            state("QUEUED")
        if warehouse.queued:
            await pause(warehouse.queued)
        await warehouse.enter()
        try:
            yield
        finally:
            warehouse.leave()

    async def _resume(
        self, warehouse: Warehouse, state: Callable[[str], None], pause: Callable[[float], Awaitable[None]]
    ) -> None:
        if not warehouse.suspended:
            return
        state("RESUMING_WAREHOUSE")
        # The warehouse resumes even when the query that asked for it is cancelled meanwhile, so each waits on its own.
        await pause(warehouse.resuming)
        warehouse.suspended = False
