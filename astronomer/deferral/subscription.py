"""What one wait is told of its job."""

from __future__ import annotations

import asyncio

from astronomer.deferral.errors import CredentialsRejected, Transient
from astronomer.deferral.job import JobStatus, RemoteJob

__all__ = ["Subscription", "comes"]


async def comes(event: asyncio.Event, timeout: float | None) -> bool:
    """Whether the event is set before ``timeout`` seconds have passed; it is set after that, too.

    ``asyncio.wait_for`` would swallow a cancellation that arrives together with the event (Python before 3.12),
    and with it a user's kill.
    """
    late = False

    def ring() -> None:
        nonlocal late
        late = not event.is_set()
        event.set()

    alarm = None if timeout is None else asyncio.get_running_loop().call_later(timeout, ring)
    try:
        await event.wait()
    finally:
        if alarm is not None:
            alarm.cancel()
    return not late


class Subscription:
    """What one wait sees of its job. Read the fields, then wait for :meth:`changed`.

    :ivar status: the last answer, or ``None`` before the first.
    :ivar trouble: why the connection cannot be asked just now, or ``None``.
    :ivar trouble_since: the loop's time at which that began.
    :ivar refused: set when the credentials were refused for good.
    """

    def __init__(self, job: RemoteJob, interval: float, *, urgent: bool = False) -> None:
        self.job = job
        self.interval = interval
        self.urgent = urgent
        self.status: JobStatus | None = None
        self.trouble: Transient | None = None
        self.trouble_since: float | None = None
        self.refused: CredentialsRejected | None = None
        self._joined_at = asyncio.get_running_loop().time()
        self.handed_at = self.answered_at = float("-inf")
        self._changed = asyncio.Event()

    @property
    def unasked(self) -> bool:
        """Whether no poll has been about this wait yet."""
        return self.handed_at == float("-inf")

    async def changed(self, timeout: float | None) -> None:
        """Return when a field has changed since the last call, or after ``timeout`` seconds."""
        await comes(self._changed, timeout)
        self._changed.clear()

    def answered(self, status: JobStatus, at: float) -> None:
        """The connection said something about the job."""
        self.answered_at = at
        if status != self.status or self.trouble is not None:
            self._changed.set()
        self.status, self.trouble, self.trouble_since = status, None, None

    def in_trouble(self, trouble: Transient, since: float) -> None:
        """The connection could not be asked."""
        if self.trouble is None:
            # A newcomer brings patience of its own, and so does one that a poll has told of before it failed.
            self.trouble_since = max(since, self._joined_at, self.answered_at)
            self._changed.set()
        self.trouble = trouble

    def out_of_trouble(self, since: float) -> None:
        """The connection can be asked again after an outage that began at ``since``; this wait's turn is to come."""
        if self.trouble_since is not None and self.trouble_since >= since:
            self.trouble, self.trouble_since = None, None
            self._changed.set()

    def reject(self, refused: CredentialsRejected) -> None:
        """The connection will not be asked again."""
        self.refused = refused
        self._changed.set()
