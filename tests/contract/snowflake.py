"""The Snowflake family, over the network and in real time."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator as StockSqlApiOperator

from astronomer.deferral import JobOperator, Phase
from astronomer.lab.snowflake import SnowflakeLab
from astronomer.providers.snowflake import states
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator, SnowflakeSqlApiOperator
from tests.contract.network import LabWorld, started
from tests.contract.world import FOREVER, Family, World

__all__ = ["SnowflakeFamily", "SnowflakeSqlApiFamily"]


@functools.cache
def _lab() -> SnowflakeLab:
    return started(SnowflakeLab())


class SnowflakeWorld(LabWorld):
    """The local Snowflake, over the network and in real time."""

    operator_type: type[JobOperator] = SnowflakeOperator
    lab: SnowflakeLab
    auth = "password"
    poll_path = r"^/monitoring/queries"
    submit_path = r"^/queries/v1/query-request"
    _serial = itertools.count()

    def __init__(self, lab: SnowflakeLab) -> None:
        super().__init__(lab)
        self.secrets = (lab.password,)
        self._before = set(lab.queries)
        self._pace = lab.account_state.pace.spend
        self._over: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def job(self, runs_for: float, *, fails: bool = False) -> dict[str, Any]:
        wait = f"CALL SYSTEM$WAIT({runs_for * self.beat:.2f})"
        return {"sql": f"{wait}; SELECT * FROM NOWHERE_{next(self._serial)}" if fails else wait}

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

    def finish(self, job_id: str) -> None:
        *_, last = job_id, *self.lab.queries[job_id].children
        self.lab._do(self._over[last].set)

    async def spend(self, query: Any, seconds: float) -> None:
        """In place of the lab's pace, so that what lasts forever can be finished."""
        if seconds * 2 > FOREVER * self.beat:
            await self._over[query.id].wait()
        else:
            await self._pace(query, seconds)

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
    def rounds(self) -> int:
        """The list of running queries is asked for once in each."""
        return sum(entry.query.get("subset") == "RUNNING" for entry in self._asked)

    def requests_per_round(self, waits: int) -> int:
        return 2

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
            patch.setattr(lab.account_state.pace, "spend", world.spend)
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
