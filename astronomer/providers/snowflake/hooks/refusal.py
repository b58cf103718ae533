"""A refused login, told to all who come next instead of repeated by each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from astronomer.deferral import CredentialsRejected, clock

__all__ = ["StandingRefusal"]


class StandingRefusal:
    """Keeps those who share a login from locking its user out: after a refusal, none is tried for a while.

    Whoever logs in holds a lock meanwhile.

    :param lasts: seconds the first refusal stands, the second in a row twice that, and so on.
    """

    def __init__(self, lasts: float) -> None:
        self._lasts = lasts
        self._refusal: CredentialsRejected | None = None
        self._in_a_row = 0
        self._until = 0.0

    @contextmanager
    def logging_in(self) -> Iterator[None]:
        """Around a login: one that is refused stands from now on, one that is not ends what stood.

        :raises CredentialsRejected: a refusal stands; nobody has been asked.
        """
        if self._refusal is not None and clock.now() < self._until:
            raise self._refusal
        try:
            yield
        except CredentialsRejected as refusal:
            self.begin(refusal)
            raise
        self._refusal, self._in_a_row = None, 0

    def begin(self, refusal: CredentialsRejected) -> None:
        """A refusal stands that was heard elsewhere than at the login."""
        self._in_a_row += 1
        self._refusal, self._until = refusal, clock.now() + self._lasts * self._in_a_row
