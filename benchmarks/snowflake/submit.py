"""The worker's half, done beforehand: starts the queries and writes down the triggers that wait for them.

``python -m benchmarks.snowflake.submit PLAN OUT`` in a process of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from airflow.models.trigger import Trigger
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator
from airflow.providers.snowflake.triggers.snowflake_trigger import SnowflakeSqlApiTrigger

from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery
from astronomer.providers.snowflake.triggers.snowflake_trigger import SnowflakeTrigger
from benchmarks.plan import Plan
from benchmarks.shapes import Submitted, Wait
from benchmarks.sides import OURS, STOCK
from benchmarks.snowflake.plan import CONN_ID, POLL_INTERVAL, sql

__all__ = ["run"]

_AT_ONCE = 4
_TRIAL = 8


def _ours(session: SnowflakeSession, query_id: str) -> Any:
    """The trigger that ``SnowflakeOperator`` defers with."""
    job = SnowflakeQuery(
        query_id=query_id,
        conn_id=CONN_ID,
        session_id=session.session_id,
        submitted_at=time.time(),
        **session.place(),
    )
    return SnowflakeTrigger(job=job.to_dict(), poll_interval=POLL_INTERVAL)


def _stock(_: SnowflakeSession, query_id: str) -> Any:
    """The trigger that the stock ``SnowflakeSqlApiOperator`` defers with."""
    return SnowflakeSqlApiTrigger(
        poll_interval=POLL_INTERVAL,
        query_ids=[query_id],
        snowflake_conn_id=CONN_ID,
        token_life_time=SnowflakeSqlApiOperator.LIFETIME,
        token_renewal_delta=SnowflakeSqlApiOperator.RENEWAL_DELTA,
    )


_TRIGGERS: dict[str, Callable[[SnowflakeSession, str], Any]] = {OURS: _ours, STOCK: _stock}


def _submit(session: SnowflakeSession, text: str) -> str:
    with session.open().cursor() as cursor:
        return str(cursor.execute_async(text)["queryId"])


def run(plan: Plan, sides: list[str]) -> Submitted:
    """Start every query of the plan once for each side; the plan begins when all are under way."""
    session = SnowflakeSession(SnowflakeHook(snowflake_conn_id=CONN_ID))
    session.open()
    began = time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda _: _submit(session, sql(0, 0.0)), range(_TRIAL)))
        each = (time.monotonic() - began) / _TRIAL
        start = time.time() + 2.0 + 1.5 * each * plan.waits * len(sides)

        def one(place: tuple[str, int, float]) -> Wait:
            side, number, end = place
            query_id = _submit(session, sql(number, start + end - time.time()))
            classpath, arguments = _TRIGGERS[side](session, query_id).serialize()
            return Wait(
                remote_id=query_id, classpath=classpath, encrypted_kwargs=Trigger.encrypt_kwargs(arguments)
            )

        places = [(side, number, end) for number, end in enumerate(plan.ends()) for side in sides]
        found = list(pool.map(one, places))
    session.close()
    waits: dict[str, list[Wait]] = {side: [] for side in sides}
    for (side, _, _), wait in zip(places, found, strict=True):
        waits[side].append(wait)
    return Submitted(start=max(start, time.time()), waits=waits)


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    sys.stdin.readline()
    Path(sys.argv[2]).write_text(json.dumps(run(Plan(**given["plan"]), given["sides"])))
