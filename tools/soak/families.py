"""How the work of each family begins: what a worker would have done, and the trigger with which it would have deferred.

Import it when the environment names the connections.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

from astronomer.deferral._compat import PlainConnection, read_connection
from astronomer.providers.core.jobs.external import ExternalWait
from astronomer.providers.core.jobs.files import FileWait
from astronomer.providers.core.triggers.external_task import ExternalTaskTrigger
from astronomer.providers.core.triggers.filesystem import FileTrigger
from astronomer.providers.databricks.jobs.run import DatabricksRun
from astronomer.providers.databricks.jobs.statement import DatabricksStatement
from astronomer.providers.databricks.triggers.databricks import DatabricksRunTrigger
from astronomer.providers.databricks.triggers.sql import DatabricksStatementTrigger
from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery
from astronomer.providers.snowflake.jobs.statements import SnowflakeStatements
from astronomer.providers.snowflake.triggers.snowflake_trigger import SnowflakeSqlApiTrigger, SnowflakeTrigger
from tools.soak import plan
from tools.soak.dags import worker_free
from tools.soak.place import API_CONN, DATABRICKS_CONN, SNOWFLAKE_CONN, Lab
from tools.soak.rows import Rows, Started, Target

__all__ = ["Work"]

Waits = list[tuple[float, bool]]
"""Of each: for how many seconds its work goes on, and whether it fails then."""

_AT_ONCE = 4
_CHUNK = 25
_HTTP_SECONDS = 60.0


@dataclass
class Work:
    """Begins work of every family, and ends what ends only because somebody ends it.

    :param directory: for the files that are waited for.
    """

    lab: Lab
    rows: Rows
    directory: Path
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_AT_ONCE))
    _due: list[tuple[float, int, Target | Path, bool]] = field(default_factory=list)
    _number: Any = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self._session = SnowflakeSession(SnowflakeHook(SNOWFLAKE_CONN))
        self._session.open()
        self._place = {**self._session.place(), "session_id": self._session.session_id}
        self._api = _SqlApi()
        self._statements = _Statements(self.lab)
        self._begin: dict[str, Callable[[Waits], list[Started]]] = {
            plan.SNOWFLAKE: self._queries,
            plan.SQL_API: self._api.start,
            plan.RUNS: self._runs,
            plan.STATEMENTS: lambda waits: list(self._threads.map(self._statements.start, waits)),
            plan.TASKS: lambda waits: self._external(self.rows.tasks(len(waits)), waits),
            plan.DAG_RUNS: lambda waits: self._external(self.rows.runs(len(waits)), waits),
            plan.FILES: self._files,
            plan.WORKER_FREE: _worker_free,
        }

    def begin(self, family: str, waits: Waits) -> list[Started]:
        """Begin the work of so many waits."""
        return self._begin[family](waits)

    def end_due(self) -> None:
        """End the tasks and runs, and make the files, for which it is time."""
        ended: list[tuple[Target, bool]] = []
        now = time.time()
        while self._due and self._due[0][0] <= now:
            _, _, what, fails = heapq.heappop(self._due)
            if isinstance(what, Path):
                what.touch()
            else:
                ended.append((what, fails))
        if ended:
            self.rows.end(ended)

    def renew(self) -> None:
        """After every session has expired: the connector forgets that a submit was asynchronous when it renews one."""
        self._session.entry(str(uuid.uuid4()))

    def close(self) -> None:
        """Let go of everything; what runs at the vendors goes on."""
        self._threads.shutdown(cancel_futures=True)
        self._api.close()
        self._statements.close()
        self._session.close(log_out=False)

    # One family each.

    def _queries(self, waits: Waits) -> list[Started]:
        return list(self._threads.map(self._query, waits))

    def _query(self, wait: tuple[float, bool]) -> Started:
        seconds, fails = wait
        now, request_id = time.time(), str(uuid.uuid4())
        query_id = self._session.submit(_sql(seconds, fails=fails), None, request_id=request_id, options={})
        job = SnowflakeQuery(query_id, SNOWFLAKE_CONN, submitted_at=now, **self._place)
        return _started(SnowflakeTrigger(job=job.to_dict(), poll_interval=plan.POLL_INTERVAL), now, wait)

    def _runs(self, waits: Waits) -> list[Started]:
        """Neighbours in one request; the older a run, the sooner it ends."""
        found = []
        for fails in (False, True):
            ordered = sorted(wait for wait in waits if wait[1] is fails)
            for first in range(0, len(ordered), _CHUNK):
                found += self._seed(ordered[first : first + _CHUNK], "broken" if fails else "")
        return found

    def _seed(self, waits: Waits, fail: str) -> list[Started]:
        shortest, spread = waits[0][0], waits[-1][0] - waits[0][0]
        now = time.time()
        ids = self.lab.databricks.seed(len(waits), seconds=shortest, spread=spread, fail=fail, name="soak")
        found = []
        for number, run_id in enumerate(ids):
            seconds = shortest + spread * number / max(1, len(ids) - 1)
            url = f"{self.lab.databricks.url}/#job/0/run/{run_id}"
            job = DatabricksRun(run_id, DATABRICKS_CONN, url=url, started_at=now)
            trigger = DatabricksRunTrigger(job=job.to_dict(), poll_interval=plan.POLL_INTERVAL)
            found.append(_started(trigger, now, (seconds, bool(fail))))
        return found

    def _external(self, targets: Sequence[Target], waits: Waits) -> list[Started]:
        found = []
        for target, wait in zip(targets, waits, strict=True):
            job = ExternalWait(
                dag_id=target.dag_id,
                task_ids=(target.task_id,) if target.task_id else (),
                logical_dates=(target.date.isoformat(),),
                failed_states=("failed",),
            )
            trigger = ExternalTaskTrigger(
                job=job.to_dict(), poll_interval=plan.POLL_INTERVAL, cancel_on_kill=False
            )
            found.append(self._ended_by_us(target, trigger, wait))
        return found

    def _files(self, waits: Waits) -> list[Started]:
        found = []
        for seconds, _ in waits:  # a wait for a file cannot fail
            path = self.directory / f"file_{next(self._number)}"
            trigger = FileTrigger(job=FileWait(str(path)).to_dict(), poll_interval=plan.POLL_INTERVAL)
            found.append(self._ended_by_us(path, trigger, (seconds, False)))
        return found

    def _ended_by_us(self, what: Target | Path, trigger: Any, wait: tuple[float, bool]) -> Started:
        started = _started(trigger, time.time(), wait)
        heapq.heappush(self._due, (started.ends, next(self._number), what, wait[1]))
        return started


class _SqlApi:
    """Submits over Snowflake's SQL API."""

    def __init__(self) -> None:
        from astronomer.providers.snowflake.hooks.sql_api import ReadSqlApiHook, SqlApiClient

        self._loop = asyncio.new_event_loop()
        connection: PlainConnection = self._loop.run_until_complete(read_connection(API_CONN))
        self._account = str(connection.extra_dejson["account"])
        self._client = SqlApiClient(ReadSqlApiHook(connection))

    def start(self, waits: Waits) -> list[Started]:
        """A few at a time."""
        found: list[Started] = []
        for first in range(0, len(waits), _CHUNK):
            found += self._loop.run_until_complete(self._several(waits[first : first + _CHUNK]))
        return found

    async def _several(self, waits: Waits) -> list[Started]:
        return list(await asyncio.gather(*map(self._one, waits)))

    async def _one(self, wait: tuple[float, bool]) -> Started:
        seconds, fails = wait
        now = time.time()
        body = {"statement": _sql(seconds, fails=fails), "resultSetMetaData": {"format": "json"}}
        handles = await self._client.submit(body, str(uuid.uuid4()))
        job = SnowflakeStatements(tuple(handles), API_CONN, account=self._account, submitted_at=now)
        return _started(
            SnowflakeSqlApiTrigger(job=job.to_dict(), poll_interval=plan.POLL_INTERVAL), now, wait
        )

    def close(self) -> None:
        """Close the HTTP session."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


class _Statements:
    """Submits over Databricks' Statement Execution API, faster than the client of the package would."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._http = httpx.Client(
            base_url=lab.databricks.url, verify=str(lab.ca_file), timeout=_HTTP_SECONDS, trust_env=False
        )
        self._log_in()

    def start(self, wait: tuple[float, bool]) -> Started:
        """One statement."""
        seconds, fails = wait
        more = ", raise_error('broken')" if fails else ""
        now = time.time()
        job = DatabricksStatement(
            self._submit(f"SELECT lab_wait({seconds:.1f}){more}"),
            DATABRICKS_CONN,
            warehouse_id=self._lab.warehouse,
            address=self._lab.databricks.url,
            submitted_at=now,
        )
        trigger = DatabricksStatementTrigger(job=job.to_dict(), poll_interval=plan.POLL_INTERVAL)
        return _started(trigger, now, wait)

    def _submit(self, text: str) -> str:
        body = {"statement": text, "warehouse_id": self._lab.warehouse, "wait_timeout": "0s"}
        for again in (False, True):
            headers = {"authorization": f"Bearer {self._token}"}
            answer = self._http.post("/api/2.0/sql/statements", json=body, headers=headers)
            if answer.is_success or again:
                break
            self._log_in()
        return str(answer.raise_for_status().json()["statement_id"])

    def _log_in(self) -> None:
        who = (self._lab.principal["client_id"], self._lab.principal["client_secret"])
        form = {"grant_type": "client_credentials", "scope": "all-apis"}
        answer = self._http.post("/oidc/v1/token", data=form, auth=who)
        self._token = str(answer.raise_for_status().json()["access_token"])

    def close(self) -> None:
        """Close its connections."""
        self._http.close()


def _worker_free(waits: Waits) -> list[Started]:
    """The trigger itself starts the run: so the end is at least so far away."""
    now = time.time()
    return [
        Started(worker_free(seconds, fails=fails), now + seconds, fails, free=True)
        for seconds, fails in waits
    ]


def _sql(seconds: float, *, fails: bool) -> str:
    """A query that runs so long; one that fails has an error of its own."""
    what = "* FROM no_such_table" if fails else "1 AS n"
    return f"SELECT {what} /* lab: running={seconds:.3f} */"


def _started(trigger: Any, now: float, wait: tuple[float, bool]) -> Started:
    return Started(trigger.serialize(), now + wait[0], wait[1])
