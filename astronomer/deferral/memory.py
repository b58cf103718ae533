"""What one task instance remembers of its jobs, so that a retry finds them and a clear does not."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from astronomer.deferral.errors import JobError
from astronomer.deferral.identity import TaskIdentity
from astronomer.deferral.job import known_fields

__all__ = ["Attempt", "LastWord", "Memory"]

_KEY = "astronomer.deferral"
_TRUSTED_FOR = 10.0  # seconds; Airflow takes a process that is silent for much longer for dead


@dataclass(frozen=True)
class Attempt:
    """One job that a task started, or was about to start.

    :param generation: of the task's identity; a clear raises it.
    :param sequence: counts the jobs of one generation from 0.
    :param submit_key: what the vendor was given to recognise the job by.
    :param deadline: epoch seconds, set before the submit and never renewed.
    :param job: the fields of the remote job; ``None`` while the submit is under way.
    :param notes: what the family needs to find the job when its id was never heard.
    :param ended: whether the job's failure has been reported, so that a retry starts the next one.
    :param settled: the clear number of the Dag run in which the job's success was reported. When the task runs
        again in another one, it was cleared, though ``max_tries`` may say nothing of it.
    :param lost: whether the job was left behind without a word of its end, so that a retry goes on with it.
    :param try_number: of the task, where it matters in which try the job was started.
    :param owner: which run of which trigger has written this, where there may be two.
    """

    generation: int
    sequence: int
    submit_key: str
    deadline: float | None = None
    job: dict[str, Any] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    settled: int | None = None
    lost: bool = False
    try_number: int | None = None
    owner: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Attempt:
        """One that was written down, maybe by another release."""
        return cls(**known_fields(cls, data))


@dataclass
class LastWord:
    """What a process has written last, and when that was known to stand, by a clock that goes on while it is paused."""

    attempt: Attempt | None = None
    known_at: float = 0.0


class Memory:
    """The last attempt of a task instance, in Airflow's task state store.

    :param store: the store, or ``None`` before Airflow 3.3: then nothing is remembered, and a retry has only
        the submit key to look for.
    :param last_word: of this process; of no one by default.
    """

    def __init__(self, store: Any | None, identity: TaskIdentity, last_word: LastWord | None = None) -> None:
        self._store = store
        self.identity = identity
        self._last_word = last_word or LastWord()

    @property
    def lasting(self) -> bool:
        """Whether anything is remembered across processes."""
        return self._store is not None

    def last(self) -> Attempt | None:
        """The newest attempt of any generation."""
        found = None if self._store is None else self._store.get(_KEY)
        return Attempt.from_dict(found) if isinstance(found, Mapping) else None

    def first(self, deadline: float | None) -> Attempt:
        """The attempt that a task without a past starts with."""
        return self._attempt(0, deadline)

    def next(self, attempt: Attempt, deadline: float | None) -> Attempt:
        """The attempt after one that ended."""
        return self._attempt(attempt.sequence + 1, deadline)

    def is_new_try(self, attempt: Attempt) -> bool:
        """Whether another try of the task has made the attempt."""
        return True

    def confirm(self, attempt: Attempt) -> None:
        """Make sure that nobody else is about to submit the same attempt."""

    def hold(self) -> None:
        """The last look before a submit goes out: a process that was paused meanwhile must not just send it.

        It asks Airflow only when the attempt was written a while ago. Airflow's store no longer knows a try that was
        taken for dead.

        :raises JobError: another try has taken the place of this one.
        """
        said, asked_at = self._last_word, time.monotonic()
        if self._store is None or said.attempt is None or asked_at - said.known_at <= _TRUSTED_FOR:
            return
        found = self.last()
        if found is None or (found.submit_key, found.job) != (said.attempt.submit_key, said.attempt.job):
            raise JobError(
                "This process was silent for so long that another try of the task may have taken its place. It starts "
                "nothing more; the other try goes on."
            )
        said.known_at = asked_at

    def check(self) -> None:
        """The same for the event loop, which, in a triggerer, must not wait for an answer."""
        self.hold()

    def save(self, attempt: Attempt, **changes: Any) -> Attempt:
        """Write the attempt, with changes; the write is complete when this returns."""
        attempt = replace(attempt, **changes)
        if self._store is not None:
            begun_at, written = time.monotonic(), asdict(attempt)
            self._store.set(_KEY, written)
            self._last_word.attempt = Attempt(**json.loads(json.dumps(written)))
            self._last_word.known_at = begun_at
        return attempt

    def _attempt(self, sequence: int, deadline: float | None) -> Attempt:
        return Attempt(self.identity.generation, sequence, self.identity.submit_key(sequence), deadline)
