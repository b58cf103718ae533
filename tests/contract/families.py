"""What a family brings to be put under the eleven laws. The next one is a class here and a line in ``FAMILIES``."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator as StockSqlApiOperator

from astronomer.deferral import Hub, JobOperator, JobStatus, Pacing, Phase, Transient
from astronomer.deferral.testing import ScriptedService
from astronomer.lab.request_log import Entry
from astronomer.lab.snowflake import SnowflakeLab
from astronomer.providers.snowflake import states
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator
from tests.unit.deferral.fakes import Timeline, TimelineOperator

__all__ = ["FAMILIES", "Family", "World"]

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


class _Scripted(ScriptedService):
    """Notes when a poll was told to stay away."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.odd: set[str] = set()

    def status(self, job_id: str) -> JobStatus:
        found = super().status(job_id)
        return JobStatus(Phase.ACTIVE, raw="WOBBLING") if job_id in self.odd else found


class ScriptedWorld(World):
    """In memory and on virtual time."""

    beat = 30.0
    operator_type = TimelineOperator

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.service = _Scripted("contract")
        self._throttled_poll = 0
        self.forget()

    def make(self, **arguments: Any) -> JobOperator:
        return TimelineOperator(service="contract", timeline=self.timeline, quick_wait=0, **arguments)

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        ends = Phase.FAILED if fails else Phase.SUCCEEDED
        return {"script": {"runs_for": runs_for * self.beat, "ends": ends, "message": "told to"}}

    def triggerer(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.timeline.run(call)

    def now(self) -> float:
        return self.timeline.now

    @property
    def started(self) -> list[str]:
        return self.service.jobs

    def phase(self, job_id: str) -> Phase:
        return self.service.status(job_id).phase

    def weather(self, *kinds: str, times: int | None = 1) -> None:
        troubles = {"throttled": Transient("429", retry_after=0.1 * self.beat)}
        many = 10_000 if times is None else times
        self.service.weather = [troubles.get(kind, Transient(kind)) for kind in kinds for _ in range(many)]

    def throttle(self, beats: float) -> None:
        self._throttled_poll = len(self.service.polls)
        self.service.weather = [Transient("429", retry_after=beats * self.beat)]

    def clear_up(self) -> None:
        self.service.weather = []

    def report_unknown_state(self, job_id: str) -> Callable[[], None]:
        self.service.odd.add(job_id)
        return self.service.odd.clear

    @property
    def logins(self) -> int:
        return self.service.logins - self._logins

    @property
    def polls(self) -> list[float]:
        return self.service.polls[self._polls :]

    @property
    def rounds(self) -> int:
        return len(self.polls)

    @property
    def throttled_at(self) -> float:
        return self.service.polls[self._throttled_poll]

    def forget(self) -> None:
        self._logins, self._polls = self.service.logins, len(self.service.polls)


class ScriptedFamily(Family):
    """The operator that the package ships for tests of Dags."""

    name = "scripted"

    @contextmanager
    def world(self) -> Iterator[World]:
        with Timeline().in_place() as timeline:
            yield ScriptedWorld(timeline)


@functools.cache
def _lab() -> SnowflakeLab:
    return SnowflakeLab().start()


def stop_labs() -> None:
    """Stop what has been started."""
    if _lab.cache_info().currsize:
        _lab().stop()
        _lab.cache_clear()


class SnowflakeWorld(World):
    """The local Snowflake, over the network and in real time."""

    beat = 0.4
    operator_type: type[JobOperator] = SnowflakeOperator
    auth = "password"
    poll_path = r"^/monitoring/queries"
    poll_method = "GET"
    submit_path = r"^/queries/v1/query-request"
    _serial = itertools.count()

    def __init__(self, lab: SnowflakeLab) -> None:
        self.lab = lab
        self.secrets = (lab.password,)
        self._before = set(lab.queries)
        self.forget()

    def make(self, **arguments: Any) -> JobOperator:
        pace = {"poll_interval": 0.25 * self.beat, "quick_wait": 0}
        return self.operator_type(**pace | arguments)

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        wait = f"CALL SYSTEM$WAIT({runs_for * self.beat:.2f})"
        return {"sql": f"{wait}; SELECT * FROM NOWHERE_{next(self._serial)}" if fails else wait}

    def triggerer(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        beat = self.beat
        brisk = Pacing(
            spacing=beat / 8, gather=beat / 20, backoff=beat / 8, max_backoff=beat, rejection=beat / 4
        )

        async def main() -> T:
            async with Hub(pacing=brisk) as hub:
                Hub._of_loop[asyncio.get_running_loop()] = hub
                return await call()

        return asyncio.run(main())

    def now(self) -> float:
        return time.time()

    @property
    def _own(self) -> dict[str, Any]:
        return {
            query_id: query
            for query_id, query in self.lab.queries.items()
            if query_id not in self._before and query.parent is None and "submit_key" in query.tag
        }

    @property
    def started(self) -> list[str]:
        return list(self._own)

    def phase(self, job_id: str) -> Phase:
        query = self.lab.queries[job_id]
        if not query.finished:
            return Phase.ACTIVE
        if query.state == "SUCCESS":
            return Phase.SUCCEEDED
        return Phase.CANCELLED if query.error_code in {"000604", "000630"} else Phase.FAILED

    def weather(self, *kinds: str, times: int | None = 1) -> None:
        where = {"path": self.poll_path, "method": self.poll_method, "times": times}
        faults = {
            "throttled": lambda: self.lab.faults.status(429, retry_after=0.1, **where),
            "unavailable": lambda: self.lab.faults.status(503, **where),
            "reset": lambda: self.lab.faults.reset(**where),
            "expired": lambda: self.lab.faults.expired(**where),
        }
        for kind in kinds:
            faults[kind]()

    def throttle(self, beats: float) -> None:
        self.lab.faults.status(
            429, self.poll_path, method=self.poll_method, retry_after=math.ceil(beats * self.beat), times=1
        )

    def clear_up(self) -> None:
        self.lab.faults.clear()

    def lose_the_answer(self) -> None:
        self.lab.faults.lose_answer(self.submit_path, method="POST", times=1)

    def report_unknown_state(self, job_id: str) -> Callable[[], None]:
        query = self.lab.queries[job_id]
        known, query.state = query.state, "WOBBLING"

        def take_back() -> None:
            if query.state == "WOBBLING":
                query.state = known

        return take_back

    def stall(self, seconds: float) -> None:
        self.lab.faults.slow(seconds, self.poll_path, method=self.poll_method, times=1)

    @property
    def logins(self) -> int:
        return self.lab.requests.logins - self._logins

    @property
    def _asked(self) -> list[Entry]:
        return self.lab.requests.select(self.poll_path, method=self.poll_method)[self._polls :]

    @property
    def polls(self) -> list[float]:
        return [entry.at for entry in self._asked]

    @property
    def rounds(self) -> int:
        """The list of running queries is asked for once in each."""
        return sum(entry.query.get("subset") == "RUNNING" for entry in self._asked)

    def requests_per_round(self, waits: int) -> int:
        return 2

    @property
    def throttled_at(self) -> float:
        return self.lab.requests.select(self.poll_path, status=429)[-1].at

    def forget(self) -> None:
        self._logins = self._polls = 0
        self._logins, self._polls = self.logins, len(self.polls)

    def close(self) -> None:
        """End what still runs."""
        self.lab.faults.clear()
        for query_id in self.running:
            self.lab.abort_by_admin(query_id)


class SnowflakeFamily(Family):
    """Queries over the connector's session API."""

    name = "snowflake"
    world_type: type[SnowflakeWorld] = SnowflakeWorld
    pairs = ((SnowflakeOperator, SQLExecuteQueryOperator),)

    @contextmanager
    def world(self) -> Iterator[World]:
        lab = _lab()
        environment = lab.client_env() | lab.connection_env(auth=self.world_type.auth)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            # The connector otherwise asks the metadata services of three clouds at each connect.
            patch.setenv("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
            patch.setattr(states, "_unknown_seen", set())
            lab.requests.clear()
            world = self.world_type(lab)
            try:
                yield world
            finally:
                world.close()


class SnowflakeSqlApiWorld(SnowflakeWorld):
    """The same Snowflake over its SQL API, with a key pair."""

    operator_type = SnowflakeSqlApiOperator
    auth = "key_pair_encrypted"
    poll_path = r"^/api/v2/statements/"
    submit_path = r"^/api/v2/statements/?$"
    finds = False

    def __init__(self, lab: SnowflakeLab) -> None:
        super().__init__(lab)
        self.secrets = (lab.passphrase,)

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        statements = 2 if fails else 1
        return super().job(runs_for, fails=fails) | {"statement_count": statements}

    def report_unknown_state(self, job_id: str) -> Callable[[], None]:
        pytest.skip("the SQL API speaks in HTTP status codes")

    def stall(self, seconds: float) -> None:
        pytest.skip("its client is asynchronous")

    @property
    def rounds(self) -> int:
        """There is no list: a round asks for each statement."""
        asked = Counter(entry.path for entry in self._asked)
        return min(asked.values(), default=0)

    def requests_per_round(self, waits: int) -> int:
        return waits


class SnowflakeSqlApiFamily(SnowflakeFamily):
    """Statements over the SQL API."""

    name = "snowflake-sql-api"
    world_type = SnowflakeSqlApiWorld
    pairs = ((SnowflakeSqlApiOperator, StockSqlApiOperator),)


FAMILIES: tuple[Family, ...] = (
    ScriptedFamily(),
    SnowflakeFamily(),
    SnowflakeSqlApiFamily(),
)


def as_json(value: Any) -> str:
    """The value as JSON; fails for what is not plain."""
    return json.dumps(value, allow_nan=False)
