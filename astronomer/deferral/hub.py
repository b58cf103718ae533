"""One poller per connection per process: many waits, one session, one question at a time."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from astronomer.deferral.errors import CredentialsRejected, Transient
from astronomer.deferral.job import JobStatus, Poller, RemoteJob
from astronomer.deferral.pacing import Pacing
from astronomer.deferral.subscription import Subscription, comes

__all__ = ["Hub"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_CLOSE_TIMEOUT = 30.0
_REJECTIONS = 3
_CANCELS_AT_ONCE = 4
_UNANSWERED = Transient("the connection answers, but not about this one")


class _Line:
    """The waits on one connection, and the task that polls for them."""

    def __init__(
        self, connect: Callable[[], Poller[Any]], pacing: Pacing, ended: Callable[[], object]
    ) -> None:
        self._connect = connect
        self.poller = self._connected()
        self.subscriptions: list[Subscription] = []
        self._asked: dict[RemoteJob, list[Subscription]] = {}
        self._pacing = pacing
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._due = self._blocked_until = float("-inf")
        self._asked_at = self._all_asked_at = self._rest_until = float("-inf")
        self._trouble_since: float | None = None
        self._failures = self._rejections = self._calls = 0
        self._cancels = asyncio.Semaphore(_CANCELS_AT_ONCE)
        self._stopping = False
        # A context of its own: the line serves all waits, so it must not log as the first one of them.
        self.task = contextvars.Context().run(asyncio.ensure_future, self._run())

    def join(self, subscription: Subscription) -> None:
        soon = max(self._loop.time() + self._pacing.first_poll(), self._asked_at + self._pacing.spacing)
        self._due = min(self._due, soon) if self.subscriptions else soon
        self.subscriptions.append(subscription)
        self._wake.set()

    def leave(self, subscription: Subscription) -> None:
        self.subscriptions.remove(subscription)
        self._wake.set()

    def stop(self) -> None:
        """End now, and not after ``linger``: ``asyncio.wait_for`` may swallow a cancellation, see :func:`comes`."""
        self._stopping = True
        self.task.cancel()

    def hurry(self) -> None:
        """Poll as soon as the spacing allows."""
        self._due = min(self._due, self._asked_at + self._pacing.spacing)
        self._wake.set()

    @contextmanager
    def held(self) -> Iterator[Poller[Any]]:
        """The poller, kept open while somebody calls it outside a wait."""
        self._calls += 1
        try:
            yield self.poller
        finally:
            self._calls -= 1
            self._wake.set()

    async def cancel(self, job: RemoteJob) -> None:
        with self.held():
            async with self._cancels:
                await asyncio.wait_for(self.poller.cancel(job), self.poller.timeout)

    async def _run(self) -> None:
        cause = "its poller was cancelled"
        try:
            while await self._next_poll():
                await self._ask()
        except Exception as defect:
            log.exception("A poller's line ended in an unexpected way")
            cause = f"{type(defect).__name__}: {defect}"
        finally:
            self._ended()
            for subscription in self.subscriptions:  # nobody may go on waiting on a line that has died
                subscription.reject(CredentialsRejected(cause))
            await self._close(self.poller)

    async def _next_poll(self) -> bool:
        """Wait until a poll is due; false when nobody has waited on this connection for a while."""
        while not self._stopping:
            # A connection that asked to be left alone is remembered for as long, even when nobody waits on it.
            pause: float | None = max(self._pacing.linger, self._blocked_until - self._loop.time())
            if self.subscriptions:
                pause = max(self._due, self._blocked_until) - self._loop.time()
                if pause <= 0:
                    return True
            elif self._calls:
                pause = None
            self._wake.clear()
            if not await comes(self._wake, pause) and not self.subscriptions and not self._calls:
                return False
        return False

    async def _ask(self) -> None:
        asked = self._choose()
        if not asked:
            self._due = self._rest_until
            return
        self._asked_at = self._loop.time()
        self._asked = {}
        for subscription in asked:
            subscription.handed_at = self._asked_at
            self._asked.setdefault(subscription.job, []).append(subscription)
        timeout = self.poller.timeout
        try:
            self._answer(await asyncio.wait_for(self.poller.poll(list(self._asked)), timeout))
        except CredentialsRejected as rejected:
            await self._reconnect(rejected)
        except Transient as trouble:
            self._setback(trouble)
        except asyncio.TimeoutError:
            self._setback(Transient(f"no answer within {timeout:g} s"))
        except Exception as error:  # a defect in a poller is weather to the waits: they outlive its repair
            if self._trouble_since is None:
                log.exception("Polling %s failed in an unexpected way; the waits go on", asked[0].job.name)
            self._setback(Transient(f"{type(error).__name__}: {error}"))

    def _choose(self) -> list[Subscription]:
        """Those longest unasked first, so that a poller with a limit starves nobody.

        While an expensive poller rests, only newcomers and urgent waits are asked for.
        """
        resting = self._loop.time() < self._rest_until
        chosen = [one for one in self.subscriptions if not resting or one.urgent or one.unasked]
        ordered = sorted(chosen, key=lambda one: (one.handed_at, one.answered_at))
        return ordered[: self.poller.max_jobs]

    def _hear(self, answers: Mapping[Any, JobStatus]) -> None:
        """What a poll knows before it is over."""
        now = self._loop.time()
        for job, status in answers.items():
            for subscription in self._asked.get(job, ()):
                subscription.answered(status, now)

    def _answer(self, answers: Mapping[Any, JobStatus]) -> None:
        now = self._loop.time()
        self._failures = self._rejections = 0
        since, self._trouble_since = self._trouble_since, None
        for subscription in self.subscriptions:
            job = subscription.job
            status = answers.get(job)
            if status is not None:
                subscription.answered(status, now)
                continue
            asked = subscription in self._asked.get(job, ())
            trouble = self.poller.unanswered.get(job, _UNANSWERED) if asked else None
            if trouble is not None:
                subscription.in_trouble(trouble, now)
            elif since is not None:
                subscription.out_of_trouble(since)
        if self._asked_at >= self._rest_until:
            self._all_asked_at = self._asked_at
            self._rest_until = self._asked_at + self.poller.least_interval
        self._due = self._asked_at + self._pause()

    def _pause(self) -> float:
        """Seconds from a poll that was answered to the next one."""
        if self.poller.look_again or any(one.unasked for one in self.subscriptions):
            return self._pacing.spacing
        pauses = [self._pacing.next_poll(one.interval) for one in self.subscriptions if one.urgent]
        interval = min((one.interval for one in self.subscriptions), default=0.0)
        # A poll about newcomers does not put off the next one about all.
        due = max(self._all_asked_at + self._pacing.next_poll(interval), self._rest_until)
        pauses.append(max(self._pacing.spacing, due - self._asked_at))
        return min(pauses)

    def _setback(self, trouble: Transient) -> None:
        now = self._loop.time()
        self._failures += 1
        if self._trouble_since is None:
            self._trouble_since = now
            waits = len(self.subscriptions)
            noun = "wait" if waits == 1 else "waits"
            log.warning("%d %s on one connection cannot be polled: %s", waits, noun, trouble)
        self._blocked_until = now + self._pacing.after_failure(self._failures, trouble.retry_after)
        for subscription in self.subscriptions:
            subscription.in_trouble(trouble, self._trouble_since)

    async def _reconnect(self, rejected: CredentialsRejected) -> None:
        """The password may have been rotated: read the connection anew, but do not lock the account."""
        self._setback(rejected)
        self._rejections += 1
        self._blocked_until = max(
            self._blocked_until, self._loop.time() + self._pacing.rejection * self._rejections
        )
        if self._rejections >= _REJECTIONS:
            for subscription in self.subscriptions:
                subscription.reject(rejected)
        old, self.poller = self.poller, self._connected()
        await self._close(old)

    def _connected(self) -> Poller[Any]:
        poller = self._connect()
        poller.listener = self._hear
        return poller

    @staticmethod
    async def _close(poller: Poller[Any]) -> None:
        try:
            await asyncio.wait_for(poller.close(), _CLOSE_TIMEOUT)
        except Exception:
            log.debug("Closing a poller failed", exc_info=True)


class Hub:
    """The running pollers of one event loop, by connection; reference counted.

    :param connect: opens the poller for a job's connection; a worker passes the session it already has.
    :param pacing: how often a connection is asked.
    """

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]] = WeakKeyDictionary()

    def __init__(
        self,
        connect: Callable[[RemoteJob], Poller[Any]] = lambda job: job.poller(),
        pacing: Pacing | None = None,
    ) -> None:
        self._connect = connect
        self._pacing = pacing or Pacing()
        self._lines: dict[str, _Line] = {}

    @classmethod
    def current(cls) -> Hub:
        """The hub that all triggers of the running loop share."""
        return cls._of_loop.setdefault(asyncio.get_running_loop(), cls())

    @property
    def connections(self) -> int:
        """How many connections have a poller now."""
        return len(self._lines)

    @property
    def waits(self) -> int:
        """How many waits there are now, on all connections."""
        return sum(len(line.subscriptions) for line in self._lines.values())

    @asynccontextmanager
    async def subscribe(
        self, job: RemoteJob, interval: float = 5.0, *, urgent: bool = False
    ) -> AsyncIterator[Subscription]:
        """Watch one job as long as the block runs; its poller asks about all jobs on the connection.

        :param interval: seconds between two polls; the shortest of all waits on the connection counts.
        :param urgent: whether it is asked about even while its poller rests from an expensive poll.
        """
        line = self._line(job)
        subscription = Subscription(job, interval, urgent=urgent)
        line.join(subscription)
        try:
            yield subscription
        finally:
            line.leave(subscription)

    async def cancel(self, job: RemoteJob) -> None:
        """Ask the remote side to end the job, over the shared session, then poll soon."""
        line = self._line(job)
        await line.cancel(job)
        line.hurry()

    @asynccontextmanager
    async def lease(self, job: RemoteJob) -> AsyncIterator[Callable[[], Any]]:
        """Keep the connection's session open for the block, though nothing is watched in it.

        Yields a function that returns the poller of the moment: a new login replaces it.
        """
        line = self._line(job)
        with line.held():
            yield lambda: line.poller

    async def use(self, job: RemoteJob, call: Callable[[Any], Awaitable[T]]) -> T:
        """Call something else on the poller of the job's connection, such as ``result``."""
        with self._line(job).held() as poller:
            return await call(poller)

    async def __aenter__(self) -> Hub:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give every session back, for a hub that does not outlive its block."""
        lines = list(self._lines.values())
        for line in lines:
            line.stop()
        await asyncio.gather(*(line.task for line in lines), return_exceptions=True)

    def _line(self, job: RemoteJob) -> _Line:
        key = job.connection_key
        if key not in self._lines:
            self._lines[key] = _Line(
                lambda: self._connect(job), self._pacing, lambda: self._lines.pop(key, None)
            )
        return self._lines[key]
