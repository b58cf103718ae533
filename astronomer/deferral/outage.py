"""Bad weather in the steps of a task that no worker runs."""

from __future__ import annotations

from typing import Any

from astronomer.deferral import clock
from astronomer.deferral.errors import CredentialsRejected, Transient

__all__ = ["Outage", "refused_login"]

_LONGEST_PAUSE = 60.0


class Outage:
    """The bad weather that the steps of a task have met in a row."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.over()

    def over(self) -> None:
        """A step has been taken."""
        self._since: float | None = None
        self._pause = 1.0

    def pause(self, error: BaseException, patience: float, deadline: float | None) -> float | None:
        """Seconds until the step can be tried again; ``None`` where the error is none of the weather, or lasts.

        :param patience: seconds for which an outage is borne.
        :param deadline: epoch seconds at which there is no time left.
        """
        trouble = _weather(error)
        if trouble is None or (deadline is not None and clock.now() >= deadline):
            return None
        if self._since is None:
            self._since = clock.now()
            self._log.warning("Trying on for up to %g s: %s", patience, error)
        pause = max(self._pause, trouble.retry_after or 0.0)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return pause if clock.now() + pause <= self._since + patience else None


def refused_login(error: BaseException) -> bool:
    """Whether an error comes of a refused login. That is no weather: repeating it would lock the user out."""
    return isinstance(_trouble(error), CredentialsRejected)


def _weather(error: BaseException) -> Transient | None:
    """The bad weather that an error comes of."""
    return None if refused_login(error) else _trouble(error)


def _trouble(error: BaseException | None) -> Transient | None:
    while error is not None and not isinstance(error, Transient):
        error = error.__cause__
    return error
