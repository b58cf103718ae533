"""From many status polls to one outcome, with a deadline and with patience."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress

from astronomer.deferral import clock
from astronomer.deferral.errors import Transient
from astronomer.deferral.hub import Hub
from astronomer.deferral.job import JobStatus, Outcome, Phase, RemoteJob
from astronomer.deferral.subscription import Subscription

__all__ = ["cancel_and_confirm", "look_once", "watch"]

_OUTAGE_WORTH_A_LINE = 60.0
_OUTAGE_WORTH_MANY_LINES = (
    600.0  # of foreign jobs there may be thousands, and each line costs a triggerer dear
)
_LINES_PER_SECOND = (
    10.0  # that a triggerer's supervisor can take beside its work: an outage is told by all waits
)
_CROWD = 100  # waits, of which not each says that an outage is over: their next line does
_LAST_LOOK = 15.0
_CLOCK_IS_TRUSTED_FOR = 60.0
_GOES_ON = 600.0  # of a vendor that limits cancels: a thousand deadlines at once take it minutes
_ASK_AGAIN = 10.0
_ASK_AGAIN_AT_MOST = 60.0
_endings: set[asyncio.Task[JobStatus]] = set()  # the loop itself keeps only weak references
_SAID = {
    Phase.ACTIVE: "is active",
    Phase.SUCCEEDED: "has succeeded",
    Phase.FAILED: "has failed",
    Phase.CANCELLED: "was cancelled",
    Phase.LOST: "cannot be seen any more",
}


async def watch(
    job: RemoteJob,
    *,
    hub: Hub | None = None,
    deadline: float | None = None,
    outage_tolerance: float = 3600.0,
    poll_interval: float = 5.0,
    cancel_confirm_timeout: float = 60.0,
    log: logging.Logger | None = None,
) -> Outcome:
    """Wait for the job to end; the one outcome, whatever the weather. The same in worker and triggerer.

    :param deadline: epoch seconds. When it passes, the job is cancelled and the outcome is ``timed_out``,
        unless the job has succeeded in that moment. A foreign job is looked at once more instead.
    :param outage_tolerance: seconds that the remote side may be out of reach before the job counts as lost.
    :param poll_interval: seconds between two polls of the connection.
    :param cancel_confirm_timeout: seconds to wait for the confirmation of a cancel.
    :param log: gets one line per change of state.
    """
    hub = hub or Hub.current()
    reporter = _Reporter(job, log or logging.getLogger(__name__), hub)
    async with hub.subscribe(job, poll_interval) as seen:
        while True:
            reporter.see(seen)
            if seen.status is not None and seen.status.done:
                return Outcome(seen.status)
            if seen.refused is not None:
                return _lost(f"Cannot log in to ask about {job.name}: {seen.refused}")
            if deadline is not None and clock.now() >= deadline:
                return await (
                    _last_look(job, hub, seen) if job.foreign else _time_out(job, hub, cancel_confirm_timeout)
                )
            patience = _patience_left(seen, outage_tolerance)
            if patience is not None and patience <= 0:
                return _lost(f"No answer about {job.name} for {outage_tolerance:g} s: {seen.trouble}")
            await seen.changed(_shortest(patience, deadline, reporter.pause(seen)))


async def cancel_and_confirm(
    job: RemoteJob, *, hub: Hub | None = None, timeout: float = 60.0, goes_on: bool = False
) -> JobStatus:
    """End the job and see it end; keeps asking through bad weather until ``timeout`` seconds have passed.

    :param goes_on: whether to ask for some minutes more, unheard, until it is seen to have ended.
    :returns: the last status: terminal, or ``LOST`` with a message when the end was not confirmed.
    """
    told: asyncio.Future[JobStatus] = asyncio.get_running_loop().create_future()
    ending = asyncio.ensure_future(_end(job.whole, hub or Hub.current(), timeout, goes_on, told))
    _endings.add(ending)
    ending.add_done_callback(_endings.discard)
    try:
        await asyncio.wait({told, ending} if goes_on else {ending}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        ending.cancel()
        with suppress(asyncio.CancelledError):
            await ending
        raise
    return told.result() if told.done() else ending.result()


async def _end(
    job: RemoteJob, hub: Hub, timeout: float, goes_on: bool, told: asyncio.Future[JobStatus]
) -> JobStatus:
    """Ask a job to end until it is seen to have, and tell after ``timeout`` seconds at the latest."""
    give_up = asyncio.get_running_loop().time() + timeout
    async with hub.subscribe(job, interval=1.0, urgent=True) as seen:
        accepted = asyncio.Event()
        asking = asyncio.ensure_future(_keep_asking(job, hub, seen, accepted))
        try:
            if (status := await _done_by(seen, give_up)) is None:
                heard = accepted.is_set()
                what = "was asked to stop but has not confirmed it" if heard else "could not be asked to stop"
                status = _lost(f"{job.name} {what} within {timeout:g} s").status
                if goes_on:
                    told.set_result(status)
                    await _done_by(seen, give_up + _GOES_ON)
            return status
        finally:
            # More than once: before Python 3.12, wait_for may swallow a cancel that comes with an error.
            while not asking.done():
                asking.cancel()
                await asyncio.wait({asking}, timeout=1.0)


async def _done_by(seen: Subscription, moment: float) -> JobStatus | None:
    loop = asyncio.get_running_loop()
    while loop.time() < moment:
        if seen.status is not None and seen.status.done:
            return seen.status
        await seen.changed(moment - loop.time())
    return None


async def look_once(
    job: RemoteJob, hub: Hub, timeout: float, *, through_weather: bool = False
) -> JobStatus | None:
    """Return what the remote side says of a job; ``None`` when it cannot be asked within so many seconds.

    :param through_weather: whether to ask again until then, and not to give up when the first question fails.
    """
    async with hub.subscribe(job, interval=1.0, urgent=True) as seen:
        await _first_word(seen, timeout, through_weather=through_weather)
        return seen.status


async def _first_word(seen: Subscription, timeout: float, *, through_weather: bool = False) -> None:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + timeout
    while seen.status is None and seen.refused is None and loop.time() < give_up:
        if seen.trouble is not None and not through_weather:
            return
        await seen.changed(give_up - loop.time())


async def _keep_asking(job: RemoteJob, hub: Hub, seen: Subscription, accepted: asyncio.Event) -> None:
    """Ask a job to end, and again when it is seen to go on: what comes too early, vendors take and do nothing."""
    loop, pause, asked = asyncio.get_running_loop(), _ASK_AGAIN, float("-inf")
    while True:
        if not accepted.is_set() or seen.answered_at > asked:
            await _ask_to_cancel(job, hub)
            accepted.set()
            asked = loop.time()
        await asyncio.sleep(pause)
        pause = min(2 * pause, _ASK_AGAIN_AT_MOST)


async def _ask_to_cancel(job: RemoteJob, hub: Hub) -> None:
    pause, told = 1.0, False
    while True:
        try:
            return await hub.cancel(job)
        except (Transient, asyncio.TimeoutError) as trouble:
            pause = max(pause, getattr(trouble, "retry_after", None) or 0.0)
        except Exception:
            if not told:
                logging.getLogger(__name__).exception("Asking %s to stop failed; asking again", job.name)
            told = True
        await asyncio.sleep(pause)
        pause = min(2 * pause, 15.0)


async def _time_out(job: RemoteJob, hub: Hub, confirm: float) -> Outcome:
    status = await cancel_and_confirm(job, hub=hub, timeout=confirm, goes_on=True)
    return Outcome(status, timed_out=status.phase is not Phase.SUCCEEDED)


async def _last_look(job: RemoteJob, hub: Hub, before: Subscription) -> Outcome:
    """What came true in time, and was not yet seen, counts."""
    async with hub.subscribe(job, interval=1.0, urgent=True) as seen:
        await _first_word(seen, _LAST_LOOK)
        why = seen.refused or seen.trouble or before.trouble or f"no answer within {_LAST_LOOK:g} s"
        unknown = JobStatus(Phase.ACTIVE, message=f"it could not be asked at the end: {why}")
        status = seen.status or unknown
    return Outcome(status, timed_out=not status.done)


def _lost(message: str) -> Outcome:
    return Outcome(JobStatus(Phase.LOST, message=f"{message.rstrip('.')}. It may still be running."))


def _patience_left(seen: Subscription, tolerance: float) -> float | None:
    if seen.trouble_since is None:
        return None
    return seen.trouble_since + tolerance - asyncio.get_running_loop().time()


def _shortest(patience: float | None, deadline: float | None, pause: float | None) -> float | None:
    # Not for long by a clock that may be set: nobody else sees to the deadline.
    until = None if deadline is None else min(deadline - clock.now(), _CLOCK_IS_TRUSTED_FOR)
    return min((max(0.0, one) for one in (patience, until, pause) if one is not None), default=None)


class _Reporter:
    """One line when the state changes or an outage lasts; none per poll."""

    def __init__(self, job: RemoteJob, log: logging.Logger, hub: Hub) -> None:
        self._job = job
        self._log = log
        self._hub = hub
        self._status: JobStatus | None = None
        self._outage_told = False
        self._worth_a_line: float | None = None

    def see(self, seen: Subscription) -> None:
        status = seen.status
        if status is not None and (self._status is None or self._key(status) != self._key(self._status)):
            told_by_worker = self._status is None and self._job.foreign and not status.done
            self._status = status
            if not told_by_worker:
                self._log.info(
                    "%s %s (%s)", self._job.name, _SAID[status.phase], status.raw or "no word from it"
                )
        if seen.trouble is None:
            if self._outage_told and self._hub.waits <= _CROWD:
                self._log.info("%s can be asked again", self._job.name)
            self._outage_told, self._worth_a_line = False, None
        elif not self._outage_told and self._outage_age(seen) >= self._patience():
            self._outage_told = True
            self._log.warning("%s cannot be asked, waiting on: %s", self._job.name, seen.trouble)

    def pause(self, seen: Subscription) -> float | None:
        """Seconds until an outage has to be told."""
        if seen.trouble is None or self._outage_told:
            return None
        return self._patience() - self._outage_age(seen)

    def _patience(self) -> float:
        """Seconds after which this wait tells an outage: thousands at once would hold up the triggerer."""
        if self._worth_a_line is None:
            least = _OUTAGE_WORTH_MANY_LINES if self._job.foreign else _OUTAGE_WORTH_A_LINE
            self._worth_a_line = least + random.uniform(0.0, self._hub.waits / _LINES_PER_SECOND)  # noqa: S311
        return self._worth_a_line

    @staticmethod
    def _key(status: JobStatus) -> tuple[Phase, str]:
        return status.phase, status.raw

    @staticmethod
    def _outage_age(seen: Subscription) -> float:
        since = seen.trouble_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since
