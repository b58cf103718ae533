"""Hundreds of waits come and go for a long time, in one event loop, as in a triggerer that is never restarted.

``ASTRONOMER_SOAK_SECONDS`` says how long (600); ``ASTRONOMER_SOAK_WAITS`` how many at once (500).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import pytest
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
from rich.console import Console

from astronomer.deferral import Hub
from astronomer.lab.snowflake import LabClient
from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery
from astronomer.providers.snowflake.triggers.snowflake_trigger import SnowflakeTrigger
from tests.chaos.world import PATIENCE, POLLS, ROOT, ChaosPlaces, left_of, snowflake_among
from tools.demo.processes import Processes
from tools.demo.services import Services

SECONDS = float(os.environ.get("ASTRONOMER_SOAK_SECONDS", "600"))
WAITS = int(os.environ.get("ASTRONOMER_SOAK_WAITS", "500"))
CONN_ID = "soak"
INTERVAL = 2.0
SHORTEST, LONGEST = 10.0, 90.0
MOVED = 0.2  # the share of waits that stop before their query ends, and start anew
SETTLED = 0.3  # the share of the time after which nothing may grow any more
SAMPLE_EVERY = 5.0
MEGABYTE = 1 << 20

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 600)]


@dataclass
class Sample:
    """What this process holds at a moment."""

    at: float
    memory: float
    threads: int
    sockets: int
    tasks: int


@dataclass
class Soak:
    """The waits, and what was seen of them."""

    lab: LabClient
    session: SnowflakeSession
    template: SnowflakeQuery
    random: random.Random = field(default_factory=lambda: random.Random(0))
    samples: list[Sample] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    late: list[float] = field(default_factory=list)
    polls: Counter[str] = field(default_factory=Counter)
    logins: int = 0
    submitted: int = 0
    moved: int = 0
    _submitting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _submitters: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def run(self) -> None:
        """Keep all places taken until the time is over, then wait for the last one."""
        until = time.monotonic() + SECONDS
        over = asyncio.Event()
        beside = asyncio.gather(self._watch(over), self._weather())
        await asyncio.gather(*(self._place(until) for _ in range(WAITS)))
        over.set()
        await beside
        self._submitters.shutdown()

    async def _place(self, until: float) -> None:
        """One wait after the other."""
        while time.monotonic() < until:
            job, ends = await self._submit(self.random.uniform(SHORTEST, LONGEST))
            trigger = SnowflakeTrigger(job=job.to_dict(), poll_interval=INTERVAL)
            while self.random.random() < MOVED:
                await self._move(trigger)
            # From its stored form, as a triggerer makes it.
            event = await self._first(SnowflakeTrigger(**trigger.serialize()[1]))
            self.outcomes[event["outcome"]["status"]["phase"]] += 1
            self.late.append(time.time() - ends)

    async def _submit(self, seconds: float) -> tuple[SnowflakeQuery, float]:
        loop = asyncio.get_running_loop()
        statement, request_id = f"SELECT SYSTEM$WAIT({seconds:.1f})", str(uuid.uuid4())

        def submit() -> str:
            return self.session.submit(statement, None, request_id=request_id, options={})

        async with self._submitting:
            at = time.time()
            query_id = await loop.run_in_executor(self._submitters, submit)
        self.submitted += 1
        return replace(self.template, query_id=query_id, submitted_at=at), time.time() + seconds

    async def _move(self, trigger: SnowflakeTrigger) -> None:
        """Wait for a while, then be cancelled, as when a triggerer is told to end."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._first(trigger), self.random.uniform(0.0, SHORTEST / 2))
        self.moved += 1

    @staticmethod
    async def _first(trigger: SnowflakeTrigger) -> dict[str, Any]:
        events = trigger.run()
        try:
            return (await anext(events)).payload
        finally:
            await events.aclose()

    async def _watch(self, over: asyncio.Event) -> None:
        while not over.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), SAMPLE_EVERY)
            gc.collect()
            self.samples.append(sample())
            await self._count()

    async def _count(self) -> None:
        """Count the requests since the last time, and let the lab forget them."""
        entries = await asyncio.to_thread(self.lab.requests)
        await asyncio.to_thread(self.lab.clear_requests)
        for one in entries:
            if "/monitoring/queries/" in one["path"]:
                self.polls["single"] += 1
            elif one["path"].startswith("/monitoring/queries"):
                self.polls["list"] += 1
                self.polls["ticks"] += one["query"].get("subset") == "RUNNING"
            self.logins += one["path"] == "/session/v1/login-request"

    async def _weather(self) -> None:
        """Half-way a storm of a few seconds over the polls; later all session tokens expire."""
        await asyncio.sleep(SECONDS / 2)
        await asyncio.to_thread(self.lab.storm, min(15.0, SECONDS / 10), path=POLLS)
        await asyncio.sleep(SECONDS / 6)
        async with self._submitting:
            await asyncio.to_thread(self.lab.expire_sessions)
            # The connector forgets that a submit was asynchronous when it renews the session on the way.
            await asyncio.to_thread(self.session.entry, str(uuid.uuid4()))


def sample() -> Sample:
    own = psutil.Process()
    return Sample(
        time.monotonic(),
        own.memory_info().rss / MEGABYTE,
        threading.active_count(),
        len(own.net_connections("tcp")),
        len(asyncio.all_tasks()),
    )


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Iterator[LabClient]:
    """A local Snowflake in a process of its own, so that its memory is not ours."""
    places = ChaosPlaces(ROOT, folder=tmp_path)
    processes = Processes(places.logs, tmp_path / "processes.json")
    services = Services(places, processes, Console(width=130))
    try:
        remote, env = services._lab()
        lab = snowflake_among(remote, places)
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", env["AIRFLOW_CONN_SNOWFLAKE_DEFAULT"])
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", env["REQUESTS_CA_BUNDLE"])
        monkeypatch.setenv("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
        yield lab
    finally:
        processes.stop(PATIENCE)
    assert not left_of(places)


@contextmanager
def own_session() -> Iterator[tuple[SnowflakeSession, SnowflakeQuery]]:
    """A session to submit in, and a query that lacks nothing but its id."""
    session = SnowflakeSession(SnowflakeHook(CONN_ID))
    session.open()
    yield session, SnowflakeQuery("", CONN_ID, session_id=session.session_id, **session.place())
    session.close(log_out=True)


async def test_soak(lab: LabClient, monkeypatch: pytest.MonkeyPatch):
    # Without pytest's log handlers: they keep every record, and with it errors, whose frames hold sockets.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    before = sample()
    with own_session() as (session, template):
        soak = Soak(lab, session, template)
        lab.clear_requests()
        started = time.monotonic()
        await soak.run()
        took = time.monotonic() - started
    await _until_closed()
    gc.collect()
    after = sample()
    report = _report(soak, took, before, after)
    print(report)

    assert soak.outcomes == {"succeeded": soak.submitted}, "none is lost"
    assert soak.logins == 1, "one login for all"
    # A list request per tick says what runs; a second and third only while more than a handful are not in the first.
    assert soak.polls["ticks"] <= took + 5, "never two polls closer together than a second"
    assert soak.polls["list"] <= 3 * soak.polls["ticks"]
    # Each wait is asked for by itself when it has left the list: once, and again where the weather ate the answer.
    assert soak.polls["single"] <= 1.5 * (soak.submitted + soak.moved) + 50, "one question for each that ends"

    settled = [one for one in soak.samples if one.at >= started + SETTLED * SECONDS]
    growth = max(one.memory for one in settled[-5:]) - min(one.memory for one in settled[:5])
    assert growth < 25, f"memory grew by {growth:.1f} MB"
    assert max(one.threads for one in settled) <= before.threads + 12
    assert max(one.sockets for one in settled) <= before.sockets + 12
    assert after.threads <= before.threads + 3, "threads are left"
    assert after.sockets == before.sockets, "sockets are left"
    assert after.tasks <= before.tasks, "tasks are left"


async def _until_closed() -> None:
    """The hub gives the session back a while after the last wait."""
    give_up = time.monotonic() + 180
    while Hub.current().connections and time.monotonic() < give_up:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.5)
    assert not Hub.current().connections
    await asyncio.sleep(2 * INTERVAL)  # threads that end by themselves


def _report(soak: Soak, took: float, before: Sample, after: Sample) -> str:
    late = sorted(soak.late)
    return (
        f"\n{took:.0f} s, {soak.submitted} waits, {soak.moved} moves, outcomes {dict(soak.outcomes)}, "
        f"logins {soak.logins}, requests {dict(soak.polls)}, "
        f"end to event p50 {late[len(late) // 2]:.1f} s, p99 {late[int(len(late) * 0.99)]:.1f} s\n"
        f"before {before}\nfirst {soak.samples[0]}\nmiddle {soak.samples[len(soak.samples) // 2]}\n"
        f"last {soak.samples[-1]}\nafter {after}"
    )
