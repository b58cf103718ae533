"""What a family brings to be put under the eleven laws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from astronomer.deferral import JobOperator, Phase

__all__ = ["FOREVER", "WEATHER", "Family", "World"]

T = TypeVar("T")
FOREVER = 100_000.0
WEATHER = ("throttled", "unavailable", "reset", "expired")


class World(ABC):
    """A remote side that runs, Airflow's connection to it, and all that it counts since the world began.

    :cvar beat: the family's second. Laws count in beats, so that a virtual world takes no time and a real one little.
    """

    beat: float
    operator_type: type[JobOperator]
    secrets: tuple[str, ...] = ()
    finds: bool = True
    """Whether it can look for the job of a submit whose answer was never heard, without submitting again."""

    # Airflow's side.

    @abstractmethod
    def make(self, **arguments: Any) -> JobOperator:
        """The operator, as each process makes it anew from the Dag."""

    @abstractmethod
    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        """Arguments of a job that ends after so many beats."""

    @abstractmethod
    def triggerer(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in a new triggerer."""

    @abstractmethod
    def now(self) -> float:
        """Epoch seconds."""

    # The remote side.

    @property
    @abstractmethod
    def started(self) -> list[str]:
        """The ids of all jobs that were started."""

    @abstractmethod
    def phase(self, job_id: str) -> Phase:
        """What has become of a job."""

    @abstractmethod
    def finish(self, job_id: str) -> None:
        """Let a job that only waits have waited for long enough."""

    @property
    def running(self) -> list[str]:
        return [job_id for job_id in self.started if self.phase(job_id) is Phase.ACTIVE]

    @abstractmethod
    def weather(self, *kinds: str, times: int | None = 1) -> None:
        """The next polls meet each of these, so many times (``None``: until it clears up)."""

    @abstractmethod
    def throttle(self, beats: float) -> None:
        """The next poll is told to stay away for so long."""

    @abstractmethod
    def clear_up(self) -> None:
        """Let the weather be fine."""

    def lose_the_answer(self) -> None:
        """The answer to the next submit is lost on its way."""
        pytest.skip("an answer cannot be lost in memory")

    @abstractmethod
    def ignore_a_cancel(self) -> None:
        """The next cancel is taken, and nothing is done."""

    def report_unknown_state(self, job_id: str) -> Callable[[], None]:
        """Say of a job a word that no release knows; returns what takes it back."""
        pytest.skip("has no states of its own")

    def stall(self, seconds: float) -> None:
        """The next poll's answer takes this long to come, and the client waits for it in a thread."""
        pytest.skip("has no synchronous client")

    # What is counted.

    @property
    @abstractmethod
    def logins(self) -> int:
        """How often somebody logged in."""

    @property
    @abstractmethod
    def polls(self) -> list[float]:
        """The moments (epoch seconds) of all requests for states."""

    @property
    @abstractmethod
    def rounds(self) -> int:
        """How many ticks these belong to."""

    def requests_per_round(self, waits: int) -> int:
        """How many requests one tick may take in steady state."""
        return 1

    @property
    @abstractmethod
    def throttled_at(self) -> float:
        """When a poll was last told to stay away."""

    @abstractmethod
    def forget(self) -> None:
        """Count logins, polls and rounds from here."""


class Family(ABC):
    """An operator, its trigger and its remote side.

    :cvar pairs: our operators, each with the stock operator it replaces.
    """

    name: str
    pairs: tuple[tuple[type[Any], type[Any]], ...] = ()

    @abstractmethod
    def world(self) -> Any:
        """A context manager that yields a fresh :class:`World`."""

    def __repr__(self) -> str:
        return self.name
