"""When a connection is asked next: steady, spread out, and far apart in bad weather."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Pacing"]


@dataclass(frozen=True)
class Pacing:
    """How often one connection is asked. All durations are seconds.

    :param spacing: never two polls closer together than this.
    :param gather: a first wait holds its poll back by up to this long, so that others join the same poll and
        a restarted triggerer does not ask every connection in the same instant.
    :param jitter: every pause varies by up to this share of itself.
    :param backoff: the pause after the first failed poll; it doubles with each further one.
    :param max_backoff: the longest such pause. A longer ``Retry-After`` is honoured all the same.
    :param rejection: the least pause after a refused login; repeating it faster would lock the account.
    :param linger: how long an unused session is kept for the next wait.
    """

    spacing: float = 1.0
    gather: float = 0.5
    jitter: float = 0.1
    backoff: float = 1.0
    max_backoff: float = 60.0
    linger: float = 60.0
    rejection: float = 10.0
    random: random.Random = field(default_factory=random.Random, compare=False, repr=False)

    def next_poll(self, interval: float) -> float:
        """Seconds from a poll that was answered to the next one: never more than was asked for."""
        return max(self.spacing, interval * (1 - self.jitter * self.random.random()))

    def first_poll(self) -> float:
        """Seconds from the arrival of a wait to the poll that includes it."""
        return self.gather * self.random.random()

    def after_failure(self, failures: int, retry_after: float | None = None) -> float:
        """Seconds to leave the connection alone after the ``failures``-th failed poll in a row."""
        pause = min(self.max_backoff, self.backoff * 2.0 ** min(failures - 1, 30)) * self._around_one()
        if retry_after is not None:
            pause = max(pause, retry_after * (1 + self.jitter * self.random.random()))
        return max(self.spacing, pause)

    def _around_one(self) -> float:
        return 1 + self.jitter * (2 * self.random.random() - 1)
