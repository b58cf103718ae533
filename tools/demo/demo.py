"""The demo from the first process to the last number."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import httpx
from rich.console import Console
from rich.live import Live

from astronomer.lab.snowflake.client import LabClient
from tools.demo import summary, table
from tools.demo.airflow import Airflow
from tools.demo.board import Board, Task
from tools.demo.plan import CANCEL_AFTER, PLANS
from tools.demo.processes import local_ports
from tools.demo.services import Services

LOOK_EVERY = 1.5
GIVE_UP = 1200.0
CANCEL_WITHIN = 60.0


@dataclass
class Run:
    """All Dags from their start to the end of the last task."""

    services: Services
    lab: LabClient
    airflow: Airflow
    console: Console
    board: Board = field(default_factory=Board)
    triggerer_ports: set[int] = field(default_factory=set)
    cancelled_at: float | None = None
    started: float = 0.0

    def go(self, *, short: bool) -> summary.Facts:
        """Trigger the Dags, watch them, cancel the one query; returns what was seen."""
        for dag_id, plan in PLANS.items():
            self.airflow.unpause(dag_id)
            self.airflow.trigger(dag_id, dict(plan.short if short else plan.conf))
        self.started = time.time()
        self.console.print(f"Triggered {len(PLANS)} Dags: {', '.join(PLANS)}")
        self._watch()
        seconds = time.time() - self.started
        self.console.print(table.table(self.board, seconds, over=True, width=self.console.width))
        return self._facts(seconds)

    def _watch(self) -> None:
        live = Live(console=self.console, refresh_per_second=4, transient=True)
        if self.console.is_terminal:
            with live:
                self._until_ended(live)
        else:
            self._until_ended(None)

    def _until_ended(self, live: Live | None) -> None:
        expected = sum(plan.tasks for plan in PLANS.values())
        said = time.monotonic()
        while True:
            ended = self._look()
            elapsed = time.time() - self.started
            if live is not None:
                rows, width = table.room(self.console, self.board), self.console.width
                live.update(table.table(self.board, elapsed, rows, width=width))
            else:
                for task in ended:
                    self.console.print(f"{table.clock(elapsed)}  {table.ended_line(task, self.board.now)}")
                if time.monotonic() - said > table.EVERY:
                    said = time.monotonic()
                    self.console.print(f"{table.clock(elapsed)}  {table.counts(self.board)}")
            if self.board.counts()["ended"] >= expected or elapsed > GIVE_UP:
                return
            time.sleep(LOOK_EVERY)

    def _look(self) -> list[Task]:
        """Ask Airflow and Snowflake once; returns the tasks that have ended since."""
        self.services.processes.check()
        try:
            ended = self.board.update(self.airflow.task_instances(), time.time())
            self._find_queries()
            self._cancel()
        except httpx.TransportError:  # a busy machine; a server that has ended is noticed above
            return []
        self.board.see_queries(self.lab.queries())
        triggerer = self.services.program("triggerer").process.pid
        self.triggerer_ports |= local_ports(triggerer, int(self.lab.url.rpartition(":")[2]))
        return ended

    def _find_queries(self) -> None:
        for task in self.board.tasks.values():
            if task.has_query and task.query is None and (task.state == "deferred" or task.ended):
                task.query = self.airflow.query_id(task.instance)

    def _cancel(self) -> None:
        """Be the user who marks a task as failed while it waits."""
        now = time.time()
        for task in self.board.tasks.values():
            wanted = task.instance["task_id"] == PLANS[task.dag].cancel and task.state == "deferred"
            if self.cancelled_at is None and wanted and task.seconds_waited(now) >= CANCEL_AFTER:
                self.airflow.mark_failed(task.instance)
                self.cancelled_at = now
                self.console.print(f"Marked {task.dag}.{task.name} as failed, as a user would, in mid-wait.")

    def _facts(self, seconds: float) -> summary.Facts:
        cancel_seconds = self._cancel_seconds()
        return summary.Facts(
            board=self.board,
            stints=self._stints(),
            queries=self.lab.queries(),
            requests=self.lab.requests(),
            triggerer_ports=self.triggerer_ports,
            transactions=self.lab.open_transactions(),
            seconds=seconds,
            cancel_seconds=cancel_seconds,
        )

    def _cancel_seconds(self) -> float | None:
        """Wait for the end of the query that was cancelled."""
        ids = {task.query for task in self.board.tasks.values() if PLANS[task.dag].cancel}
        until = time.monotonic() + CANCEL_WITHIN
        while self.cancelled_at is not None and time.monotonic() < until:
            for query in self.lab.queries():
                if query["id"] in ids and query["ended_at"]:
                    return float(query["ended_at"]) - self.cancelled_at
            time.sleep(LOOK_EVERY)
        return None

    def _stints(self) -> list[float]:
        """Read how long the workers were busy, once the last one has said so."""
        log = self.services.program("scheduler").log
        found: list[float] = []
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            before, found = found, summary.stints(log.read_text(errors="replace"))
            if found and len(found) == len(before):
                break
            time.sleep(2 * LOOK_EVERY)
        return found
