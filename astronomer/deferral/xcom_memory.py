"""What a task without a worker remembers: in an XCom of its own, because a triggerer has no task state store.

An XCom survives tries and clears as the store does. But two triggerers may write it at the same moment, when one that
was paused wakes up, so an attempt is claimed before its submit, and the claim is looked at again right before it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from astronomer.deferral.identity import TaskIdentity
from astronomer.deferral.job import known_fields
from astronomer.deferral.memory import Attempt, Memory

__all__ = ["XCOM_KEY", "Contested", "XComMemory"]

XCOM_KEY = "astronomer_deferral"

_CLAIM_LASTS = 10.0
"""Seconds from the confirmation of a claim to the submit; older ones are confirmed again."""
SUBMITTED_BY = 15.0
"""Seconds after which the submit of somebody else's claim has arrived, or never will."""


class Contested(Exception):
    """Somebody else has claimed the attempt, or nobody is left to submit it for. Look again later."""


class XComMemory(Memory):
    """The last attempt of a task instance that runs in the triggerer.

    The generation is the number of the try that began it, with a minus, so that its submit keys are never those of
    the worker's path. What a triggerer is not told, ``max_tries``, follows: a try that nothing of ours has announced
    comes of a clear.

    :param ti: the running task instance.
    :param retries: of the operator.
    :param read: the XCom, or ``None``.
    :param write: sets the XCom.
    :param owner: names this run of this trigger.
    :param claims: whether a submit has to be claimed: the vendor takes the same one twice.
    """

    def __init__(
        self,
        ti: Any,
        *,
        retries: int,
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
        self._last = self._found()
        generation = -int(ti.try_number) if self._begins_anew(retries) else self._last_generation()
        super().__init__(None, replace(TaskIdentity.of(ti), generation=generation))

    @property
    def lasting(self) -> bool:
        """Always: an XCom outlives the triggerer."""
        return True

    @property
    def has_old_results(self) -> bool:
        """Whether XComs of a success before a clear are still there."""
        return self._last is not None and self._last.settled is not None and self.is_new_try(self._last)

    def take_over(self) -> float:
        """Claim what somebody else has claimed before; seconds after which it is known whether they submitted it."""
        last = self._last
        if not self.claims or last is None or last.job is not None or last.ended or self._own(last):
            return 0.0
        self._write(asdict(replace(last, owner=self._owner)))  # from here on they confirm nothing
        return SUBMITTED_BY

    def last(self) -> Attempt | None:
        """The newest attempt of any generation."""
        return self._last

    def is_new_try(self, attempt: Attempt) -> bool:
        """Whether another try of the task has made the attempt."""
        return bool(attempt.try_number != self._ti.try_number)

    def save(self, attempt: Attempt, **changes: Any) -> Attempt:
        """Claim an attempt, or write what became of it.

        :raises Contested: the trigger has ended meanwhile.
        """
        before = attempt
        attempt = replace(attempt, **changes, owner=self._owner, try_number=self._ti.try_number)
        self._last = attempt
        only_the_id = before.job is None and attempt.job is not None
        if not only_the_id or self.claims:  # else a submit under the same key tells it again
            self._unless_abandoned()
            self._write(asdict(attempt))
        return attempt

    def confirm(self, attempt: Attempt) -> None:
        """Make sure that the claim still stands; the submit has to follow within seconds, see :meth:`hold`.

        :raises Contested: it does not.
        """
        self._unless_abandoned()
        if not self.claims:
            return
        asked_at = time.monotonic()
        found = self._found()
        if found is None or not self._own(found) or found.submit_key != attempt.submit_key:
            raise Contested("another triggerer is submitting this attempt")
        self._confirmed_at = asked_at

    def hold(self) -> None:
        """The last look before a submit goes out: a process that was paused meanwhile must not just send it.

        :raises Contested: somebody else has taken over.
        """
        self._unless_abandoned()
        if self._is_old() and self._last is not None:
            self.confirm(self._last)

    def check(self) -> None:
        """The same, without a question: for the event loop.

        :raises Contested: the claim is old, or nobody is left to submit for.
        """
        self._unless_abandoned()
        if self._is_old():
            raise Contested("the claim on this submit is old")

    def note(self, **changes: Any) -> dict[str, Any] | None:
        """What the XCom has to say at the end of the task; ``None`` where nothing was started."""
        return None if self._last is None else asdict(replace(self._last, **changes))

    def _is_old(self) -> bool:
        return self._confirmed_at is not None and time.monotonic() - self._confirmed_at > _CLAIM_LASTS

    def _own(self, attempt: Attempt) -> bool:
        return attempt.owner == self._owner

    def _unless_abandoned(self) -> None:
        if self.abandoned:
            raise Contested("the trigger has ended here")

    def _found(self) -> Attempt | None:
        found: Any = self._read()
        if isinstance(found, str):  # what an event pushes is encoded twice in Airflow 3.3
            found = json.loads(found)
        return Attempt(**known_fields(Attempt, found)) if isinstance(found, Mapping) else None

    def _last_generation(self) -> int:
        return -int(self._ti.try_number) if self._last is None else self._last.generation

    def _begins_anew(self, retries: int) -> bool:
        last = self._last
        if last is None or not self.is_new_try(last):
            return last is None
        no_retry_left: bool = (last.try_number or 0) >= -last.generation + retries
        return no_retry_left or not (last.ended or last.lost)

    def _attempt(self, sequence: int, deadline: float | None) -> Attempt:
        return replace(super()._attempt(sequence, deadline), try_number=self._ti.try_number)
