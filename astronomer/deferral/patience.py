"""Repeat what may safely be repeated, for as long as an outage is tolerated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from astronomer.deferral import clock
from astronomer.deferral.errors import CredentialsRejected, Transient

__all__ = ["insist", "telling_once"]

T = TypeVar("T")

_LONGEST_PAUSE = 60.0


async def insist(
    call: Callable[[], Awaitable[T]],
    *,
    tolerance: float,
    on_trouble: Callable[[Transient], object] | None = None,
) -> T:
    """What ``call`` returns, once the weather allows it; it is called again and again, so it must be harmless to repeat.

    :param tolerance: seconds after which the trouble is raised as it is.
    :param on_trouble: told of each trouble before the pause that it causes.
    :raises Transient: the outage lasted too long, or the login was refused: repeating that would lock the user out.
    """
    give_up, pause = clock.now() + tolerance, 1.0
    while True:
        try:
            return await call()
        except Transient as trouble:
            if isinstance(trouble, CredentialsRejected) or clock.now() + pause > give_up:
                raise
            if on_trouble is not None:
                on_trouble(trouble)
            await asyncio.sleep(max(pause, trouble.retry_after or 0.0))
            pause = min(2 * pause, _LONGEST_PAUSE)


def telling_once(log: Any, remote_side: str) -> Callable[[Transient], None]:
    """What to tell of trouble; only the first is worth a line.

    :param remote_side: how the line calls whom nobody can ask.
    """
    told: list[Transient] = []

    def tell(trouble: Transient) -> None:
        if not told:
            log.warning("%s cannot be asked just now, waiting on: %s", remote_side, trouble)
        told.append(trouble)

    return tell
