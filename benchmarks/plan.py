"""When the remote work of one phase ends, and how the triggers are handed over."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Plan"]

_PER_SYNC = 50  # [triggerer] max_trigger_to_select_per_loop


@dataclass(frozen=True)
class Plan:
    """All durations are seconds, counted from the start of the waits.

    :param waits: how many pieces of remote work, and so triggers, each side has.
    :param first: the first piece ends then.
    :param spread: the others end evenly over so long after it.
    :param poll_interval: seconds between two polls.
    :param watched: what ends later than this is not waited for; ``None`` for all.
    :param per_sync: how many triggers are handed over each time that the triggerer asks, about once a second.
    :param others: how much foreign work of the same kind goes on beside.
    :param storm_at: when the storm begins, if there is one.
    :param storm: how long it lasts.
    :param patience: how long after the last end the events are waited for.
    """

    waits: int
    first: float
    spread: float
    poll_interval: float = 5.0
    watched: float | None = None
    per_sync: int = _PER_SYNC
    others: int = 0
    storm_at: float = 0.0
    storm: float = 0.0
    patience: float = 30.0

    def ends(self) -> list[float]:
        """When each piece ends; neighbours in the list do not end together."""
        step = self.spread / max(1, self.waits - 1)
        found = [self.first + step * position for position in range(self.waits)]
        random.Random(self.waits).shuffle(found)
        return found

    @property
    def last(self) -> float:
        """When the last end that counts is past."""
        return self.first + self.spread if self.watched is None else self.watched

    @property
    def over(self) -> float:
        """When nothing more is waited for."""
        return max(self.last, self.storm_at + self.storm) + self.patience
