"""What a task without a worker remembers: in an XCom of its own, because a triggerer has no task state store.

An XCom survives tries and clears as the store does. But two triggerers may write it, when one that was paused wakes
up after Airflow has given its trigger away. So nothing is written over what has not been seen: who has not looked for
a while looks again. And for a vendor that takes a submit twice, an attempt is claimed before its submit, and the claim
is looked at again right before it.

An XCom cannot be compared and set at once, so time has to do the rest: Airflow gives a trigger away when its triggerer
has been silent for half a minute, and a claim that took longer than a few seconds to make is not trusted, because it
may have been written over another one. Whoever makes it then goes the way of a newcomer who finds a claim: takes it
over, lets a submit that may be under way arrive, and asks the vendor for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from astronomer.deferral.identity import TaskIdentity
from astronomer.deferral.memory import Attempt, Memory

__all__ = ["XCOM_KEY", "Contested", "Tries", "XComMemory"]

XCOM_KEY = "astronomer_deferral"

_CLAIM_LASTS = 10.0
"""Seconds from a look at the XCom to what is done about it; then it is looked at again."""
SUBMITTED_BY = 15.0
"""Seconds after which the submit of somebody else's claim has arrived, or never will."""

_NOTICED_WITHIN = 900.0
"""Seconds within which Airflow has ended a task whose time is up, if its scheduler and a worker are well enough."""


class Contested(Exception):
    """Somebody else has claimed the attempt, or may have, or nobody is left to submit it for. Look again later."""


@dataclass(frozen=True)
class Tries:
    """What Airflow says of the tries of a task.

    :param retries: how many there are after the first try.
    :param began_at: epoch seconds at which this one began.
    :param pause: the longest time between two, in seconds.
    """

    retries: int
    began_at: float
    pause: float = 0.0

    @classmethod
    def of(cls, task: Any, began_at: float) -> Tries:
        """Those of an operator, as the Dag has it."""
        retries = int(task.retries or 0)
        pause, longest = (getattr(task, name, None) for name in ("retry_delay", "max_retry_delay"))
        backoff = max(1.0, float(getattr(task, "retry_exponential_backoff", 0.0)))
        # Airflow adds up to as much again to a pause that grows.
        seconds = pause.total_seconds() * (1 if backoff == 1 else 2 * backoff**retries) if pause else 0.0
        return cls(retries, began_at, min(seconds, longest.total_seconds()) if longest else seconds)

    def follows(self, deadline: float | None) -> bool:
        """Whether this one is the retry of one that had until then, and was ended by Airflow soon afterwards."""
        return deadline is not None and 0 <= self.began_at - deadline <= self.pause + _NOTICED_WITHIN


class XComMemory(Memory):
    """The last attempt of a task instance that runs in the triggerer.

    The generation is the number of the try that began it, with a minus, so that its submit keys are never those of
    the worker's path. What a triggerer is not told, ``max_tries``, follows: a try that nothing of ours has announced
    comes of a clear, unless the one before it had no time left: that one Airflow has ended without asking us, because
    nobody was there to do so in time.

    :param ti: the running task instance.
    :param tries: what Airflow says of the task's tries.
    :param read: the XCom, or ``None``.
    :param write: sets the XCom.
    :param owner: names this run of this trigger.
    :param claims: whether a submit has to be claimed: the vendor takes the same one twice.
    """

    def __init__(
        self,
        ti: Any,
        *,
        tries: Tries,
        read: Callable[[], Any],
        write: Callable[[dict[str, Any]], None],
        owner: str,
        claims: bool,
    ) -> None:
        self._ti = ti
        self._read, self._write = read, write
        self._owner = owner
        self.claims = claims
        self.abandoned = False
        self._confirmed_at: float | None = None
        self._known: Any = None
        self._begun_at = self._looked_at = time.monotonic()
        self._last = self._found()
        generation = -int(ti.try_number) if self._begins_anew(tries) else self._last_generation()
        super().__init__(None, replace(TaskIdentity.of(ti), generation=generation))

    @property
    def lasting(self) -> bool:
        """Always: an XCom outlives the triggerer."""
        return True

    @property
    def has_old_results(self) -> bool:
        """Whether XComs of a success before a clear are still there."""
        last = self._last
        if last is None or last.settled is None or self._is_over(last):
            return False
        try:
            self._unless_overtaken()
        except Contested:  # then they may be new ones
            return False
        return True

    @property
    def is_aging(self) -> bool:
        """Whether a claim may come too late after what was read when this was made."""
        return time.monotonic() - self._begun_at > _CLAIM_LASTS / 4

    def take_over(self) -> float:
        """Claim what somebody else has claimed before; seconds after which it is known whether they submitted it.

        :raises Contested: the task has gone on since this trigger was made.
        """
        last = self._last
        if last is not None and self._is_over(last):
            raise Contested("the task has gone on without this trigger, which Airflow will end")
        claim = self.claim_of_another() if self.claims else None
        if claim is None:
            return 0.0
        self.seize(claim)
        return SUBMITTED_BY

    def seize(self, claim: Attempt) -> None:
        """Take somebody else's claim: from here on they confirm nothing."""
        self._set_unless_overtaken(replace(claim, owner=self._owner))

    def last(self) -> Attempt | None:
        """The newest attempt of any generation."""
        return self._last

    def is_new_try(self, attempt: Attempt) -> bool:
        """Whether another try of the task has made the attempt."""
        return bool(attempt.try_number != self._ti.try_number)

    def save(self, attempt: Attempt, **changes: Any) -> Attempt:
        """Claim an attempt, or write what became of it.

        :raises Contested: the trigger has ended meanwhile, or somebody else has written, or may have.
        """
        job = attempt.job
        attempt = replace(attempt, **changes, owner=self._owner, try_number=self._ti.try_number)
        self._unless_abandoned()
        is_claim = attempt.job is None or (self.claims and attempt.job == job)
        self._claim(attempt) if is_claim else self._set_unless_overtaken(attempt)
        self._last = attempt
        return attempt

    def confirm(self, attempt: Attempt) -> None:
        """Make sure that the claim still stands; the submit has to follow within seconds, see :meth:`hold`.

        :raises Contested: it does not.
        """
        self._unless_abandoned()
        if not self.claims:
            self._unless_overtaken()
            return
        asked_at = time.monotonic()
        found = self._found()
        if self._is_of_before(found):
            self._set(attempt)
            found = self._found()
        if found is None or not self._own(found) or found.submit_key != attempt.submit_key:
            raise Contested("another triggerer is submitting this attempt")
        self._confirmed_at = self._looked_at = asked_at

    def hold(self) -> None:
        """The last look before a submit goes out: a process that was paused meanwhile must not just send it.

        :raises Contested: somebody else has taken over.
        """
        self._unless_abandoned()
        if not self.claims:
            self._unless_overtaken()
        elif self._is_old() and self._last is not None:
            self.confirm(self._last)

    def check(self) -> None:
        """The same, without a question: for the event loop.

        :raises Contested: the last look is old, or nobody is left to submit for.
        """
        self._unless_abandoned()
        if self._is_old() if self.claims else self._is_late(self._looked_at):
            raise Contested("the last look at what others do is old")

    def leave(self) -> None:
        """Note that the job is not settled, so that a retry goes on with it; not one of before a clear."""
        last = self._last
        if last is not None and last.generation == self.identity.generation:
            with suppress(Contested):  # then somebody else sees to it
                self.save(last, lost=True)

    def leave_open(self) -> None:
        """The same for what this try has begun, if it fails before the end of the job was reported.

        :raises Contested: another triggerer goes on with it, so it has not failed.
        """
        last = self._last
        if last is not None and not last.ended and not self.is_new_try(last):
            self.save(last, lost=True)

    def unsettled(self) -> Attempt | None:
        """What was begun, and has not been settled as far as is known."""
        last = self._last
        return None if last is None or last.ended or last.settled is not None else last

    def claim_of_another(self) -> Attempt | None:
        """The attempt that somebody else may be submitting."""
        last = self._last
        if last is None or last.job is not None or last.ended or self._own(last):
            return None
        return last

    def after_success(self) -> dict[str, Any] | None:
        """What the XCom has to say at the end of a success; ``None`` where nothing was started."""
        return None if self._last is None else asdict(replace(self._last, settled=0, ended=True))

    def _is_old(self) -> bool:
        return self._confirmed_at is not None and self._is_late(self._confirmed_at)

    def _claim(self, attempt: Attempt) -> None:
        """Write over what is known to be there, and see to it that nothing else was."""
        is_new = self._known is None or self._known["submit_key"] != attempt.submit_key
        if self.claims:
            self._look()
        self._set_unless_overtaken(attempt)
        if self._is_late(self._begun_at if is_new and self.claims else self._looked_at):
            raise Contested("it took long to claim this attempt, and another triggerer may have done so, too")

    def _unless_overtaken(self) -> None:
        if self._is_late(self._looked_at):
            self._look()

    def _look(self) -> None:
        asked_at, known = time.monotonic(), self._known
        found = self._found()
        if self._is_of_before(found) and known is not None and known["try_number"] == self._ti.try_number:
            self._known = known
        if self._known != known:
            self._known = known
            raise Contested("another triggerer goes on with this task")
        self._looked_at = asked_at

    def _is_of_before(self, found: Attempt | None) -> bool:
        """Whether, instead of this try's, it is the late word of a trigger that had been paused since an earlier one."""
        return found is not None and self._try_of(found) < self._ti.try_number

    def _set_unless_overtaken(self, attempt: Attempt) -> None:
        self._unless_overtaken()
        self._set(attempt)

    def _set(self, attempt: Attempt) -> None:
        self._known = json.loads(json.dumps(asdict(attempt)))
        self._write(self._known)

    def _is_over(self, last: Attempt) -> bool:
        """Whether it is known of another trigger that the try of this one has ended."""
        ahead = self._try_of(last) - self._ti.try_number
        return bool(ahead > 0 or (ahead == 0 and last.settled is not None))

    @staticmethod
    def _try_of(attempt: Attempt) -> int:
        return attempt.try_number or 0

    @staticmethod
    def _is_late(since: float) -> bool:
        return time.monotonic() - since > _CLAIM_LASTS

    def _own(self, attempt: Attempt) -> bool:
        return attempt.owner == self._owner

    def _unless_abandoned(self) -> None:
        if self.abandoned:
            raise Contested("the trigger has ended here")

    def _found(self) -> Attempt | None:
        found: Any = self._read()
        if isinstance(found, str):  # what an event pushes is encoded twice in Airflow 3.3
            found = json.loads(found)
        self._known = found
        return Attempt.from_dict(found) if isinstance(found, Mapping) else None

    def _last_generation(self) -> int:
        return -int(self._ti.try_number) if self._last is None else self._last.generation

    def _begins_anew(self, tries: Tries) -> bool:
        last = self._last
        if last is None or not self.is_new_try(last):
            return last is None
        no_retry_left = self._ti.try_number > -last.generation + tries.retries
        succeeded = last.settled is not None
        announced = last.ended or last.lost or tries.follows(last.deadline)
        return succeeded or no_retry_left or not announced

    def _attempt(self, sequence: int, deadline: float | None) -> Attempt:
        return replace(super()._attempt(sequence, deadline), try_number=self._ti.try_number)
