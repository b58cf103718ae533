"""How many requests per second the real service takes, workspace-wide, before it answers 429."""

from __future__ import annotations

import math

from astronomer.lab.databricks.clock import Clock
from astronomer.lab.databricks.errors import ApiError

__all__ = ["LIMITS", "Quotas"]

LIMITS: dict[str, float] = {
    "jobs/get": 20,
    "jobs/list": 20,
    "jobs/run-now": 20,
    "jobs/runs/cancel": 10,
    "jobs/runs/cancel-all": 5,
    "jobs/runs/get": 100,
    "jobs/runs/get-output": 20,
    "jobs/runs/list": 30,
    "jobs/runs/repair": 5,
    "jobs/runs/submit": 35,
    "sql/history/queries": 10,
}
"""Endpoint without its version -> requests per second, from the "Resource limits" page of July 2026."""


class _Bucket:
    """Holds at most one second's worth."""

    __slots__ = ("at", "left", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.left = max(rate, 1.0)
        self.at = now

    def take(self, now: float) -> float:
        """Take one request and return 0, or return after how many seconds there is one."""
        self.left = min(max(self.rate, 1.0), self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left >= 1.0:
            self.left -= 1.0
            return 0.0
        return (1.0 - self.left) / self.rate


class Quotas:
    """The limits, each a token bucket of one second.

    :param factor: how many times the real limits; 0 for none at all.
    """

    def __init__(self, clock: Clock, factor: float = 1.0) -> None:
        self._clock = clock
        self._factor = factor
        self._buckets: dict[str, _Bucket] = {}
        self.throttled = 0

    @property
    def factor(self) -> float:
        """How many times the real limits hold; 0 is none at all."""
        return self._factor

    @factor.setter
    def factor(self, factor: float) -> None:
        self._factor = factor
        self._buckets.clear()

    def spend(self, endpoint: str) -> None:
        """Count one request.

        :raises ApiError: 429, with the seconds to wait in Retry-After.
        """
        if not self._factor or endpoint not in LIMITS:
            return
        now = self._clock.now()
        bucket = self._buckets.get(endpoint)
        if bucket is None:
            bucket = self._buckets[endpoint] = _Bucket(LIMITS[endpoint] * self._factor, now)
        if wait := bucket.take(now):
            self.throttled += 1
            message = f"Current request rate to {endpoint} exceeds the limit of {bucket.rate:g} requests per second."
            headers = {"retry-after": str(max(math.ceil(wait), 1))}
            raise ApiError(429, "REQUEST_LIMIT_EXCEEDED", message, headers)
